package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
)

// row is a question and who answers it.
type row struct {
	name    string
	what    string
	unit    string // of the figures: "ns" or "B"
	open    func(ctx context.Context, s *site) ([]contender, error)
	targets []target
	judge   func(r *result) // adds verdicts that are not ratios of two
}

// contender measures one series, or several at once.
type contender struct {
	round func(ctx context.Context) (map[string]figure, error)
	close func() error // may be nil; that of the last is called first
}

// one makes a contender of a function that measures the series name.
func one(name string, round func(ctx context.Context) (figure, error), closing func() error) contender {
	return contender{close: closing, round: func(ctx context.Context) (map[string]figure, error) {
		f, err := round(ctx)
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		return map[string]figure{name: f}, err
	}}
}

// figure is what a round told of a series: its value in the unit of the row, per
// operation, and what else was counted.
type figure struct {
	value float64
	extra map[string]float64
}

// target is what graphsnap is to reach: the series of, divided by the series than
// where that is not "", is to be at most or at least so much.
type target struct {
	of, than    string
	most, least float64
}

// site is where the contenders work.
type site struct {
	root  string
	smoke bool
	made  int
}

// n returns full, or tiny in a smoke test.
func (s *site) n(full, tiny int) int {
	if s.smoke {
		return tiny
	}
	return full
}

// dir makes a new directory.
func (s *site) dir() (string, error) {
	s.made++
	dir := filepath.Join(s.root, fmt.Sprint("w", s.made))
	return dir, os.Mkdir(dir, 0o700)
}

// run measures the row. The first round warms up and does not count.
func (r row) run(ctx context.Context, s *site, rounds int) (_ *result, err error) {
	contenders, err := r.open(ctx, s)
	defer func() {
		for _, c := range slices.Backward(contenders) {
			if c.close == nil {
				continue
			}
			if closeErr := c.close(); err == nil {
				err = closeErr
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	out := &result{Row: r.name, What: r.what, Unit: r.unit}
	first := -1
	if s.smoke {
		first = 0
	}
	for round := first; round < rounds; round++ {
		for i := range contenders {
			c := contenders[(i+max(round, 0))%len(contenders)]
			runtime.GC() // nobody pays for the garbage of the one before
			figures, err := c.round(ctx)
			if err != nil {
				return nil, err
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if round < 0 {
				continue
			}
			for _, name := range slices.Sorted(maps.Keys(figures)) {
				out.add(name, figures[name])
			}
		}
	}
	for _, t := range r.targets {
		out.compare(t)
	}
	if r.judge != nil {
		r.judge(out)
	}
	return out, nil
}

// result is what a row came to.
type result struct {
	Row      string    `json:"row"`
	What     string    `json:"what"`
	Unit     string    `json:"unit"`
	Series   []*series `json:"series"`
	Verdicts []verdict `json:"verdicts,omitempty"`
}

// series are the figures of one contender, round by round.
type series struct {
	Name    string               `json:"name"`
	Summary summary              `json:"summary"`
	Samples []float64            `json:"samples"`
	Extra   map[string]float64   `json:"extra,omitempty"` // medians
	extra   map[string][]float64 // samples
}

// verdict compares what was measured with what is to be reached.
type verdict struct {
	What    string  `json:"what"`
	Ratio   summary `json:"ratio"`
	Unit    string  `json:"unit,omitempty"` // "" of ratios
	Target  string  `json:"target"`
	Reached bool    `json:"reached"`
}

// summary is a median with the quartiles around it.
type summary struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

func summarize(samples []float64) summary {
	return summary{Median: quantile(samples, 0.5), Low: quantile(samples, 0.25), High: quantile(samples, 0.75)}
}

// quantile interpolates between the two samples next to q, which is of 0 to 1.
func quantile(samples []float64, q float64) float64 {
	if len(samples) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(samples))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func (r *result) find(name string) *series {
	for _, s := range r.Series {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (r *result) add(name string, f figure) {
	s := r.find(name)
	if s == nil {
		s = &series{Name: name, extra: map[string][]float64{}, Extra: map[string]float64{}}
		r.Series = append(r.Series, s)
	}
	s.Samples = append(s.Samples, f.value)
	s.Summary = summarize(s.Samples)
	for k, v := range f.extra {
		s.extra[k] = append(s.extra[k], v)
		s.Extra[k] = quantile(s.extra[k], 0.5)
	}
}

// ratios divides the samples of two series round by round.
func ratios(of, than *series) []float64 {
	all := make([]float64, min(len(of.Samples), len(than.Samples)))
	for i := range all {
		all[i] = of.Samples[i] / than.Samples[i]
	}
	return all
}

func (r *result) compare(t target) {
	of := r.find(t.of)
	if of == nil {
		return
	}
	v := verdict{What: t.of, Ratio: of.Summary, Unit: r.Unit}
	if t.than != "" {
		than := r.find(t.than)
		if than == nil {
			return
		}
		v = verdict{What: t.of + " / " + t.than, Ratio: summarize(ratios(of, than))}
	}
	r.Verdicts = append(r.Verdicts, v.against(t))
}

// against says whether the median is as it is to be.
func (v verdict) against(t target) verdict {
	if t.least != 0 {
		v.Target, v.Reached = "at least "+show(t.least, v.Unit), v.Ratio.Median >= t.least
	} else {
		v.Target, v.Reached = "at most "+show(t.most, v.Unit), v.Ratio.Median <= t.most
	}
	return v
}
