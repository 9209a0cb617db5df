package report

import (
	"strings"
	"testing"
	"time"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// round is a run of one second with n operations that took that long each.
func round(options map[string]string, n int, took time.Duration) *metrics.Result {
	o := &metrics.Operation{Count: uint64(n), Latencies: metrics.NewHistogram()}
	_ = o.Latencies.RecordValues(int64(took), int64(n))
	return &metrics.Result{Options: options, Elapsed: time.Second, Operations: map[string]*metrics.Operation{"prepare": o}}
}

func contender(name string, options map[string]string, counts ...int) *Contender {
	c := &Contender{Name: name}
	for _, n := range counts {
		c.Rounds = append(c.Rounds, round(options, n, time.Millisecond))
	}
	return c
}

func row(t *testing.T, rows []Row, name string) Row {
	t.Helper()
	for _, r := range rows {
		if r.Name == name {
			return r
		}
	}
	t.Fatalf("no row %q in %v", name, rows)
	return Row{}
}

// TestRatiosAreTakenRoundByRound has a machine that is half as fast in the second
// round: medians alone would show a spread that there is not.
func TestRatiosAreTakenRoundByRound(t *testing.T) {
	r := &Report{Contenders: []*Contender{contender("a", nil, 100, 50, 100), contender("b", nil, 300, 150, 300)}}
	cells := row(t, r.Compare(), Throughput.Name).Cells
	if want := (Spread{Median: 3, Least: 3, Greatest: 3, N: 3}); cells[1].Ratio != want {
		t.Errorf("the ratio is %+v", cells[1].Ratio)
	}
	if want := (Spread{Median: 300, Least: 150, Greatest: 300, N: 3}); cells[1].Figure != want {
		t.Errorf("the figure is %+v", cells[1].Figure)
	}
}

func TestWhatNobodyTellsIsLeftOut(t *testing.T) {
	r := &Report{Contenders: []*Contender{contender("a", nil, 1), contender("b", nil, 1)}}
	for _, row := range r.Compare() {
		if strings.HasPrefix(row.Name, "peak") {
			t.Errorf("there is %q", row.Name)
		}
	}
	row(t, r.Compare(), "p99 of prepare")
}

// TestEffectsComparePointsThatDifferInOneOption has a second option that matters
// more than the first.
func TestEffectsComparePointsThatDifferInOneOption(t *testing.T) {
	point := func(batch, mailbox string) map[string]string {
		return map[string]string{"batch": batch, "mailbox": mailbox}
	}
	r := &Report{Contenders: []*Contender{
		contender("", point("1", "1"), 100, 100), contender("", point("1", "64"), 1000, 1000),
		contender("", point("8", "1"), 200, 220), contender("", point("8", "64"), 2000, 2400),
	}}
	got := map[string]Spread{}
	for _, e := range r.Effects() {
		for _, m := range e.Ratios {
			if m.Name == Throughput.Name {
				got[e.String()] = m.Ratio
			}
		}
	}
	if s := got["batch=8 beside 1"]; s.Least != 2 || s.Greatest != 2.4 || s.Median != 2.1 || s.N != 4 {
		t.Errorf("batch: %+v", s)
	}
	if s := got["mailbox=64 beside 1"]; s.Least != 10 || s.N != 4 {
		t.Errorf("mailbox: %+v", s)
	}
	if len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func TestOneContenderIsComparedWithNobody(t *testing.T) {
	r := &Report{Contenders: []*Contender{contender("a", nil, 1, 2, 3)}}
	if rows := r.Compare(); len(rows) != 0 {
		t.Error(rows)
	}
	if typical := r.Contenders[0].Typical(); typical.Total() != 2 {
		t.Errorf("the typical round had %d operations", typical.Total())
	}
}
