package adapter

// Layers of the layer store as snapshots: what they look like, who holds references
// to them, and how they are mounted.

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/docker/docker/layer"
)

func TestLayersAreSnapshots(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low", "middle", "high")
		l, ctx := d.lease(t)
		look := func(when string) {
			t.Helper()
			parent := ""
			for _, l := range ls {
				info, err := d.snap.Stat(ctx, idOf(l))
				must(t, err)
				if info.Name != idOf(l) || info.Kind != snapshots.KindCommitted || info.Parent != parent {
					t.Errorf("%s: Stat says %+v, want parent %q", when, info, parent)
				}
				u, err := d.snap.Usage(ctx, idOf(l))
				must(t, err)
				if u.Size != l.DiffSize() || u.Size == 0 {
					t.Errorf("%s: usage is %d, want %d", when, u.Size, l.DiffSize())
				}
				if got := d.layer(t, idOf(l)); got == nil || got.ChainID() != l.ChainID() {
					t.Errorf("%s: GetLayer answers %v", when, got)
				}
				parent = idOf(l)
			}
			ids, err := d.snap.GetDiffIDs(ctx, parent)
			must(t, err)
			if want := []layer.DiffID{ls[0].DiffID(), ls[1].DiffID(), ls[2].DiffID()}; !slices.Equal(ids, want) {
				t.Errorf("%s: diff IDs are %v, want %v", when, ids, want)
			}
			if ensured := d.ensure(t, parent); !slices.Equal(ensured, ids) {
				t.Errorf("%s: EnsureLayer of a layer answers %v", when, ensured)
			}
		}
		look("unleased")
		if keys := d.walked(t); len(keys) > 0 {
			t.Errorf("a walk passes %q, which nobody asked for", keys)
		}
		top := idOf(ls[2])
		d.added(t, l, top)
		look("leased")
		if keys := d.walked(t); !slices.Equal(keys, []string{top}) {
			t.Errorf("a walk passes %q, want what is leased", keys)
		}
		if got := d.layer(t, l.ID); got == nil || idOf(got) != top {
			t.Errorf("by its lease the layer is %v", got)
		}
		ids, err := d.snap.GetDiffIDs(ctx, l.ID)
		must(t, err)
		if len(ids) != 3 {
			t.Errorf("by the lease there are diff IDs %v", ids)
		}

		must(t, d.snap.Prepare(ctx, "work", top))
		d.write(t, d.mounts(t, "work"), "own", "")
		d.holds(t, d.mounts(t, "work"), "high", "low", "middle", "own")
		view, err := d.snap.View(ctx, "view", idOf(ls[1]))
		must(t, err)
		d.holds(t, view, "low", "middle")

		_, err = d.snap.Mounts(ctx, top)
		wantError(t, err, errdefs.ErrFailedPrecondition, top)
		wantError(t, d.snap.Prepare(ctx, idOf(ls[0]), ""), errdefs.ErrAlreadyExists, "prepare")
		wantError(t, d.snap.Prepare(ctx, top, ""), errdefs.ErrAlreadyExists, "prepare")
		for _, parent := range []string{"", top} {
			_, err = d.snap.View(inNamespace(), idOf(ls[1]), parent) // which nobody borrows yet
			wantError(t, err, errdefs.ErrAlreadyExists, "view")
		}
		wantError(t, d.snap.Commit(ctx, idOf(ls[0]), "work"), errdefs.ErrAlreadyExists, "commit")
		d.there(t, "work")

		for _, key := range []string{"unknown", "work", "view", unknownChain()} {
			got, err := d.snap.GetLayer(key)
			if got != nil || err != nil {
				t.Errorf("GetLayer of %q answers %v, %v; want neither", key, got, err)
			}
			ids, err := d.snap.GetDiffIDs(ctx, key)
			if ids != nil || err != nil {
				t.Errorf("GetDiffIDs of %q answers %v, %v; want neither", key, ids, err)
			}
		}
		_, err = d.snap.Stat(ctx, unknownChain())
		wantError(t, err, errdefs.ErrNotFound, "sha256")
		wantError(t, d.snap.Prepare(ctx, "on-nothing", unknownChain()), errdefs.ErrNotFound, "parent")

		d.ended(t, l)
		d.gone(t, "work", "view")
		d.untag(t, ls...)
		d.cleared(t)
	})
}

// A key of that form which the layer store does not have is as good as any other.
func TestChainIDWithoutALayerIsAnOrdinaryKey(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		d.committed(t, ctx, unknownChain(), "")
		must(t, d.snap.Prepare(ctx, "work", unknownChain()))
		d.close(t)
		d = s.daemon(t, nil)
		d.there(t, unknownChain(), "work")
		if got := d.layer(t, unknownChain()); got != nil {
			t.Errorf("it has the layer %v", got)
		}
		d.ended(t, l)
		d.gone(t, "work", unknownChain())
		d.cleared(t)
	})
}

// The image goes first, and then what needs the layer, one after the other: only the
// last takes it along.
func TestLayerStaysAsLongAsItIsNeeded(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for _, restart := range []bool{false, true} {
			d := s.daemon(t, nil)
			ls := d.image(t, "low", "high")
			low, high := idOf(ls[0]), idOf(ls[1])
			first, _ := d.lease(t)
			second, _ := d.lease(t)
			d.added(t, first, high)
			d.added(t, second, high)
			child, ctx := d.lease(t)
			must(t, d.snap.Prepare(ctx, "work", high))
			viewed, ctx := d.lease(t)
			_, err := d.snap.View(ctx, "view", high)
			must(t, err)
			d.untag(t, ls...)

			again := func() {
				if restart {
					d.close(t)
					d = s.daemon(t, nil)
				}
				d.considered(t, high, low)
				d.kept(t, low, high)
			}
			again()
			d.ended(t, first)
			again()
			d.ended(t, child)
			d.gone(t, "work")
			again()
			d.ended(t, second)
			again()
			d.holds(t, d.mounts(t, "view"), "high", "low")
			d.ended(t, viewed)
			d.gone(t, "view", high, low)
			d.released(t, high, low)
			d.cleared(t)
			d.close(t)
		}
	})
}

// A lease holds the layer from the moment in which it was added, though nobody has
// looked at the layer.
func TestLeaseAloneHoldsALayer(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low")
		l, _ := d.lease(t)
		d.added(t, l, idOf(ls[0]))
		d.untag(t, ls...)
		d.kept(t, idOf(ls[0]))
		d.ended(t, l)
		d.cleared(t)
	})
}

// What the image store still has stays when the builder lets go of it.
func TestLayerOfAnImageOutlivesItsLease(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low", "high")
		for range 3 {
			l, ctx := d.lease(t)
			d.added(t, l, idOf(ls[1]))
			must(t, d.snap.Prepare(ctx, "work", idOf(ls[0])))
			d.ended(t, l)
			d.gone(t, "work")
			eventually(t, "no snapshot is left", func() bool { return len(d.walked(t)) == 0 })
		}
		d.kept(t, idOf(ls[0]), idOf(ls[1]))
		d.untag(t, ls...)
		d.cleared(t)
	})
}

// Without a lease nothing holds the layer: it goes with its image, at once and on
// every face.
func TestLayerDeletedByTheImageStoreIsNotServed(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low", "high")
		high := idOf(ls[1])
		d.there(t, high)
		early, _ := d.lease(t)
		d.untag(t, ls...)
		if d.has(high) {
			t.Fatal("the layer store keeps a layer that nobody needs")
		}
		_, err := d.snap.Stat(inNamespace(), high)
		wantError(t, err, errdefs.ErrNotFound, high)
		_, err = d.snap.Usage(inNamespace(), high)
		wantError(t, err, errdefs.ErrNotFound, high)
		wantError(t, d.snap.Prepare(inNamespace(), "work", high), errdefs.ErrNotFound, high)
		_, err = d.snap.View(inNamespace(), "view", high)
		wantError(t, err, errdefs.ErrNotFound, high)
		_, err = d.snap.EnsureLayer(inNamespace(), high)
		wantError(t, err, errdefs.ErrNotFound, high)
		if got := d.layer(t, high); got != nil {
			t.Errorf("GetLayer answers %v", got)
		}
		d.added(t, early, high) // is not an error, as of any key that is not there
		_, err = d.snap.Stat(inNamespace(), high)
		wantError(t, err, errdefs.ErrNotFound, high)

		// Pulled anew it is held from the first look on, since a lease names it.
		ls = d.image(t, "low", "high")
		d.there(t, high)
		d.untag(t, ls...)
		d.considered(t, high)
		d.kept(t, high)
		d.ended(t, early)
		d.cleared(t)
	})
}

func TestViewsOfALayerShareOneMount(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low", "high")
		l, ctx := d.lease(t)
		before := d.watch.count("Get")
		var releases [64]func() error
		var sources [64]string
		var all sync.WaitGroup
		for i := range releases {
			all.Go(func() {
				view, err := d.snap.View(ctx, "view-"+string(rune('a'+i%8)), idOf(ls[1]))
				if errdefs.IsAlreadyExists(err) {
					view, err = d.snap.Mounts(ctx, "view-"+string(rune('a'+i%8)))
				}
				if err != nil {
					t.Error(err)
					return
				}
				mounts, release, err := view.Mount()
				if err != nil {
					t.Error(err)
					return
				}
				if len(mounts) != 1 || !slices.Contains(mounts[0].Options, "ro") {
					t.Errorf("mounted as %+v", mounts)
				}
				sources[i], releases[i] = mounts[0].Source, release
			})
		}
		all.Wait()
		if t.Failed() {
			return
		}
		if n := d.watch.count("Get") - before; n != 1 {
			t.Errorf("the driver was called %d times to mount one layer", n)
		}
		if n := len(s.mounts(t)); n != d.driverMounts() {
			t.Errorf("there are %d mounts, want %d", n, d.driverMounts())
		}
		if len(slices.Compact(sources[:])) != 1 {
			t.Errorf("the views are mounted from %q", sources)
		}
		d.inside(t, d.process.mounts(t, "view-a"), func(dir string) {
			if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); !errors.Is(err, unix.EROFS) {
				t.Errorf("write through a view of a layer: %v", err)
			}
		})
		for _, release := range releases {
			must(t, release())
		}
		if left := s.mounts(t); len(left) > 0 {
			t.Errorf("mounted without holds: %q", left)
		}
		d.untag(t, ls...)
		d.ended(t, l)
		d.cleared(t)
	})
}

func TestLabelsOfALayerSurviveARestart(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low")
		l, ctx := d.lease(t)
		d.added(t, l, idOf(ls[0]))
		_, err := d.snap.Update(ctx, snapshots.Info{Name: idOf(ls[0]), Labels: map[string]string{"a": "1", "b": "2"}})
		must(t, err)
		for range 2 {
			d.close(t)
			d = s.daemon(t, nil)
			info, err := d.snap.Stat(ctx, idOf(ls[0]))
			must(t, err)
			if len(info.Labels) != 2 || info.Labels["a"] != "1" || info.Labels["b"] != "2" || info.Updated.IsZero() {
				t.Errorf("after a restart: %+v", info)
			}
		}
		d.ended(t, l)
		d.cleared(t)
	})
}
