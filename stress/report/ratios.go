package report

import (
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// ratioChart has a line for each name, with the median ratio as a point and the
// least and the greatest as its whiskers.
type ratioChart struct {
	title string
	note  string
	names []string
	of    []Spread // N is 0 where there is none
}

// draw draws the chart; nil where there is nothing to see.
func (c ratioChart) draw() (*figure, error) {
	p := newPlot()
	var dots whiskers
	last := float64(len(c.names) - 1)
	for i, s := range c.of {
		if s.N == 0 || s.Median <= 0 {
			continue
		}
		y := last - float64(i) // from the top
		least := max(s.Least, s.Median/1000)
		dots.XYs = append(dots.XYs, plotter.XY{X: s.Median, Y: y})
		dots.XErrors = append(dots.XErrors, struct{ Low, High float64 }{s.Median - least, s.Greatest - s.Median})
	}
	if len(dots.XYs) == 0 {
		return nil, nil
	}
	bars, err := plotter.NewXErrorBars(dots)
	if err != nil {
		return nil, fmt.Errorf("chart %q: %w", c.title, err)
	}
	bars.LineStyle = draw.LineStyle{Color: colours[0], Width: 1}
	bars.CapWidth = 4
	scatter, err := plotter.NewScatter(dots.XYs)
	if err != nil {
		return nil, fmt.Errorf("chart %q: %w", c.title, err)
	}
	scatter.GlyphStyle = draw.GlyphStyle{Color: colours[0], Radius: 2.2, Shape: draw.CircleGlyph{}}
	p.Add(bars, scatter)
	p.X.Min = math.Pow(2, math.Floor(math.Log2(min(p.X.Min, 0.9))))
	p.X.Max = math.Pow(2, math.Ceil(math.Log2(max(p.X.Max, 1.1))))
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, ratioTicks{}
	p.Y.Min, p.Y.Max = -0.5, last+0.5
	p.Y.Tick.Marker = nameTicks(c.names)
	p.Y.Tick.Length = 0
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: p.Y.Min}, {X: 1, Y: p.Y.Max}})
	if err != nil {
		return nil, fmt.Errorf("chart %q: %w", c.title, err)
	}
	one.LineStyle = draw.LineStyle{Color: color.Black, Width: 0.8}
	p.Add(one)
	f := &figure{Title: c.title, Note: c.note}
	f.SVG, err = render(p, chartWidth, rowHeight*vg.Length(len(c.names))+28, c.title)
	return f, err
}

type whiskers struct {
	plotter.XYs
	plotter.XErrors
}

// ratioTicks are powers of two, or of ten where those are too many.
type ratioTicks struct{}

// Ticks implements plot.Ticker.
func (ratioTicks) Ticks(from, to float64) []plot.Tick {
	step := 2.0
	if math.Log2(to/from) > 8 {
		step = 10
	}
	var ticks []plot.Tick
	for e := math.Floor(math.Log(from)/math.Log(step) - 1e-9); ; e++ {
		v := math.Pow(step, e)
		if v > to*1.001 {
			return ticks
		}
		if v < from*0.999 {
			continue
		}
		ticks = append(ticks, plot.Tick{Value: v, Label: "×" + ratioLabel(v)})
	}
}

func ratioLabel(v float64) string {
	if v < 1 {
		return fmt.Sprintf("1/%.0f", 1/v)
	}
	return fmt.Sprintf("%.0f", v)
}

// nameTicks write names from the top down.
type nameTicks []string

// Ticks implements plot.Ticker. Where the page is read there may be a wider font only
// than the one that names are measured in: spaces keep them off the axis.
func (n nameTicks) Ticks(_, _ float64) []plot.Tick {
	var ticks []plot.Tick
	for i, name := range n {
		name += strings.Repeat(" ", len(name)/3)
		ticks = append(ticks, plot.Tick{Value: float64(len(n) - 1 - i), Label: name})
	}
	return ticks
}

// ratioCharts show those rows of a comparison that narrow names, and the p99 of every
// operation where there are few contenders.
func (r *Report) ratioCharts(rows []Row) []ratioChart {
	var names []string
	for _, c := range r.Contenders {
		names = append(names, c.Name)
	}
	var charts []ratioChart
	for _, row := range rows {
		if !row.narrow() && (len(names) > side || !strings.HasPrefix(row.Name, "p99 of ")) {
			continue
		}
		c := ratioChart{title: row.Name, note: row.better(), names: names}
		for _, cell := range row.Cells {
			c.of = append(c.of, cell.Ratio)
		}
		charts = append(charts, c)
	}
	return charts
}

func (m Measure) narrow() bool { return slices.Contains(narrow, m.Name) }

func (m Measure) better() string {
	if m.More {
		return "more is better"
	}
	return "less is better"
}

// effectCharts show what the values of one option buy in the measures that narrow
// names; effects are of that option alone.
func effectCharts(effects []Effect) []ratioChart {
	var charts []ratioChart
	for _, m := range Measures {
		if !m.narrow() {
			continue
		}
		c := ratioChart{title: m.Name, note: m.better(), names: []string{effects[0].Beside}, of: []Spread{{1, 1, 1, 1}}}
		for _, e := range effects {
			c.names = append(c.names, e.Value)
			c.of = append(c.of, e.ratio(m.Name))
		}
		charts = append(charts, c)
	}
	return charts
}
