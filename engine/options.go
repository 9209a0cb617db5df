package engine

import (
	"runtime"
	"time"
)

// Option tunes an engine. Every bound works at 1.
type Option func(*options)

type options struct {
	mailbox       int
	mountsMailbox int
	writes        int
	batch         int
	driverCalls   int
	scans         int
	removals      int
	syncOnCommit  bool
	grace         time.Duration
	sweep         time.Duration
	boot          string // see persist.Options
}

func defaults() options {
	return options{
		mailbox:       64,
		mountsMailbox: 1024,
		writes:        4096,
		batch:         1024,
		driverCalls:   max(16, 4*runtime.GOMAXPROCS(0)),
		scans:         max(2, runtime.GOMAXPROCS(0)/2),
		removals:      4,
		grace:         30 * time.Second,
		sweep:         time.Minute,
	}
}

// WithMailbox bounds the messages that wait for the owner of one key, 64 by
// default. More wait in their callers.
func WithMailbox(n int) Option { return func(o *options) { o.mailbox = n } }

// WithMountsMailbox bounds the messages that wait for the table of mounts, 1024
// by default.
func WithMountsMailbox(n int) Option { return func(o *options) { o.mountsMailbox = n } }

// WithWriteQueue bounds the writes that wait for the database, 4096 by default.
func WithWriteQueue(n int) Option { return func(o *options) { o.writes = n } }

// WithBatch bounds the writes that share a transaction, 1024 by default. A
// transaction costs two syncs however many share it.
func WithBatch(n int) Option { return func(o *options) { o.batch = n } }

// WithDriverParallelism bounds the driver's Create, Get and Put calls under way,
// 16 or four times GOMAXPROCS by default, whichever is more.
func WithDriverParallelism(n int) Option { return func(o *options) { o.driverCalls = n } }

// WithScanParallelism bounds the passes over whole directories under way, which
// usage is measured and layers are computed with; 2 or half of GOMAXPROCS by default,
// whichever is more.
func WithScanParallelism(n int) Option { return func(o *options) { o.scans = n } }

// WithRemovalParallelism bounds the directories being deleted at once, 4 by
// default.
func WithRemovalParallelism(n int) Option { return func(o *options) { o.removals = n } }

// WithSyncOnCommit makes Commit write the file system of the snapshot to disk
// before it answers, so that the contents of committed snapshots survive a power
// loss too. It costs a syncfs for every commit.
func WithSyncOnCommit() Option { return func(o *options) { o.syncOnCommit = true } }

// WithGrace sets how long after Open snapshots from before are kept though no
// lease names them, 30 seconds by default: BuildKit adds leases while it starts.
func WithGrace(d time.Duration) Option { return func(o *options) { o.grace = d } }

// WithLeaseSweep sets how often all leases are listed to notice those that
// disappeared without a call, a minute by default. Sweeps that take long are made
// less often.
func WithLeaseSweep(d time.Duration) Option { return func(o *options) { o.sweep = d } }
