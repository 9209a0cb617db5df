package run

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// TestReplays runs short histories with a clock of their own, on which time passes
// only when everybody waits: a seed decides what clients do, which calls of the
// driver fail and how long they take, and with that the order of things, but for what
// happens at the same instant. A seed that fails is printed; GRAPHSNAP_SEED runs it
// again, GRAPHSNAP_SEEDS more of them.
func TestReplays(t *testing.T) {
	first, count := uint64(1), uint64(100)
	if s := os.Getenv("GRAPHSNAP_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		count = n
	}
	if s := os.Getenv("GRAPHSNAP_SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, count = seed, 1
	}
	root := t.TempDir()
	began := time.Now()
	var histories uint64
	for seed := first; seed < first+count && !t.Failed(); seed++ {
		synctest.Test(t, func(t *testing.T) { histories += replay(t, root, seed) })
		if t.Failed() {
			t.Logf("again: GRAPHSNAP_SEED=%d go test -run TestReplays ./stress/run", seed)
		}
	}
	t.Logf("%d seeds, %d histories, %v", count, histories, time.Since(began).Round(time.Millisecond))
}

func replay(t *testing.T, root string, seed uint64) uint64 {
	w, err := workload.Get("four-keys")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	dir := fmt.Sprintf("%s/%d", root, seed)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	injector := faults.New(faults.Rates{Driver: faults.Calls{Error: 0.05, Panic: 0.02, Delay: 0.9}, Cancel: 0.1, Longest: 20 * time.Millisecond}, seed)
	e, err := target.OpenEngine(ctx, target.NewNull(seed%2 == 1, injector.Driver), dir, engine.WithGrace(time.Second), engine.WithLeaseSweep(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	// Operations begin at times of their own, so that little of the order is the
	// scheduler's.
	r := Run(ctx, e, Config{Workload: w, Clients: 8, Families: 3, Seed: seed, Check: true, Faults: injector, Interval: time.Hour, Pause: 3 * time.Millisecond})
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, wrong := range e.AuditClosed(ctx) {
		t.Error(wrong)
	}
	for _, v := range r.Verdict.Violations {
		t.Errorf("seed %d, %s: %s\n%v", seed, v.Group, v.Message, v.History)
	}
	if r.Verdict.Undecided > 0 {
		t.Errorf("seed %d: %d histories are undecided", seed, r.Verdict.Undecided)
	}
	return r.Verdict.Histories
}
