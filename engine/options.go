package engine

import (
	"runtime"
	"time"
)

// Option tunes an engine. Every bound works at 1. What an option buys is said beside
// it, as ratios to its first value with the least and the greatest of the rounds, on
// two processors and ext4; "stress -sweep" measures it again. Mailboxes of owners and
// of the table of mounts are bounded without an option: a bound of 1 instead made no
// difference to throughput, latency or memory, neither on the driver null nor on
// overlay2, nor where contexts end early.
type Option func(*options)

type options struct {
	mailbox       int // messages that wait for the owner of one key; more wait in their callers
	mountsMailbox int // the same for the table of mounts
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

// WithWriteQueue bounds the writes that wait for the database, 4096 by default.
//
// More buys no throughput, 1.10 (0.91–1.14) times that of 1 with 4096. But where the
// contexts of a thousand callers end while they wait, the undo of some waits behind
// the others: p99 of Prepare is 0.43 (0.29–0.52) times that with 1. The price is that
// a write that got in is waited for though its context ends.
func WithWriteQueue(n int) Option { return func(o *options) { o.writes = n } }

// WithBatch bounds the writes that share a transaction, 1024 by default. A
// transaction costs two syncs however many share it.
//
// Prepare and Commit by 64 clients on the driver null: 3.3 (2.5–3.8) times the
// throughput of 1 with 16, 4.5 (3.4–5.3) times with 64 and no more with 1024, p99 0.2
// times. On overlay2, where a transaction seldom has more than three, 1.3 (1.0–1.6).
func WithBatch(n int) Option { return func(o *options) { o.batch = n } }

// WithDriverParallelism bounds the driver's Create, Get and Put calls under way,
// 16 or four times GOMAXPROCS by default, whichever is more.
//
// Where a call takes 10 ms, 64 clients have 4.0 (3.9–4.0) times the throughput of 1
// with 4, 9.8 (9.6–10.2) times with 16 and no more with 64. On overlay2 on a local disk
// it buys none.
func WithDriverParallelism(n int) Option { return func(o *options) { o.driverCalls = n } }

// WithScanParallelism bounds the passes over whole directories under way, which
// usage is measured and layers are computed with; 2 or half of GOMAXPROCS by default,
// whichever is more.
//
// Where a pass takes 10 ms, p99 of Usage is 0.47 (0.46–0.48) times that of 1 with 2,
// 0.11 with 8 and 0.04 with 32. The price is a disk that is read for nothing else.
func WithScanParallelism(n int) Option { return func(o *options) { o.scans = n } }

// WithRemovalParallelism bounds the directories being deleted at once, 4 by
// default.
//
// Where a deletion takes 10 ms and 64 clients end leases all the time, the directories
// that are left after three seconds are 0.73 (0.73–0.75) times those with 1 for 4, and
// 0.02 (0.01–0.03) times for 16. On overlay2 on a local disk they are 0.79 (0.75–1.11)
// times for 4 and 0.35 (0.15–0.53) times for 16. Others have 0.92 (0.89–1.29) and 1.00
// (0.83–1.21) times the throughput meanwhile.
func WithRemovalParallelism(n int) Option { return func(o *options) { o.removals = n } }

// WithSyncOnCommit makes Commit write the file system of the snapshot to disk
// before it answers, so that the contents of committed snapshots survive a power
// loss too. It costs a syncfs for every commit: Prepare and Commit of empty
// directories by 32 clients on overlay2 0.96 (0.78–0.99) times the throughput.
func WithSyncOnCommit() Option { return func(o *options) { o.syncOnCommit = true } }

// WithGrace sets how long after Open snapshots from before are kept though no
// lease names them, 30 seconds by default: BuildKit adds leases while it starts. It
// buys time, and costs none: 0.97 (0.83–1.02) times the throughput with 30 s beside
// 50 ms where the engine is opened each second.
func WithGrace(d time.Duration) Option { return func(o *options) { o.grace = d } }

// WithLeaseSweep sets how often all leases are listed to notice those that
// disappeared without a call, a minute by default: so long their directories stay.
// Sweeps that take long are made less often, so that they cost little: with a minute
// the throughput is 1.02 (0.93–1.08) times that with 50 ms.
func WithLeaseSweep(d time.Duration) Option { return func(o *options) { o.sweep = d } }
