package adapter

// The life of BuildKit's refs: made, committed, finalized, released, pruned, found
// again, merged and compared.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/cache"

	"github.com/graphsnap/graphsnap/engine"
)

func TestMutableRefIsSeenInChild(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		w.checkUsage(t, 0, 0)

		active := w.newRef(t, nil, cache.CachePolicyRetain)
		dir, unmount := mountRef(t, active, false)
		writeFile(t, filepath.Join(dir, "etc/parent"), "from the parent")
		unmount()
		// Another mount of the same ref goes on where the first one ended.
		dir, unmount = mountRef(t, active, false)
		writeFile(t, filepath.Join(dir, "etc/gone"), "to be deleted by the child")
		unmount()
		if _, err := w.cm.GetMutable(inNamespace(), active.ID()); !errors.Is(err, cache.ErrLocked) {
			t.Errorf("a mutable ref in use could be had again: %v", err)
		}
		w.checkUsage(t, 1, 0)

		parent := commit(t, active)
		checkTree(t, parent, tree{"etc/parent": "from the parent", "etc/gone": "to be deleted by the child"})
		release(t, parent)
		w.checkUsage(t, 0, 1)

		// Until it is finalized the snapshot may be written to again.
		active, err := w.cm.GetMutable(inNamespace(), active.ID())
		if err != nil {
			t.Fatal(err)
		}
		dir, unmount = mountRef(t, active, false)
		writeFile(t, filepath.Join(dir, "etc/again"), "written after the first commit")
		unmount()
		parent = commit(t, active)

		child := w.newRef(t, parent) // finalizes the parent
		if _, err := w.cm.GetMutable(inNamespace(), parent.ID()); err == nil {
			t.Error("a finalized ref could be had as a mutable one")
		}
		dir, unmount = mountRef(t, child, false)
		want := tree{
			"etc/parent": "from the parent",
			"etc/gone":   "to be deleted by the child",
			"etc/again":  "written after the first commit",
		}
		if d := cmp.Diff(want, treeBelow(t, dir)); d != "" {
			t.Errorf("the child does not hold what its parent does (-want +got):\n%s", d)
		}
		writeFile(t, filepath.Join(dir, "etc/parent"), "changed by the child")
		if err := os.Remove(filepath.Join(dir, "etc/gone")); err != nil {
			t.Fatal(err)
		}
		unmount()

		checkTree(t, parent, want)
		checkTree(t, child, tree{"etc/parent": "changed by the child", "etc/again": "written after the first commit"})
		layer := commit(t, child)
		if err := layer.Finalize(inNamespace()); err != nil {
			t.Fatal(err)
		}
		checkTree(t, layer, tree{"etc/parent": "changed by the child", "etc/again": "written after the first commit"})
		release(t, layer, parent)
		if n := w.prune(t); n != 2 {
			t.Errorf("%d records pruned, want 2", n)
		}
		w.checkUsage(t, 0, 0)
		w.eventuallyEmpty(t)
	})
}

// A mutable ref that nobody asked to keep goes with its last reference.
func TestReleasedMutableRefIsRemoved(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		parent := w.layer(t, nil, put(t, tree{"file": "kept"}))
		kept := s.directories(t)

		ref := w.newRef(t, parent)
		dir, unmount := mountRef(t, ref, false)
		writeFile(t, filepath.Join(dir, "file"), "dropped")
		release(t, ref)
		// The lease is gone, the mount is not: the directory waits for it.
		w.reaperPasses(t)
		if got := treeBelow(t, dir); got["file"] != "dropped" {
			t.Errorf("the mount of a released ref holds %v", got)
		}
		unmount()
		eventually(t, "the directory of the released ref removed", func() bool {
			return slices.Equal(s.directories(t), kept)
		})
		checkTree(t, parent, tree{"file": "kept"})
		release(t, parent)
	})
}

// P4: BuildKit finalizes a snapshot while a mount of it is still held.
func TestP4FinalizeWhileMounted(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		active := w.newRef(t, nil)
		held, unmount := mountRef(t, active, false)
		// Taken before the commit and mounted after it, as another build may.
		early, err := active.Mount(inNamespace(), false, nil)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(held, "before"), "finalize")

		ref := commit(t, active)
		if err := ref.Finalize(inNamespace()); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(held, "after"), "finalize")
		late, unmountLate := mountLocally(t, early)
		writeFile(t, filepath.Join(late, "late"), "mounted after finalize")
		want := tree{"before": "finalize", "after": "finalize", "late": "mounted after finalize"}
		if d := cmp.Diff(want, treeBelow(t, held)); d != "" {
			t.Errorf("the held mount (-want +got):\n%s", d)
		}
		unmountLate()
		checkTree(t, ref, want)

		// The mutable record goes in the background and takes nothing along.
		eventually(t, "the lease of the mutable ref gone", func() bool {
			_, err := w.lm.ListResources(inNamespace(), leases.Lease{ID: active.ID()})
			return errdefs.IsNotFound(err)
		})
		if d := cmp.Diff(want, treeBelow(t, held)); d != "" {
			t.Errorf("the held mount, after the mutable ref is gone (-want +got):\n%s", d)
		}
		unmount()
		checkTree(t, ref, want)
		release(t, ref)
		w.eventuallyEmpty(t)
	})
}

func TestPruneRemovesDirectories(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		base := w.layer(t, nil, put(t, tree{"base": "1"}))
		middle := w.layer(t, base, put(t, tree{"middle": "2"}))
		top := w.layer(t, middle, put(t, tree{"top": "3"}))
		release(t, base, middle)
		if n := len(s.directories(t)); n != 3 {
			t.Errorf("%d directories for 3 layers", n)
		}

		// A child in use keeps its whole chain.
		if n := w.prune(t); n != 0 {
			t.Errorf("%d records pruned below one in use", n)
		}
		checkTree(t, top, tree{"base": "1", "middle": "2", "top": "3"})

		release(t, top)
		if n := w.prune(t); n != 3 {
			t.Errorf("%d records pruned, want 3", n)
		}
		w.eventuallyEmpty(t)
	})
}

// P4: a mounted snapshot outlives its holds, also where its record was pruned.
func TestP4PruneWaitsForMounts(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		ref := w.layer(t, nil, put(t, tree{"file": "held"}))
		key := w.snapshotOf(t, ref)
		dir, unmount := mountRef(t, ref, true)
		release(t, ref)
		if n := w.prune(t); n != 1 {
			t.Errorf("%d records pruned, want 1", n)
		}
		w.checkUsage(t, 0, 0)
		w.reaperPasses(t)
		for _, k := range []string{key, key + "-view"} {
			if _, err := w.snap.Stat(inNamespace(), k); err != nil {
				t.Errorf("while it is mounted: %v", err)
			}
		}
		if d := cmp.Diff(tree{"file": "held"}, treeBelow(t, dir)); d != "" {
			t.Errorf("the held mount of what was pruned (-want +got):\n%s", d)
		}
		unmount()
		w.eventuallyEmpty(t)
	})
}

func TestReopenFindsAllRefs(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		base := w.layer(t, nil, put(t, tree{"base": "1"}))
		top := w.layer(t, base, put(t, tree{"top": "2"}))
		active := w.newRef(t, top, cache.CachePolicyRetain)
		dir, unmount := mountRef(t, active, false)
		writeFile(t, filepath.Join(dir, "active"), "3")
		unmount()
		// Not released, as when a daemon is stopped.
		checkTree(t, top, tree{"base": "1", "top": "2"})
		keys := w.lasting(t)
		infos := map[string]snapshots.Info{}
		for _, key := range keys {
			info, err := w.snap.Stat(inNamespace(), key)
			if err != nil {
				t.Fatal(err)
			}
			infos[key] = info
		}
		usage, err := w.snap.Usage(inNamespace(), w.snapshotOf(t, base))
		if err != nil {
			t.Fatal(err)
		}
		w.close(t)
		if m := s.mounts(t); len(m) != 0 {
			t.Errorf("mounted after Close: %v", m)
		}

		w = openWorker(t, s, engine.WithGrace(time.Millisecond))
		if d := cmp.Diff(keys, w.lasting(t)); d != "" {
			t.Errorf("keys after reopening (-before +after):\n%s", d)
		}
		for key, before := range infos {
			after, err := w.snap.Stat(inNamespace(), key)
			if err != nil {
				t.Error(err)
			} else if d := cmp.Diff(before, after); d != "" {
				t.Errorf("Stat of %q after reopening (-before +after):\n%s", key, d)
			}
		}
		if u, err := w.snap.Usage(inNamespace(), w.snapshotOf(t, base)); err != nil || u != usage {
			t.Errorf("usage after reopening: %+v, %v, want %+v", u, err, usage)
		}
		base, top = w.get(t, base.ID()), w.get(t, top.ID())
		checkTree(t, base, tree{"base": "1"})
		checkTree(t, top, tree{"base": "1", "top": "2"})
		active, err = w.cm.GetMutable(inNamespace(), active.ID())
		if err != nil {
			t.Fatal(err)
		}
		dir, unmount = mountRef(t, active, false)
		if d := cmp.Diff(tree{"base": "1", "top": "2", "active": "3"}, treeBelow(t, dir)); d != "" {
			t.Errorf("the active ref after reopening (-want +got):\n%s", d)
		}
		writeFile(t, filepath.Join(dir, "active"), "written on")
		unmount()
		ref := commit(t, active)
		if err := ref.Finalize(inNamespace()); err != nil {
			t.Fatal(err)
		}
		checkTree(t, ref, tree{"base": "1", "top": "2", "active": "written on"})

		release(t, ref, top, base)
		w.eventuallyEmpty(t)
	})
}

func TestMergeAndDiffRefs(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		a := w.layer(t, nil, put(t, tree{"a": "of a", "shared": "a wins", "dir/a": "of a", "gone": "deleted later"}))
		b := w.layer(t, nil, put(t, tree{"b": "of b", "shared": "b wins", "dir/b": "of b"}))
		// On top of a: one file changed, one added, one deleted.
		c := w.layer(t, a, func(dir string) {
			writeFile(t, filepath.Join(dir, "a"), "changed by c")
			writeFile(t, filepath.Join(dir, "c"), "of c")
			if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
				t.Fatal(err)
			}
		})

		merged, err := w.cm.Merge(inNamespace(), []cache.ImmutableRef{a, b}, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, merged, tree{
			"a": "of a", "b": "of b", "shared": "b wins", "dir/a": "of a", "dir/b": "of b", "gone": "deleted later",
		})
		reversed, err := w.cm.Merge(inNamespace(), []cache.ImmutableRef{b, a}, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, reversed, tree{
			"a": "of a", "b": "of b", "shared": "a wins", "dir/a": "of a", "dir/b": "of b", "gone": "deleted later",
		})
		difference, err := w.cm.Diff(inNamespace(), a, c, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, difference, tree{"a": "changed by c", "c": "of c"})
		// The difference between unrelated refs is computed, not looked up.
		unrelated, err := w.cm.Diff(inNamespace(), a, b, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, unrelated, tree{"b": "of b", "shared": "b wins", "dir/b": "of b"})
		// A deletion in a difference deletes in what it is merged onto.
		onto, err := w.cm.Merge(inNamespace(), []cache.ImmutableRef{a, b, difference}, nil)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, onto, tree{
			"a": "changed by c", "b": "of b", "c": "of c", "shared": "b wins", "dir/a": "of a", "dir/b": "of b",
		})

		// What was merged serves as a parent, and those it was made of may go.
		child := w.newRef(t, merged)
		checkTree(t, child, tree{
			"a": "of a", "b": "of b", "shared": "b wins", "dir/a": "of a", "dir/b": "of b", "gone": "deleted later",
		})
		w.close(t)
		w = openWorker(t, s, engine.WithGrace(time.Millisecond))
		onto = w.get(t, onto.ID())
		checkTree(t, onto, tree{
			"a": "changed by c", "b": "of b", "c": "of c", "shared": "b wins", "dir/a": "of a", "dir/b": "of b",
		})
		release(t, onto)
		w.eventuallyEmpty(t)
	})
}
