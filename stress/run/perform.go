package run

import (
	"context"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
)

// perform does an operation, as far as all that it needs is in its input. A handle is
// one of the client's.
func (c *client) perform(ctx context.Context, in model.Input) {
	t := c.r.target
	labels := snapshots.WithLabels(named(in.Labels))
	switch in.Kind {
	case model.Prepare:
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			return o, t.Prepare(ctx, c.key(in.Key), c.key(in.On), labels)
		})
	case model.View:
		c.handed(ctx, in, func(ctx context.Context) (target.Mountable, error) {
			return t.View(ctx, c.key(in.Key), c.key(in.On), labels)
		})
	case model.Commit:
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			return o, t.Commit(ctx, c.key(in.On), c.key(in.Key), labels)
		})
	case model.Stat:
		c.stat(ctx, in.Key)
	case model.Update:
		path := "labels." + labelNames[0]
		if in.Whole {
			path = "labels"
		}
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			info, err := t.Update(ctx, snapshots.Info{Name: c.key(in.Key), Labels: named(in.Labels)}, path)
			if err == nil {
				o.Snapshot, err = c.told(info)
			}
			return o, err
		})
	case model.Usage:
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			_, err = t.Usage(ctx, c.key(in.Key))
			return o, err
		})
	case model.Mounts:
		c.handed(ctx, in, func(ctx context.Context) (target.Mountable, error) {
			return t.Mounts(ctx, c.key(in.Key))
		})
	case model.Mount:
		c.mount(ctx, c.handle(in.Handle))
	case model.Release:
		c.release(ctx, c.handle(in.Handle))
	case model.AddLease:
		_ = c.addLease(ctx, in.Lease, in.Key)
	case model.RemoveLease:
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			return o, t.RemoveLease(ctx, c.lease(in.Lease), c.key(in.Key))
		})
	case model.EndLease:
		_ = c.endLease(ctx, in.Lease, false)
	case model.EnsureLayer:
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			ctx, cancel := context.WithTimeout(ctx, layerPatience)
			defer cancel()
			ids, err := t.EnsureLayer(ctx, c.key(in.Key))
			if err == nil {
				o.Layer, o.Depth = c.layer(ids), byte(len(ids))
			}
			return o, err
		})
	case model.Remove:
		_ = c.remove(ctx, in.Key)
	}
}

// layerPatience is how long a client waits for a layer: while a mount is held that the
// snapshot could be written through there is none, and it may hold that mount itself.
const layerPatience = 100 * time.Millisecond

// layer is the number of the layer that consists of those diff IDs.
func (f *family) layer(diffIDs []string) byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := strings.Join(diffIDs, " ")
	if f.layers[id] == 0 {
		f.layers[id] = byte(len(f.layers) + 1)
	}
	return f.layers[id]
}

// handle returns the one of that number, nil for none.
func (c *client) handle(number int8) *handle {
	if number == model.None {
		return nil
	}
	return c.handles[int(number)%handlesEach]
}

// handed is a call that answers how to mount a snapshot, which the handle keeps, if
// there is one.
func (c *client) handed(ctx context.Context, in model.Input, do func(context.Context) (target.Mountable, error)) {
	var m target.Mountable
	var round uint64
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		round = c.r.round.Load()
		m, err = do(ctx)
		return o, err
	})
	if h := c.handle(in.Handle); err == nil && h != nil {
		h.m, h.round = m, round
	}
}
