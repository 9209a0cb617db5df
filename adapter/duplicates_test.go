package adapter

// Two snapshots with the same contents: the layer store knows one layer, which has
// one of the directories.

import (
	"context"
	"io"
	"slices"
	"testing"

	"github.com/docker/docker/layer"
)

func TestIdenticalSnapshotsShareTheLayerNotTheDirectory(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for _, restart := range []bool{false, true} {
			for _, firstGoes := range []bool{false, true} {
				d := s.daemon(t, nil)
				first, ctx := d.lease(t)
				d.same(t, ctx, "first", "", "file")
				second, ctx := d.lease(t)
				d.same(t, ctx, "second", "", "file")
				ids := d.ensure(t, "first")
				if again := d.ensure(t, "second"); !slices.Equal(ids, again) {
					t.Fatalf("the contents are not the same: %v and %v", ids, again)
				}
				id := d.layer(t, "first").ChainID().String()
				if restart {
					d.close(t)
					d = s.daemon(t, nil)
				}
				for _, name := range []string{"first", "second"} {
					if got := d.layer(t, name); got == nil || idOf(got) != id || cacheID(got) != "making-first" {
						t.Errorf("%q is the layer %v", name, got)
					}
				}
				// Both directories are in use, each by its own snapshot.
				for _, name := range []string{"first", "second"} {
					l, ctx := d.lease(t)
					view, err := d.snap.View(ctx, "view", name)
					must(t, err)
					d.holds(t, view, "file")
					d.ended(t, l)
					d.gone(t, "view")
				}
				if firstGoes {
					d.ended(t, first)
					d.gone(t, "first")
					d.considered(t, "second")
					d.kept(t, id)
					view, err := d.snap.View(inNamespace(), "other", "second")
					must(t, err)
					d.holds(t, view, "file")
					d.close(t)
					d = s.daemon(t, nil)
					if dirs := d.site.directories(t); len(dirs) != 2 {
						t.Errorf("directories are %q", dirs)
					}
					d.ended(t, second)
				} else {
					d.ended(t, second)
					d.gone(t, "second")
					s.settled(t, "making-second")
					d.considered(t, "first")
					d.kept(t, id)
					d.ended(t, first)
				}
				d.gone(t, "first", "second", "other")
				d.cleared(t)
				d.close(t)
			}
		}
	})
}

// An image whose layer is made of a snapshot that stands on the second of two that
// are the same outlives the builder: nothing of it may be built on a directory that
// goes with the cache.
func TestImageOfAChildOfADuplicateOutlivesTheCache(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for _, restart := range []bool{false, true} {
			d := s.daemon(t, nil)
			l, ctx := d.lease(t)
			d.same(t, ctx, "first", "", "file")
			d.same(t, ctx, "second", "", "file")
			d.ensure(t, "first")
			d.committed(t, ctx, "child", "second")
			d.committed(t, ctx, "grandchild", "child")
			ids := d.ensure(t, "grandchild")
			want := []layer.DiffID{
				d.checksum(t, "making-second", ""),
				d.checksum(t, "making-child", "making-second"),
				d.checksum(t, "making-grandchild", "making-child"),
			}
			if !slices.Equal(ids, want) {
				t.Errorf("diff IDs are %v, want %v", ids, want)
			}
			if restart {
				d.close(t)
				d = s.daemon(t, nil)
			}
			image, err := d.store.Get(d.layer(t, "grandchild").ChainID())
			must(t, err)
			d.ended(t, l)
			d.gone(t, "grandchild", "child", "second", "first")
			for _, name := range []string{"second", "child", "grandchild"} {
				s.settled(t, "making-"+name)
			}
			if dirs := s.directories(t); len(dirs) != 3 {
				t.Errorf("an image of three layers has the directories %q", dirs)
			}
			d.imageHolds(t, image, "child", "file", "grandchild")
			d.untag(t, image)
			d.cleared(t)
			d.close(t)
		}
	})
}

// imageHolds mounts a layer as a container would and expects the files.
func (d *daemon) imageHolds(t testing.TB, l layer.Layer, want ...string) {
	t.Helper()
	dir, err := d.driver.Get(cacheID(l), "")
	must(t, err)
	var names []string
	for _, e := range entries(t, dir) {
		names = append(names, e.Name())
	}
	must(t, d.driver.Put(cacheID(l)))
	if !slices.Equal(names, want) {
		t.Errorf("the image holds %q, want %q", names, want)
	}
	// And what the image store pushes is what it was.
	r, err := l.TarStream()
	must(t, err)
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Errorf("the image cannot be pushed: %v", err)
	}
}

// A copy that cannot be finished leaves nothing.
func TestFailureOfACopyLeavesNothing(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		d.same(t, ctx, "first", "", "file")
		d.same(t, ctx, "second", "", "file")
		d.ensure(t, "first")
		d.committed(t, ctx, "child", "second")
		before := s.directories(t)
		broken := context.DeadlineExceeded
		for _, call := range []string{"Create", "Created", "ApplyDiff"} {
			d.watch.fail(call, broken)
			_, err := d.snap.EnsureLayer(ctx, "child")
			wantError(t, err, broken, "child")
			d.watch.fail(call, nil)
			eventually(t, "the copy is deleted", func() bool { return slices.Equal(s.directories(t), before) })
		}
		if ids := d.ensure(t, "child"); len(ids) != 2 {
			t.Errorf("diff IDs are %v", ids)
		}
		d.ended(t, l)
		d.cleared(t)
	})
}
