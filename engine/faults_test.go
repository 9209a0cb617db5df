package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/persist"
)

// life is what becomes of snapshots, from recovery to removal, one step after the
// other. Each step makes calls of the driver.
var life = []struct {
	name string
	step func(h *harness) error
}{
	{"prepare", func(h *harness) error { return h.Prepare(h.t.Context(), "making", "") }},
	{"mount", func(h *harness) error { return mountOnce(h.Mounts(h.t.Context(), "making")) }},
	{"commit", func(h *harness) error { return h.Commit(h.t.Context(), "base", "making") }},
	{"prepare on it", func(h *harness) error { return h.Prepare(h.t.Context(), "active", "base") }},
	{"mount on it", func(h *harness) error { return mountOnce(h.Mounts(h.t.Context(), "active")) }},
	{"view", func(h *harness) error { return mountOnce(h.View(h.t.Context(), "view", "base")) }},
	{"view of nothing", func(h *harness) error { return mountOnce(h.View(h.t.Context(), "empty", "")) }},
	{"usage", func(h *harness) error { _, err := h.Usage(h.t.Context(), "base"); return err }},
	{"usage of what changes", func(h *harness) error { _, err := h.Usage(h.t.Context(), "active"); return err }},
	{"commit on it", func(h *harness) error {
		return h.Commit(h.t.Context(), "top", "active", snapshots.WithLabels(map[string]string{"l": "v"}))
	}},
	{"update", func(h *harness) error { return relabel(h, "base") }},
	{"remove", func(h *harness) error { h.endLease(lived); return nil }},
}

var (
	lived     = Lease{Namespace: "ns", ID: "l"}
	livedKeys = []string{"making", "base", "active", "view", "empty", "top"}
)

func mountOnce(m *Mountable, err error) error {
	if err != nil {
		return err
	}
	_, release, err := m.Mount()
	if err != nil {
		return err
	}
	return release()
}

// live makes the steps and returns the first that failed. A build ends where a step
// fails, as a client's does, and its lease with it.
func (h *harness) live() (failed string, err error) {
	h.t.Helper()
	for _, key := range livedKeys {
		h.lease(lived, key)
	}
	for _, l := range life {
		if err = l.step(h); err != nil {
			h.endLease(lived)
			return l.name, err
		}
	}
	return "", nil
}

// unfinished is a harness on what a dead process left: a snapshot that is half made,
// one that is lost, a mount, and a directory that is to be deleted.
func unfinished(t *testing.T, copies bool) *ruins {
	t.Helper()
	r := newRuins(t, copies)
	whole := r.record(persist.Committed, "old", "")
	half, lost := r.record(persist.Active, "half", "old"), r.record(persist.Active, "lost", "old")
	half.Creating, lost.Creating = true, true
	r.left(persist.Put(whole), persist.Put(half), persist.Put(lost), persist.Removing("of-gone"))
	r.put("old", "", "whole")
	r.put("half", "old", "parts")
	r.put("lost", "old", "link")
	r.put("gone", "", "whole")
	if !copies { // else nothing is mounted
		r.driver.stale["of-half"] = 1
	}
	return r
}

// P9: a driver that fails once, at whichever of its calls, with an error or a panic.
// What was asked for fails with an error that says so, or did not need the call; reads
// go on; and the same succeeds afterwards, without a restart but of what fails to open.
// Nothing is left behind.
func TestTheDriverFailsAtEachCallInTurn(t *testing.T) {
	for _, copies := range []bool{false, true} {
		counts := map[string]int{} // of each call, in a life without faults
		failOnce(t, copies, "", 0, false, counts)
		if t.Failed() {
			return
		}
		if len(counts) < 8 {
			t.Errorf("calls of the driver: %v", counts)
		}
		n := 0
		for call, times := range counts {
			for nth := 1; nth <= times; nth++ {
				for _, panics := range []bool{false, true} {
					failOnce(t, copies, call, nth, panics, nil)
					if t.Failed() {
						t.Fatalf("copies %v: call %d of %s failed, panic %v", copies, nth, call, panics)
					}
					n++
				}
			}
		}
		t.Logf("copies %v: %d faults, calls %v", copies, n, counts)
	}
}

var errInjected = errors.New("injected")

func failOnce(t *testing.T, copies bool, call string, nth int, panics bool, counts map[string]int) {
	t.Helper()
	r := unfinished(t, copies)
	r.opts = []Option{inBoot("second"), WithGrace(0)}
	r.lease0("old", "half", "lost")
	seen := map[string]int{} // guarded by the driver's mutex
	met := false
	r.driver.before = func(c, id string) error {
		r.driver.mu.Lock()
		seen[c]++
		if counts != nil {
			counts[c] = seen[c]
		}
		hit := c == call && seen[c] == nth
		met = met || hit
		r.driver.mu.Unlock()
		switch {
		case hit && panics:
			panic("injected")
		case hit:
			return errInjected
		}
		return nil
	}
	e, err := Open(context.Background(), Config{Driver: r.driver, Root: r.root, Name: "test", Leases: r.leases}, r.opts...)
	switch {
	case err == nil:
		r.Engine = e
	case call == "":
		t.Fatal(err)
	default:
		wantInjected(t, "open", err)
		r.reopen()
	}
	failed, err := r.live()
	switch {
	case err != nil && call == "":
		t.Fatalf("%s: %v", failed, err)
	case err != nil:
		wantInjected(t, failed, err)
		if r.Err() != nil {
			t.Errorf("writes are refused: %v", r.Err())
		}
		if r.absent("old") {
			t.Error("what was there is gone")
		}
	}
	// Once more, without a restart.
	eventually(t, "nothing is left of it", func() bool {
		return !slices.ContainsFunc(livedKeys, func(key string) bool { return !r.absent(key) }) && r.Pending().Directories == 0
	})
	r.emptied(copies)
	r.driver.calm()
	if failed, err := r.live(); err != nil {
		t.Errorf("%s, again: %v", failed, err)
	}
	r.emptied(copies)
	r.driver.mu.Lock()
	if !met && call != "" {
		t.Errorf("%s was not called %d times", call, nth)
	}
	r.driver.mu.Unlock()
	r.again("third")
	for _, key := range []string{"old", "half", "lost"} {
		if r.absent(key) && (key == "old" || !copies) {
			t.Errorf("%q is gone", key)
		}
	}
	r.settled()
	r.finish()
}

// emptied waits until there are no directories but those of before: of a driver that
// copies, what was half made is undone.
func (r *ruins) emptied(copies bool) {
	r.t.Helper()
	eventually(r.t, "all directories are deleted but those of before", func() bool {
		r.driver.mu.Lock()
		defer r.driver.mu.Unlock()
		return len(r.driver.dirs) <= map[bool]int{false: 3, true: 1}[copies]
	})
}

// lease0 makes a lease of what is there before Open.
func (r *ruins) lease0(keys ...string) {
	for _, key := range keys {
		r.leases.add(Lease{Namespace: "ns", ID: "before"}, key)
	}
}

// wantInjected checks that an error tells its cause.
func wantInjected(t *testing.T, step string, err error) {
	t.Helper()
	if !errors.Is(err, errInjected) && !strings.Contains(err.Error(), "injected") {
		t.Errorf("%s: %v does not say why", step, err)
	}
}
