package run

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
)

// step does one operation of the workload.
func (c *client) step(ctx context.Context) {
	in := model.Input{On: model.None, Lease: model.None, Handle: model.None}
	name := c.Operation()
	if !c.r.target.Traits().Leased {
		switch name {
		case "add-lease":
			return
		case "remove-lease", "end-lease", "expire":
			name = "remove" // what makes snapshots go
		}
	}
	switch name {
	case "prepare", "view":
		if in.Kind = model.Prepare; name == "view" {
			in.Kind = model.View
		}
		in.Key = c.Key()
		in.On = c.Parent(in.Key)
		c.lend(ctx, in.Key)
		in.Labels = c.labels()
		if h := c.free(); name == "view" && h != nil {
			in.Handle = h.number
		}
	case "commit":
		in.Kind, in.Key = model.Commit, c.Key()
		in.On = c.Name(in.Key)
		c.lend(ctx, in.On)
		in.Labels = c.labels()
	case "stat":
		in.Kind, in.Key = model.Stat, c.Key()
	case "update":
		in.Kind, in.Key, in.Whole = model.Update, c.Key(), c.Chance(0.3)
		in.Labels = c.labels()
	case "usage":
		in.Kind, in.Key = model.Usage, c.Key()
	case "walk":
		// All of them would be many operations at once, which are slow to check.
		c.walk(ctx, c.Key(), c.Key(), c.Key())
		return
	case "mounts":
		h := c.free()
		if h == nil {
			return
		}
		in.Kind, in.Key, in.Handle = model.Mounts, c.Key(), h.number
	case "mount":
		in.Kind, in.Handle = model.Mount, c.handles[c.IntN(handlesEach)].number
	case "release":
		in.Kind, in.Handle = model.Release, c.handles[c.IntN(handlesEach)].number
	case "add-lease", "remove-lease":
		if in.Kind = model.AddLease; name == "remove-lease" {
			in.Kind = model.RemoveLease
		}
		if in.Lease = c.someLease(c.Chooser); in.Lease == model.None || c.Chance(0.2) {
			l, ok := c.newLease(ctx)
			if !ok {
				return
			}
			in.Lease = l
		}
		in.Key = c.Key()
	case "end-lease", "expire":
		_ = c.endLease(ctx, c.someLease(c.Chooser), name == "expire")
		return
	case "remove":
		in.Kind, in.Key = model.Remove, c.Key()
	case "untag":
		if _, ok := c.image(); ok {
			_ = c.untag(ctx)
		}
		return
	case "ensure-layer":
		if !c.r.target.Traits().Layers {
			return
		}
		in.Kind, in.Key = model.EnsureLayer, c.Key()
	}
	c.perform(ctx, in)
}

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
		if in.Walk {
			c.walk(ctx, in.Key)
		} else {
			c.stat(ctx, in.Key)
		}
	case model.Update:
		path := "labels." + labelNames[0]
		if in.Whole {
			path = "labels"
		}
		c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
			used := c.watch(in.Key)
			info, err := t.Update(ctx, snapshots.Info{Name: c.key(in.Key), Labels: named(in.Labels)}, path)
			o.Beside = used() || c.r.config.Faults.Any()
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

// untag has the image let go of its layer.
func (c *client) untag(ctx context.Context) error {
	k, _ := c.image()
	in := model.Input{Kind: model.Untag, Key: k, On: model.None, Lease: model.None, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		return o, c.r.target.Untag(ctx, c.name)
	})
	return err
}

func (c *client) remove(ctx context.Context, k int8) error {
	in := model.Input{Kind: model.Remove, Key: k, On: model.None, Lease: model.None, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		used := c.watch(k)
		err = c.r.target.Remove(ctx, c.key(k))
		o.Beside = used() || c.r.config.Faults.Any() // the last mount may not end at once
		return o, err
	})
	return err
}
