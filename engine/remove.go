package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// Remove makes the snapshot key go and ends the hold that Keep took of it. It
// returns when the removal is durable: key is free then and may be used anew. The
// directory is deleted in the background, see Pending, where other holds are left
// when the last of them has ended; until then the parent counts it as a child.
//
// Removal by call and removal for want of a lease exclude each other: an engine
// with Config.Leases refuses.
//
// Errors: ErrNotFound, ErrFailedPrecondition while there are snapshots on top of it or
// one is being made, whatever becomes of that one, and where leases decide, ErrInvalidArgument for a key that cannot be,
// ErrUnavailable after Close or where the database is, the cause of ctx. After an
// error nothing has changed, unless the error is persist.ErrIndeterminate.
func (e *Engine) Remove(ctx context.Context, key string) error {
	if err := e.remove(ctx, key, nil); err != nil {
		return fmt.Errorf("remove %q: %w", abridged(key), err)
	}
	return nil
}

// Discard is Remove of what m is of. Where its key does not name that any more,
// since somebody removed or committed it, the error is ErrNotFound, and what the key
// names since stays.
func (m *Mountable) Discard(ctx context.Context) error {
	if err := m.e.remove(ctx, m.key, m.body); err != nil {
		return fmt.Errorf("discard %q: %w", abridged(m.key), err)
	}
	return nil
}

// remove removes what key names, or only where that is the snapshot of only.
func (e *Engine) remove(ctx context.Context, key string, only *body) error {
	if e.source != nil {
		return fmt.Errorf("a snapshot goes when no lease names it any more: %w", errdefs.ErrFailedPrecondition)
	}
	if err := checkKey("key", key); err != nil {
		return err
	}
	if !e.gate.Enter() {
		return errClosed
	}
	defer e.gate.Leave()
	b, err := actors.Ask(ctx, e.keys, key, &discard{question: question[*body]{e: e}, ctx: ctx, only: only})
	if err != nil {
		return err
	}
	if err := b.kept.end(); err != nil {
		log.G(e.ctx).WithError(err).WithField("key", key).Warn("the mount of a removed snapshot is still there")
	}
	e.bury(b, 0)
	return nil
}

// discard makes the snapshot go, and the intent to delete its directory appear.
type discard struct {
	question[*body] // as it was in the end
	ctx             context.Context
	only            *body // the snapshot that is meant, nil for whichever there is
}

func (m *discard) Handle(o *owner) {
	s := *o.Value().plain()
	b := s.standing() // a lost one too: there is no other way to be rid of it
	switch {
	case b == nil, m.only != nil && m.only.serial != b.serial:
		m.Fail(errNotFound(o.Key()))
		return
	case s.children > 0:
		m.Fail(fmt.Errorf("%d snapshots stand on it: %w", s.children, errdefs.ErrFailedPrecondition))
		return
	}
	w := persist.Delete(o.Key())
	if b.owned() {
		w = persist.Remove(o.Key(), b.graphID)
	}
	if err := m.e.db.Write(m.ctx, w); err != nil {
		m.Fail(err)
		return
	}
	if b.owned() {
		// Before anybody looks whether it is held: who mounts it from now on finds
		// out and lets go.
		b.removal.decision.Store(durable)
	}
	s.vanish()
	m.e.publish(o, s)
	m.Answer(b)
}

// bury hands the directory of a snapshot whose removal is durable to those who
// delete, once nobody holds it. Nobody else seals the directory: there is one
// removal of a snapshot. What Close cuts short is left to the next Open.
//
// The parent is let go of at the end only. What is mounted of a directory shows
// that of the parent too.
func (e *Engine) bury(b *body, failures int) {
	if b.owned() {
		again := func(failures int) {
			if e.gate.Enter() {
				go func() {
					defer e.gate.Leave()
					e.bury(b, failures)
				}()
			}
		}
		err := e.mounts.Seal(e.ctx, b.graphID, func() { again(0) })
		switch {
		case err == nil:
		case errdefs.IsFailedPrecondition(err), e.ctx.Err() != nil:
			return
		default:
			log.G(e.ctx).WithError(err).WithField("graphID", b.graphID).Warn("the directory of a removed snapshot is still mounted")
			time.AfterFunc(backoff(failures+1), func() { again(failures + 1) })
			return
		}
	}
	if b.pins() {
		_, _ = actors.AskOwed(e.keys, b.parent, &unpin{question[done]{e: e}})
	}
	switch {
	case b.layer != nil:
		e.dispose(b)
	case b.owned():
		e.reaper.retry(b.graphID)
	}
}

// Cleanup returns when the directories of removed snapshots have been deleted, but for
// those that are held. Where none is left but such as the driver failed to delete,
// which is tried again and again in the background, the error is ErrUnavailable, as
// it is after Close; else that of ctx.
func (e *Engine) Cleanup(ctx context.Context) error {
	if !e.gate.Enter() {
		return fmt.Errorf("clean up: %w", errClosed)
	}
	defer e.gate.Leave()
	ctx, cancel := e.untilClose(ctx)
	defer cancel(nil)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		p := e.Pending()
		switch {
		case p.Directories == 0:
			return nil
		case p.Directories == p.Failed:
			return fmt.Errorf("clean up: %d directories could not be deleted yet: %w", p.Failed, errdefs.ErrUnavailable)
		case !sleep(ctx, pause):
			return fmt.Errorf("clean up: %d directories are still to be deleted: %w", p.Directories, context.Cause(ctx))
		}
	}
}

// Keep is Mount for faces on which nobody releases: the hold ends with Remove of the
// snapshot, under whichever name, or with Close. All calls for one snapshot share
// it. Whoever uses it has ended writing when the snapshot is committed, so it does
// not count among those that could be written through.
func (m *Mountable) Keep() ([]mount.Mount, error) {
	if k := m.body.kept.current.Load(); k != nil && k != ended {
		return k.mounts, nil
	}
	mounts, release, err := m.mount(false)
	if err != nil {
		return nil, err
	}
	mine := &kept{mounts: mounts, release: release}
	k := m.body.kept.take(mine)
	if k != mine {
		_ = release()
	}
	if k == ended {
		return nil, fmt.Errorf("mount: %w", errNotFound(m.key))
	}
	return k.mounts, nil
}

// keeping is the hold of a snapshot that ends with it, once one was taken.
type keeping struct{ current atomic.Pointer[kept] }

type kept struct {
	mounts  []mount.Mount
	release func() error
}

// ended stands in the place of the hold after the removal.
var ended = new(kept)

// take makes mine the hold where there is none, and returns the one that there is then.
func (k *keeping) take(mine *kept) *kept {
	if k.current.CompareAndSwap(nil, mine) {
		return mine
	}
	return k.current.Load() // which does not become nil again
}

// end ends the hold, if there is one, and makes later ones end at once.
func (k *keeping) end() error {
	if k == nil { // of a layer of the layer store, which is mounted through views
		return nil
	}
	if old := k.current.Swap(ended); old != nil && old != ended {
		return old.release()
	}
	return nil
}
