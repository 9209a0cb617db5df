package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/actors"
)

// A mount of a view that went ends no hold of the one that bears its key now, and
// nothing is mounted by what was returned of the first.
func TestHoldsAreThoseOfOneView(t *testing.T) {
	ctx := t.Context()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "work", ""))
	must(t, h.Commit(ctx, "base", "work"))
	first, err := h.View(ctx, "view", "base")
	must(t, err)
	_, releaseFirst, err := first.Mount()
	must(t, err)
	must(t, h.Remove(ctx, "view"))
	now, err := h.View(ctx, "view", "base")
	must(t, err)
	_, release, err := now.Mount()
	must(t, err)
	must(t, releaseFirst())
	h.quiet()
	if n := h.keys.Load("view").holds; n != 1 {
		t.Errorf("%d holds are counted of a view that is mounted once", n)
	}
	if _, _, err := first.Mount(); !errdefs.IsNotFound(err) {
		t.Errorf("a view that is gone: %v", err)
	}
	if n := h.keys.Load("view").holds; n != 1 {
		t.Errorf("%d holds are counted of a view that is mounted once", n)
	}
	must(t, release())
	h.quiet()
	if n := h.keys.Load("view").holds; n != 0 {
		t.Errorf("%d holds are counted of a view that is not mounted", n)
	}
}

// What is measured while somebody writes, or while the snapshot goes, is not
// remembered; and of one that went it is not said that measuring failed.
func TestUsageIsThatOfOneSnapshotAtRest(t *testing.T) {
	ctx := t.Context()
	measure := func(t *testing.T, meanwhile func(h *harness, m *Mountable) error) (*harness, error) {
		h := openWithoutLeases(t)
		must(t, h.Prepare(ctx, "work", ""))
		m, err := h.Mounts(ctx, "work")
		must(t, err)
		must(t, h.Commit(ctx, "base", "work"))
		h.driver.before = func(call, _ string) error {
			if call != "Usage" {
				return nil
			}
			h.driver.calm()
			return meanwhile(h, m)
		}
		_, err = h.Usage(ctx, "base")
		h.quiet()
		return h, err
	}
	t.Run("nobody writes", func(t *testing.T) {
		h, err := measure(t, func(*harness, *Mountable) error { return nil })
		must(t, err)
		if !h.keys.Load("base").body.measured {
			t.Error("it is not remembered")
		}
		n := h.driver.count("Usage")
		must(t, second(h.Usage(ctx, "base")))
		if h.driver.count("Usage") != n {
			t.Error("it is measured again")
		}
	})
	t.Run("somebody wrote", func(t *testing.T) {
		h, err := measure(t, func(_ *harness, m *Mountable) error {
			_, release, err := m.Mount()
			if err == nil {
				err = release()
			}
			return err
		})
		must(t, err)
		if h.keys.Load("base").body.measured {
			t.Error("it is remembered")
		}
	})
	t.Run("somebody writes", func(t *testing.T) {
		var release func() error
		h, err := measure(t, func(_ *harness, m *Mountable) (err error) {
			_, release, err = m.Mount()
			return err
		})
		must(t, err)
		must(t, second(h.Usage(ctx, "base")))
		h.quiet()
		if h.keys.Load("base").body.measured {
			t.Error("it is remembered")
		}
		must(t, release())
	})
	t.Run("another bears the name", func(t *testing.T) {
		h, err := measure(t, func(h *harness, _ *Mountable) error {
			must(t, h.Remove(ctx, "base"))
			must(t, h.Prepare(ctx, "work", ""))
			return h.Commit(ctx, "base", "work")
		})
		must(t, err)
		if h.keys.Load("base").body.measured {
			t.Error("it is remembered of the other")
		}
	})
	for _, anew := range []bool{false, true} {
		_, err := measure(t, func(h *harness, _ *Mountable) error {
			must(t, h.Remove(ctx, "base"))
			if anew {
				must(t, h.Prepare(ctx, "work", ""))
				must(t, h.Commit(ctx, "base", "work"))
			}
			return errors.New("no such file or directory")
		})
		if !errdefs.IsNotFound(err) {
			t.Errorf("it went while it was measured, another bears the name %v: %v", anew, err)
		}
	}
	_, err := measure(t, func(*harness, *Mountable) error { return errors.New("input/output error") })
	if err == nil || errdefs.IsNotFound(err) {
		t.Errorf("it is there, and could not be measured: %v", err)
	}
}

// Who wants the usage of one committed snapshot shares the work.
func TestUsageOfACommittedSnapshotIsMeasuredOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := furnished(t, WithScanParallelism(4))
		goOn := make(chan struct{})
		h.driver.before = func(call, _ string) error {
			if call == "Usage" {
				<-goOn
			}
			return nil
		}
		done := make(chan error, 6)
		for _, key := range []string{"base", "base", "base", "work", "work"} {
			go func() { done <- second(h.Usage(t.Context(), key)) }()
		}
		synctest.Wait()
		if n := h.driver.count("Usage"); n != 1+2 {
			t.Errorf("measured %d times at once, want the committed one once and the active one twice", n)
		}
		close(goOn)
		for range 5 {
			must(t, <-done)
		}
		h.driver.calm()
	})
}

// A creation that is given up before it is recorded gives its graph ID back.
func TestCreationThatIsRefusedFreesItsGraphID(t *testing.T) {
	h := open(t)
	goOn := h.block("new")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Prepare(ctx, "new", "") }()
	eventually(t, "the owner is asked", func() bool { n, _ := h.keys.Waiting("new"); return n == 1 })
	cancel()
	goOn()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !h.graphIDs.Take("new") {
		t.Error("the graph ID is taken")
	}
}

// P5: a listing says nothing about what happened after it began.
func TestBeforeAListing(t *testing.T) {
	answered := func(clock uint64) *birth {
		b := &birth{}
		b.answered.Store(clock)
		return b
	}
	for _, c := range []struct {
		s     state
		clock uint64
		want  bool
	}{
		{state{event: 5}, 4, false},
		{state{event: 5}, 5, false},
		{state{event: 5}, 6, true},
		{state{event: 5, birth: answered(0)}, 6, false}, // not answered yet
		{state{event: 5, birth: answered(7)}, 6, false},
		{state{event: 5, birth: answered(7)}, 7, false},
		{state{event: 5, birth: answered(7)}, 8, true},
	} {
		if got := c.s.before(c.clock); got != c.want {
			t.Errorf("event %d, birth %+v, listing %d: %v, want %v", c.s.event, c.s.birth, c.clock, got, c.want)
		}
	}
}

// Whether a snapshot is the one that somebody knows does not depend on its key.
func TestSnapshotsAreToldApart(t *testing.T) {
	b := &body{serial: 1, kind: snapshots.KindView}
	relabelled := *b
	for _, c := range []struct {
		s    *state
		want bool
	}{
		{nil, false},
		{&state{}, false},
		{&state{phase: present, body: b}, true},
		{&state{phase: present, body: &relabelled}, true},
		{&state{phase: present, body: &body{serial: 2}}, false},
		{&state{phase: creating, body: b}, false},
		{&state{phase: lost, body: b}, false},
	} {
		if got := c.s.is(b); got != c.want {
			t.Errorf("%+v: %v, want %v", c.s, got, c.want)
		}
	}
}

// P5: snapshots from before Open stay for the time of grace, whatever the listing says,
// while others go.
func TestGraceIsForSnapshotsFromBefore(t *testing.T) {
	ctx := t.Context()
	h := open(t, WithGrace(time.Hour))
	l := Lease{"ns", "l"}
	for _, key := range []string{"old", "kept"} {
		h.lease(Lease{"ns", key}, key)
		must(t, h.Prepare(ctx, key, ""))
	}
	must(t, h.Close())
	h.reopen()
	h.endLease(Lease{"ns", "old"})
	for range 2 { // the second after a pass that knew the first
		h.lease(l, "new")
		must(t, h.Prepare(ctx, "new", ""))
		h.endLease(l)
		eventually(t, "what was made now goes", func() bool { return h.absent("new") })
	}
	if h.absent("old") || h.absent("kept") {
		t.Error("a snapshot from before went in the time of grace")
	}
	must(t, h.Close())
	h.opts = []Option{WithGrace(0)}
	h.reopen()
	eventually(t, "without grace it goes", func() bool { return h.absent("old") })
	if h.absent("kept") {
		t.Error("a snapshot that a lease names went")
	}
}

// The result of a creation is that of the one that asked, not of another that has the
// key since its owner panicked.
func TestCreationsOfOneKeyAreToldApart(t *testing.T) {
	ctx := t.Context()
	h := open(t, WithDriverParallelism(2))
	second := make(chan error, 1)
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.driver.before = func(call, id string) error {
		switch {
		case call == "Create" && id == "key":
			h.keys.Seed("key", nil) // as after a panic between the write and what it publishes
			go func() { second <- h.Prepare(ctx, "key", "") }()
			<-begun
		case call == "Create":
			close(begun)
			<-goOn
		}
		return nil
	}
	if err := h.Prepare(ctx, "key", ""); !errdefs.IsAborted(err) {
		t.Errorf("the first: %v", err)
	}
	if s := h.keys.Load("key"); s == nil || s.phase != creating {
		t.Errorf("the second is under way, and published is %+v", s)
	}
	close(goOn)
	must(t, <-second)
	if b := h.keys.Load("key").visible(); b == nil || b.graphID == "key" || !h.driver.Exists(b.graphID) {
		t.Errorf("the second was answered, and published is %+v", b)
	}
	h.driver.calm()
}

// Who waits for a key is told when what has it can neither be finished nor undone.
func TestWaitForAKeyEndsWithTheDatabase(t *testing.T) {
	h := open(t)
	ctx := t.Context()
	second := make(chan error, 1)
	h.driver.before = func(call, _ string) error {
		if call != "Create" {
			return nil
		}
		waits := make(chan struct{})
		go func() {
			close(waits)
			second <- h.Prepare(ctx, "key", "")
		}()
		<-waits
		h.breakSync()
		return errors.New("no space left on device")
	}
	if err := h.Prepare(ctx, "key", ""); err == nil {
		t.Error("created")
	}
	if err := <-second; !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if !h.absent("key") {
		t.Error("it is there")
	}
	h.driver.calm()
	_ = h.Close()
	h.driver.keep("key")
	h.reopen()
}

// A removal is of the snapshot that a listing left unnamed, as it was then.
func TestRemovalIsOfWhatWasListed(t *testing.T) {
	ctx := t.Context()
	h := open(t)
	h.leases.mu.Lock()
	h.leases.fail = errors.New("no leases today") // so that nobody else removes it
	h.leases.mu.Unlock()
	l := Lease{"ns", "l"}
	must(t, h.AddLease(ctx, l, "key", func() error { return nil }))
	must(t, h.Prepare(ctx, "key", ""))
	before := h.clock.Add(1)
	h.EndLease(l)
	h.quiet()
	b := h.keys.Load("key").body
	try := func(b *body, clock uint64) error {
		_, err := actors.AskOwed(h.keys, "key", &remove{question: question[*body]{e: h.Engine}, body: b, clock: clock})
		return err
	}
	if err := try(b, before); !errors.Is(err, errRevoked) {
		t.Errorf("listed before its lease ended: %v", err)
	}
	other := *b
	other.serial++
	if err := try(&other, h.clock.Add(1)); !errors.Is(err, errRevoked) {
		t.Errorf("another was listed: %v", err)
	}
	must(t, h.AddLease(ctx, l, "key", func() error { return nil }))
	if err := try(b, h.clock.Add(1)); !errors.Is(err, errRevoked) {
		t.Errorf("a lease names it again: %v", err)
	}
	if h.absent("key") {
		t.Fatal("it went")
	}
	h.leases.mu.Lock()
	h.leases.fail = nil
	h.leases.mu.Unlock()
	h.leases.add(l, "key")

	// And only if that is durable.
	must(t, h.Prepare(ctx, "other", ""))
	other = *h.keys.Load("other").body
	must(t, h.db.Write(ctx))
	h.breakSync()
	s := *h.keys.Load("other")
	s.leased = true
	h.keys.Seed("other", &s)
	m := &remove{question: question[*body]{e: h.Engine}, body: &other, clock: h.clock.Add(1)}
	if _, err := actors.AskOwed(h.keys, "other", m); !errdefs.IsUnavailable(err) {
		t.Errorf("it could not be made durable: %v", err)
	}
	if h.absent("other") {
		t.Error("it went")
	}
	_ = h.Close()
	h.reopen()
}
