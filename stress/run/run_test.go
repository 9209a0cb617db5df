package run

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"go.uber.org/goleak"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

func TestMain(m *testing.M) {
	_ = log.SetLevel("panic") // thousands of injected faults are logged otherwise
	goleak.VerifyTestMain(m)
}

// onNull runs the workload on the engine with the null driver, closes it, and
// fails the test where something is wrong.
func onNull(t *testing.T, c Config) *metrics.Result {
	t.Helper()
	ctx := context.Background()
	if c.Faults == nil {
		c.Faults = faults.New(faults.Rates{}, 0)
	}
	c.Faults.Hook(false)
	c.Faults.Calm(true)
	e, err := target.OpenEngine(ctx, target.NewNull(c.Seed%2 == 1, c.Faults.Memory), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c.Faults.Calm(false)
	if os.Getenv(plantedMarker) != "" {
		e.Patience = 3 * time.Second // no call of the driver fails there
	}
	c.Check = true
	r := Run(ctx, e, c)
	c.Faults.Calm(true)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, wrong := range e.AuditClosed(ctx) {
		t.Error(wrong)
	}
	report(t, r)
	return r
}

func report(t *testing.T, r *metrics.Result) {
	t.Helper()
	for _, v := range r.Verdict.Violations {
		t.Errorf("seed %d, family %s, after %v: %s\n%s", v.Seed, v.Group, v.After, v.Message, strings.Join(v.History, "\n"))
	}
	if n := r.Verdict.Undecided; n > 0 {
		t.Errorf("%d histories are undecided", n)
	}
	if r.Verdict.Histories == 0 || r.Verdict.Census == 0 {
		t.Errorf("nothing was checked: %+v", r.Verdict)
	}
	t.Logf("%d operations in %v, %d histories, checked in %v, %d restarts, faults %v", r.Total(), r.Elapsed.Round(time.Millisecond), r.Verdict.Histories, r.Verdict.Checking.Round(time.Millisecond), r.Restarts, r.Faults)
}

// ofTheDatabase are faults of the database, in a build that has crash points.
func ofTheDatabase() faults.Calls {
	if !crashpoint.Enabled {
		return faults.Calls{}
	}
	return faults.Calls{Error: 0.01, Panic: 0.01, Full: 0.03, Delay: 0.1}
}

func TestEveryWorkloadIsLinearizable(t *testing.T) {
	injected := map[string]uint64{} // in all runs: some ask the driver or the layer store for little
	for i, name := range workload.Names() {
		for kind, c := range map[string]Config{
			"healthy": {},
			"faulty": {
				Restart: 200 * time.Millisecond, Checkpoint: 300 * time.Millisecond,
				Faults: faults.New(faults.Rates{Driver: faults.Calls{Error: 0.03, Panic: 0.01, Delay: 0.2}, Layers: faults.Calls{Error: 0.05, Panic: 0.02, Delay: 0.2}, Database: ofTheDatabase(), Cancel: 0.05, Longest: time.Millisecond}, uint64(i)),
			},
		} {
			t.Run(fmt.Sprintf("%s/%s", name, kind), func(t *testing.T) {
				w, err := workload.Get(name)
				if err != nil {
					t.Fatal(err)
				}
				c.Workload, c.Clients, c.Operations, c.Seed = w, 16, 5000, uint64(i)
				r := onNull(t, c)
				for fault, n := range r.Faults {
					injected[fault] += n
				}
				for op, n := range w.Weights {
					if n > 0 && name != "four-keys" && r.Operations[strings.ReplaceAll(op, "-", "")] == nil && op != "expire" {
						t.Errorf("there was no %s", op)
					}
				}
			})
		}
	}
	for _, kind := range []string{"error of driver.", "error of layers.", "panic of driver.", "panic of layers.", "delay of driver.", "delay of layers."} {
		is := func(fault string) bool { return strings.HasPrefix(fault, kind) }
		if !slices.ContainsFunc(slices.Collect(maps.Keys(injected)), is) {
			t.Errorf("there was no %s*", kind)
		}
	}
}
