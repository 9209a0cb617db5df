package run

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/model"
)

// Labels that operations set: the second is inherited by a commit.
var labelNames = [2]string{"stress", "containerd.io/snapshot/stress"}

func (c *client) labels() [2]byte { return [2]byte{byte(c.IntN(200)), byte(c.IntN(3))} }

func named(set [2]byte) map[string]string {
	m := map[string]string{}
	for i, v := range set {
		if v != 0 {
			m[labelNames[i]] = fmt.Sprint(v)
		}
	}
	return m
}

// told is what a Stat or Update answered.
func (c *client) told(info snapshots.Info) (model.Snapshot, error) {
	s := model.Snapshot{Parent: model.None}
	switch info.Kind {
	case snapshots.KindActive:
		s.Kind = model.Active
	case snapshots.KindView:
		s.Kind = model.ViewOf
	case snapshots.KindCommitted:
		s.Kind = model.Committed
	}
	if info.Parent != "" {
		k, ok := c.family.number(info.Parent)
		if !ok {
			return s, fmt.Errorf("%q has the parent %q", info.Name, info.Parent)
		}
		s.Parent = k
	}
	for i, name := range labelNames {
		fmt.Sscan(info.Labels[name], &s.Labels[i])
	}
	return s, nil
}

func (c *client) stat(ctx context.Context, k int8) {
	in := model.Input{Kind: model.Stat, Key: k, On: model.None, Lease: model.None, Handle: model.None}
	c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		info, err := c.r.target.Stat(ctx, c.key(k))
		if err == nil {
			o.Snapshot, err = c.told(info)
		}
		return o, err
	})
}

// walk is a read of each of the keys, which was true at some moment of the walk.
func (c *client) walk(ctx context.Context, keys ...int8) {
	if c.r.enter(ctx) != nil {
		return
	}
	defer c.r.leave()
	found := map[int8]model.Snapshot{}
	used := func() bool { return false }
	if k, ok := c.image(); ok {
		used = c.watch(k)
	}
	end := c.r.recorder.Begin(c.number, "walk")
	began := c.r.clock.Now()
	var wrong error
	err := c.r.target.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		k, ok := c.family.number(info.Name)
		if !ok {
			return nil
		}
		if _, twice := found[k]; twice {
			wrong = fmt.Errorf("a walk passed %q twice", info.Name)
		}
		s, err := c.told(info)
		found[k] = s
		return err
	})
	over := c.r.clock.Now()
	beside := used() || c.r.config.Faults.Any()
	class := model.OK.String()
	if err != nil {
		class = "fault"
	}
	end(class, err != nil)
	if wrong != nil {
		c.r.violation(c.name, wrong.Error(), nil, "")
	}
	if err != nil || !c.r.config.Check {
		return
	}
	for i, k := range keys {
		o := history.Operation{Client: c.number%c.w.Group + (3+i)*c.w.Group, Call: began, Return: over,
			Input: model.Input{Kind: model.Stat, Walk: true, Key: k, On: model.None, Lease: model.None, Handle: model.None}}
		s, ok := found[k]
		if o.Output.Snapshot = s; !ok {
			o.Output = model.Output{Class: model.NotFound}
		}
		o.Output.Beside = beside
		c.history.Add(o)
	}
}
