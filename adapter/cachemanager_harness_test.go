package adapter

// What drives BuildKit's cache manager on the snapshotter: what a build does to
// snapshots, in the small, with nothing in between replaced.

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"

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
