package faces

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/adapter/containerd"
	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/target"
)

// Containerd is the face for containerd on an engine without leases.
type Containerd struct {
	*target.Engine
	face snapshots.Snapshotter
}

// OpenContainerd opens the face on driver with the database in root. Where persist is
// set the directories outlive the process.
func OpenContainerd(ctx context.Context, driver target.Driver, root string, persist bool, options ...engine.Option) (*Containerd, error) {
	e, err := target.OpenUnleased(ctx, driver, root, persist, options...)
	if err != nil {
		return nil, err
	}
	return &Containerd{e, containerd.New(e.Opened())}, nil
}

// Traits implements target.Target.
func (t *Containerd) Traits() target.Traits {
	return target.Traits{Name: "containerd", Driver: t.Engine.Traits().Driver, Keeps: true}
}

// handedOut are mounts that nobody releases.
type handedOut []mount.Mount

func (m handedOut) Mount() ([]mount.Mount, func() error, error) {
	return m, func() error { return nil }, nil
}

// Prepare implements target.Target.
func (t *Containerd) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	_, err := t.face.Prepare(ctx, key, parent, opts...)
	return err
}

// View implements target.Target.
func (t *Containerd) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (target.Mountable, error) {
	m, err := t.face.View(ctx, key, parent, opts...)
	return handedOut(m), err
}

// Commit implements target.Target.
func (t *Containerd) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return t.face.Commit(ctx, name, key, opts...)
}

// Stat implements target.Target.
func (t *Containerd) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return t.face.Stat(ctx, key)
}

// Update implements target.Target.
func (t *Containerd) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	return t.face.Update(ctx, info, paths...)
}

// Usage implements target.Target.
func (t *Containerd) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return t.face.Usage(ctx, key)
}

// Walk implements target.Target.
func (t *Containerd) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return t.face.Walk(ctx, fn, filters...)
}

// Mounts implements target.Target.
func (t *Containerd) Mounts(ctx context.Context, key string) (target.Mountable, error) {
	m, err := t.face.Mounts(ctx, key)
	return handedOut(m), err
}

// Remove implements target.Target.
func (t *Containerd) Remove(ctx context.Context, key string) error { return t.face.Remove(ctx, key) }

// Restart implements target.Target.
func (t *Containerd) Restart(ctx context.Context) error {
	if err := t.Engine.Restart(ctx); err != nil {
		return err
	}
	t.face = containerd.New(t.Opened())
	return nil
}

// Close implements target.Target.
func (t *Containerd) Close() error { return t.face.Close() }
