package target

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/engine"
)

// Target is a snapshotter with its leases. Calls are safe for concurrent use;
// Restart and Close are not called beside others. What it cannot do answers
// ErrNotImplemented.
type Target interface {
	Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error
	View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error)
	Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error
	Stat(ctx context.Context, key string) (snapshots.Info, error)
	Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error)
	Usage(ctx context.Context, key string) (snapshots.Usage, error)
	Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error
	Mounts(ctx context.Context, key string) (Mountable, error)
	Remove(ctx context.Context, key string) error
	// EnsureLayer makes a committed snapshot, and those that it stands on, layers, and
	// returns their diff IDs, lowest first.
	EnsureLayer(ctx context.Context, key string) ([]string, error)

	// Pull makes an image that has a layer of its own, and returns the chain ID of that.
	// One that is there stays as it is.
	Pull(ctx context.Context, image string) (chainID string, err error)
	// Untag has the image let go of its layer.
	Untag(ctx context.Context, image string) error

	// CreateLease makes a lease, whose ID was never used.
	CreateLease(ctx context.Context, lease string) error
	// AddLease and RemoveLease answer ErrNotFound where the lease ended.
	AddLease(ctx context.Context, lease, key string) error
	RemoveLease(ctx context.Context, lease, key string) error
	// EndLease deletes the lease. Where expire is set that happens behind the lease
	// manager's back, as garbage collection does it.
	EndLease(ctx context.Context, lease string, expire bool) error

	// Restart closes the snapshotter and opens it again on what is on disk. Where
	// that fails it may be called again.
	Restart(ctx context.Context) error
	Close() error
	Traits() Traits
}

// Mountable mounts a snapshot, as BuildKit's does.
type Mountable interface {
	Mount() (_ []mount.Mount, release func() error, err error)
}

// Traits say what the model may expect of a target.
type Traits struct {
	Name   string
	Driver string
	// Leased says that snapshots go with their last lease. Otherwise there are no
	// leases and snapshots go by Remove only.
	Leased bool
	// Keeps says that nobody releases mounts: what Prepare, View and Mounts handed out
	// is held until the snapshot is removed.
	Keeps bool
	// Layers says that there is a layer store.
	Layers bool
}

// Driver is a graph driver whose directories and mounts can be looked at. It outlives
// the engines that are opened on it.
type Driver interface {
	engine.Driver
	Disk

	Name() string
	// Check returns what else on the disk does not fit the database of an engine that is
	// closed.
	Check(ctx context.Context, database string) []string
	// Calls returns how often each method was called.
	Calls() map[string]uint64
	// Wrong returns what was asked since the last call and never should be.
	Wrong() []string
}

// Telling is a target that tells of its engine.
type Telling interface {
	Stats() engine.Stats
}

// Audited is a target that can compare what it consists of: what the engine knows,
// the driver's directories and mounts, the leases, and the database.
type Audited interface {
	// Audit is called while no call is under way. It waits for what happens in the
	// background and returns what does not agree.
	Audit(ctx context.Context) []string
	// AuditClosed is called after Close.
	AuditClosed(ctx context.Context) []string
}

// Mortal is a target that can be killed.
type Mortal interface {
	// Kill ends the target's process at once, beside calls, which answer ErrDied, as
	// do those that come until Restart has started another one.
	Kill() error
}

// ErrDied is wrapped, beside ErrUnavailable, by the error of a call in the middle of
// which the target died. What was asked may have happened.
var ErrDied = errors.New("the target died")

// Counting is a target whose driver counts calls and knows its directories.
type Counting interface {
	DriverCalls() map[string]uint64
	// Directories returns the graph IDs that have one.
	Directories() (map[string]bool, error)
}
