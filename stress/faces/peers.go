package faces

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/stress/peer"
	"github.com/graphsnap/graphsnap/stress/target"
)

// Stock is a snapshotter of containerd's own as a target: there are no leases, and
// nobody releases mounts.
type Stock struct {
	peer.Snapshotter
	name string // one of peer.Names
	root string
}

// OpenStock opens the snapshotter of containerd's that peer.Open knows by that name.
func OpenStock(ctx context.Context, name, root string) (*Stock, error) {
	s, err := peer.Open(ctx, name, peer.Options{Root: root})
	if err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", name, root, err)
	}
	return &Stock{s, name, root}, nil
}

// Traits implements target.Target.
func (t *Stock) Traits() target.Traits {
	return target.Traits{Name: t.name, Driver: "its own", Keeps: true}
}

// View implements target.Target.
func (t *Stock) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (target.Mountable, error) {
	return t.Snapshotter.View(ctx, key, parent, opts...)
}

// Mounts implements target.Target.
func (t *Stock) Mounts(ctx context.Context, key string) (target.Mountable, error) {
	return t.Snapshotter.Mounts(ctx, key)
}

// Update implements target.Target.
func (t *Stock) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	if s, ok := t.Snapshotter.(interface {
		Update(context.Context, snapshots.Info, ...string) (snapshots.Info, error)
	}); ok {
		return s.Update(ctx, info, paths...)
	}
	return snapshots.Info{}, errNone
}

var errNone = fmt.Errorf("it has no such call: %w", errdefs.ErrNotImplemented)

// EnsureLayer implements target.Target.
func (t *Stock) EnsureLayer(context.Context, string) ([]string, error) { return nil, errNone }

// Pull implements target.Target.
func (t *Stock) Pull(context.Context, string) (string, error) { return "", errNone }

// Untag implements target.Target.
func (t *Stock) Untag(context.Context, string) error { return errNone }

// CreateLease implements target.Target.
func (t *Stock) CreateLease(context.Context, string) error { return errNone }

// AddLease implements target.Target.
func (t *Stock) AddLease(context.Context, string, string) error { return errNone }

// RemoveLease implements target.Target.
func (t *Stock) RemoveLease(context.Context, string, string) error { return errNone }

// EndLease implements target.Target.
func (t *Stock) EndLease(context.Context, string, bool) error { return errNone }

// Restart implements target.Target.
func (t *Stock) Restart(ctx context.Context) (err error) {
	if err := t.Close(); err != nil {
		return err
	}
	t.Snapshotter, err = peer.Open(ctx, t.name, peer.Options{Root: t.root})
	return err
}
