package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// reaper removes snapshots that no lease names any more. What makes a snapshot
// unwanted (a lease ended, the last child or hold went) puts its key into the
// hand-over; the reaper's goroutine then lists all leases and removes what the
// listing leaves unnamed, as a saga of its own.
//
// A listing speaks about a snapshot only if it began after the last event of its
// leases and after its creation was answered. So a lease that is added while the
// reaper works revokes the removal: it goes through the key's owner, which the
// removal asks last.
type reaper struct {
	e        *Engine
	unwanted *actors.Handover
	graceful time.Time   // until then snapshots from before Open stay
	failed   atomic.Bool // a removal, which is to be tried again
}

// consider hands key to the reaper. It never blocks.
func (r *reaper) consider(key string) {
	if r.e.source != nil {
		r.unwanted.Put(key)
	}
}

func (r *reaper) run(ctx context.Context) {
	sweep := time.NewTimer(r.e.options.sweep)
	defer sweep.Stop()
	grace := time.NewTimer(time.Until(r.graceful))
	defer grace.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	failures, failed := 0, 0
	waiting := false // until a removal that failed is tried again
	for {
		var keys []string
		retried := false
		select {
		case <-ctx.Done():
			return
		case <-r.unwanted.Ready():
			keys = r.candidates(r.unwanted.Take())
			if len(keys) == 0 {
				continue
			}
		case <-grace.C:
			keys = r.allUnwanted()
		case <-again.C:
			keys, retried, waiting = r.allUnwanted(), true, false
		case <-sweep.C:
		}
		began := time.Now()
		l, err := r.e.list(ctx)
		took := time.Since(began)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			failures++
			log.G(ctx).WithError(err).Warn("no snapshot is removed for want of a lease, since not all leases could be listed")
			for _, key := range keys {
				r.unwanted.Put(key)
			}
			if !sleep(ctx, backoff(failures)) {
				return
			}
			sweep.Reset(r.e.options.sweep)
			continue
		}
		failures = 0
		r.e.reconcile(l)
		r.e.sweepAliases(l)
		r.reap(ctx, l, keys)
		switch {
		case !r.failed.Swap(false):
			if retried {
				failed = 0
			}
		case !waiting:
			failed++
			again.Reset(backoff(failed))
			waiting = true
		}
		// Listing costs the lease manager a read for every lease. However many
		// leases there are, and however fast keys come, it may take a tenth of
		// the time at most.
		sweep.Reset(max(r.e.options.sweep, 100*took))
		if !sleep(ctx, 9*took) {
			return
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// candidates returns those of keys that could go now, so that nothing is listed
// where there are none.
func (r *reaper) candidates(keys []string) []string {
	return slices.DeleteFunc(keys, func(key string) bool { return !r.candidate(key) })
}

func (r *reaper) candidate(key string) bool {
	s := r.e.keys.Load(key).plain()
	if !s.unwanted() {
		return false
	}
	if s.birth != nil && s.birth.answered.Load() == 0 {
		return false // considered again when it is
	}
	if s.body.serial > r.e.loaded {
		return true
	}
	if s.event == 0 && r.e.keepLoaded.Load() {
		return false
	}
	return !time.Now().Before(r.graceful)
}

func (r *reaper) allUnwanted() (keys []string) {
	r.e.keys.Range(func(key string, _ *state) bool {
		if r.candidate(key) {
			keys = append(keys, key)
		}
		return true
	})
	return keys
}

// judge draws from a listing whether snapshots from before Open may be removed at
// all. Where there are some and not a single lease, the leases are more likely
// lost than ended.
func (r *reaper) judge(ctx context.Context, l *listing) {
	switch {
	case l.leases > 0:
		r.e.anyLease.Store(true)
	case r.e.loaded > 0 && !r.e.anyLease.Load() && !r.e.keepLoaded.Swap(true):
		log.G(ctx).Warn("there are snapshots but not a single lease: none of them is removed until a lease names it and ends")
	}
}

// reap removes what of keys the listing leaves unnamed, and then, with the same
// listing, the parents that this makes unwanted.
func (r *reaper) reap(ctx context.Context, l *listing, keys []string) {
	r.judge(ctx, l)
	r.sweepEmpty(l)
	for len(keys) > 0 && ctx.Err() == nil {
		parents := make([]string, len(keys))
		var g errgroup.Group
		g.SetLimit(r.e.options.removals)
		for i, key := range keys {
			if !r.candidate(key) {
				continue
			}
			g.Go(func() error {
				parent, err := r.e.removeUnwanted(ctx, l, key)
				// Such as a full disk, or a driver that could not unmount, whatever the
				// class of its error. Where the database refuses all writes nothing works
				// until it is opened again.
				if err != nil && r.e.db.Err() == nil {
					r.failed.Store(true)
				}
				if err != nil && ctx.Err() == nil && !errdefs.IsUnavailable(err) {
					log.G(ctx).WithError(err).Warn("removal failed")
				}
				parents[i] = parent
				return nil
			})
		}
		_ = g.Wait()
		slices.Sort(parents) // one of several children is in there several times
		keys = slices.DeleteFunc(slices.Compact(parents), func(key string) bool { return key == "" })
	}
}

// removeUnwanted is the saga that removes a snapshot: seal the directory, which
// nobody may hold, let the owner make the removal durable, delete the directory.
// It answers the parent that has one child less now.
func (e *Engine) removeUnwanted(ctx context.Context, l *listing, key string) (parent string, err error) {
	if !e.gate.Enter() {
		return "", errClosed
	}
	defer e.gate.Leave()
	s := e.keys.Load(key).plain()
	b := s.standing()
	switch {
	case b == nil || !s.unwanted() || s.doubtful:
		return "", nil
	case !s.before(l.clock):
		e.reaper.consider(key)
		return "", nil
	case len(l.named[key]) > 0:
		return "", nil // reconcile has told the owner
	}
	// Once the removal is durable nothing revokes it, and only the driver's call is
	// missing: so what that call may have to wait for comes first.
	if err := e.removals.Acquire(ctx, 1); err != nil {
		return "", context.Cause(ctx)
	}
	defer e.removals.Release(1)
	if b.owned() {
		err := e.mounts.Seal(ctx, b.graphID, func() { e.reaper.consider(key) })
		if errdefs.IsFailedPrecondition(err) {
			return "", nil // held: considered again when the last hold is gone
		}
		if err != nil {
			return "", fmt.Errorf("remove %q: %w", key, err)
		}
	}
	removed, sealed := false, b
	defer func() {
		if !removed && sealed.owned() {
			e.mounts.Unseal(sealed.graphID)
		}
	}()
	b, err = actors.Ask(ctx, e.keys, key, &remove{question: question[*body]{e: e}, body: b, clock: l.clock})
	switch {
	case errors.Is(err, errRevoked):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("remove %q: %w", key, err)
	}
	removed = true
	if b.pins() {
		if _, err := actors.AskOwed(e.keys, b.parent, &unpin{question[done]{e: e}}); err == nil {
			parent = b.parent
		}
	}
	e.dispose(b)
	return parent, nil
}

var errRevoked = errors.New("the snapshot is wanted again")

// before tells whether a listing that began at clock may remove the snapshot.
func (s *state) before(clock uint64) bool {
	if s.event >= clock {
		return false
	}
	if s.birth == nil {
		return true
	}
	answered := s.birth.answered.Load()
	return answered != 0 && answered < clock
}

// remove makes the snapshot go, if nothing has come to want it meanwhile.
type remove struct {
	question[*body] // as it was in the end
	body            *body
	clock           uint64 // of the listing that left it unnamed
}

func (m *remove) Handle(o *owner) {
	s := *o.Value().plain()
	if b := s.standing(); b == nil || b.serial != m.body.serial || !s.unwanted() || !s.before(m.clock) {
		m.Fail(errRevoked)
		return
	}
	w := persist.Delete(o.Key())
	switch {
	case m.body.stray:
		w = persist.Discard(o.Key(), m.body.graphID)
	case m.body.owned():
		w = persist.Remove(o.Key(), m.body.graphID)
	}
	gone := s.body
	err := m.e.db.Write(context.WithoutCancel(m.e.ctx), w)
	if errors.Is(err, persist.ErrIndeterminate) {
		// A lease that came now, or what somebody writes into the directory, would be
		// lost if the next start finds the removal on disk.
		if s.doubtful = true; gone.owned() {
			gone.removal.decision.Store(doubtful)
		}
		m.e.publish(o, s)
	}
	if err != nil {
		m.Fail(err)
		return
	}
	if gone.owned() {
		gone.removal.decision.Store(durable)
	}
	s.vanish()
	m.e.publish(o, s)
	m.Answer(gone)
}
