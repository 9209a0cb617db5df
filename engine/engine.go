package engine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"resenje.org/singleflight"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/mounts"
	"github.com/graphsnap/graphsnap/persist"
)

// Config says what an engine stands on.
type Config struct {
	// Driver makes, mounts and deletes directories.
	Driver Driver
	// Layers is the layer store that shares the driver. Nil: there is none.
	Layers Layers
	// Root is the directory that holds snapshots.db. It must exist.
	Root string
	// Name is that of the snapshotter, which is part of the type of its lease
	// resources. It is recorded, and resources of earlier names keep counting.
	Name string
	// Leases is asked which snapshots are wanted. Nil: snapshots stay until they
	// are removed by a call.
	Leases Leases
}

// Engine keeps snapshots. Its methods are safe for concurrent use.
type Engine struct {
	driver  driverSeam
	source  Leases
	layers  *layersSeam
	root    string
	names   []string
	options options

	// State, each with the goroutines that alone change it.
	keys       *actors.Owners[state]
	leases     *actors.Owners[claims]
	namespaces *actors.Owners[[]string]
	mounts     *mounts.Table
	db         *persist.DB

	graphIDs  *actors.Names // that records or unfinished removals bear
	commits   *commitLog
	clock     atomic.Uint64                               // orders events of leases and listings; also gives serials
	measuring singleflight.Group[uint64, snapshots.Usage] // by serial
	exporting singleflight.Group[uint64, Layer]

	driverCalls *semaphore.Weighted
	scans       *semaphore.Weighted
	removals    *semaphore.Weighted

	reaper     *reaper
	leftovers  *actors.Handover // graph IDs of directories that are still to be deleted
	pending    chan chan Pending
	loaded     uint64            // the last serial of snapshots from before Open, 0 for none
	anyLease   atomic.Bool       // a listing found a lease
	keepLoaded atomic.Bool       // the first listing found none though there were snapshots
	aliases    map[string]string // that an earlier process left, by lease; until the first listing
	empty      []string          // keys of buckets with nothing in them; the reaper's once it runs

	gate       actors.Gate     // operations under way
	ctx        context.Context // ends when closing begins
	cancel     context.CancelCauseFunc
	background errgroup.Group
	closed     atomic.Bool
	shut       chan struct{} // closed when Close is done
	shutErr    error
}

// Open opens the engine on the database in c.Root, which it creates where there
// is none, and loads it. It blocks while it does, and has the garbage collector of the
// process run less often. The logger in ctx is used until Close; the end of ctx ends
// Open only.
//
// Errors: ErrUnavailable, within a second, where another process holds the
// database; the driver's and the file system's.
func Open(ctx context.Context, c Config, opts ...Option) (_ *Engine, err error) {
	o := defaults()
	for _, opt := range opts {
		opt(&o)
	}
	db, err := persist.Open(ctx, filepath.Join(c.Root, "snapshots.db"), persist.Options{Mailbox: o.writes, Batch: o.batch, Boot: o.boot})
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	e := &Engine{
		driver:      newDriverSeam(c.Driver),
		source:      c.Leases,
		layers:      newLayersSeam(c.Layers),
		root:        c.Root,
		options:     o,
		db:          db,
		graphIDs:    actors.NewNames(),
		commits:     newCommitLog(),
		driverCalls: semaphore.NewWeighted(int64(max(1, o.driverCalls))),
		scans:       semaphore.NewWeighted(int64(max(1, o.scans))),
		removals:    semaphore.NewWeighted(int64(max(1, o.removals))),
		leftovers:   actors.NewHandover(),
		pending:     make(chan chan Pending),
		shut:        make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	owners := func(name string) actors.Config {
		return actors.Config{Name: name, Mailbox: o.mailbox, Panicked: func(key string, cause any, stack []byte) {
			log.G(e.ctx).Errorf("the owner of %s %q panicked: %v\n%s", name, key, cause, stack)
		}}
	}
	e.keys = actors.NewOwners[state](owners("snapshot"))
	e.leases = actors.NewOwners[claims](owners("lease"))
	e.namespaces = actors.NewOwners[[]string](owners("setting"))
	e.mounts = mounts.New(c.Driver, mounts.Options{Mailbox: o.mountsMailbox, Parallelism: e.driverCalls})
	e.reaper = &reaper{e: e, unwanted: actors.NewHandover(), graceful: time.Now().Add(o.grace)}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.Close())
		}
	}()
	if err := e.load(ctx, c.Name); err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	if e.source != nil {
		e.learnLeases(ctx)
		e.background.Go(func() error { e.reaper.run(e.ctx); return nil })
	}
	// Not earlier: with a directory a reference to its layer is released, and those
	// that leases need are taken by now.
	e.background.Go(func() error { e.deleteLeftovers(e.ctx); return nil })
	return e, nil
}

// learnLeases asks for all leases for the first time. Where that does not work
// nothing is removed until it does.
func (e *Engine) learnLeases(ctx context.Context) {
	l, err := e.list(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Warn("no snapshot is removed for want of a lease until all leases can be listed")
		return
	}
	e.reconcile(l)
	for _, leases := range l.named {
		for _, lease := range leases {
			// Callers may ask for a snapshot by its lease as soon as Open answers.
			_, _ = actors.AskOwed(e.leases, lease.owner(), &realias{e: e})
		}
	}
	e.sweepAliases(l)
	e.reaper.judge(ctx, l)
}

// Close ends the engine in order: calls that come now are refused with
// ErrUnavailable, those under way end, holds that are still there are ended and
// what is mounted is unmounted, and what was acknowledged late is written. Close
// blocks until then. Closing twice is fine.
func (e *Engine) Close() error {
	if !e.closed.CompareAndSwap(false, true) {
		<-e.shut
		return e.shutErr
	}
	defer close(e.shut)
	e.cancel(errClosed)
	e.gate.Close()
	_ = e.background.Wait()
	err := e.mounts.Close()
	// The owners may still write, and the table of mounts is asked no more.
	e.keys.Close()
	e.leases.Close()
	e.namespaces.Close()
	e.shutErr = errors.Join(err, e.db.Close())
	return e.shutErr
}

// Names returns the names that the snapshotter was ever opened under, the present
// one included.
func (e *Engine) Names() []string { return slices.Clone(e.names) }

// Err returns nil, or why changes are refused though Close was not called.
func (e *Engine) Err() error { return e.db.Err() }
