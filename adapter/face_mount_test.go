package adapter

// What is mounted: a view cannot be written through and shares its mount (P6),
// releasing twice releases once (P7), and a Mountable belongs to the directory, not
// to the key (P4).

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/snapshot"
	"golang.org/x/sys/unix"
)

// onEachMount is onEachFace, and once more with mounts that are described.
func onEachMount(t *testing.T, test func(t *testing.T, p *process)) {
	t.Helper()
	onEachFace(t, test)
	t.Run("overlay2/described", func(t *testing.T) {
		s := newSite(t, "overlay2")
		s.overlay = true
		s.watch = newWatch()
		test(t, s.open(t))
	})
}

// hold mounts m and leaves it mounted.
func hold(t testing.TB, m snapshot.Mountable) ([]mount.Mount, func() error) {
	t.Helper()
	mounts, release, err := m.Mount()
	must(t, err)
	return mounts, release
}

// stacked makes "top" on "base", so that overlay2 has something to mount, under a
// lease.
func (p *process) stacked(t testing.TB) (end func()) {
	t.Helper()
	l, ctx := p.lease(t)
	p.committed(t, ctx, "base", "")
	p.committed(t, ctx, "top", "base")
	return func() { p.ended(t, l) }
}

// driverMounts is how many mounts the driver makes for one held stack.
func (p *process) driverMounts() int {
	if p.site.driver == "overlay2" && !p.site.overlay {
		return 1
	}
	return 0
}

func TestViewCannotBeWrittenThrough(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		p.stacked(t)
		for _, parent := range []string{"", "base", "top"} {
			view := "view-of-" + parent
			viewed, err := p.snap.View(inNamespace(), view, parent)
			must(t, err)
			for _, m := range []snapshot.Mountable{viewed, p.mounts(t, view)} {
				mounts, release := hold(t, m)
				if len(mounts) != 1 || mounts[0].Type == "bind" && !slices.Contains(mounts[0].Options, "ro") || slices.Contains(mounts[0].Options, "rw") {
					t.Errorf("a view of %q is mounted as %+v", parent, mounts)
				}
				p.bound(t, mounts, func(dir string) {
					if parent != "" {
						_, err := os.ReadFile(filepath.Join(dir, parent))
						must(t, err)
						for what, err := range map[string]error{
							"write":  os.WriteFile(filepath.Join(dir, parent), []byte("x"), 0o600),
							"remove": os.Remove(filepath.Join(dir, parent)),
						} {
							if !errors.Is(err, unix.EROFS) {
								t.Errorf("%s through a view of %q: %v, want a read-only file system", what, parent, err)
							}
						}
					}
					if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
						t.Errorf("make a file through a view of %q: %v, want a read-only file system", parent, err)
					}
				})
				must(t, release())
			}
		}
	})
}

func TestViewsShareOneMount(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		p.stacked(t)
		var releases []func() error
		sources := map[string]bool{}
		for _, view := range []string{"view-1", "view-2", "view-3"} {
			m, err := p.snap.View(inNamespace(), view, "top")
			must(t, err)
			if n := len(p.site.mounts(t)); len(releases) == 0 && n != 0 {
				t.Errorf("%d mounts before anybody mounted", n)
			}
			for _, m := range []snapshot.Mountable{m, p.mounts(t, view)} {
				mounts, release := hold(t, m)
				sources[mounts[0].Source] = true
				releases = append(releases, release)
			}
			if n := len(p.site.mounts(t)); n != p.driverMounts() {
				t.Errorf("after %q there are %d mounts, want %d: %q", view, n, p.driverMounts(), p.site.mounts(t))
			}
		}
		if len(sources) != 1 {
			t.Errorf("views of one snapshot are mounted from %v", sources)
		}
		for i, release := range releases {
			if n := len(p.site.mounts(t)); n != p.driverMounts() {
				t.Errorf("with %d of %d holds left there are %d mounts, want %d", len(releases)-i, len(releases), n, p.driverMounts())
			}
			must(t, release())
		}
		if left := p.site.mounts(t); len(left) > 0 {
			t.Errorf("mounted without holds: %q", left)
		}
	})
}

func TestReleasingTwiceReleasesOnce(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		p.stacked(t)
		view, err := p.snap.View(inNamespace(), "view", "top")
		must(t, err)
		must(t, p.snap.Prepare(inNamespace(), "work", "top"))
		for _, m := range []snapshot.Mountable{view, p.mounts(t, "work")} {
			mounts, first := hold(t, m)
			_, second := hold(t, m)
			for range 3 {
				must(t, first())
			}
			if n := len(p.site.mounts(t)); n != p.driverMounts() {
				t.Errorf("one of two holds was released three times, and there are %d mounts, want %d", n, p.driverMounts())
			}
			p.bound(t, mounts, func(dir string) {
				if _, err := os.Stat(filepath.Join(dir, "top")); err != nil {
					t.Errorf("what is held cannot be read: %v", err)
				}
			})
			must(t, second())
			must(t, second())
			if left := p.site.mounts(t); len(left) > 0 {
				t.Errorf("mounted without holds: %q", left)
			}
		}
	})
}

// A release that is made again must not take away the hold of a removal's
// opponent: the snapshot stays as long as somebody really holds it.
func TestReleasingTwiceKeepsWhatAnotherHolds(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		must(t, p.snap.Prepare(ctx, "work", "base"))
		view, err := p.snap.View(ctx, "view", "base")
		must(t, err)
		var releases []func() error
		for _, m := range []snapshot.Mountable{view, p.mounts(t, "work")} {
			_, first := hold(t, m)
			_, second := hold(t, m)
			releases = append(releases, second)
			must(t, first())
			must(t, first())
		}
		p.ended(t, l)
		p.considered(t, "view", "work", "base")
		p.there(t, "view", "work", "base")
		for _, release := range releases {
			must(t, release())
		}
		p.gone(t, "view", "work", "base")
		p.emptied(t)
	})
}

func TestMountableOutlivesTheKey(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		p.stacked(t)
		ctx := inNamespace()
		must(t, p.snap.Prepare(ctx, "work", "top"))
		m := p.mounts(t, "work")
		held, release := hold(t, m)
		must(t, p.snap.Commit(ctx, "name", "work"))
		must(t, p.snap.Prepare(ctx, "work", "")) // somebody else's now
		p.bound(t, held, func(dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "held-across"), nil, 0o600))
		})
		must(t, release())
		p.write(t, m, "mounted-after", "")
		if files := p.files(t, p.mounts(t, "work")); len(files) > 0 {
			t.Errorf("the new key of that name holds %q", files)
		}
		view, err := p.snap.View(ctx, "view", "name")
		must(t, err)
		if files := p.files(t, view); !slices.Equal(files, []string{"base", "held-across", "mounted-after", "top"}) {
			t.Errorf("the committed snapshot holds %q", files)
		}
		_, err = p.snap.Mounts(ctx, "name")
		wantError(t, err, errdefs.ErrFailedPrecondition, "name")
	})
}

// What is written through a hold that lasts across Commit counts, once it is gone.
func TestUsageCountsOnceTheWriterIsGone(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		must(t, p.snap.Prepare(inNamespace(), "work", ""))
		held, release := hold(t, p.mounts(t, "work"))
		must(t, p.snap.Commit(inNamespace(), "name", "work"))
		before := p.usage(t, "name")
		must(t, os.WriteFile(filepath.Join(held[0].Source, "late"), make([]byte, 64<<10), 0o600))
		must(t, release())
		if after := p.usage(t, "name"); after.Size < before.Size+64<<10 || after.Inodes != before.Inodes+1 {
			t.Errorf("usage while written to %+v, afterwards %+v", before, after)
		}
	})
}

func TestHeldSnapshotOutlivesItsLease(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "work", ""))
		mounts, release := hold(t, p.mounts(t, "work"))
		p.ended(t, l)
		p.considered(t, "work")
		p.there(t, "work")
		must(t, os.WriteFile(filepath.Join(mounts[0].Source, "file"), nil, 0o600))
		must(t, release())
		p.gone(t, "work")
		p.emptied(t)
	})
}

func TestParentOutlivesItsChildren(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		parents, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		p.committed(t, ctx, "top", "base")
		active, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "work", "top"))
		viewed, ctx := p.lease(t)
		_, err := p.snap.View(ctx, "view", "top")
		must(t, err)

		p.ended(t, parents)
		p.considered(t, "base", "top")
		p.there(t, "base", "top")
		if files := p.files(t, p.mounts(t, "view")); !slices.Equal(files, []string{"base", "top"}) {
			t.Errorf("the view holds %q", files)
		}
		p.ended(t, viewed)
		p.gone(t, "view")
		p.considered(t, "top")
		p.there(t, "base", "top", "work")
		p.ended(t, active)
		p.gone(t, "work", "top", "base")
		p.emptied(t)
	})
}

// A Mountable of a snapshot that was removed mounts nothing, also where the key
// names another snapshot now.
func TestMountableOfARemovedSnapshotMountsNothing(t *testing.T) {
	onEachMount(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		must(t, p.snap.Prepare(ctx, "work", "base"))
		view, err := p.snap.View(ctx, "view", "base")
		must(t, err)
		empty, err := p.snap.View(ctx, "empty", "")
		must(t, err)
		stale := map[string]snapshot.Mountable{"work": p.mounts(t, "work"), "view": view, "empty": empty}
		p.ended(t, l)
		p.gone(t, "work", "view", "empty", "base")
		p.emptied(t)
		for key, m := range stale {
			_, _, err := m.Mount()
			wantError(t, err, errdefs.ErrNotFound, key)
		}
		p.committed(t, inNamespace(), "base", "")
		must(t, p.snap.Prepare(inNamespace(), "work", "base"))
		_, err = p.snap.View(inNamespace(), "view", "base")
		must(t, err)
		_, err = p.snap.View(inNamespace(), "empty", "")
		must(t, err)
		for key, m := range stale {
			_, _, err := m.Mount()
			wantError(t, err, errdefs.ErrNotFound, key)
		}
	})
}
