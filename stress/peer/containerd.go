package peer

import (
	"context"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
)

// containerd is containerd's overlay snapshotter as it comes.
type containerd struct {
	snapshots.Snapshotter
	root string
}

func openContainerd(o Options) (Snapshotter, error) {
	s, err := overlay.NewSnapshotter(o.Root)
	if err != nil {
		return nil, err
	}
	return &containerd{s, o.Root}, nil
}

func (c *containerd) Database() string { return filepath.Join(c.root, "metadata.db") }

func (c *containerd) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	_, err := c.Snapshotter.Prepare(ctx, key, parent, opts...)
	return err
}

func (c *containerd) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error) {
	m, err := c.Snapshotter.View(ctx, key, parent, opts...)
	return mounts(m), err
}

func (c *containerd) Mounts(ctx context.Context, key string) (Mountable, error) {
	m, err := c.Snapshotter.Mounts(ctx, key)
	return mounts(m), err
}

func (c *containerd) Keep(context.Context, string) error { return nil }

// mounts is the Mountable of a snapshotter that mounts nothing itself.
type mounts []mount.Mount

func (m mounts) Mount() ([]mount.Mount, func() error, error) {
	return m, func() error { return nil }, nil
}

// metaStore does what containerd's snapshotters do to their database, and nothing
// else. What it knows cannot be mounted.
type metaStore struct {
	*storage.MetaStore
	path string
}

func openMetaStore(o Options) (Snapshotter, error) {
	path := filepath.Join(o.Root, "metadata.db")
	ms, err := storage.NewMetaStore(path)
	if err != nil {
		return nil, err
	}
	return &metaStore{ms, path}, nil
}

func (m *metaStore) Database() string { return m.path }

func (m *metaStore) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	return m.create(ctx, snapshots.KindActive, key, parent, opts)
}

func (m *metaStore) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error) {
	return mounts(nil), m.create(ctx, snapshots.KindView, key, parent, opts)
}

func (m *metaStore) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) error {
	return m.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		return err
	})
}

func (m *metaStore) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return m.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CommitActive(ctx, key, name, snapshots.Usage{}, opts...)
		return err
	})
}

func (m *metaStore) Mounts(ctx context.Context, key string) (Mountable, error) {
	return mounts(nil), m.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, err := storage.GetSnapshot(ctx, key)
		return err
	})
}

func (m *metaStore) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = m.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

func (m *metaStore) Usage(ctx context.Context, key string) (u snapshots.Usage, err error) {
	err = m.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, _, u, err = storage.GetInfo(ctx, key)
		return err
	})
	return u, err
}

func (m *metaStore) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return m.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, filters...)
	})
}

func (m *metaStore) Remove(ctx context.Context, key string) error {
	return m.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, _, err := storage.Remove(ctx, key)
		return err
	})
}

func (m *metaStore) Keep(context.Context, string) error { return nil }
