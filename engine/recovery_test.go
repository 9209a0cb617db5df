package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
)

var states = []string{"whole", "parts", "content", "link", "none"}

// Every kind of record, marked as unfinished or not, over every state of its
// directory, in the run of the machine in which the process died and in the next.
func TestRecoveryOfEveryRecordOverEveryDirectory(t *testing.T) {
	for _, copies := range []bool{false, true} {
		for _, kind := range []persist.Kind{persist.Active, persist.View, persist.Committed} {
			for _, marked := range []bool{true, false} {
				for _, state := range states {
					for _, boot := range []string{"first", "second"} {
						name := fmt.Sprintf("copies=%v/%v/marked=%v/%s/%s", copies, kind, marked, state, boot)
						t.Run(name, func(t *testing.T) { recoverOne(t, copies, kind, marked, state, boot) })
					}
				}
			}
		}
	}
}

func recoverOne(t *testing.T, copies bool, kind persist.Kind, marked bool, state, boot string) {
	if !marked && (state == "parts" || state == "content") && boot == "first" {
		t.Skip("a process that dies leaves what is recorded as whole as it is")
	}
	r := newRuins(t, copies)
	base := r.record(persist.Committed, "base", "")
	rec := r.record(kind, "k", "base")
	if kind == persist.View {
		rec = r.record(kind, "k", "") // one of its own, of an empty directory
	}
	rec.Creating = marked
	r.put("base", "", "whole")
	r.put("k", rec.Parent, state)
	r.left(persist.Put(base), persist.Put(rec))

	const whole, anew, lost, undone = "whole", "anew", "lost", "undone"
	want := whole
	switch there := state == "whole" || state == "parts"; {
	case copies && marked && kind != persist.Committed:
		want = undone
	case there:
	case kind == persist.Committed:
		want = lost
	default:
		want = anew
	}
	// Twice: what was done once is not to be done again, and what was found lost
	// is found lost again.
	for range 2 {
		creates, syncs := r.driver.count("Create"), r.driver.count("Sync")
		changes := want == anew || want == whole && r.driver.broken["of-k"] == "parts"
		r.again(boot)
		if synced := r.driver.count("Sync") > syncs; synced != changes {
			t.Errorf("want it %s: what was changed: %v, was synced: %v", want, changes, synced)
		}
		_, err := r.Stat(t.Context(), "k")
		if absent := errdefs.IsNotFound(err); absent != (want == lost || want == undone) {
			t.Errorf("want it %s, Stat says %v", want, err)
		}
		r.settled()
		creates = r.driver.count("Create") - creates
		switch {
		case want == anew && creates != 1:
			t.Errorf("Create was called %d times", creates)
		case want != anew && creates != 0:
			t.Errorf("Create was called %d times of a directory that was to be %s", creates, want)
		}
		must(t, r.Close())
		records, removals := r.records()
		got, recorded := records["k"]
		if recorded != (want != undone) || len(removals) != 0 {
			t.Errorf("want it %s: recorded %v, removals %v", want, recorded, removals)
		}
		if got.Creating && want != lost {
			t.Error("it is marked as unfinished still")
		}
		if _, there := r.driver.dirs["of-k"]; there != (want == whole || want == anew || want == lost && state == "content") {
			t.Errorf("want it %s: the directory is there: %v", want, there)
		}
		if r.driver.links["of-k"] != (want == whole || want == anew || want == lost && state != "none") {
			t.Errorf("want it %s: link: %v", want, r.driver.links["of-k"])
		}
		if want != lost && r.driver.broken["of-k"] != "" {
			t.Errorf("want it %s: %s missing", want, r.driver.broken["of-k"])
		}
		if want == anew {
			want = whole
		}
		boot = "second" // in which a third run finds nothing to look into
	}
	for _, w := range r.driver.wrong {
		t.Error(w)
	}
}

// P1: what a power loss took is not there, nor what stands on it, and all of it is
// kept and reported.
func TestWhatStandsOnALostSnapshotIsLostAndKept(t *testing.T) {
	r := newRuins(t, false)
	r.opts = nil
	for _, s := range []struct {
		kind        persist.Kind
		key, parent string
	}{
		{persist.Committed, "a", ""}, {persist.Committed, "b", "a"}, {persist.Committed, "c", "b"},
		{persist.Active, "d", "c"}, {persist.Committed, "beside", "a"}, {persist.Active, "e", "beside"},
	} {
		rec := r.record(s.kind, s.key, s.parent)
		rec.Creating = s.key == "d"
		r.left(persist.Put(rec))
		r.put(s.key, s.parent, "whole")
	}
	view := persist.Record{Key: "v", Kind: persist.View, Parent: "c", Created: 1, Updated: 1}
	r.left(persist.Put(view))
	r.driver.broken["of-b"] = "content"

	logged := logged(t)
	r.again("second")
	for range 2 {
		for key, want := range map[string]bool{"a": true, "b": false, "c": false, "d": false, "v": false, "beside": true, "e": true} {
			if r.absent(key) == want {
				t.Errorf("%q is there: %v", key, !want)
			}
		}
		var walked []string
		must(t, r.Walk(t.Context(), func(_ context.Context, i snapshots.Info) error {
			walked = append(walked, i.Name)
			return nil
		}))
		if slices.Sort(walked); !slices.Equal(walked, []string{"a", "beside", "e"}) {
			t.Errorf("walk: %v", walked)
		}
		if err := r.Prepare(t.Context(), "on", "c"); !errdefs.IsNotFound(err) {
			t.Errorf("prepare on what is lost: %v", err)
		}
		if err := r.Prepare(t.Context(), "b", ""); !errdefs.IsUnavailable(err) {
			t.Errorf("the key of what is lost: %v", err)
		}
		if n := strings.Count(logged.String(), "is lost, and the snapshot with it"); n != 1 {
			t.Errorf("reported %d times:\n%s", n, logged)
		}
		if !strings.Contains(logged.String(), "lost=4") {
			t.Errorf("not counted:\n%s", logged)
		}
		logged.Reset()
		r.again("second") // looked into again without a restart of the machine
	}
	// It comes back with its directory.
	delete(r.driver.broken, "of-b")
	r.again("second")
	for _, key := range []string{"b", "c", "d", "v"} {
		if r.absent(key) {
			t.Errorf("%q is not there though its directory is whole again", key)
		}
	}
	must(t, r.Close())
	records, _ := r.records()
	for key, rec := range records {
		if rec.Creating {
			t.Errorf("%q is marked as unfinished still", key)
		}
	}
	if len(records) != 7 {
		t.Errorf("%d records", len(records))
	}
	for _, w := range r.driver.wrong {
		t.Error(w)
	}
}

// Lost snapshots go as others do when no lease names them.
func TestLostSnapshotsGoWithTheirLeases(t *testing.T) {
	r := newRuins(t, false)
	r.left(persist.Put(r.record(persist.Committed, "a", "")), persist.Put(r.record(persist.Committed, "b", "a")))
	r.put("a", "", "link")
	r.put("b", "a", "whole")
	l := Lease{Namespace: "ns", ID: "l"}
	r.leases.add(l, "b")
	r.opts = []Option{WithGrace(0)}
	r.reopen()
	if !r.absent("a") || !r.absent("b") {
		t.Error("what is lost is there")
	}
	r.endLease(l)
	eventually(t, "they go", func() bool {
		r.driver.mu.Lock()
		defer r.driver.mu.Unlock()
		return len(r.driver.dirs) == 0 && len(r.driver.links) == 0
	})
	r.settled()
	must(t, r.Prepare(t.Context(), "a", ""))
	r.finish()
}

// Removals over every state of their directory.
func TestRemovalsAreCarriedThrough(t *testing.T) {
	for _, state := range states {
		t.Run(state, func(t *testing.T) {
			r := newRuins(t, false)
			r.put("gone", "", state)
			r.left(persist.Removing("of-gone"))
			r.reopen()
			r.settled()
			if n, want := r.driver.count("Remove"), map[bool]int{true: 0, false: 1}[state == "none"]; n != want {
				t.Errorf("Remove was called %d times", n)
			}
			must(t, r.Prepare(t.Context(), "of-gone", ""))
			if b := r.keys.Load("of-gone").visible(); b.graphID != "of-gone" {
				t.Errorf("the graph ID is not free: %q", b.graphID)
			}
			r.finish()
		})
	}
}

// A removal was carried through, its graph ID was borne anew, and the crash lost
// what said so: it must not be carried through again.
func TestRemovalOfALiveSnapshotIsDropped(t *testing.T) {
	r := newRuins(t, false)
	r.left(persist.Put(r.record(persist.Active, "k", "")), persist.Removing("of-k"))
	r.put("k", "", "whole")
	r.reopen()
	r.settled()
	if r.absent("k") || r.driver.count("Remove") != 0 {
		t.Errorf("Remove was called %d times", r.driver.count("Remove"))
	}
	must(t, r.Close())
	if _, removals := r.records(); len(removals) != 0 {
		t.Errorf("removals: %v", removals)
	}
	r.reopen()
	r.finish()
}

// A process that dies at any call of the driver that recovery makes, any number of
// times, leaves what the next one brings to the same end.
func TestDyingDuringRecoveryChangesNothing(t *testing.T) {
	for _, copies := range []bool{false, true} {
		var world string
		for dies := 0; ; dies++ {
			r := newRuins(t, copies)
			r.left(persist.Put(r.record(persist.Committed, "base", "")), persist.Removing("of-gone"), persist.Removing("of-link"))
			r.put("base", "", "whole")
			r.put("gone", "", "whole")
			r.put("link", "", "link")
			for _, state := range states {
				rec := r.record(persist.Active, state, "base")
				rec.Creating = true
				r.left(persist.Put(rec))
				r.put(state, "base", state)
				r.driver.stale["of-"+state] = map[bool]int{true: 1}[state != "link" && state != "none"]
			}
			lost := r.record(persist.Committed, "lost", "")
			r.left(persist.Put(lost))
			// The driver fails at the call of that number and from then on, as it
			// does in the eyes of a process that is no more. Close then writes
			// what a dead process would not have: less is tested than by a kill.
			var calls atomic.Int64
			died := errors.New("died")
			r.driver.before = func(call, _ string) error {
				if calls.Add(1) > int64(dies) {
					return died
				}
				return nil
			}
			e, err := Open(context.Background(), Config{Driver: r.driver, Root: r.root, Name: "test", Leases: r.leases}, r.opts...)
			if err == nil {
				eventually(t, "it dies or is through", func() bool { return calls.Load() > int64(dies) || e.Pending().Directories == 0 })
				must(t, e.Close())
			}
			through := calls.Load() <= int64(dies)
			r.driver.calm()
			r.reopen()
			r.settled()
			got := fmt.Sprint(r.driver.dirs, r.driver.broken, r.driver.links)
			must(t, r.Close())
			records, removals := r.records()
			got += fmt.Sprint(slices.Sorted(maps.Keys(records)), removals)
			for _, w := range r.driver.wrong {
				t.Errorf("dead at call %d: %s", dies, w)
			}
			if world == "" {
				world = got
			} else if got != world {
				t.Errorf("dead at call %d:\n got %s\nwant %s", dies, got, world)
			}
			if through {
				if dies < 5 {
					t.Errorf("recovery made %d calls only", dies)
				}
				break
			}
		}
	}
}

// A circle of parents in a damaged database ends nothing but itself.
func TestRecoveryOfACircleOfParents(t *testing.T) {
	r := newRuins(t, false)
	a, b := r.record(persist.Committed, "a", "b"), r.record(persist.Committed, "b", "a")
	a.Creating = true
	r.left(persist.Put(a), persist.Put(b), persist.Put(r.record(persist.Committed, "sound", "")))
	r.put("a", "b", "content")
	r.put("b", "a", "whole")
	r.put("sound", "", "whole")
	r.reopen()
	if r.absent("sound") {
		t.Error("the sound snapshot is gone")
	}
	must(t, r.Close())
}
