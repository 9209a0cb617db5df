package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
)

func TestIdleSnapshotsHoldNoGoroutine(t *testing.T) {
	ctx := context.Background()
	h := open(t)
	before := runtime.NumGoroutine()
	var g sync.WaitGroup
	for i := range 100 {
		g.Go(func() {
			for j := range 100 {
				if err := h.Prepare(ctx, fmt.Sprintf("%d-%d", i, j), ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	h.quiet()
	if after := runtime.NumGoroutine(); after > before+2 {
		t.Errorf("%d goroutines before and %d after 10,000 snapshots", before, after)
	}
}

// explode panics in the owner.
type explode struct {
	question[done]
}

func (m *explode) Handle(*owner) { panic("boom") }

func TestPanicInAnOwnerKeepsPinsAndLeases(t *testing.T) {
	ctx := context.Background()
	h := furnished(t)
	h.lease(Lease{"ns", "l"}, "base")
	m := &explode{question[done]{e: h.Engine}}
	h.keys.Owe("base", m)
	h.quiet()
	if s := h.keys.Load("base"); s.children != 1 || len(s.leases) != 1 {
		t.Errorf("after a panic: %+v", s)
	}
	must(t, h.Prepare(ctx, "next", "base"))
}

func TestPanicOfTheDriverIsAnError(t *testing.T) {
	for _, call := range []string{"Create", "Get", "Usage"} {
		t.Run(call, func(t *testing.T) {
			ctx := context.Background()
			h := furnished(t)
			h.driver.before = func(c, _ string) error {
				if c == call {
					panic("boom")
				}
				return nil
			}
			var err error
			switch call {
			case "Create":
				err = h.Prepare(ctx, "new", "base")
			case "Get":
				m, _ := h.Mounts(ctx, "work")
				_, _, err = m.Mount()
			case "Usage":
				_, err = h.Usage(ctx, "base")
			}
			if !errdefs.IsInternal(err) {
				t.Errorf("got %v", err)
			}
			h.driver.calm()
		})
	}
}

func TestCreateThatFailsAndCannotBeUndoneIsRetried(t *testing.T) {
	ctx := context.Background()
	h := open(t)
	bad := true
	var mu sync.Mutex
	h.driver.before = func(call, id string) error {
		mu.Lock()
		defer mu.Unlock()
		if bad && call == "Remove" {
			return errors.New("busy")
		}
		if call == "Create" && id == "key" {
			h.driver.mu.Lock()
			h.driver.dirs[id] = "" // what a driver leaves that fails halfway
			h.driver.mu.Unlock()
			return errors.New("no space")
		}
		return nil
	}
	if err := h.Prepare(ctx, "key", ""); err == nil {
		t.Fatal("created")
	}
	if !h.absent("key") {
		t.Error("a half-created snapshot is served")
	}
	// The key is free at once, the graph ID is not.
	must(t, h.Prepare(ctx, "key", ""))
	if id := h.keys.Load("key").body.graphID; id == "key" {
		t.Error("the graph ID is used twice")
	}
	mu.Lock()
	bad = false
	mu.Unlock()
	eventually(t, "the directory goes", func() bool { return !h.driver.Exists("key") })
}

func TestBothKeysOfACommitFlipAtOneInstant(t *testing.T) {
	ctx := context.Background()
	h := open(t)
	for i := range 300 {
		key, name := fmt.Sprintf("key%d", i), fmt.Sprintf("name%d", i)
		must(t, h.Prepare(ctx, key, ""))
		committed := make(chan struct{})
		go func() {
			defer close(committed)
			if err := h.Commit(ctx, name, key); err != nil {
				t.Error(err)
			}
		}()
		for wait := true; wait; {
			select {
			case <-committed:
				wait = false
			default:
			}
			if named, kept := !h.absent(name), !h.absent(key); named && kept {
				t.Fatal("the name is there and then the key still is")
			}
			if kept, named := !h.absent(key), !h.absent(name); !kept && !named {
				t.Fatal("the key is gone and then the name is not there")
			}
			met := 0
			must(t, h.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
				if info.Name == key || info.Name == name {
					met++
				}
				return nil
			}))
			if met != 1 {
				t.Fatalf("a walk met the snapshot %d times", met)
			}
		}
	}
}

func TestWalkSeesAMoveThatBeganBefore(t *testing.T) {
	// The flip is appended to the log and not done when the walk begins, and done
	// when it has passed one of the keys.
	h := furnished(t)
	f := &flip{body: &body{serial: h.clock.Add(1), kind: snapshots.KindCommitted, graphID: "work", parent: "base"}}
	h.commits.append("name", f)
	from := h.commits.settled()
	if next := from.next.Load(); next == nil || next.flip != f {
		t.Error("a walk that begins now does not know of the move")
	}
	f.done.Store(true)
	if h.commits.settled().next.Load() != nil {
		t.Error("a walk that begins now is told of a move that is past")
	}
}

// What a filter lets through under its name alone is found where the Commit happens
// after the key was met, and so is, once, what it lets through under both.
func TestWalkFiltersAMoveMeanwhile(t *testing.T) {
	for _, want := range []string{"name", "work name"} {
		h := furnished(t)
		committed := false
		found, err := h.collect(t.Context(), filters.FilterFunc(func(a filters.Adaptor) bool {
			if !committed {
				committed = true
				must(t, h.Commit(t.Context(), "name", "work"))
			}
			key, _ := a.Field([]string{"name"})
			return slices.Contains(strings.Fields(want), key)
		}))
		if err != nil || len(found) != 1 {
			t.Errorf("of %s it finds %v, %v", want, found, err)
		}
	}
}

func TestReadsDoNotWaitForTheOwner(t *testing.T) {
	ctx := context.Background()
	h := furnished(t)
	goOn := h.block("base")
	defer goOn()
	if _, err := h.Stat(ctx, "base"); err != nil {
		t.Error(err)
	}
	if err := h.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }); err != nil {
		t.Error(err)
	}
}

func TestRefusedCallsLeaveNoEntry(t *testing.T) {
	ctx := context.Background()
	h := furnished(t)
	_ = h.Prepare(ctx, "new", "absent")
	_ = h.Commit(ctx, "name", "absent")
	_, _ = h.Update(ctx, snapshots.Info{Name: "absent"})
	_, _ = h.Usage(ctx, "absent")
	_, _ = h.Mounts(ctx, "absent")
	h.quiet()
	h.keys.Range(func(key string, s *state) bool {
		if s.visible() == nil {
			t.Errorf("%q has an entry", key)
		}
		return true
	})
}
