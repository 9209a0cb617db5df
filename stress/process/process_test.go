package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/reexec"

	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/run"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

const (
	sound     = "sound"
	forgetful = "forgetful" // it begins with a database of a while ago
)

func TestMain(m *testing.M) {
	Register(sound, func(ctx context.Context, root string, f *faults.Injector) (target.Target, error) {
		return target.OpenPersistent(ctx, target.NewNull(false, f.Memory), root)
	})
	Register(forgetful, func(ctx context.Context, root string, f *faults.Injector) (target.Target, error) {
		if err := forget(root); err != nil {
			return nil, err
		}
		return target.OpenPersistent(ctx, target.NewNull(false, f.Memory), root)
	})
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

// forget puts the database that the process before began with in the place of what it
// left.
func forget(root string) error {
	path := filepath.Join(root, "snapshots.db")
	now, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	old, lost := os.ReadFile(path + ".old")
	if err := errors.Join(err, os.WriteFile(path+".old", now, 0o600)); err != nil || lost != nil {
		return err
	}
	return os.WriteFile(path, old, 0o600)
}

// killed runs a workload against the process while it is killed, restarted and its
// driver fails.
func killed(t *testing.T, name string, operations uint64) *metrics.Result {
	t.Helper()
	w, err := workload.Get("mixed")
	if err != nil {
		t.Fatal(err)
	}
	f := faults.New(faults.Rates{Driver: faults.Calls{Error: 0.01, Panic: 0.01, Delay: 0.1}, Cancel: 0.02, Longest: time.Millisecond}, 1)
	began := time.Now()
	p, err := Open(t.Context(), name, t.TempDir(), f, 1)
	if err != nil {
		t.Fatal(err)
	}
	// Under the race detector a process takes most of a second to start: it is to live
	// for longer than that.
	opening := time.Since(began)
	r := run.Run(t.Context(), p, run.Config{
		Workload: w, Clients: 16, Operations: operations, Seed: 1, Check: true, Faults: f,
		Kill: max(100*time.Millisecond, 5*opening), Restart: max(time.Second, 20*opening),
	})
	f.Calm(true)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	for _, wrong := range p.AuditClosed(t.Context()) {
		r.Verdict.Violations = append(r.Verdict.Violations, metrics.Violation{Message: wrong})
	}
	t.Logf("%d operations in %v, %d restarts, %v", r.Total(), r.Elapsed.Round(time.Millisecond), r.Restarts, r.Faults)
	return r
}

func TestHistoriesGoOnOverKills(t *testing.T) {
	r := killed(t, sound, 3000)
	for _, v := range r.Verdict.Violations {
		t.Errorf("%s: %s\n%s", v.Group, v.Message, strings.Join(v.History, "\n"))
	}
	if r.Faults["kill"] == 0 || r.Verdict.Histories == 0 || r.Verdict.Undecided > 0 {
		t.Errorf("%d kills, %+v", r.Faults["kill"], r.Verdict)
	}
}

func TestWhatAKillLosesIsFound(t *testing.T) {
	r := killed(t, forgetful, 50_000)
	if !slices.ContainsFunc(r.Verdict.Violations, func(v metrics.Violation) bool { return len(v.History) > 0 }) {
		t.Errorf("%+v", r.Verdict)
	}
}

func TestErrorsComeThroughWithTheirClasses(t *testing.T) {
	err := fmt.Errorf("prepare: %w: %w", persist.ErrIndeterminate, errdefs.ErrUnavailable)
	got := failure(err).err()
	if got.Error() != err.Error() || !errors.Is(got, persist.ErrIndeterminate) || !errdefs.IsUnavailable(got) || errdefs.IsNotFound(got) {
		t.Error(got)
	}
	if failure(nil).err() != nil {
		t.Error("no error became one")
	}
}
