package run

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/workload"
)

func (f *family) lease(l int8) string { return fmt.Sprintf("%s-l%d", f.name, l) }

// newLease answers false where there were enough.
func (f *family) newLease(ctx context.Context) (int8, bool) {
	// In this order: who waits for a mutex keeps the clock of a replay from going on.
	if f.r.enter(ctx) != nil {
		return 0, false
	}
	defer f.r.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	l := int8(f.leases.Load())
	if l == model.MaxLeases-1 { // one is kept for the end
		return 0, false
	}
	if !f.createLease(ctx, l) {
		return 0, false
	}
	f.leases.Store(int32(l) + 1) // not before: another client may end it
	return l, true
}

func (f *family) createLease(ctx context.Context, l int8) bool {
	err := f.r.target.CreateLease(ctx, f.lease(l))
	return err == nil || errdefs.IsAlreadyExists(err) // which it did before the target died
}

// someLease is one that there is, or was.
func (f *family) someLease(c *workload.Chooser) int8 {
	if n := f.leases.Load(); n > 0 {
		return int8(c.IntN(int(n)))
	}
	return model.None
}

// lend puts a key that is about to be made into a lease, at times. What BuildKit
// does in two calls the face does in one where the context names a lease; here it is
// two operations, so that each of them happens at one instant. The layer of an image is
// there without, and is to be nobody's at times.
func (c *client) lend(ctx context.Context, k int8) {
	if image, ok := c.image(); ok && k == image {
		return
	}
	if !c.r.target.Traits().Leased || !c.Chance(c.w.Leased) {
		return
	}
	if c.leases.Load() == 0 || c.Chance(0.1) {
		c.newLease(ctx)
	}
	if l := c.someLease(c.Chooser); l != model.None {
		c.addLease(ctx, l, k)
	}
}

func (c *client) addLease(ctx context.Context, l, k int8) error {
	in := model.Input{Kind: model.AddLease, Key: k, On: model.None, Lease: l, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		o.Beside = c.r.config.Faults.Any() || c.r.config.Kill > 0 || c.r.config.Fill != nil
		lapsed := c.lapses[l].watch()
		err = c.r.target.AddLease(ctx, c.lease(l), c.key(k))
		o.Lapsed = lapsed()
		return o, err
	})
	return err
}

func (c *client) endLease(ctx context.Context, l int8, expire bool) error {
	if l == model.None {
		return nil
	}
	in := model.Input{Kind: model.EndLease, Key: model.None, On: model.None, Lease: l, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		err = c.r.target.EndLease(ctx, c.lease(l), expire)
		if errdefs.IsNotFound(err) {
			err = nil // it ended before
		}
		return o, err
	})
	return err
}
