package report

import (
	"fmt"
	"math"
	"slices"

	"github.com/HdrHistogram/hdrhistogram-go"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// groups are operations whose latencies are shown in one chart. Those that are in
// none of them are a group of their own.
var groups = []struct {
	title      string
	operations []string
}{
	{"Changes", []string{"prepare", "view", "commit", "update", "remove"}},
	{"Reads", []string{"stat", "usage", "walk"}},
	{"Mounts", []string{"mounts", "mount", "release"}},
	{"Leases", []string{"addlease", "removelease", "endlease"}},
}

// percentileAxis goes on to ever rarer calls: a percentile q stands at 1/(1-q), so
// that 90, 99 and 99.9 % are as far from one another as on an HDR plot.
var percentileAxis = axis{label: "percentile", log: true, ticks: percentileTicks{}}

type percentileTicks struct{}

// Ticks implements plot.Ticker.
func (percentileTicks) Ticks(from, to float64) []plot.Tick {
	ticks := []plot.Tick{{Value: 1, Label: "0"}, {Value: 2, Label: "50"}}
	for i, v := 0, 10.0; v <= to*1.001; i, v = i+1, v*10 {
		ticks = append(ticks, plot.Tick{Value: v, Label: fmt.Sprintf("%.*f", max(0, i-1), 100-100/v)})
	}
	return ticks
}

// percentiles is a line through what h has at ever higher percentiles, up to where
// there is one value above.
func percentiles(h *hdrhistogram.Histogram) plotter.XYs {
	n := float64(h.TotalCount())
	var line plotter.XYs
	for x := 1.0; x <= n; x *= math.Pow(10, 0.05) {
		line = append(line, plotter.XY{X: x, Y: float64(h.ValueAtQuantile(100 - 100/x))})
	}
	if n > 0 {
		line = append(line, plotter.XY{X: max(n, 1.01), Y: float64(h.Max())})
	}
	return line
}

// percentileCharts show the latencies of one run, of some operations each.
func percentileCharts(r *metrics.Result) []chart {
	var charts []chart
	left := r.Names()
	add := func(title string, names []string) {
		c := chart{title: title, x: percentileAxis, y: axis{unit: Nanoseconds, log: true}}
		for _, name := range names {
			if o := r.Operations[name]; o != nil && o.Count > 0 {
				c.curves = append(c.curves, curve{name, percentiles(o.Latencies)})
			}
		}
		charts = append(charts, c)
	}
	for _, g := range groups {
		add(g.title, g.operations)
		left = slices.DeleteFunc(left, func(name string) bool { return slices.Contains(g.operations, name) })
	}
	for names := range slices.Chunk(left, len(dashes)) {
		add("Others", names)
	}
	return charts
}

// percentileOverlays show each operation of the typical runs of several contenders.
func percentileOverlays(operations []string, contenders []*Contender) []chart {
	var charts []chart
	for _, name := range operations {
		c := chart{title: name, x: percentileAxis, y: axis{unit: Nanoseconds, log: true}}
		for _, of := range contenders {
			if o := of.Typical().Operations[name]; o != nil {
				c.curves = append(c.curves, curve{of.Name, percentiles(o.Latencies)})
			} else {
				c.curves = append(c.curves, curve{name: of.Name}) // so that all charts have the same styles
			}
		}
		charts = append(charts, c)
	}
	return charts
}
