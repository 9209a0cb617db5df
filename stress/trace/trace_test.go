package trace

import (
	"context"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphsnap/graphsnap/stress/faces"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/target"
)

// demo is what a stock buildkitd did, see the Makefile.
func demo(t *testing.T) []Event {
	t.Helper()
	f, err := os.Open("../testdata/demo.trace.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func onTarget(t *testing.T, name string, events []Event) *metrics.Result {
	t.Helper()
	ctx := context.Background()
	var on target.Target
	var err error
	switch root := t.TempDir(); name {
	case "engine":
		on, err = target.OpenEngine(ctx, target.NewNull(false, nil), root)
	case "containerd":
		on, err = faces.OpenContainerd(ctx, target.NewNull(false, nil), root, false)
	case "buildkit":
		on, err = faces.OpenBuildKit(ctx, "null", root)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := Replay(ctx, on, events, Options{Clients: 16})
	if x, ok := on.(target.Audited); ok {
		for _, wrong := range x.Audit(ctx) {
			t.Error(wrong)
		}
	}
	if err := on.Close(); err != nil {
		t.Error(err)
	}
	return r
}

func TestRecordedBuildReplaysOnEachTarget(t *testing.T) {
	events := demo(t)
	for _, name := range []string{"engine", "containerd", "buildkit"} {
		r := onTarget(t, name, events)
		for _, v := range r.Verdict.Violations {
			t.Errorf("%s: %s", name, v.Message)
		}
		if n := r.Verdict.Operations; n < uint64(len(events))/2 {
			t.Errorf("%s: %d of %d answers were compared", name, n, len(events))
		}
	}
}

// TestReplayTellsOtherAnswers leaves out the first call that makes what others need.
func TestReplayTellsOtherAnswers(t *testing.T) {
	for _, name := range []string{"engine", "containerd"} {
		r := onTarget(t, name, demo(t)[1:])
		if len(r.Verdict.Violations) == 0 || !strings.Contains(r.Verdict.Violations[0].Message, "not found") {
			t.Errorf("%s: %+v", name, r.Verdict.Violations)
		}
	}
}

// TestSpeedIsThatOfTheRecording has a clock on which nothing else takes time.
func TestSpeedIsThatOfTheRecording(t *testing.T) {
	events := demo(t)
	last := events[len(events)-1].At
	root := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		on, err := faces.OpenContainerd(ctx, target.NewNull(false, nil), root, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, speed := range []float64{1, 10} {
			// The second one finds what the first has removed.
			r := Replay(ctx, on, events, Options{Speed: speed, Clients: 16})
			if want := time.Duration(float64(last) / speed); r.Elapsed < want || r.Elapsed > want+want/10 {
				t.Errorf("at speed %v it took %v, want %v", speed, r.Elapsed, want)
			}
			for _, v := range r.Verdict.Violations {
				t.Error(v.Message)
			}
		}
		if err := on.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestCallsWaitForThoseThatTheyNeed(t *testing.T) {
	events := []Event{
		{At: 0, Took: 10, Call: "prepare", Key: "a"},
		{At: 20, Took: 10, Call: "commit", Key: "a", On: "base"},
		{At: 25, Took: 10, Call: "prepare", Key: "other"},
		{At: 40, Took: 10, Call: "prepare", Key: "child", On: "base"},
		{At: 45, Took: 1, Call: "stat", Key: "base"},
		{At: 60, Took: 10, Call: "remove", Key: "child"},
		{At: 80, Took: 10, Call: "remove", Key: "base"},
	}
	o := ordered(events)
	needs := func(i, j int) bool {
		for _, k := range o.after[i] {
			if k == j {
				return true
			}
		}
		return false
	}
	if !needs(1, 0) || !needs(3, 1) || !needs(6, 5) || needs(2, 1) || needs(3, 2) {
		t.Errorf("%v", o.after)
	}
	if o.alone[3] || o.alone[4] || !o.alone[0] || !o.alone[2] {
		t.Errorf("%v", o.alone)
	}
}
