package engine

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/mounts"
)

// Driver is what the engine needs of a graph driver. All methods are called from
// several goroutines at once, never twice at once for one id but for Usage and
// Exists.
type Driver interface {
	mounts.Driver

	// Describe returns how those who hold id mount it, read-only or not. It is
	// called for a hold for which Get returned "". What is mounted shows what Get
	// would have mounted.
	Describe(id string, readonly bool) ([]mount.Mount, error)

	// Create makes the directory of id on top of that of parent, "" for none.
	// It is called only where Exists answered false.
	Create(id, parent string) error

	// Remove deletes the directory of id and all that belongs to it, also what a
	// Create or Remove that failed has left. Where there is nothing it succeeds.
	Remove(id string) error

	// Exists tells whether anything bears the name id, a foreign directory or one
	// of the driver's own included.
	Exists(id string) bool

	// Usage measures what the directory of id holds beyond that of parent. It may
	// take as long as reading the whole tree and stops when ctx ends.
	Usage(ctx context.Context, id, parent string) (snapshots.Usage, error)

	// Copies tells whether Create copies the parent, so that a directory that it
	// left half made cannot be told from a whole one. Such a directory is written
	// to disk, and recorded as whole, before its creation is answered.
	Copies() bool

	// Sync writes to disk what was changed below the directory of id, and with it
	// what was changed of the driver's home on the same file system.
	Sync(id string) error

	// Survey compares graph IDs with what is there. It reads each directory of the
	// driver's once, and looks for a single ID only where it is missed there.
	Survey(ids []string) (Survey, error)

	// Unmount ends one mount of the directory of id that a process left which died.
	Unmount(id string) error

	// Restore makes the directory of id on top of that of parent, which is whole,
	// whole again where a crash left it half made or took parts of it, and tells
	// whether that was necessary. What lies in it is kept. Where that is lost the
	// error is ErrNotFound and nothing was changed. It may be repeated however far
	// an earlier call came.
	Restore(id, parent string) (changed bool, err error)
}

// Survey is what a driver knows of the graph IDs that it was asked about.
type Survey struct {
	Missing []string // have no directory
	Linked  []string // of those, which have something elsewhere
	Mounted []string // are mounted, once for each mount
}
