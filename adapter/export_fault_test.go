package adapter

// Exports that are given up, fail or are overtaken by Close: nothing is left of them,
// and the next one goes on.

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

// Of two who want a layer one gives up: the other gets it.
func TestEnsureLayerOutlivesTheCallerThatGivesUp(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		d.committed(t, ctx, "base", "")
		slow := d.watch.stop(t, "Diff")
		brief, giveUp := context.WithCancel(ctx)
		first := during(func() error { _, err := d.snap.EnsureLayer(brief, "base"); return err })
		<-slow.reached
		second := during(func() error { _, err := d.snap.EnsureLayer(ctx, "base"); return err })
		giveUp()
		wantError(t, <-first, context.Canceled, "base")
		slow.goOn()
		must(t, <-second)
		d.ended(t, l)
		d.cleared(t)
	})
}

func TestEnsureLayerEndsWithItsContext(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		names := d.stack(t, ctx, "n", "", 3)
		for _, held := range names {
			slow := d.watch.stop(t, "Diff making-"+held)
			brief, giveUp := context.WithCancelCause(ctx)
			result := during(func() error { _, err := d.snap.EnsureLayer(brief, names[2]); return err })
			<-slow.reached
			cause := errors.New("the client went away")
			giveUp(cause)
			wantError(t, <-result, cause, names[2])
			// Work on a layer ends that on its parent's, which learns it when it is over.
			eventually(t, "only what is held up is under way", func() bool { return len(entries(t, s.path("tar-split"))) == 1 })
			slow.goOn()
			eventually(t, "temporary files are gone", func() bool { return len(entries(t, s.path("tar-split"))) == 0 })
			if got := d.layer(t, held); got != nil {
				t.Errorf("%q became the layer %v though nobody waited", held, got.ChainID())
			}
		}
		ended, giveUp := context.WithCancel(ctx)
		giveUp()
		_, err := d.snap.EnsureLayer(ended, names[2])
		wantError(t, err, context.Canceled, names[2])

		if ids := d.ensure(t, names[2]); len(ids) != 3 {
			t.Errorf("diff IDs are %v", ids)
		}
		d.ended(t, l)
		d.cleared(t)
	})
}

// What was made before a failure is not made again.
func TestEnsureLayerGoesOnAfterAFailure(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil, engine.WithScanParallelism(2))
		l, ctx := d.lease(t)
		names := d.stack(t, ctx, "n", "", 5)
		top := names[4]
		broken := errors.New("the disk cannot be read")
		d.watch.fail("Diff making-"+top, broken)
		slow := d.watch.stop(t, "Diff making-"+top)
		result := during(func() error { _, err := d.snap.EnsureLayer(ctx, top); return err })
		<-slow.reached
		eventually(t, "the lower layers are there", func() bool { return d.layer(t, names[3]) != nil })
		slow.goOn()
		wantError(t, <-result, broken, top)
		// The work on a layer that nobody waits for any more ends on its own.
		eventually(t, "no temporary files are left", func() bool { return len(entries(t, s.path("tar-split"))) == 0 })
		_, err := d.snap.EnsureLayer(ctx, top)
		wantError(t, err, broken, top)
		d.watch.fail("Diff making-"+top, nil)
		if ids := d.ensure(t, top); len(ids) != 5 {
			t.Errorf("diff IDs are %v", ids)
		}
		for _, name := range names[:4] {
			if n := d.diffs(name); n != 1 {
				t.Errorf("%q was read %d times", name, n)
			}
		}
		d.ended(t, l)
		d.cleared(t)
	})
}

func TestCloseEndsExports(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		_, ctx := d.lease(t)
		names := d.stack(t, ctx, "n", "", 3)
		slow := d.watch.stop(t, "Diff")
		result := during(func() error { _, err := d.snap.EnsureLayer(ctx, names[2]); return err })
		<-slow.reached
		closed := during(func() error { d.close(t); return nil })
		eventually(t, "closing began", func() bool {
			_, err := d.snap.Stat(ctx, names[0])
			return errdefs.IsUnavailable(err)
		})
		slow.goOn()
		wantError(t, <-result, errdefs.ErrUnavailable, names[2])
		must(t, <-closed)
		_, err := d.snap.EnsureLayer(ctx, names[2])
		wantError(t, err, errdefs.ErrUnavailable, names[2])

		d = s.daemon(t, nil)
		if ids := d.ensure(t, names[2]); len(ids) != 3 {
			t.Errorf("diff IDs are %v", ids)
		}
	})
}
