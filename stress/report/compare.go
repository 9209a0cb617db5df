package report

import (
	"cmp"
	"maps"
	"slices"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// Spread is a median with the least and the greatest of N figures.
type Spread struct {
	Median, Least, Greatest float64
	N                       int
}

func spread(figures []float64) Spread {
	if len(figures) == 0 {
		return Spread{}
	}
	sorted := slices.Sorted(slices.Values(figures))
	s := Spread{Least: sorted[0], Greatest: sorted[len(sorted)-1], N: len(sorted)}
	s.Median = (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	return s
}

// middle returns the element whose figure is the median, the lower one of two, or
// the zero value where there is none.
func middle[T any](all []T, of func(T) float64) (m T) {
	if len(all) == 0 {
		return m
	}
	sorted := slices.SortedStableFunc(slices.Values(all), func(a, b T) int { return cmp.Compare(of(a), of(b)) })
	return sorted[(len(sorted)-1)/2]
}

// Row is one measure of all contenders.
type Row struct {
	Measure
	Cells []Cell // one for each contender
}

// Cell is what one contender came to. Where it did not tell N is 0.
type Cell struct {
	Figure Spread
	// Ratio is that to the first contender, round by round; its N is 0 where the
	// first did not tell, or told 0.
	Ratio Spread
}

// Compare sets contenders side by side: in the Measures, then in the p50 and p99
// of every operation. Measures that nobody tells of are left out. Of one contender there is
// nothing to compare.
func (r *Report) Compare() []Row {
	if len(r.Contenders) < 2 {
		return nil
	}
	measures := slices.Clone(Measures)
	for _, operation := range r.operations() {
		for _, q := range quantiles {
			measures = append(measures, LatencyOf(operation, q))
		}
	}
	var rows []Row
	for _, m := range measures {
		row, told := Row{Measure: m}, false
		base := r.Contenders[0].Rounds
		for _, c := range r.Contenders {
			cell := Cell{Figure: spread(figures(c.Rounds, m)), Ratio: spread(ratios(c.Rounds, base, m))}
			told = told || cell.Figure.Greatest > 0
			row.Cells = append(row.Cells, cell)
		}
		if told {
			rows = append(rows, row)
		}
	}
	return rows
}

// quantiles are those that single operations are compared by.
var quantiles = []float64{50, 99}

// operations are the names of all that any contender did.
func (r *Report) operations() []string {
	names := map[string]bool{}
	for _, c := range r.Contenders {
		for _, round := range c.Rounds {
			for name := range round.Operations {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func figures(rounds []*metrics.Result, m Measure) []float64 {
	var all []float64
	for _, r := range rounds {
		if v, ok := m.Of(r); ok {
			all = append(all, v)
		}
	}
	return all
}

// ratios divides the figures of two contenders round by round.
func ratios(of, to []*metrics.Result, m Measure) []float64 {
	var all []float64
	for i := range min(len(of), len(to)) {
		a, ok := m.Of(of[i])
		b, also := m.Of(to[i])
		if ok && also && b > 0 {
			all = append(all, a/b)
		}
	}
	return all
}

// Effect is what one value of an option buys beside the first one of a sweep.
type Effect struct {
	Option string
	Value  string
	Beside string // the first value
	Ratios []MeasuredRatio
}

// MeasuredRatio is over all rounds of all pairs of contenders that differ in nothing
// but the option.
type MeasuredRatio struct {
	Measure
	Ratio Spread
}

// Effects tells of every option that the contenders differ in, in the order of the
// contenders.
func (r *Report) Effects() []Effect {
	var effects []Effect
	for _, option := range r.options() {
		var values []string
		for _, c := range r.Contenders {
			if v, ok := c.options()[option]; ok && !slices.Contains(values, v) {
				values = append(values, v)
			}
		}
		for _, value := range values[min(1, len(values)):] {
			e := Effect{Option: option, Value: value, Beside: values[0]}
			for _, m := range Measures {
				var all []float64
				for _, c := range r.Contenders {
					if c.options()[option] != value {
						continue
					}
					if base := r.find(with(c.options(), option, values[0])); base != nil {
						all = append(all, ratios(c.Rounds, base.Rounds, m)...)
					}
				}
				if len(all) > 0 {
					e.Ratios = append(e.Ratios, MeasuredRatio{m, spread(all)})
				}
			}
			effects = append(effects, e)
		}
	}
	return effects
}

// options are the names of those that a sweep set.
func (r *Report) options() []string {
	names := map[string]bool{}
	for _, c := range r.Contenders {
		for name := range c.options() {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func (c *Contender) options() map[string]string {
	if len(c.Rounds) == 0 {
		return nil
	}
	return c.Rounds[0].Options
}

func (r *Report) find(options map[string]string) *Contender {
	i := slices.IndexFunc(r.Contenders, func(c *Contender) bool { return maps.Equal(c.options(), options) })
	if i < 0 {
		return nil
	}
	return r.Contenders[i]
}

func with(options map[string]string, name, value string) map[string]string {
	options = maps.Clone(options)
	options[name] = value
	return options
}
