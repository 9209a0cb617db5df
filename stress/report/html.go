package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// side is how many contenders are shown side by side in one chart, and one by one
// below. More are compared in tables and ratios only.
const side = 6

// columns is how many figures with their ratios a line of a table has room for on
// paper.
const columns = 4

//go:embed page.html
var pageSource string

//go:embed page.css
var style string

var page = template.Must(template.New("page").Funcs(template.FuncMap{"tight": tight}).Parse(pageSource))

// tight splits a cell into the parts that are not to be broken.
func tight(cell string) []string {
	figure, ratio, ok := strings.Cut(cell, " ×")
	if !ok {
		return []string{cell}
	}
	return []string{figure, "×" + ratio}
}

// WriteHTML writes a page that needs nothing else: it has no scripts, and its
// pictures stand in it. It is made for paper as well.
func (r *Report) WriteHTML(w io.Writer) error {
	c, err := r.content()
	if err != nil {
		return err
	}
	if err := page.Execute(w, c); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// content is what the page is made of.
type content struct {
	Style      template.CSS
	Title      string
	Facts      []fact // about the run and where it took place
	Verdict    fact
	Wrong      []wrong
	Again      string // the command for it, where something is wrong
	Comparison []section
	Effects    []section
	Contenders []section
}

type fact struct{ Name, Value string }

// wrong is a violation.
type wrong struct {
	metrics.Violation
	Lines string // its history
}

// section has a heading, then tables, then charts.
type section struct {
	Title   string
	Text    string
	Facts   []fact
	Tables  []table
	Key     []keyEntry // of all figures
	Figures []*figure
}

// overlay is a section with charts that have a curve for each contender.
func (r *Report) overlay(title, text string, charts []chart) (s section, err error) {
	s = section{Title: title, Text: text}
	for i, c := range r.Contenders {
		s.Key = append(s.Key, entry(c.Name, i))
	}
	s.Figures, err = drawn(charts)
	for _, f := range s.Figures {
		f.Key = nil
	}
	return s, err
}

// table has the head in its first line and the name of a line in its first column.
type table struct {
	Head  []string
	Lines [][]string
}

func (r *Report) content() (*content, error) {
	c := &content{Style: template.CSS(style), Title: r.title(), Facts: r.facts()}
	sum := r.verdict()
	c.Verdict = fact{"Verdict", checked(sum)}
	for _, v := range sum.Verdict.Violations {
		c.Wrong = append(c.Wrong, wrong{v, strings.Join(v.History, "\n")})
		c.Again = r.Again()
	}
	if len(r.Contenders) > 1 {
		comparison, err := r.comparison()
		if err != nil {
			return nil, err
		}
		c.Comparison = comparison
		if c.Effects, err = r.effects(); err != nil {
			return nil, err
		}
	}
	if len(r.Contenders) > side {
		return c, nil
	}
	for _, contender := range r.Contenders {
		s, err := contender.section(len(r.Contenders) == 1)
		if err != nil {
			return nil, err
		}
		c.Contenders = append(c.Contenders, s)
	}
	return c, nil
}

func (r *Report) title() string {
	first := r.Contenders[0].Rounds[0]
	return fmt.Sprintf("workload %s on driver %s, %d clients", first.Workload, first.Driver, first.Clients)
}

func (r *Report) facts() []fact {
	m := r.Machine
	facts := []fact{
		{"Command", r.Command},
		{"Machine", strings.Join(slices.DeleteFunc([]string{
			fmt.Sprintf("%d processors", m.Processors), "Linux " + m.Kernel, m.Go, m.FileSystem,
		}, func(s string) bool { return s == "" }), ", ")},
		{"Load before", strings.Join(strings.Fields(m.Load)[:min(3, len(strings.Fields(m.Load)))], " ")},
		{"Date", m.Date.Format(time.RFC1123)},
		{"Seed", fmt.Sprint(r.verdict().Seed)},
	}
	if len(r.Contenders) == 1 && len(r.Contenders[0].Rounds) == 1 {
		return facts
	}
	return append(facts, fact{"Rounds", fmt.Sprintf("%d of each of %d contenders, in turn", len(r.Contenders[0].Rounds), len(r.Contenders))})
}

func checked(sum metrics.Result) string {
	v := sum.Verdict
	s := fmt.Sprintf("%d violations", len(v.Violations))
	if len(v.Violations) == 0 {
		s = "no violation"
	}
	if v.Histories == 0 {
		s += "; histories were not checked"
	} else {
		s += fmt.Sprintf(" in %d histories of %d operations, %d of them undecided, checked in %s; %d looks at the whole", v.Histories, v.Operations, v.Undecided, duration(v.Checking), v.Census)
	}
	return s
}

// comparison has the ratios as charts, the figures as tables, and how the typical
// runs went where they are few enough to be seen.
func (r *Report) comparison() ([]section, error) {
	rows := r.Compare()
	first := r.Contenders[0].Name
	s := section{
		Title: "Side by side",
		Text: "Medians of the rounds; behind × the ratio to " + first +
			", taken round by round, with the least and the greatest. In the charts a point is the median of the ratios, its whiskers the least and the greatest.",
	}
	s.Tables = r.tables(rows)
	var err error
	if s.Figures, err = drawn(r.ratioCharts(rows)); err != nil || len(r.Contenders) > side {
		return []section{s}, err
	}
	overTime, err := r.overlay("Over time", "The round of each that has the median throughput.", overlays(r.Contenders))
	if err != nil {
		return nil, err
	}
	latencies, err := r.overlay("Latencies of each operation", "In the same rounds, from the median to the rarest call.", percentileOverlays(r.operations(), r.Contenders))
	if err != nil {
		return nil, err
	}
	return []section{s, overTime, latencies}, nil
}

// tables have a line for each row where there is room for all contenders, else a line
// for each contender and the rows that Measures have.
func (r *Report) tables(rows []Row) []table {
	if len(r.Contenders) <= columns {
		t := table{Head: []string{""}}
		for _, c := range r.Contenders {
			t.Head = append(t.Head, c.Name)
		}
		for _, row := range rows {
			line := []string{row.Name}
			for i, cell := range row.Cells {
				line = append(line, cell.String(row.Unit, i > 0))
			}
			t.Lines = append(t.Lines, line)
		}
		return []table{t}
	}
	rows = slices.DeleteFunc(slices.Clone(rows), func(row Row) bool {
		return !slices.ContainsFunc(Measures, func(m Measure) bool { return m.Name == row.Name })
	})
	var all []table
	for part := range slices.Chunk(rows, columns) {
		t := table{Head: []string{""}}
		for _, row := range part {
			t.Head = append(t.Head, row.Name)
		}
		for i, c := range r.Contenders {
			line := []string{c.Name}
			for _, row := range part {
				line = append(line, row.Cells[i].String(row.Unit, i > 0))
			}
			t.Lines = append(t.Lines, line)
		}
		all = append(all, t)
	}
	return all
}

// effects has a section for each option.
func (r *Report) effects() ([]section, error) {
	var sections []section
	all := r.Effects()
	for len(all) > 0 {
		n := slices.IndexFunc(all, func(e Effect) bool { return e.Option != all[0].Option })
		if n < 0 {
			n = len(all)
		}
		of := all[:n]
		all = all[n:]
		s := section{
			Title: "What " + of[0].Option + " buys",
			Text:  fmt.Sprintf("Ratios to %s=%s, over all rounds of all points that differ in nothing else.", of[0].Option, of[0].Beside),
		}
		t := table{Head: []string{of[0].Option}}
		for _, e := range of {
			t.Head = append(t.Head, e.Value)
		}
		for _, m := range Measures {
			line := []string{m.Name}
			for _, e := range of {
				line = append(line, e.ratio(m.Name).String())
			}
			if strings.Join(line[1:], "") != "" {
				t.Lines = append(t.Lines, line)
			}
		}
		s.Tables = []table{t}
		var err error
		if s.Figures, err = drawn(effectCharts(of)); err != nil {
			return nil, err
		}
		sections = append(sections, s)
	}
	return sections, nil
}

// section shows the typical round of a contender, with charts or without.
func (c *Contender) section(charted bool) (section, error) {
	r := c.Typical()
	s := section{Title: c.Name, Facts: []fact{
		{"Operations", fmt.Sprintf("%d in %s, %s", r.Total(), duration(r.Elapsed), PerSecond.Format(float64(r.Total())/r.Elapsed.Seconds()))},
	}}
	add := func(name string, counts map[string]uint64) {
		if len(counts) > 0 {
			s.Facts = append(s.Facts, fact{name, list(counts)})
		}
	}
	add("Faults", r.Faults)
	add("Calls of the driver", r.DriverCalls)
	if r.Restarts > 0 {
		s.Facts = append(s.Facts, fact{"Restarts", fmt.Sprint(r.Restarts)})
	}
	if r.Interrupted {
		s.Facts = append(s.Facts, fact{"Interrupted", "by a signal: this is what there was by then"})
	}
	t := table{Head: []string{"operation", "count", "p50", "p90", "p99", "p99.9", "greatest", "errors"}}
	for _, name := range r.Names() {
		o := r.Operations[name]
		line := []string{name, fmt.Sprint(o.Count)}
		for _, q := range []float64{50, 90, 99, 99.9, 100} {
			line = append(line, Nanoseconds.Format(float64(o.Latencies.ValueAtQuantile(q))))
		}
		t.Lines = append(t.Lines, append(line, o.Classes()))
	}
	s.Tables = []table{t}
	if !charted {
		return s, nil
	}
	charts := timeCharts(r)
	for _, c := range percentileCharts(r) {
		c.title = "Latency percentiles: " + strings.ToLower(c.title)
		charts = append(charts, c)
	}
	var err error
	s.Figures, err = drawn(charts)
	return s, err
}

// list writes counts in the order of their names.
func list(counts map[string]uint64) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

// drawn draws charts, without those that have nothing to show.
func drawn[C interface{ draw() (*figure, error) }](charts []C) ([]*figure, error) {
	var figures []*figure
	for _, c := range charts {
		f, err := c.draw()
		if err != nil {
			return nil, err
		}
		if f != nil {
			figures = append(figures, f)
		}
	}
	return figures, nil
}
