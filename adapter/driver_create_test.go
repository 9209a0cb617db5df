package adapter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
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
