package adapter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// The longest chain that can be mounted works, and one layer more is refused without
// a trace.
func TestDepth(t *testing.T) {
	for name, c := range map[string]struct {
		overlay bool
		limit   int
	}{"as the driver": {false, 129}, "described": {true, 500}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "overlay2")
			s.overlay = c.overlay
			p := s.open(t)
			_, ctx := p.lease(t)
			parent := ""
			for i := 1; i <= c.limit; i++ {
				layer := fmt.Sprint("layer-", i)
				if i%100 == 1 || i == c.limit {
					p.committed(t, ctx, layer, parent)
				} else {
					must(t, p.snap.Prepare(ctx, "making", parent))
					must(t, p.snap.Commit(ctx, layer, "making"))
				}
				parent = layer
			}
			want := 1 + (c.limit+98)/100 // by the last, and every hundred from the first
			view, err := p.snap.View(ctx, "view", parent)
			must(t, err)
			if files := p.files(t, view); len(files) != want {
				t.Errorf("the deepest snapshot holds %q, want %d files", files, want)
			}
			before := p.world(t)
			err = p.snap.Prepare(ctx, "too-deep", parent)
			wantError(t, err, errdefs.ErrOutOfRange, "too-deep")
			if text := fmt.Sprint(err); !strings.Contains(text, fmt.Sprintf("layer %d ", c.limit+1)) ||
				!strings.Contains(text, fmt.Sprintf("at most %d ", c.limit)) {
				t.Errorf("the error %q names neither depth nor limit", text)
			}
			if after := p.world(t); !after.equal(before) {
				t.Errorf("before\n%+v\nafter\n%+v", before, after)
			}
			// Not opened again here: with a home as full as this the race detector ends the
			// process, over how the driver reads it (checkptr in continuity's fs).
		})
	}
}

// What is made beyond the driver's limit is as the driver makes it, and is mounted as
// the driver mounts: writable until another is built on it, once for all who hold it.
func TestDeeperThanTheDriver(t *testing.T) {
	s := newSite(t, "overlay2")
	d := described(t, s, maxDepth+4)
	deep, below := fmt.Sprint(maxDepth+1), fmt.Sprint(maxDepth)
	for _, file := range []string{"", "diff", "work", "link", "lower"} {
		ours, err := os.Lstat(filepath.Join(d.dir(deep), file))
		must(t, err)
		theirs, err := os.Lstat(filepath.Join(d.dir(below), file))
		must(t, err)
		if ours.Mode() != theirs.Mode() {
			t.Errorf("%q has the mode %v, the driver makes it %v", file, ours.Mode(), theirs.Mode())
		}
	}
	top := fmt.Sprint(maxDepth + 3)
	dir, err := d.Get(top)
	must(t, err)
	if want := filepath.Join(d.dir(top), merged); dir != want {
		t.Errorf("mounted at %s, want %s", dir, want)
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	if _, err := os.Lstat(filepath.Join(d.dir(top), "diff", "file")); err != nil {
		t.Errorf("what was written through the mount: %v", err)
	}
	ours := overlayOptions(t, dir)
	must(t, d.Put(top))
	lowers, err := d.lowers(top)
	must(t, err)
	want := []string{"rw", "upperdir=" + filepath.Join(d.dir(top), "diff"), "workdir=" + filepath.Join(d.dir(top), "work")}
	for _, lower := range lowers {
		want = append(want, "lowerdir+="+lower)
	}
	slices.Sort(want)
	if ours = slices.DeleteFunc(ours, func(o string) bool { return o == "redirect_dir=on" }); !slices.Equal(ours, want) {
		t.Errorf("mounted with\n%q, want\n%q", ours, want)
	}

	dir, err = d.Get(fmt.Sprint(maxDepth + 2)) // another is built on it
	must(t, err)
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write to what another is built on: %v", err)
	}
	must(t, d.Put(fmt.Sprint(maxDepth+2)))
	if left := s.mounts(t); len(left) > 0 {
		t.Errorf("mounted: %q", left)
	}

	// A crash may leave any part of it out.
	for _, file := range []string{"link", "lower", "work"} {
		must(t, os.RemoveAll(filepath.Join(d.dir(top), file)))
	}
	if changed, err := d.Restore(top, fmt.Sprint(maxDepth+2)); !changed || err != nil {
		t.Errorf("Restore changed %v: %v", changed, err)
	}
	dir, err = d.Get(top)
	must(t, err)
	if _, err := os.Lstat(filepath.Join(dir, "file")); err != nil {
		t.Errorf("after Restore: %v", err)
	}
	must(t, d.Put(top))
}

// The root directory belongs to whom it belonged to in the parent.
func TestOwnerOfTheRootDirectory(t *testing.T) {
	s := newSite(t, "overlay2")
	s.overlay = true
	p := s.open(t)
	_, ctx := p.lease(t)
	must(t, p.snap.Prepare(ctx, "making", ""))
	p.inside(t, p.mounts(t, "making"), func(dir string) { must(t, os.Chown(dir, 3, 4)) })
	must(t, p.snap.Commit(ctx, "base", "making"))
	p.committed(t, ctx, "top", "base")
	view, err := p.snap.View(ctx, "view", "top")
	must(t, err)
	p.inside(t, view, func(dir string) {
		var st unix.Stat_t
		must(t, unix.Stat(dir, &st))
		if st.Uid != 3 || st.Gid != 4 {
			t.Errorf("/ belongs to %d:%d, want 3:4", st.Uid, st.Gid)
		}
	})
}

// A process that dies between the kernel's making a subvolume and the change of its
// mode leaves a root that anybody may write to. What its user made of the root stays.
func TestRestoreOfTheModeOfASubvolume(t *testing.T) {
	m := []user.IDMap{{ID: 0, ParentID: 100_000, Count: 65536}}
	for name, idmap := range map[string]user.IdentityMapping{"as it is": {}, "mapped": {UIDMaps: m, GIDMaps: m}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "btrfs")
			must(t, os.Mkdir(s.path("btrfs"), 0o700))
			mountDisk(t, s.path("btrfs"), 128, "mkfs.btrfs", "-q")
			old := unix.Umask(0) // as BuildKit has it
			defer unix.Umask(old)
			gd, err := graphdriver.New("btrfs", graphdriver.Options{Root: s.root, IDMap: idmap})
			must(t, err)
			d, err := newDriver(gd, DriverOpt{IdentityMapping: idmap})
			must(t, err)
			uid, gid := idmap.RootPair()
			is := func(what, id string, mode os.FileMode) {
				t.Helper()
				st, err := os.Stat(s.path("btrfs", "subvolumes", id))
				must(t, err)
				sys := st.Sys().(*syscall.Stat_t)
				if st.Mode().Perm() != mode || int(sys.Uid) != uid || int(sys.Gid) != gid {
					t.Errorf("%s %q is %v of %d:%d, want %v of %d:%d", what, id, st.Mode().Perm(), sys.Uid, sys.Gid, mode, uid, gid)
				}
			}
			restored := func(id, parent string, want bool) {
				t.Helper()
				if changed, err := d.Restore(id, parent); err != nil || changed != want {
					t.Errorf("Restore of %q changed %v, %v", id, changed, err)
				}
			}
			must(t, gd.Create("half", "", nil))
			is("cut short,", "half", 0o777)
			restored("half", "", true)
			is("restored,", "half", 0o755)
			restored("half", "", false)

			must(t, d.Create("used", ""))
			must(t, os.WriteFile(s.path("btrfs", "subvolumes", "used", "file"), nil, 0o600))
			must(t, os.Chmod(s.path("btrfs", "subvolumes", "used"), 0o777))
			must(t, d.Create("child", "used"))
			restored("used", "", false)
			restored("child", "used", false)
			is("restored,", "used", 0o777)
			is("restored,", "child", 0o777)
			s.removeAll(t, d, "half", "used", "child")
		})
	}
}
