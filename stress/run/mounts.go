package run

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
)

// handle is what Mounts or View returned to a client.
type handle struct {
	number   int8
	round    uint64 // of the target: a restart ends all handles
	m        target.Mountable
	releases []func() error
	last     func() error
}

// free returns a handle with nothing mounted, nil for none.
func (c *client) free() *handle {
	for _, h := range c.handles {
		if len(h.releases) == 0 {
			return h
		}
	}
	return nil
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

func (c *client) mount(ctx context.Context, h *handle) {
	if h.m == nil || len(h.releases) >= 3 {
		return
	}
	in := model.Input{Kind: model.Mount, Key: model.None, On: model.None, Lease: model.None, Handle: h.number}
	if c.r.enter(ctx) != nil {
		return
	}
	stale := h.round != c.r.round.Load()
	c.r.leave()
	if stale {
		h.m, h.releases, h.last = nil, nil, nil
		return
	}
	var release func() error
	round := h.round
	_, err := c.call(ctx, in, func(context.Context) (o model.Output, err error) {
		if round != c.r.round.Load() { // a restart came in between
			return o, errRestarted
		}
		var how []mount.Mount
		how, release, err = h.m.Mount()
		if err == nil {
			o.Writable = slices.ContainsFunc(how, writable)
		}
		return o, err
	})
	if err == nil {
		h.releases = append(h.releases, release)
	}
}

// writable tells whether what is mounted so can be written through.
func writable(m mount.Mount) bool {
	if m.Type == "overlay" {
		return slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "upperdir=") })
	}
	return !m.ReadOnly()
}

var errRestarted = fmt.Errorf("the target was restarted: %w", errdefs.ErrUnavailable)

func (c *client) release(ctx context.Context, h *handle) {
	if h.last != nil && c.Chance(0.3) {
		_ = h.last() // releasing twice releases once
	}
	if len(h.releases) == 0 {
		return
	}
	release := h.releases[0]
	h.releases, h.last = h.releases[1:], release
	in := model.Input{Kind: model.Release, Key: model.None, On: model.None, Lease: model.None, Handle: h.number}
	round := h.round
	c.call(ctx, in, func(context.Context) (o model.Output, err error) {
		if round == c.r.round.Load() {
			if err := release(); err != nil && !c.r.config.Faults.Any() && !c.r.config.Rough {
				return o, err
			}
		}
		return o, nil // the hold has ended, whatever the driver says of the mount
	})
}

// letGo ends the mounts of the client.
func (c *client) letGo(ctx context.Context) {
	for _, h := range c.handles {
		for len(h.releases) > 0 {
			c.release(ctx, h)
		}
	}
}
