package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

// New returns the snapshotter that e is. Close of it closes e. It is a
// snapshots.Cleaner too.
//
// e must have been opened without engine.Config.Leases, else Remove is refused with
// ErrFailedPrecondition.
func New(e *engine.Engine) snapshots.Snapshotter { return &snapshotter{engine: e} }

type snapshotter struct{ engine *engine.Engine }

func (s *snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return s.engine.Stat(ctx, key)
}

func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return s.engine.Update(ctx, info, fieldpaths...)
}

func (s *snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return s.engine.Usage(ctx, key)
}

func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.engine.Walk(ctx, fn, filters...)
}

// Mounts returns the same mounts until the snapshot is removed, a Commit included.
func (s *snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	m, err := s.engine.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return m.Keep()
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := refuseMapping(key, opts); err != nil {
		return nil, err
	}
	if err := s.engine.Prepare(ctx, key, parent, opts...); err != nil {
		return nil, err
	}
	m, err := s.engine.Mounts(context.WithoutCancel(ctx), key)
	if err != nil {
		return nil, err // somebody removed or committed it already
	}
	return s.mounts(ctx, key, m)
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	if err := refuseMapping(key, opts); err != nil {
		return nil, err
	}
	m, err := s.engine.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return s.mounts(ctx, key, m)
}

// mounts returns the mounts of a new snapshot, or undoes it.
func (s *snapshotter) mounts(ctx context.Context, key string, m *engine.Mountable) ([]mount.Mount, error) {
	mounts, err := m.Keep()
	if err != nil && !errdefs.IsNotFound(err) {
		err = errors.Join(err, s.engine.Remove(context.WithoutCancel(ctx), key))
	}
	return mounts, err
}

// refuseMapping refuses to map IDs on the way to the mount. containerd asks for it
// only where the administrator says that the snapshotter can ("remap-ids" among the
// capabilities of a proxy plugin), and else changes the owners of files itself.
func refuseMapping(key string, opts []snapshots.Opt) error {
	var asked snapshots.Info
	for _, opt := range opts {
		if err := opt(&asked); err != nil {
			return err
		}
	}
	for _, label := range []string{snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping} {
		if asked.Labels[label] != "" {
			return fmt.Errorf("snapshot %q: label %s: graph drivers do not map IDs: %w", key, label, errdefs.ErrNotImplemented)
		}
	}
	return nil
}

func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.engine.Commit(ctx, name, key, opts...)
}

func (s *snapshotter) Remove(ctx context.Context, key string) error {
	return s.engine.Remove(ctx, key)
}

func (s *snapshotter) Close() error { return s.engine.Close() }

// Cleanup implements snapshots.Cleaner. containerd calls it after every garbage
// collection.
func (s *snapshotter) Cleanup(ctx context.Context) error { return s.engine.Cleanup(ctx) }
