package run

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

const (
	seedEnv  = "GRAPHSNAP_SEED"     // replays one seed
	seedsEnv = "GRAPHSNAP_SEEDS"    // how many
	shareEnv = "GRAPHSNAP_REPLAYED" // what TestReplayed is to replay: the first seed, how many and at which distance
)

// TestReplays runs short histories with a clock of their own, on which time passes
// only when everybody waits: a seed decides what clients do and when, which calls of
// the driver, the layer store and the database fail and how long they take, when the
// target is restarted, and with that the order of things, but for what happens at the
// same instant. A seed that fails is printed, with what runs it again.
//
// Processes with one processor each share the seeds, for with one little happens at the
// same instant.
func TestReplays(t *testing.T) {
	first, count, processes := uint64(1), uint64(100), uint64(runtime.GOMAXPROCS(0))
	if n, ok := number(t, seedsEnv); ok {
		count = n
	}
	if n, ok := number(t, seedEnv); ok {
		first, count, processes = n, 1, 1
	}
	began := time.Now()
	var g sync.WaitGroup
	var histories [64]uint64
	processes = min(processes, count, uint64(len(histories)))
	for p := range processes {
		g.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReplayed$", "-test.timeout=0", "-test.v")
			share := (count - p + processes - 1) / processes
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1", fmt.Sprintf("%s=%d %d %d", shareEnv, first+p, share, processes))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			_, told, ok := bytes.Cut(out, []byte("HISTORIES "))
			if _, err := fmt.Sscan(string(told), &histories[p]); err != nil || !ok {
				t.Errorf("it did not say how many histories there were:\n%s", out)
			}
		})
	}
	g.Wait()
	var all uint64
	for _, n := range histories {
		all += n
	}
	if all < count {
		t.Errorf("%d seeds made %d histories", count, all)
	}
	t.Logf("%d seeds, %d histories, %v", count, all, time.Since(began).Round(time.Millisecond))
}

func number(t *testing.T, env string) (uint64, bool) {
	t.Helper()
	s := os.Getenv(env)
	if s == "" {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == 0 {
		t.Fatalf("%s is not a number from 1 up", env)
	}
	return n, true
}

// TestReplayed is a process that TestReplays starts.
func TestReplayed(t *testing.T) {
	var first, share, distance uint64
	if _, err := fmt.Sscan(os.Getenv(shareEnv), &first, &share, &distance); err != nil {
		return // that is for the processes that TestReplays starts
	}
	root := inMemory(t)
	var histories uint64
	defer func() { t.Logf("HISTORIES %d", histories) }()
	for n := range share {
		seed := first + n*distance
		synctest.Test(t, func(t *testing.T) { // ends the test where it fails
			defer func() {
				if t.Failed() {
					t.Logf("again: %s", command(seed))
				}
			}()
			r := replay(t, root, seed)
			histories += r.Verdict.Histories
		})
	}
}

// command is the one that replays the seed.
func command(seed uint64) string {
	tags := ""
	if crashpoint.Enabled {
		tags = "-tags crashpoints "
	}
	return fmt.Sprintf("%s=%d go test %s-count=1 -run TestReplays ./stress/run", seedEnv, seed, tags)
}

// inMemory returns a directory of the test, where a sync costs nothing if there is such
// a place.
func inMemory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "graphsnap-replay-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// replay runs what the seed says, to the end, and fails the test where something is
// wrong.
func replay(t *testing.T, root string, seed uint64) *metrics.Result {
	ctx := context.Background()
	dir := filepath.Join(root, fmt.Sprint(seed))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	c, copies := schedule(t, seed)
	c.Faults.Hook(false)
	c.Faults.Calm(true)
	e, err := target.OpenEngine(ctx, target.NewNull(copies, c.Faults.Memory), dir, engine.WithGrace(time.Second), engine.WithLeaseSweep(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	c.Faults.Calm(false)
	r := Run(ctx, e, c)
	c.Faults.Calm(true)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for _, wrong := range e.AuditClosed(ctx) {
		t.Errorf("seed %d: %s", seed, wrong)
	}
	for _, v := range r.Verdict.Violations {
		t.Errorf("seed %d, %s: %s\n%s", seed, v.Group, v.Message, strings.Join(v.History, "\n"))
	}
	if r.Verdict.Undecided > 0 {
		t.Errorf("seed %d: %d histories are undecided", seed, r.Verdict.Undecided)
	}
	return r
}

// schedule is what a seed says: of four, one goes without faults of the database, and
// one without restarts.
func schedule(t *testing.T, seed uint64) (c Config, copies bool) {
	choice := rand.New(rand.NewPCG(seed, 1<<60))
	names := workload.Names()
	w, err := workload.Get(names[choice.IntN(len(names))])
	if err != nil {
		t.Fatal(err)
	}
	w.Steps = min(w.Steps, 20)
	rates := faults.Rates{
		Driver: faults.Calls{Error: 0.05 * choice.Float64(), Panic: 0.03 * choice.Float64(), Delay: 0.9},
		Layers: faults.Calls{Error: 0.1 * choice.Float64(), Panic: 0.05 * choice.Float64(), Delay: 0.9},
		Cancel: 0.1 * choice.Float64(), Longest: 20 * time.Millisecond,
	}
	if crashpoint.Enabled && choice.IntN(4) > 0 {
		rates.Database = faults.Calls{Error: 0.03 * choice.Float64(), Panic: 0.03 * choice.Float64(), Full: 0.05 * choice.Float64(), Delay: 0.9}
	}
	c = Config{
		// Operations begin at times of their own, so that little of the order is the
		// scheduler's.
		Workload: w, Clients: 8, Families: 3, Pause: 3 * time.Millisecond,
		Seed: seed, Check: true, Faults: faults.New(rates, seed), Interval: time.Hour,
	}
	if choice.IntN(4) > 0 {
		c.Restart = 1 + time.Duration(choice.Int64N(int64(100*time.Millisecond)))
	}
	return c, choice.IntN(2) == 0
}
