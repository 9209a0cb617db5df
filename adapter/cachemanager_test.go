package adapter

// BuildKit's cache manager on the snapshotter: what a build does to snapshots, in
// the small, with nothing in between replaced.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/util/leaseutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/engine"
)

// worker is a process with BuildKit's cache manager in it.
type worker struct {
	*process
	cm   cache.Manager
	stop func() error
}

func openWorker(t *testing.T, s *site, options ...engine.Option) *worker {
	t.Helper()
	w := &worker{process: s.open(t, options...)}
	records, err := metadata.NewStore(s.path("metadata_v2.db"))
	if err != nil {
		t.Fatal(err)
	}
	w.stop = sync.OnceValue(records.Close)
	t.Cleanup(func() { w.close(t) })
	w.cm, err = cache.NewManager(cache.ManagerOpt{
		Snapshotter:    w.snap,
		ContentStore:   w.content,
		LeaseManager:   w.lm,
		GarbageCollect: w.mdb.GarbageCollect,
		Applier:        apply.NewFileSystemApplier(w.content),
		Differ:         walking.NewWalkingDiff(w.content),
		MetadataStore:  records,
		Root:           s.root,
		MountPoolRoot:  s.path("cachemounts"),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.stop = sync.OnceValue(w.cm.Close) // which closes the records
	// As BuildKit's worker does next: the views of refs that were in use when the
	// process before ended are not wanted any more.
	temporary, err := w.lm.List(inNamespace(), `labels."buildkit/lease.temporary"`)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range temporary {
		if err := w.lm.Delete(inNamespace(), l); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// close ends the worker as a daemon does that is told to stop.
func (w *worker) close(t testing.TB) {
	t.Helper()
	if err := w.stop(); err != nil {
		t.Errorf("close cache manager: %v", err)
	}
	w.process.close(t)
}

// newRef makes a mutable ref, which the caller releases.
func (w *worker) newRef(t testing.TB, parent cache.ImmutableRef, opts ...cache.RefOption) cache.MutableRef {
	t.Helper()
	ref, err := w.cm.New(inNamespace(), parent, nil, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func (w *worker) get(t testing.TB, id string) cache.ImmutableRef {
	t.Helper()
	ref, err := w.cm.Get(inNamespace(), id, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// layer makes a finalized ref of parent in which change was done. The caller
// releases it.
func (w *worker) layer(t testing.TB, parent cache.ImmutableRef, change func(dir string)) cache.ImmutableRef {
	t.Helper()
	ref := w.newRef(t, parent)
	dir, unmount := mountRef(t, ref, false)
	change(dir)
	unmount()
	layer := commit(t, ref)
	if err := layer.Finalize(inNamespace()); err != nil {
		t.Fatal(err)
	}
	return layer
}

func commit(t testing.TB, ref cache.MutableRef) cache.ImmutableRef {
	t.Helper()
	committed, err := ref.Commit(inNamespace())
	if err != nil {
		t.Fatal(err)
	}
	return committed
}

func release(t testing.TB, refs ...cache.Ref) {
	t.Helper()
	for _, ref := range refs {
		if err := ref.Release(inNamespace()); err != nil {
			t.Errorf("release %s: %v", ref.ID(), err)
		}
	}
}

// mountRef mounts a ref as BuildKit's solver does for its own use.
func mountRef(t testing.TB, ref cache.Mountable, readonly bool) (dir string, unmount func()) {
	t.Helper()
	m, err := ref.Mount(inNamespace(), readonly, nil)
	if err != nil {
		t.Fatal(err)
	}
	return mountLocally(t, m)
}

func mountLocally(t testing.TB, m snapshot.Mountable) (dir string, unmount func()) {
	t.Helper()
	lm := snapshot.LocalMounter(m)
	dir, err := lm.Mount()
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	unmount = func() {
		t.Helper()
		once.Do(func() {
			if err := lm.Unmount(); err != nil {
				t.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
	t.Cleanup(unmount) // for a test that fails half way
	return dir, unmount
}

// tree is what a directory holds: the content of files by path.
type tree map[string]string

func treeBelow(t testing.TB, dir string) tree {
	t.Helper()
	found := tree{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		found[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// checkTree mounts ref read-only and compares what is there.
func checkTree(t testing.TB, ref cache.Mountable, want tree) {
	t.Helper()
	dir, unmount := mountRef(t, ref, true)
	defer unmount()
	if d := cmp.Diff(want, treeBelow(t, dir)); d != "" {
		t.Errorf("the ref does not hold what it should (-want +got):\n%s", d)
	}
}

// put returns a change for layer that writes files.
func put(t testing.TB, files tree) func(dir string) {
	return func(dir string) {
		for name, content := range files {
			writeFile(t, filepath.Join(dir, name), content)
		}
	}
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkUsage compares how many records are in use and not.
func (w *worker) checkUsage(t testing.TB, inUse, unused int) {
	t.Helper()
	all, err := w.cm.DiskUsage(inNamespace(), client.DiskUsageInfo{})
	if err != nil {
		t.Fatal(err)
	}
	var used int
	for _, u := range all {
		if u.InUse {
			used++
		}
	}
	if used != inUse || len(all)-used != unused {
		t.Errorf("%d records in use and %d not, want %d and %d", used, len(all)-used, inUse, unused)
	}
}

// prune removes all records that nobody uses and answers how many.
func (w *worker) prune(t testing.TB) int {
	t.Helper()
	pruned := make(chan client.UsageInfo)
	counted := make(chan int)
	go func() {
		n := 0
		for range pruned {
			n++
		}
		counted <- n
	}()
	err := w.cm.Prune(inNamespace(), pruned, client.PruneInfo{All: true})
	close(pruned)
	n := <-counted
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// snapshotOf is the key of a finalized ref's snapshot. BuildKit does not tell it,
// but the ref's lease does.
func (w *worker) snapshotOf(t testing.TB, ref cache.Ref) string {
	t.Helper()
	named, err := w.lm.ListResources(inNamespace(), leases.Lease{ID: ref.ID()})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range named {
		if r.Type == resourceType(w.snap.Name()) {
			return r.ID
		}
	}
	t.Fatalf("the lease of %s names no snapshot: %v", ref.ID(), named)
	return ""
}

// keys lists the snapshots that Walk passes.
func (w *worker) keys(t testing.TB) (keys []string) {
	t.Helper()
	err := w.snap.Walk(inNamespace(), func(_ context.Context, i snapshots.Info) error {
		keys = append(keys, i.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// reaperPasses returns when whatever was unwanted at the call has been looked at.
// Removals that are found in one pass are made side by side, so one pass that is
// seen to end says nothing of the others in it; the next one does.
func (w *worker) reaperPasses(t testing.TB) {
	t.Helper()
	for range 2 {
		l, ctx := w.lease(t)
		key := "passed over under " + l.ID
		if err := w.snap.Prepare(ctx, key, ""); err != nil {
			t.Fatal(err)
		}
		if err := w.lm.Delete(ctx, l); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a snapshot without lease removed", func() bool {
			_, err := w.snap.Stat(ctx, key)
			return errdefs.IsNotFound(err)
		})
	}
}

// lasting lists the snapshots but for the views of refs, which last as long as the
// refs are in use.
func (w *worker) lasting(t testing.TB) []string {
	t.Helper()
	return slices.DeleteFunc(w.keys(t), func(key string) bool { return strings.HasSuffix(key, "-view") })
}

// eventuallyEmpty waits until no snapshot is left and nothing of any on disk. The
// last references that BuildKit lets go in the background need another prune.
func (w *worker) eventuallyEmpty(t testing.TB) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("there are the snapshots %q in %q, mounts %q and leases", w.keys(t), w.site.directories(t), w.site.mounts(t))
			all, _ := w.lm.List(inNamespace())
			for _, l := range all {
				named, err := w.lm.ListResources(inNamespace(), l)
				t.Logf("%s %v: %v %v", l.ID, l.Labels, named, err)
			}
		}
	}()
	eventually(t, "no snapshot, directory, link or mount left", func() bool {
		w.prune(t)
		return len(w.keys(t)) == 0 && len(w.site.directories(t)) == 0 &&
			len(w.site.links(t)) == 0 && len(w.site.mounts(t)) == 0
	})
}

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

// blob writes a layer into the content store, compressed or not, and returns what
// BuildKit needs to unpack it. spoil may change what is stored.
func (w *worker) blob(t testing.TB, files tree, compress bool, spoil func([]byte) []byte) ocispecs.Descriptor {
	t.Helper()
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	diffID := digest.FromBytes(plain.Bytes())

	stored, mediaType := plain.Bytes(), ocispecs.MediaTypeImageLayer
	if compress {
		var packed bytes.Buffer
		gz := gzip.NewWriter(&packed)
		if _, err := gz.Write(stored); err != nil {
			t.Fatal(err)
		}
		if err := gz.Close(); err != nil {
			t.Fatal(err)
		}
		stored, mediaType = packed.Bytes(), ocispecs.MediaTypeImageLayerGzip
	}
	if spoil != nil {
		stored = spoil(stored)
	}
	desc := ocispecs.Descriptor{
		MediaType:   mediaType,
		Digest:      digest.FromBytes(stored),
		Size:        int64(len(stored)),
		Annotations: map[string]string{labels.LabelUncompressed: diffID.String()},
	}
	// Content is collected unless a lease names it. This one is for the time until
	// the cache manager's own does.
	_, ctx := w.lease(t)
	if err := content.WriteBlob(ctx, w.content, desc.Digest.String(), bytes.NewReader(stored), desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

func (w *worker) byBlob(t testing.TB, desc ocispecs.Descriptor, parent cache.ImmutableRef) cache.ImmutableRef {
	t.Helper()
	ref, err := w.cm.GetByBlob(inNamespace(), desc, parent)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestUnpackLayerBlobs(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		base := w.byBlob(t, w.blob(t, tree{"bin/sh": "a shell", "etc/motd": "hello"}, true, nil), nil)
		top := w.byBlob(t, w.blob(t, tree{"etc/.wh.motd": "", "etc/issue": "on top"}, true, nil), base)
		if n := len(s.directories(t)); n != 0 {
			t.Errorf("%d directories before anybody mounts a blob", n)
		}
		checkTree(t, top, tree{"bin/sh": "a shell", "etc/issue": "on top"})
		checkTree(t, base, tree{"bin/sh": "a shell", "etc/motd": "hello"})
		eventually(t, "nothing left but the two layers", func() bool {
			return len(w.lasting(t)) == 2 && len(s.directories(t)) == 2
		})

		child := w.newRef(t, top)
		dir, unmount := mountRef(t, child, false)
		writeFile(t, filepath.Join(dir, "etc/issue"), "changed")
		unmount()
		checkTree(t, child, tree{"bin/sh": "a shell", "etc/issue": "changed"})
		checkTree(t, top, tree{"bin/sh": "a shell", "etc/issue": "on top"})
		release(t, child, top, base)

		// Found again after a restart, without unpacking again.
		w.close(t)
		w = openWorker(t, s, engine.WithGrace(time.Millisecond))
		top = w.get(t, top.ID())
		key := w.snapshotOf(t, top)
		before, err := w.snap.Stat(inNamespace(), key)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, top, tree{"bin/sh": "a shell", "etc/issue": "on top"})
		after, err := w.snap.Stat(inNamespace(), key)
		if err != nil || !before.Created.Equal(after.Created) {
			t.Errorf("the layer was unpacked again: %v, %v, then %v", err, before.Created, after.Created)
		}
		release(t, top)
		w.eventuallyEmpty(t)
	})
}

// spoiled cuts off the end of what is stored, so that unpacking writes files before
// it fails.
func spoiled(stored []byte) []byte { return stored[:len(stored)*3/4] }

// incompressible makes files that are spread over the whole blob.
func incompressible() tree {
	files := tree{}
	for i := range 8 {
		name := fmt.Sprintf("file%d", i)
		var content strings.Builder
		for d := digest.FromString(name); content.Len() < 1<<15; d = digest.FromString(d.String()) {
			content.WriteString(d.Encoded())
		}
		files[name] = content.String()
	}
	return files
}

func TestFailedUnpackLeavesNothing(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s, engine.WithLeaseSweep(20*time.Millisecond))
		files := incompressible()
		base := w.layer(t, nil, put(t, tree{"base": "stays"}))
		baseKey := w.snapshotOf(t, base)
		eventually(t, "the layer of the test alone", func() bool { return slices.Equal(w.keys(t), []string{baseKey}) })
		directories := s.directories(t)
		nothingNew := func() bool {
			return slices.Equal(w.keys(t), []string{baseKey}) && slices.Equal(s.directories(t), directories) && len(s.mounts(t)) == 0
		}

		for name, temporary := range map[string]func(*testing.T) (ctx context.Context, end func()){
			"BuildKits own lease": func(*testing.T) (context.Context, func()) { return inNamespace(), func() {} },
			"lease of the caller": func(t *testing.T) (context.Context, func()) {
				ctx, done, err := leaseutil.WithLease(inNamespace(), w.lm, leaseutil.MakeTemporary)
				if err != nil {
					t.Fatal(err)
				}
				return ctx, func() {
					if err := done(ctx); err != nil {
						t.Error(err)
					}
				}
			},
			"lease that expires": func(t *testing.T) (context.Context, func()) {
				l, ctx := w.lease(t, leases.WithExpiration(time.Second))
				return ctx, func() { w.collectUntilGone(t, l) }
			},
		} {
			t.Run(name, func(t *testing.T) {
				bad := w.byBlob(t, w.blob(t, files, true, spoiled), nil)
				ctx, end := temporary(t)
				for range 2 { // the second attempt is none the wiser
					if _, err := bad.Mount(ctx, true, nil); err == nil {
						t.Fatal("a blob that is cut off was unpacked")
					}
				}
				end()
				eventually(t, "the half unpacked layer removed", nothingNew)
				release(t, bad)
				w.prune(t)
				if !nothingNew() {
					t.Errorf("after release and prune: keys %q, directories %q", w.keys(t), s.directories(t))
				}
			})
		}

		// The failures are not in the way of the same layer from a sound blob, which
		// shares the snapshot's key with them.
		bad := w.byBlob(t, w.blob(t, files, true, spoiled), nil)
		if _, err := bad.Mount(inNamespace(), true, nil); err == nil {
			t.Error("a blob that is cut off was unpacked")
		}
		good := w.byBlob(t, w.blob(t, files, true, nil), nil)
		if w.snapshotOf(t, bad) != w.snapshotOf(t, good) {
			t.Error("the two blobs do not share a snapshot, so this test shows little")
		}
		checkTree(t, good, files)
		release(t, bad, good, base)
		w.eventuallyEmpty(t)
	})
}

// collectUntilGone runs containerd's garbage collection until it took the lease.
func (w *worker) collectUntilGone(t testing.TB, l leases.Lease) {
	t.Helper()
	eventually(t, "the lease expired", func() bool {
		if _, err := w.mdb.GarbageCollect(inNamespace()); err != nil {
			t.Fatal(err)
		}
		_, err := w.lm.ListResources(inNamespace(), l)
		return errdefs.IsNotFound(err)
	})
}

// Two records with one chain ID, as of a compressed and a plain blob of one layer,
// have one snapshot and one view of it, each under a lease of its own.
func TestTwoRecordsShareAView(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		files := tree{"file": "of both"}
		first := w.byBlob(t, w.blob(t, files, true, nil), nil)
		second := w.byBlob(t, w.blob(t, files, false, nil), nil)
		if first.ID() == second.ID() || w.snapshotOf(t, first) != w.snapshotOf(t, second) {
			t.Fatalf("records %s and %s were to differ and to share a snapshot", first.ID(), second.ID())
		}

		// Mountables of both, before either is mounted.
		m1, err := first.Mount(inNamespace(), true, nil)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := second.Mount(inNamespace(), true, nil)
		if err != nil {
			t.Fatal(err)
		}
		view := w.snapshotOf(t, first) + "-view"
		if info, err := w.snap.Stat(inNamespace(), view); err != nil || info.Kind != snapshots.KindView {
			t.Fatalf("the view of both: %+v, %v", info, err)
		}
		dir1, unmount1 := mountLocally(t, m1)
		dir2, unmount2 := mountLocally(t, m2)
		if s.driver == "overlay2" {
			// Of the driver's there is one for both; the others are BuildKit's binds.
			var merged int
			for _, point := range s.mounts(t) {
				if strings.HasPrefix(point, s.path(s.driver)+"/") {
					merged++
				}
			}
			if merged > 1 {
				t.Errorf("%d mounts of one directory: %q", merged, s.mounts(t))
			}
		}
		unmount1()
		release(t, first)
		w.prune(t)
		w.reaperPasses(t)
		if _, err := w.snap.Stat(inNamespace(), view); err != nil {
			t.Errorf("the view of the other record: %v", err)
		}
		if d := cmp.Diff(files, treeBelow(t, dir2)); d != "" {
			t.Errorf("the held mount of the other record (-want +got):\n%s", d)
		}
		unmount2()
		if m := s.mounts(t); len(m) != 0 {
			t.Errorf("still mounted: %q (the first was at %s)", m, dir1)
		}

		// Not mounted either by now: what the second record got from Mount works on.
		again, unmount := mountLocally(t, m2)
		if d := cmp.Diff(files, treeBelow(t, again)); d != "" {
			t.Errorf("another mount for the other record (-want +got):\n%s", d)
		}
		unmount()
		checkTree(t, second, files)
		release(t, second)
		eventually(t, "the view gone with its last lease", func() bool {
			_, err := w.snap.Stat(inNamespace(), view)
			return errdefs.IsNotFound(err)
		})
		w.eventuallyEmpty(t)
	})
}

// P6: nothing gets through a read-only mount, of a view or of a mutable ref.
func TestP6ReadOnlyMountsRefuseWrites(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		files := tree{"file": "as it was", "dir/other": "as it was"}
		layer := w.layer(t, nil, put(t, files))
		unpacked := w.byBlob(t, w.blob(t, files, true, nil), nil)
		child := w.newRef(t, layer)

		for name, ref := range map[string]struct {
			cache.Mountable
			readonly bool
		}{
			"finalized ref":                     {layer, true},
			"finalized ref, asked for writable": {layer, false}, // BuildKit mounts its view all the same
			"unpacked blob":                     {unpacked, true},
			"mutable ref":                       {child, true},
		} {
			t.Run(name, func(t *testing.T) {
				dir, unmount := mountRef(t, ref, ref.readonly)
				defer unmount()
				file := filepath.Join(dir, "file")
				for what, err := range map[string]error{
					"create":   os.WriteFile(filepath.Join(dir, "new"), nil, 0o644),
					"write":    os.WriteFile(file, []byte("changed"), 0o644),
					"append":   func() error { _, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0); return err }(),
					"truncate": os.Truncate(file, 0),
					"remove":   os.Remove(file),
					"rename":   os.Rename(file, filepath.Join(dir, "renamed")),
					"link":     os.Link(file, filepath.Join(dir, "linked")),
					"mkdir":    os.Mkdir(filepath.Join(dir, "newdir"), 0o755),
					"chmod":    os.Chmod(file, 0o600),
					"chown":    os.Chown(file, 1, 1),
					"chtimes":  os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)),
					"setxattr": unix.Setxattr(file, "user.test", []byte("x"), 0),
				} {
					if !errors.Is(err, unix.EROFS) {
						t.Errorf("%s through a read-only mount: %v, want EROFS", what, err)
					}
				}
				if d := cmp.Diff(files, treeBelow(t, dir)); d != "" {
					t.Errorf("after the attempts (-want +got):\n%s", d)
				}
			})
		}
		release(t, child, unpacked, layer)
		w.eventuallyEmpty(t)
	})
}

// P6: what a view hands out is read-only by itself, whatever a caller's own mount
// options are.
func TestP6ViewSaysReadOnly(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		layer := w.layer(t, nil, put(t, tree{"file": "as it was"}))
		m, err := layer.Mount(inNamespace(), false, nil)
		if err != nil {
			t.Fatal(err)
		}
		mounts, release1, err := m.Mount()
		if err != nil {
			t.Fatal(err)
		}
		if len(mounts) != 1 || !slices.Contains(mounts[0].Options, "ro") {
			t.Errorf("the mounts of a view are %+v", mounts)
		}
		err = mount.WithTempMount(inNamespace(), mounts, func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); !errors.Is(err, unix.EROFS) {
				t.Errorf("write: %v, want EROFS", err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := release1(); err != nil {
			t.Error(err)
		}
		release(t, layer)
		w.eventuallyEmpty(t)
	})
}

// P5: leases that go without a call of Delete are noticed: those that expire, and
// those that somebody deletes behind the snapshotter's back.
func TestP5ExpiredLeaseReleases(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s, engine.WithLeaseSweep(20*time.Millisecond))
		lasting, ctx := w.lease(t)
		expiring, soon := w.lease(t, leases.WithExpiration(time.Second))
		if err := w.snap.Prepare(ctx, "both", ""); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"both", "expiring"} {
			if err := w.lm.AddResource(soon, expiring, resource(key)); err != nil {
				t.Fatal(err)
			}
		}
		// It may expire before this returns; so there is nothing to check of it yet.
		if err := w.snap.Prepare(soon, "expiring", ""); err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		w.collectUntilGone(t, expiring)
		eventually(t, "what only the expired lease named removed", func() bool {
			return slices.Equal(w.keys(t), []string{"both"}) && slices.Equal(s.directories(t), []string{"both"})
		})

		// containerd's own lease manager tells nobody.
		if err := w.prevLM.Delete(ctx, lasting); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what the deleted lease named removed", func() bool { return len(w.keys(t)) == 0 })
		w.eventuallyEmpty(t)
	})
}

// Many builds at once, with prune beside them: what a build holds a reference to is
// there, whatever prune does.
func TestRefsBesidePrune(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		desc := w.blob(t, tree{"base": "image"}, true, nil)

		pruning, stop := context.WithCancel(context.Background())
		pruned := make(chan struct{})
		go func() {
			defer close(pruned)
			for pruning.Err() == nil {
				ch := make(chan client.UsageInfo, 1000) // more than there can be records
				if err := w.cm.Prune(inNamespace(), ch, client.PruneInfo{All: true}); err != nil {
					t.Errorf("prune: %v", err)
					return
				}
			}
		}()

		var builds errgroup.Group
		for build := range 6 {
			builds.Go(func() error {
				for step := range 4 {
					if err := w.build(desc, fmt.Sprintf("file%d.%d", build, step)); err != nil {
						return fmt.Errorf("build %d, step %d: %w", build, step, err)
					}
				}
				return nil
			})
		}
		if err := builds.Wait(); err != nil {
			t.Error(err)
		}
		stop()
		<-pruned
		w.eventuallyEmpty(t)
	})
}

// build unpacks an image, writes a file on top of it, and looks at the result.
func (w *worker) build(desc ocispecs.Descriptor, name string) (err error) {
	ctx := inNamespace()
	drop := func(ref cache.Ref) { err = errors.Join(err, ref.Release(ctx)) }
	base, err := w.cm.GetByBlob(ctx, desc, nil)
	if err != nil {
		return err
	}
	defer drop(base)
	active, err := w.cm.New(ctx, base, nil)
	if err != nil {
		return err
	}
	within := func(ref cache.Mountable, readonly bool, do func(dir string) error) error {
		m, err := ref.Mount(ctx, readonly, nil)
		if err != nil {
			return err
		}
		lm := snapshot.LocalMounter(m)
		dir, err := lm.Mount()
		if err != nil {
			return err
		}
		return errors.Join(do(dir), lm.Unmount())
	}
	err = within(active, false, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
	})
	if err != nil {
		drop(active)
		return err
	}
	built, err := active.Commit(ctx)
	if err != nil {
		drop(active)
		return err
	}
	defer drop(built)
	if err := built.Finalize(ctx); err != nil {
		return err
	}
	return within(built, true, func(dir string) error {
		for file, want := range map[string]string{name: name, "base": "image"} {
			if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
				return fmt.Errorf("%s holds %q, %v", file, got, err)
			}
		}
		return nil
	})
}
