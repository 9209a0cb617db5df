package engine

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// openWithoutLeases opens an engine whose snapshots go by Remove alone.
func openWithoutLeases(t *testing.T, opts ...Option) *harness {
	t.Helper()
	h := &harness{t: t, driver: newMemoryDriver(), root: t.TempDir(), opts: opts}
	h.reopen()
	t.Cleanup(h.finish)
	return h
}

func (h *harness) gone(graphID string) func() bool {
	return func() bool { return !h.driver.Exists(graphID) }
}

func TestRemoveFreesKeyAndDirectory(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "work", ""))
	must(t, h.Commit(ctx, "base", "work"))
	must(t, h.Prepare(ctx, "child", "base"))
	_, err := h.View(ctx, "view", "base")
	must(t, err)

	if err := h.Remove(ctx, "base"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removal of a parent: %v", err)
	}
	if err := h.Remove(ctx, "work"); !errdefs.IsNotFound(err) {
		t.Errorf("removal of a key that was committed: %v", err)
	}
	if err := h.Remove(ctx, ""); !errdefs.IsInvalidArgument(err) {
		t.Errorf("removal of nothing: %v", err)
	}
	for _, key := range []string{"child", "view", "base"} {
		must(t, h.Remove(ctx, key))
		if !h.absent(key) {
			t.Errorf("%q is there after its removal", key)
		}
		if err := h.Remove(ctx, key); !errdefs.IsNotFound(err) {
			t.Errorf("second removal of %q: %v", key, err)
		}
	}
	eventually(t, "the directories go", func() bool { return h.gone("child")() && h.gone("work")() })
	must(t, h.Prepare(ctx, "child", ""))
}

func TestRemoveWaitsForHoldsWithTheDirectoryOnly(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "work", ""))
	must(t, h.Commit(ctx, "base", "work"))
	must(t, h.Prepare(ctx, "key", "base"))
	m, err := h.Mounts(ctx, "key")
	must(t, err)
	_, release, err := m.Mount()
	must(t, err)

	must(t, h.Remove(ctx, "key"))
	if _, _, err := m.Mount(); !errdefs.IsNotFound(err) {
		t.Errorf("mounted what was removed: %v", err)
	}
	if err := h.Remove(ctx, "base"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the parent goes below a mount: %v", err)
	}
	must(t, h.Prepare(ctx, "key", "base"))
	if id := h.keys.Load("key").body.graphID; id == "key" {
		t.Error("the graph ID is used twice")
	}
	must(t, h.Remove(ctx, "key"))
	if !h.driver.Exists("key") {
		t.Fatal("the directory went below a mount")
	}
	must(t, release())
	eventually(t, "the directory goes", h.gone("key"))
	eventually(t, "the parent is free", func() bool { return h.Remove(ctx, "base") == nil })
	eventually(t, "the parent's directory goes", h.gone("work"))
}

func TestViewOfWhatWasRemovedKeepsItsDirectory(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "work", ""))
	must(t, h.Commit(ctx, "base", "work"))
	v, err := h.View(ctx, "view", "base")
	must(t, err)
	_, release, err := v.Mount()
	must(t, err)
	must(t, h.Remove(ctx, "view"))
	must(t, h.Remove(ctx, "base"))
	if _, _, err := v.Mount(); !errdefs.IsNotFound(err) {
		t.Errorf("mounted what was removed: %v", err)
	}
	if !h.driver.Exists("work") {
		t.Fatal("the directory went below a mount")
	}
	must(t, release())
	eventually(t, "the directory goes", h.gone("work"))
}

func TestKeptHoldEndsWithRemove(t *testing.T) {
	ctx := context.Background()
	for _, name := range []string{"key", "name"} {
		t.Run(name, func(t *testing.T) {
			h := openWithoutLeases(t)
			must(t, h.Prepare(ctx, "key", ""))
			m, err := h.Mounts(ctx, "key")
			must(t, err)
			for range 3 {
				how, err := m.Keep()
				must(t, err)
				if len(how) != 1 || how[0].Source != "/memory/key" {
					t.Errorf("kept %v", how)
				}
			}
			if name == "name" {
				must(t, h.Commit(ctx, name, "key"))
				must(t, second(h.Usage(ctx, name)))
				h.quiet()
				if b := h.keys.Load(name).body; !b.measured {
					t.Error("the usage of a committed snapshot is not remembered while it is kept mounted")
				}
			}
			if held, _ := h.Engine.mounts.Held(ctx); len(held) != 1 || held[0].Holders != 1 {
				t.Errorf("held: %+v", held)
			}
			must(t, h.Remove(ctx, name))
			eventually(t, "the directory goes", h.gone("key"))
			if _, err := m.Keep(); !errdefs.IsNotFound(err) {
				t.Errorf("kept what was removed: %v", err)
			}
		})
	}
}

// A hold that was taken while the snapshot went comes too late to be kept.
func TestKeepAfterTheEnd(t *testing.T) {
	var k keeping
	must(t, k.end())
	if got := k.take(&kept{}); got != ended {
		t.Error("a hold is kept that nobody ends")
	}
	released := 0
	var other keeping
	first := &kept{release: func() error { released++; return nil }}
	if other.take(first) != first || other.take(&kept{}) != first {
		t.Error("the first hold is not the one that is shared")
	}
	must(t, other.end())
	must(t, other.end())
	if released != 1 {
		t.Errorf("released %d times", released)
	}
}

func second[T any](_ T, err error) error { return err }

// TestKeepBesideRemove has both race for the same snapshot, for the finish of the
// harness to find a mount that nobody ends.
func TestKeepBesideRemove(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	for range 200 {
		must(t, h.Prepare(ctx, "key", ""))
		m, err := h.Mounts(ctx, "key")
		must(t, err)
		var g sync.WaitGroup
		for range 3 {
			g.Go(func() {
				if _, err := m.Keep(); err != nil && !errdefs.IsNotFound(err) {
					t.Error(err)
				}
			})
		}
		g.Go(func() {
			if err := h.Remove(ctx, "key"); err != nil {
				t.Error(err)
			}
		})
		g.Wait()
	}
	eventually(t, "all directories go", func() bool {
		h.driver.mu.Lock()
		defer h.driver.mu.Unlock()
		return len(h.driver.dirs) == 0
	})
	if held, _ := h.Engine.mounts.Held(ctx); len(held) != 0 {
		t.Errorf("held after all was removed: %+v", held)
	}
}

func TestRemoveIsLeftToLeasesWhereThereAreSome(t *testing.T) {
	ctx := context.Background()
	h := furnished(t)
	if err := h.Remove(ctx, "work"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if h.absent("work") {
		t.Error("it was removed all the same")
	}
}

// A hold that is there when the engine is closed, of a snapshot that was removed:
// the next Open deletes the directory.
func TestRemovedAndHeldAtClose(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "key", ""))
	m, err := h.Mounts(ctx, "key")
	must(t, err)
	_, _, err = m.Mount()
	must(t, err)
	must(t, h.Remove(ctx, "key"))
	must(t, h.Close())
	if !h.driver.Exists("key") {
		t.Fatal("the directory went below a mount")
	}
	h.reopen()
	if !h.absent("key") {
		t.Error("a removed snapshot came back")
	}
	eventually(t, "the directory goes", h.gone("key"))
}

func TestRemoveOfWhatWasLost(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "work", ""))
	must(t, h.Commit(ctx, "base", "work"))
	must(t, h.Prepare(ctx, "child", "base"))
	must(t, h.Close())
	h.driver.mu.Lock()
	delete(h.driver.dirs, "work")
	h.driver.mu.Unlock()
	h.reopen()
	if !h.absent("base") || !h.absent("child") {
		t.Fatal("a snapshot without its directory is served")
	}
	if err := h.Remove(ctx, "base"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("removal of a lost parent: %v", err)
	}
	must(t, h.Remove(ctx, "child"))
	// Directories are deleted beside one another, and the fake wants children first.
	eventually(t, "the directory goes", h.gone("child"))
	must(t, h.Remove(ctx, "base"))
	must(t, h.Prepare(ctx, "base", ""))
}

func TestRemoveThatCannotUnmountIsTriedAgain(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "key", ""))
	m, err := h.Mounts(ctx, "key")
	must(t, err)
	must(t, second(m.Keep()))
	var mu sync.Mutex
	failures := 0
	h.driver.before = func(call, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if call == "Put" && failures < 2 {
			failures++
			return errors.New("busy")
		}
		return nil
	}
	must(t, h.Remove(ctx, "key"))
	if !h.absent("key") {
		t.Error("the key is not free")
	}
	eventually(t, "the directory goes", h.gone("key"))
}

func TestRemoveSurvivesAPanicOfTheParentsOwner(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	must(t, h.Prepare(ctx, "work", ""))
	must(t, h.Commit(ctx, "base", "work"))
	must(t, h.Prepare(ctx, "child", "base"))
	h.keys.Owe("base", &explode{question[done]{e: h.Engine}})
	must(t, h.Remove(ctx, "child"))
	// Directories are deleted beside one another, and the fake wants children first.
	eventually(t, "the directory goes", h.gone("child"))
	must(t, h.Remove(ctx, "base"))
	must(t, h.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		t.Errorf("%q is left", i.Name)
		return nil
	}))
	eventually(t, "the directory of the parent goes", h.gone("work"))
}

// A face that cannot mount what it prepared takes it back. By then the key may bear
// what somebody else made.
func TestDiscardLeavesWhatTheKeyNamesSince(t *testing.T) {
	ctx := context.Background()
	h := openWithoutLeases(t)
	m, err := h.PrepareMounts(ctx, "key", "")
	must(t, err)
	must(t, h.Commit(ctx, "name", "key"))
	if err := m.Discard(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("after a commit: %v", err)
	}
	must(t, h.Prepare(ctx, "key", ""))
	if err := m.Discard(ctx); !errdefs.IsNotFound(err) || h.absent("key") || h.absent("name") {
		t.Errorf("the key is used anew: %v", err)
	}

	m, err = h.PrepareMounts(ctx, "other", "name")
	must(t, err)
	_, err = h.Update(ctx, snapshots.Info{Name: "other", Labels: map[string]string{"a": "b"}})
	must(t, err)
	must(t, m.Discard(ctx))
	if !h.absent("other") {
		t.Error("what was made is there after it was taken back")
	}
	eventually(t, "the directory goes", h.gone("other"))
}
