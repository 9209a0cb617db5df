package peer

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

// Snapshotter is what all of them can do. Calls are safe for concurrent use. What
// one of them cannot do answers ErrNotImplemented.
type Snapshotter interface {
	Pairs

	View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error)
	Mounts(ctx context.Context, key string) (Mountable, error)
	Stat(ctx context.Context, key string) (snapshots.Info, error)
	Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error
	Usage(ctx context.Context, key string) (snapshots.Usage, error)

	// Keep makes a lease that names key, which need not exist yet. Where a
	// snapshotter knows no leases it does nothing.
	Keep(ctx context.Context, key string) error

	// Remove removes key: by deleting the lease of Keep where that is the way, and
	// then the snapshot may go some time later.
	Remove(ctx context.Context, key string) error
}

// Pairs is what the floor can do as well.
type Pairs interface {
	Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error
	Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error

	// Database is the path of the bolt database that holds the snapshots.
	Database() string
	Close() error
}

// Mountable mounts a snapshot, as BuildKit's does.
type Mountable interface {
	Mount() (_ []mount.Mount, release func() error, err error)
}

// Names are those that Open knows.
var Names = []string{"graphsnap", "moby", "containerd", "metastore"}

// Options say what a Snapshotter stands on.
type Options struct {
	// Root is a directory of the snapshotter's own. It is made where it is missing.
	Root string
	// Driver is the graph driver of graphsnap and moby: "overlay2", or "null" if
	// empty.
	Driver string
	// Existed says which graph IDs the null driver has from an earlier process. Nil:
	// none.
	Existed func(id string) bool
	// Engine tunes graphsnap.
	Engine []engine.Option
}

// Open opens the snapshotter of that name.
func Open(ctx context.Context, name string, o Options) (Snapshotter, error) {
	if err := os.MkdirAll(o.Root, 0o700); err != nil {
		return nil, err
	}
	switch name {
	case "graphsnap":
		return openGraphsnap(o)
	case "moby":
		return openMoby(o)
	case "containerd":
		return openContainerd(o)
	case "metastore":
		return openMetaStore(o)
	}
	return nil, fmt.Errorf("no snapshotter %q: %w", name, errdefs.ErrInvalidArgument)
}
