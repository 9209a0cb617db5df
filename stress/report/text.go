package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// WriteText writes tables for a terminal: of one contender its operations, of
// several how they compare, and at the end what the checker says of all of them.
func (r *Report) WriteText(w io.Writer) error {
	t := &text{w: w}
	if len(r.Contenders) == 1 {
		for i, round := range r.Contenders[0].Rounds {
			if i > 0 {
				t.line("")
			}
			t.operations(round)
		}
	} else {
		t.comparison(r)
		t.effects(r.Effects())
	}
	t.verdict(r)
	return t.err
}

// text writes until it cannot.
type text struct {
	w   io.Writer
	err error
}

func (t *text) line(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.w, format+"\n", args...)
	}
}

// table writes columns, flush right but for the first and one of errors.
func (t *text) table(lines [][]string) {
	widths := map[int]int{}
	for _, cells := range lines {
		for i, cell := range cells {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, cells := range lines {
		var b strings.Builder
		for i, cell := range cells {
			switch {
			case i == 0:
				fmt.Fprintf(&b, "%-*s", widths[i], cell)
			case lines[0][i] == "errors":
				fmt.Fprintf(&b, "  %s", cell)
			default:
				fmt.Fprintf(&b, "  %*s", widths[i], cell)
			}
		}
		t.line("%s", strings.TrimRight(b.String(), " "))
	}
}

func (t *text) operations(r *metrics.Result) {
	t.line("target %s, driver %s, workload %s, %d clients: %d operations in %v, %.0f a second",
		r.Target, r.Driver, r.Workload, r.Clients, r.Total(), r.Elapsed.Round(time.Millisecond), float64(r.Total())/r.Elapsed.Seconds())
	lines := [][]string{{"operation", "count", "p50", "p99", "p99.9", "max", "errors"}}
	for _, name := range r.Names() {
		o := r.Operations[name]
		line := []string{name, fmt.Sprint(o.Count)}
		for _, q := range []float64{50, 99, 99.9, 100} {
			line = append(line, Nanoseconds.Format(float64(o.Latencies.ValueAtQuantile(q))))
		}
		lines = append(lines, append(line, o.Classes()))
	}
	t.table(lines)
}

// comparison has a line for each contender and a column for each measure of all
// operations; a cell is the median, with the ratio where that is not the first one.
func (t *text) comparison(r *Report) {
	rows := r.Compare()
	if len(rows) == 0 {
		return
	}
	first := r.Contenders[0]
	t.line("%d rounds; the median of each, and its ratio to %s with the least and the greatest:", len(first.Rounds), first.Name)
	lines := [][]string{{"contender"}}
	for _, c := range r.Contenders {
		lines = append(lines, []string{c.Name})
	}
	for _, row := range rows {
		if !row.narrow() {
			continue
		}
		lines[0] = append(lines[0], row.Name)
		for i, cell := range row.Cells {
			lines[i+1] = append(lines[i+1], cell.String(row.Unit, i > 0))
		}
	}
	t.table(lines)
	if len(r.options()) > 0 {
		return // many contenders, for which there is no room
	}
	t.line("")
	lines = [][]string{{"operation"}}
	for _, c := range r.Contenders {
		lines[0] = append(lines[0], c.Name)
	}
	for _, operation := range r.operations() {
		for _, q := range quantiles {
			name := LatencyOf(operation, q).Name
			line := []string{name}
			for _, row := range rows {
				if row.Name != name {
					continue
				}
				for i, cell := range row.Cells {
					line = append(line, cell.String(row.Unit, i > 0))
				}
			}
			lines = append(lines, line)
		}
	}
	t.table(lines)
}

// narrow are the measures that a terminal has room for.
var narrow = []string{Throughput.Name, "p50 of all", "p99 of all", "peak of messages to the database", "peak of the heap"}

// String writes a cell of a measure with that unit, "" where there is nothing.
func (c Cell) String(unit Unit, ratio bool) string {
	if c.Figure.N == 0 {
		return ""
	}
	s := unit.Format(c.Figure.Median)
	if ratio {
		s += " " + c.Ratio.String()
	}
	return s
}

// String writes the spread of a ratio, "" where there is nothing.
func (s Spread) String() string {
	if s.N == 0 {
		return ""
	}
	return fmt.Sprintf("×%s (%s–%s)", digits(s.Median), digits(s.Least), digits(s.Greatest))
}

func (t *text) effects(effects []Effect) {
	if len(effects) == 0 {
		return
	}
	t.line("")
	t.line("what each option buys, over all points that differ in nothing else:")
	lines := [][]string{append([]string{"option"}, narrow...)}
	for _, e := range effects {
		line := []string{e.String()}
		for _, name := range narrow {
			line = append(line, e.ratio(name).String())
		}
		lines = append(lines, line)
	}
	t.table(lines)
}

// ratio is that in a measure; its N is 0 where there is none.
func (e Effect) ratio(measure string) Spread {
	if i := slices.IndexFunc(e.Ratios, func(m MeasuredRatio) bool { return m.Name == measure }); i >= 0 {
		return e.Ratios[i].Ratio
	}
	return Spread{}
}

// String names the option with the two values.
func (e Effect) String() string { return fmt.Sprintf("%s=%s beside %s", e.Option, e.Value, e.Beside) }

// verdict is that on all rounds together.
func (t *text) verdict(r *Report) {
	sum := r.verdict()
	v := sum.Verdict
	t.line("%d histories of %d operations checked in %v, %d undecided, %d looks at the whole, %d restarts, faults %v",
		v.Histories, v.Operations, v.Checking.Round(time.Millisecond), v.Undecided, v.Census, sum.Restarts, sum.Faults)
	if len(v.Violations) == 0 {
		t.line("no violation; seed %d", sum.Seed)
		return
	}
	shortest := Shortest(v.Violations)
	t.line("VIOLATION after %v: %s %s", shortest.After.Round(time.Millisecond), shortest.Group, shortest.Message)
	for _, line := range shortest.History {
		t.line("%s", line)
	}
	if shortest.Picture != "" {
		t.line("picture: %s", shortest.Picture)
	}
	t.line("again: %s", r.Again())
}

// Shortest returns the violation with the shortest history, one without a history
// where none has one.
func Shortest(violations []metrics.Violation) metrics.Violation {
	shortest := violations[0]
	for _, v := range violations {
		if len(v.History) > 0 && (len(shortest.History) == 0 || len(v.History) < len(shortest.History)) {
			shortest = v
		}
	}
	return shortest
}

// Again is the command that makes the same choices.
func (r *Report) Again() string {
	return fmt.Sprintf("%s -seed %d", r.Command, r.verdict().Seed)
}

// verdict returns a result with what the checks of all rounds came to together.
func (r *Report) verdict() metrics.Result {
	sum := metrics.Result{Faults: map[string]uint64{}}
	for _, c := range r.Contenders {
		for _, round := range c.Rounds {
			v := round.Verdict
			sum.Seed = round.Seed
			sum.Restarts += round.Restarts
			sum.Verdict.Histories += v.Histories
			sum.Verdict.Operations += v.Operations
			sum.Verdict.Undecided += v.Undecided
			sum.Verdict.Checking += v.Checking
			sum.Verdict.Census += v.Census
			sum.Verdict.Violations = append(sum.Verdict.Violations, v.Violations...)
			for kind, n := range round.Faults {
				sum.Faults[kind] += n
			}
		}
	}
	return sum
}
