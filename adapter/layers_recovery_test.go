package adapter

// What a start does about layers after a process that died in the middle, or after
// the layer store lost some. The moments of death are written into snapshots.db.

import (
	"context"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/docker/docker/layer"

	"github.com/graphsnap/graphsnap/persist"
)

// writes changes snapshots.db, which nobody may have open.
func (s *site) writes(t testing.TB, m ...persist.Mutation) {
	t.Helper()
	db, err := persist.Open(context.Background(), s.path("snapshots.db"), persist.Options{})
	must(t, err)
	must(t, db.Write(context.Background(), m...))
	must(t, db.Close())
}

func (s *site) record(t testing.TB, key string) persist.Record {
	t.Helper()
	records, _ := s.records(t)
	r, ok := records[key]
	if !ok {
		t.Fatalf("%q has no record", key)
	}
	return r
}

// Removal is durable, and then the process died: before it released the layer, or
// before that was recorded. An image that has the layer keeps it.
func TestRemovalOfALayerGoesOnAfterACrash(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for _, imaged := range []bool{false, true} {
			d := s.daemon(t, nil)
			l, ctx := d.lease(t)
			names := d.stack(t, ctx, "n", "", 3)
			d.ensure(t, names[2])
			top := d.layer(t, names[2]).ChainID()
			d.close(t)
			for _, name := range names {
				s.writes(t, persist.Remove(name, "making-"+name))
			}
			var image layer.Layer
			d = s.daemon(t, func(store layer.Store) {
				if imaged {
					var err error
					image, err = store.Get(top)
					must(t, err)
				}
			})
			if keys := d.walked(t); len(keys) > 0 {
				t.Errorf("what was removed is there: %q", keys)
			}
			if imaged {
				d.close(t) // all intents are over, or are carried out again
				d = s.daemon(t, func(store layer.Store) {
					var err error
					image, err = store.Get(top)
					must(t, err)
				})
				d.considered(t)
				d.kept(t, string(top))
				d.imageHolds(t, image, "n0", "n1", "n2")
				d.untag(t, image)
			}
			d.cleared(t)
			// The removal of the top took all directories; those of the others find none.
			eventually(t, "all removals are over", func() bool { return d.snap.engine.Pending().Directories == 0 })
			d.ended(t, l)
			d.close(t)
			if _, removing := s.records(t); len(removing) > 0 {
				t.Errorf("removals are recorded still: %q", removing)
			}
		}
	})
}

// The layer is registered, and the process died before it knew: the record says what
// was about to happen, or, in a dockerd's, nothing.
func TestRegistrationThatOutranTheRecordIsAdopted(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for _, told := range []bool{false, true} {
			d := s.daemon(t, nil)
			l, ctx := d.lease(t)
			d.stack(t, ctx, "n", "", 2)
			ids := d.ensure(t, "n1")
			chainID := idOf(d.layer(t, "n1"))
			d.close(t)
			if !told {
				for _, name := range []string{"n0", "n1"} {
					r := s.record(t, name)
					r.ChainID = ""
					s.writes(t, persist.Put(r))
				}
			}
			d = s.daemon(t, nil)
			got, err := d.snap.GetDiffIDs(ctx, "n1")
			must(t, err)
			if !slices.Equal(got, ids) {
				t.Errorf("diff IDs are %v, want %v", got, ids)
			}
			// Its reference is ours: an image that comes and goes changes nothing.
			image, err := d.store.Get(d.layer(t, "n1").ChainID())
			must(t, err)
			d.untag(t, image)
			d.kept(t, chainID)
			d.close(t)
			if r := s.record(t, "n1"); r.ChainID != chainID {
				t.Errorf("recorded is the layer %q, want %q", r.ChainID, chainID)
			}
			d = s.daemon(t, nil)
			d.ended(t, l)
			d.gone(t, "n1", "n0")
			d.cleared(t)
			d.close(t)
		}
	})
}

// The intent is durable and the process died before the registration.
func TestIntentToRegisterThatCameToNothing(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		d.committed(t, ctx, "base", "")
		d.close(t)
		r := s.record(t, "base")
		r.ChainID = unknownChain()
		s.writes(t, persist.Put(r))
		d = s.daemon(t, nil)
		if got := d.layer(t, "base"); got != nil {
			t.Errorf("it is the layer %v", got)
		}
		d.close(t)
		if r := s.record(t, "base"); r.ChainID != "" {
			t.Errorf("recorded is the layer %q", r.ChainID)
		}
		d = s.daemon(t, nil)
		d.ensure(t, "base")
		d.ended(t, l)
		d.cleared(t)
	})
}

// A layer is gone and its directory is whole: it is the snapshot's again.
func TestDirectoryOfALostLayerIsOursAgain(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for _, again := range []bool{false, true} {
			d := s.daemon(t, nil)
			l, ctx := d.lease(t)
			d.stack(t, ctx, "n", "", 2)
			ids := d.ensure(t, "n1")
			low, high := d.layer(t, "n0"), d.layer(t, "n1")
			d.close(t)
			s.loses(t, idOf(low))
			s.loses(t, idOf(high))
			d = s.daemon(t, nil)
			if got := d.layer(t, "n1"); got != nil {
				t.Errorf("it is the layer %v, which is gone", got)
			}
			must(t, d.snap.Prepare(ctx, "work", "n1"))
			d.holds(t, d.mounts(t, "work"), "n0", "n1")
			if again {
				if got := d.ensure(t, "n1"); !slices.Equal(got, ids) {
					t.Errorf("diff IDs are %v, were %v", got, ids)
				}
			}
			d.ended(t, l)
			d.gone(t, "work", "n1", "n0")
			d.cleared(t)
			d.close(t)
		}
	})
}

// A borrowed layer is gone and with it what stood on it. Everything else stays.
func TestLostBorrowedLayerTakesOnlyItsChildrenAlong(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		lost, healthy := d.image(t, "lost"), d.image(t, "healthy")
		l, ctx := d.lease(t)
		d.added(t, l, idOf(lost[0]), idOf(healthy[0]))
		d.committed(t, ctx, "child", idOf(lost[0]))
		must(t, d.snap.Prepare(ctx, "grandchild", "child"))
		_, err := d.snap.View(ctx, "view-of-lost", idOf(lost[0]))
		must(t, err)
		d.committed(t, ctx, "sound", idOf(healthy[0]))
		must(t, d.snap.Prepare(ctx, "work", "sound"))
		d.committed(t, ctx, "own", "")
		d.untag(t, lost...)
		d.untag(t, healthy...)
		d.close(t)

		s.loses(t, idOf(lost[0]))
		must(t, s.openDriver(t).Remove(cacheID(lost[0])))
		d = s.daemon(t, nil)
		for _, key := range []string{idOf(lost[0]), "child", "grandchild", "view-of-lost"} {
			_, err := d.snap.Stat(ctx, key)
			wantError(t, err, errdefs.ErrNotFound, key)
			_, err = d.snap.Mounts(ctx, key)
			wantError(t, err, errdefs.ErrNotFound, key)
			wantError(t, d.snap.Prepare(ctx, "new", key), errdefs.ErrNotFound, key)
			_, err = d.snap.EnsureLayer(ctx, key)
			wantError(t, err, errdefs.ErrNotFound, key)
		}
		d.there(t, idOf(healthy[0]), "sound", "work", "own")
		d.holds(t, d.mounts(t, "work"), "healthy", "sound")
		s.settled(t, "making-child")
		s.settled(t, "grandchild")

		// The keys are free, and BuildKit may make the snapshots anew.
		lost = d.image(t, "lost")
		d.committed(t, ctx, "child", idOf(lost[0]))
		d.untag(t, lost...)
		d.close(t)
		if records, _ := s.records(t); len(records) != 6 {
			t.Errorf("recorded are %v", records)
		}
		d = s.daemon(t, nil)
		d.there(t, "child", idOf(lost[0]), "work")
		d.ended(t, l)
		d.cleared(t)
	})
}

// dockerd's snapshotter forgets that it borrowed a layer when any of the leases that
// name it ends. What stands on the layer is there still.
func TestForgottenBorrowedLayerIsBorrowedAnew(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low", "high")
		high := idOf(ls[1])
		l, ctx := d.lease(t)
		d.committed(t, ctx, "child", high)
		must(t, d.snap.Prepare(ctx, "sibling", high))
		d.untag(t, ls...)
		d.close(t)
		s.writes(t, persist.Delete(high))

		d = s.daemon(t, nil)
		d.there(t, high, "child", "sibling")
		image, err := d.store.Get(ls[1].ChainID())
		must(t, err)
		d.untag(t, image)
		d.kept(t, high)
		d.holds(t, d.mounts(t, "sibling"), "high", "low")
		d.close(t)
		if r := s.record(t, high); r.Kind != persist.Borrowed {
			t.Errorf("recorded is %+v", r)
		}
		s.writes(t, persist.Delete(high))
		s.loses(t, high)
		must(t, s.openDriver(t).Remove(cacheID(ls[1])))
		d = s.daemon(t, nil)
		for _, key := range []string{high, "child", "sibling"} {
			_, err := d.snap.Stat(ctx, key)
			wantError(t, err, errdefs.ErrNotFound, key)
		}
		d.ended(t, l)
		eventually(t, "only the lower layer is left", func() bool { return len(s.directories(t)) == 1 })
		image, err = d.store.Get(ls[0].ChainID())
		must(t, err)
		d.untag(t, image)
		d.cleared(t)
	})
}

// Opened without its layer store, nothing of what stands on layers is served, and
// nothing is lost.
func TestWithoutTheLayerStoreLayersAreOnlyHidden(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low")
		l, ctx := d.lease(t)
		d.committed(t, ctx, "child", idOf(ls[0]))
		d.committed(t, ctx, "own", "")
		ids := d.ensure(t, "child")
		d.added(t, l, idOf(ls[0]))
		d.close(t)

		p := s.open(t)
		for _, key := range []string{idOf(ls[0]), "child"} {
			_, err := p.snap.Stat(ctx, key)
			wantError(t, err, errdefs.ErrNotFound, key)
		}
		p.there(t, "own")
		p.close(t)

		d = s.daemon(t, nil)
		d.there(t, idOf(ls[0]), "child", "own")
		if got := d.ensure(t, "child"); !slices.Equal(got, ids) {
			t.Errorf("diff IDs are %v, were %v", got, ids)
		}
		d.ended(t, l)
		d.cleared(t)
	})
}

// A layer that the builder's layer stands on has no reference of its own after a
// start but for the child's: nothing may release it before all are taken.
func TestReferencesAreTakenBeforeAnyIsReleased(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		for range 3 { // records are loaded in the order of random keys
			d := s.daemon(t, nil)
			ls := d.image(t, "low", "middle", "high")
			stays, ctx := d.lease(t)
			goes, _ := d.lease(t)
			for _, l := range ls {
				d.added(t, goes, idOf(l))
			}
			d.added(t, stays, idOf(ls[0]))
			must(t, d.snap.Prepare(ctx, "work", idOf(ls[1])))
			d.untag(t, ls...)
			must(t, d.prevLM.Delete(inNamespace(), goes)) // behind our back
			d.close(t)
			d = s.daemon(t, nil)
			d.gone(t, idOf(ls[2]))
			d.released(t, idOf(ls[2]))
			d.considered(t, idOf(ls[0]), idOf(ls[1]))
			d.kept(t, idOf(ls[0]), idOf(ls[1]))
			d.holds(t, d.mounts(t, "work"), "low", "middle")
			d.ended(t, stays)
			d.cleared(t)
			d.close(t)
		}
	})
}

// A lease names a layer and the process died before it borrowed it.
func TestLeasedLayerIsBorrowedAtStart(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low")
		l, _ := d.lease(t)
		must(t, d.prevLM.AddResource(inNamespace(), l, resource(idOf(ls[0]))))
		d.close(t)
		d = s.daemon(t, nil)
		image, err := d.store.Get(ls[0].ChainID())
		must(t, err)
		d.untag(t, image)
		d.kept(t, idOf(ls[0]))
		if info, err := d.snap.Stat(inNamespace(), idOf(ls[0])); err != nil || info.Kind != snapshots.KindCommitted {
			t.Errorf("Stat says %+v, %v", info, err)
		}
		d.ended(t, l)
		d.cleared(t)
	})
}
