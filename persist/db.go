package persist

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/actors"
)

// Options tune a DB. The zero value is ready for use.
type Options struct {
	// Mailbox is how many Writes wait in the queue before the next one blocks,
	// 1024 if not positive.
	Mailbox int
	// Batch is the most messages that share a transaction, 1024 if not positive.
	Batch int
	// Idle is how long what was given to Later waits for a transaction to ride
	// in before it gets one of its own, a second if not positive.
	Idle time.Duration
	// Boot names this run of the machine, the kernel's boot ID if empty.
	Boot string
}

func positiveOr[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// ErrIndeterminate is wrapped, beside ErrUnavailable, by the error of a Write
// whose transaction failed while it was being made durable: after a crash the
// change may be there or not. Other errors of Write say that it is not.
var ErrIndeterminate = errors.New("not known to be durable")

// ErrNoRoom is wrapped, beside ErrUnavailable, by the error of a Write for which
// there was no room on the disk. Nothing was changed.
var ErrNoRoom = errors.New("no room on the disk")

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = 500 * time.Millisecond

// DB is an open snapshots.db.
type DB struct {
	bolt     *bolt.DB
	ended    End
	w        *writer
	done     chan struct{} // closed when the file is
	closeErr error         // set before done is closed
}

// Stats counts since Open.
type Stats struct {
	Transactions uint64        // durable ones
	Messages     uint64        // made durable by them: Writes and Laters
	Mutations    uint64        // in those messages
	Committing   time.Duration // spent in making them durable
	Queued       int           // messages waiting now
}

// Open opens or creates the database at path, for this process alone. Where
// another process holds it the answer is ErrUnavailable, within a second. Where the
// last process died Open writes a full copy of the file before anything else, and
// answers ErrUnavailable where there is no room for it. Where the file is 16 MiB or
// more, seven eighths of them free, Open writes it anew without those, if there is
// room. The logger in ctx is used until Close.
func Open(ctx context.Context, path string, o Options) (*DB, error) {
	return open(ctx, path, o, func(e env) env { return e })
}

// open is Open with what the writer does to the database changed by a test.
func open(ctx context.Context, path string, o Options, change func(env) env) (*DB, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open snapshot database %s: %w", path, err)
	}
	b, err := openOrCreate(ctx, path)
	if err != nil {
		return nil, err
	}
	if o.Boot == "" {
		o.Boot = bootID()
	}
	ended, copied, err := ending(b, o.Boot)
	if err != nil {
		_ = closeFile(b)
		return nil, fmt.Errorf("open snapshot database %s: %w", path, err)
	}
	if copied || sparse(b) {
		if b, err = renew(ctx, b, path, copied); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(removeBeside(path), syncDir(filepath.Dir(path))); err != nil {
		_ = closeFile(b)
		return nil, fmt.Errorf("open snapshot database %s: %w", path, err)
	}
	db := &DB{
		bolt:  b,
		ended: ended,
		w: &writer{
			boot: o.Boot,
			env: change(env{
				begin:  func() (*bolt.Tx, error) { return begin(b) },
				commit: commit,
				last: func() (id int, err error) {
					err = view(b, func(tx *bolt.Tx) error { id = tx.ID(); return nil })
					return id, err
				},
			}),
			mailbox: actors.NewMailbox[*message]("snapshot database", positiveOr(o.Mailbox, 1024)),
			limit:   positiveOr(o.Batch, 1024),
			idle:    positiveOr(o.Idle, time.Second),
			path:    path,
			log:     log.G(ctx),
		},
		done: make(chan struct{}),
	}
	go func() {
		defer db.finish()
		db.w.run()
	}()
	return db, nil
}

// openBolt opens the database at path, of which open opens the file.
func openBolt(ctx context.Context, path string, open func(string, int, os.FileMode) (*os.File, error)) (db *bolt.DB, err error) {
	ctx, cancel := context.WithCancel(ctx)
	prefetched := prefetch(ctx, path)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var file *os.File
	defer func() {
		if p := recover(); p != nil { // of a page that is not what it should be
			err = fmt.Errorf("open snapshot database %s: %v: %w", path, p, errdefs.ErrInternal)
			if file != nil {
				_ = syscall.Flock(int(file.Fd()), syscall.LOCK_UN) // it is mapped still
				_ = file.Close()
			}
		}
		if err != nil {
			cancel()
		}
		<-prefetched
		cancel()
	}()
	db, err = openFile(path, &bolt.Options{
		Timeout: lockTimeout,
		OpenFile: func(path string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := open(path, flag, mode)
			file = f
			return f, err
		},
		// A list of free pages that is written with each commit makes every one
		// as dear as the database was once large (moby/buildkit#6882). Without it
		// Open after a crash walks the tree once; Close writes it, so that Open
		// after Close does not.
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("open snapshot database %s: another process holds it: %w", path, errdefs.ErrUnavailable)
	case err != nil:
		return nil, fmt.Errorf("open snapshot database %s: %w", path, err)
	}
	// Whoever held the lock may have renamed another file over this one.
	if held, err := file.Stat(); err == nil {
		if named, err := os.Stat(path); err != nil || !os.SameFile(held, named) {
			_ = closeFile(db)
			return nil, fmt.Errorf("open snapshot database %s: another process replaces it: %w", path, errdefs.ErrUnavailable)
		}
	}
	return db, nil
}

// prefetchLimit bounds what a database that is mostly free pages can cost, in bytes,
// and prefetchStep is no more than the kernel reads ahead at once.
const (
	prefetchLimit = 1 << 30
	prefetchStep  = 128 << 10
)

// prefetch has the kernel read the file at path from front to back, until ctx ends,
// and closes the channel. bbolt maps the file for random access, which switches the
// kernel's read-ahead off: a tree that is not in the page cache would be read one page
// after the other. Of what is in there nothing is copied. Errors are left to whoever
// opens the file in earnest.
func prefetch(ctx context.Context, path string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return
		}
		for at := int64(0); at < min(st.Size(), prefetchLimit) && ctx.Err() == nil; at += prefetchStep {
			if err := unix.Fadvise(int(f.Fd()), at, prefetchStep, unix.FADV_WILLNEED); err != nil {
				return
			}
		}
	}()
	return done
}

// Ended says how the last process ended that wrote to the database.
func (db *DB) Ended() End { return db.ended }

// Setting returns the value of a setting that was made durable with Set. After
// Close there is none.
func (db *DB) Setting(name string) (value string, ok bool) {
	_ = view(db.bolt, func(tx *bolt.Tx) error {
		if v := (&txn{Tx: tx}).getOurs(bucketSettings, name); v != nil {
			value, ok = string(v), true
		}
		return nil
	})
	return value, ok
}

// Write applies the mutations, all or none, and returns when they are durable.
// While the queue is full it waits until ctx ends; once queued it waits for the
// outcome whatever becomes of ctx. An error that is not ErrIndeterminate says that
// nothing was applied: ErrInvalidArgument for a key that cannot be, ErrUnavailable
// after Close, after a failed transaction or where the disk is full (then beside
// ErrNoRoom, and the next Write may succeed), others as the mutations say.
//
// A Write without mutations returns when what was queued before it is durable.
func (db *DB) Write(ctx context.Context, m ...Mutation) error { return db.w.write(ctx, m) }

// Later applies the mutations, all or none, in the transaction of a later Write,
// or in one of its own if none comes within Options.Idle. Mutations of one
// goroutine are applied in the order of its calls of Write and Later. Later never
// blocks and is not held back by the bound of the queue, so a caller may have only
// so many in flight as it was itself admitted for. What was not yet durable at a
// crash is lost, and what cannot be applied is logged; what finds no room on the
// disk is tried again until there is. Close makes the rest durable.
func (db *DB) Later(m ...Mutation) *Deferred { return (*Deferred)(db.w.later(m)) }

// Deferred is a change that was given to Later.
type Deferred message

// Drop leaves the change out if it is not in a transaction yet. It is for who is
// about to make a Write that says the same and more, and gives it to Later again
// should that fail. Nil has nothing to drop.
func (d *Deferred) Drop() {
	if d != nil {
		d.dropped.Store(true)
	}
}

// Err returns nil, or why writes are refused since a transaction failed.
func (db *DB) Err() error { return db.w.err() }

// Stats returns the counters.
func (db *DB) Stats() Stats {
	return Stats{
		Transactions: db.w.transactions.Load(),
		Messages:     db.w.messages.Load(),
		Mutations:    db.w.mutations.Load(),
		Committing:   time.Duration(db.w.committing.Load()),
		Queued:       db.w.mailbox.Len(),
	}
}

// Close refuses further Writes, finishes those that were queued and all that was
// given to Later, and closes the file. It may be called more than once and from
// several goroutines: each call returns when the file is closed.
func (db *DB) Close() error {
	db.w.mailbox.Close()
	<-db.done
	return db.closeErr
}

// finish is the end of the actor's goroutine.
func (db *DB) finish() {
	defer close(db.done)
	var err error
	if db.w.err() == nil && (db.w.transactions.Load() > 0 || db.ended != InOrder) {
		err = db.writeLast()
	}
	closeErr := errStuck
	if !db.w.stuck {
		closeErr = closeFile(db.bolt)
	}
	if err == nil {
		err = closeErr
	}
	if err != nil {
		db.closeErr = fmt.Errorf("close snapshot database %s: %w", db.w.path, err)
	}
}

// writeLast makes one transaction that holds nothing but the list of free pages and
// that this was the last.
func (db *DB) writeLast() error {
	db.bolt.NoFreelistSync = false
	tx, err := db.w.begin()
	if err != nil {
		return err
	}
	if err := db.w.caught(func() error {
		return (&txn{Tx: tx}).putOurs(bucketSettings, settingProcess, bytesOf(db.w.boot+wordClosed))
	}); err != nil {
		db.w.rollback(tx)
		return err
	}
	return db.w.commitTx(tx, commit)
}

// syncDir makes the entry of a new file durable, which bbolt does not.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return syncFile(d)
}
