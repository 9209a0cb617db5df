package containerd

import (
	"context"
	"errors"

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
func New(e *engine.Engine, opts ...Option) snapshots.Snapshotter {
	s := &snapshotter{engine: e}
	for _, opt := range opts {
		opt(s)
	}
	return s
}

// Option changes what New returns.
type Option func(*snapshotter)

// WithRemapIDs has mounts map IDs, where the labels of a snapshot ask for it. It is for
// a containerd that was told so ("remap-ids" among the capabilities of a proxy plugin),
// of version 2.0 or later. The default is for any other.
func WithRemapIDs() Option { return func(s *snapshotter) { s.remapIDs = true } }

type snapshotter struct {
	engine   *engine.Engine
	remapIDs bool
}

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
	info, err := s.engine.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	ids, err := mappingIn(info.Labels)
	if err != nil {
		return nil, err
	}
	m, err := s.engine.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	mounts, err := m.Keep()
	if err != nil {
		return nil, err
	}
	return s.mapped(ctx, key, mounts, ids)
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	ids, err := mappingAsked(opts)
	if err != nil {
		return nil, err
	}
	m, err := s.engine.PrepareMounts(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return s.mounts(ctx, key, m, ids)
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	ids, err := mappingAsked(opts)
	if err != nil {
		return nil, err
	}
	m, err := s.engine.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return s.mounts(ctx, key, m, ids)
}

// mounts returns the mounts of a new snapshot, or undoes it. The error is ErrNotFound
// where somebody removed it already.
func (s *snapshotter) mounts(ctx context.Context, key string, m *engine.Mountable, ids *mapping) ([]mount.Mount, error) {
	ctx = context.WithoutCancel(ctx)
	mounts, err := m.Keep()
	if err == nil {
		mounts, err = s.mapped(ctx, key, mounts, ids)
	}
	if err != nil {
		if !errdefs.IsNotFound(err) {
			// Not what bears the key by now, where somebody committed it or removed it.
			if undo := m.Discard(ctx); !errdefs.IsNotFound(undo) {
				err = errors.Join(err, undo)
			}
		}
		return nil, err
	}
	return mounts, nil
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
