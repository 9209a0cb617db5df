package adapter

// Views as BuildKit's records hold them: shared, and read-only.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/cache"
	"golang.org/x/sys/unix"
)

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
