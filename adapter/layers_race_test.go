package adapter

// Images, leases and exports that come and go at the same time. Whatever the order,
// nobody finds a snapshot that cannot be mounted, and in the end nothing is left.

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/docker/docker/layer"
)

// An image loses its last tag while builds begin on it: each build has the layer, or
// is told that it is gone.
func TestImageGoesWhileBuildsBeginOnIt(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		for round := range 12 {
			ls := d.image(t, "low", "high")
			high := idOf(ls[1])
			var all sync.WaitGroup
			var held [4]leases.Lease
			for i := range held {
				l, ctx := d.lease(t)
				held[i] = l
				all.Go(func() {
					key := fmt.Sprintf("work-%d-%d", round, i)
					if i%2 == 0 {
						if err := d.lm.AddResource(inNamespace(), l, resource(high)); err != nil {
							t.Error(err)
						}
					}
					err := d.snap.Prepare(ctx, key, high)
					if errdefs.IsNotFound(err) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					d.holds(t, d.mounts(t, key), "high", "low")
				})
			}
			all.Go(func() { d.untag(t, ls...) })
			all.Wait()
			d.ended(t, held[:]...)
			d.cleared(t)
		}
	})
}

// Exports run while the leases of what they export end.
func TestLeaseEndsDuringTheExport(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		names := d.stack(t, ctx, "n", "", 2)
		slow := d.watch.stop(t, "Diff making-"+names[1])
		var ids []layer.DiffID
		result := during(func() (err error) {
			ids, err = d.snap.EnsureLayer(ctx, names[1])
			return err
		})
		<-slow.reached
		d.ended(t, l)
		d.considered(t, names...)
		d.there(t, names...)
		slow.goOn()
		must(t, <-result)
		if len(ids) != 2 {
			t.Errorf("diff IDs are %v", ids)
		}
		d.gone(t, names...)
		d.cleared(t)
	})
}

// Builders build, export, tag, untag and prune at random on a few names, most of
// them with the same contents.
func TestBuildsExportsAndPrunesAtOnce(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		const builders, rounds = 4, 3
		d := s.daemon(t, nil)
		var all sync.WaitGroup
		for n := range builders {
			all.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(n)))
				for round := range rounds {
					if err := d.build(fmt.Sprintf("b%d-%d", n, round), r); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		d.cleared(t)
	})
}

// build makes a chain of three, exports it, holds the image while the cache goes, and
// lets go of the image.
func (d *daemon) build(name string, r *rand.Rand) (err error) {
	l, err := d.lm.Create(inNamespace(), leases.WithRandomID())
	if err != nil {
		return err
	}
	ctx := leases.WithLease(inNamespace(), l.ID)
	ended := false
	end := func() {
		if !ended {
			ended = true
			err = errors.Join(err, d.lm.Delete(inNamespace(), l))
		}
	}
	defer end()
	var parent string
	for i := range 3 {
		key := fmt.Sprintf("%s-%d", name, i)
		if err := d.sameFile(ctx, key, parent, fmt.Sprintf("file-%d", r.IntN(2))); err != nil {
			return err
		}
		parent = key
	}
	if _, err := d.snap.EnsureLayer(ctx, parent); err != nil {
		return err
	}
	got, err := d.snap.GetLayer(parent)
	if err != nil || got == nil {
		return fmt.Errorf("the layer of %q: %v, %w", parent, got, err)
	}
	image, err := d.store.Get(got.ChainID())
	if err != nil {
		return err
	}
	if r.IntN(2) == 0 {
		end()
	}
	// The next build begins on the image, by its chain ID.
	if err := d.sameFile(ctx, name+"-next", got.ChainID().String(), "next"); err != nil && !ended {
		return err
	}
	_, err = d.store.Release(image)
	return err
}
