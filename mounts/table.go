package mounts

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/actors"
)

// Driver is what the table needs of a graph driver. Calls for different graph
// IDs run at once; for one graph ID there is never more than one under way, and
// never a second Get before the Put of the first.
//
// A panic in either becomes an error for those who wait for the call: a Get
// that panicked is taken to have mounted nothing, a Put that panicked to have
// left the mount in place.
type Driver interface {
	// Get mounts id and returns the directory. Where it leaves the mounting to
	// those who hold id it returns "".
	Get(id string) (dir string, err error)
	// Put undoes a Get that returned a directory. Where it fails the mount still
	// stands.
	Put(id string) error
}

// Options tune a Table. The zero value is usable.
type Options struct {
	// Mailbox bounds the messages waiting for the table. A full mailbox makes
	// callers wait, except Release, Unseal and Forget. Default 1024.
	Mailbox int
	// Parallelism bounds the driver calls under way, each with a weight of 1.
	// It may be shared with driver calls made elsewhere, which must not wait for
	// the table while they have a share of it. Nil: unbounded.
	Parallelism *semaphore.Weighted
}

const defaultMailbox = 1024

// Table knows who holds what. Its methods are safe for concurrent use.
type Table struct {
	mailbox *actors.Mailbox[message]
	done    chan struct{} // closed when the goroutine has ended
	actor   *actor        // only to be looked at once done is closed
}

// New starts a table over d. It costs a goroutine until Close.
func New(d Driver, o Options) *Table {
	if o.Mailbox <= 0 {
		o.Mailbox = defaultMailbox
	}
	mailbox := actors.NewMailbox[message]("mounts", o.Mailbox)
	t := &Table{
		mailbox: mailbox,
		done:    make(chan struct{}),
		actor:   newActor(d, o.Parallelism, mailbox),
	}
	go func() {
		defer close(t.done)
		t.actor.run()
	}()
	return t
}

// Acquire takes a hold on graph ID id. The first holder makes the driver mount
// it, others share that mount. write says that the holder may write below the
// directory; the table only counts such holds, for Writers.
//
// It blocks while id is being mounted or unmounted and while it is sealed; the
// end of ctx ends the wait, and a mount that nobody else wants is then undone.
// Where ctx ends too late to matter the hold is returned.
//
// Errors: the driver's, which goes to all who waited for that mount, the next
// Acquire tries anew; ErrNotFound where id was sealed and then forgotten;
// ErrUnavailable after Close.
func (t *Table) Acquire(ctx context.Context, id string, write bool) (*Hold, error) {
	m := &acquire{id: id, hold: &Hold{table: t, write: write, ended: make(chan struct{})}}
	defer t.withdrawWhenDone(ctx, m)()
	hold, err := actors.Call[message](ctx, t.mailbox, m, &m.Reply)
	if err != nil {
		return nil, fmt.Errorf("acquire %q: %w", id, err)
	}
	return hold, nil
}

// withdrawWhenDone makes the table stop waiting on behalf of m once ctx ends. A
// message that was enqueued is waited for to its reply, so it is the table that
// has to learn of the end. The returned function must be called once m was
// answered.
func (t *Table) withdrawWhenDone(ctx context.Context, m parked) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		t.mailbox.Owe(&withdraw{parked: m, cause: context.Cause(ctx)})
	})
}

// Hold is one acquire of a mount that has not been released.
type Hold struct {
	table *Table
	write bool

	// Set by the table's goroutine before Acquire returns, constant after.
	dir   string
	entry *entry
	round uint64

	released atomic.Bool   // taken by the Release that counts
	ended    chan struct{} // closed when err is set
	err      error
}

// Dir is what the driver's Get returned, valid until Release, Drop or Close.
func (h *Hold) Dir() string { return h.dir }

// Release ends the hold. The last release of a graph ID unmounts it, waits for
// that and returns the driver's error; the hold has ended all the same, and what
// is still mounted is shared with the next Acquire or unmounted by the next
// release, Seal, Drop or Close. Where somebody acquires the graph ID before the
// driver was called the mount stays and Release returns nil.
//
// It does not need room in the mailbox. Releasing twice releases once: a later
// call, also one beside the first, waits for the first and returns what it
// returned. After Drop and after Close Release returns nil.
func (h *Hold) Release() error {
	if !h.released.CompareAndSwap(false, true) {
		<-h.ended
		return h.err
	}
	defer close(h.ended)
	m := &release{hold: h}
	outcome, err := actors.CallOwed[message](h.table.mailbox, m, &m.Reply)
	switch {
	case errdefs.IsUnavailable(err): // Close ended the hold
	case err != nil:
		outcome = err
	}
	if outcome != nil {
		h.err = fmt.Errorf("release %q: %w", h.entry.id, outcome)
	}
	return h.err
}

// Seal is asked before the directory of id is removed. It succeeds where nobody
// holds id or waits for it, and only once any mount is gone, for which it waits;
// later Acquires wait for Unseal or Forget.
//
// Where id is held or about to be, Seal answers ErrFailedPrecondition, and freed
// is called once when id has become free: nobody holds it or waits for it, and
// the driver is done with it. freed runs in the table's goroutine, so it must not
// block and of the table may call only Unseal and Forget. The freed of a later
// refused Seal replaces it, except nil. It is not called after Close.
//
// Other errors leave id unsealed and freed uncalled: ErrAlreadyExists where id is
// sealed or being sealed; the driver's where it cannot unmount; the cause of ctx
// where it ended first; ErrUnavailable after Close.
func (t *Table) Seal(ctx context.Context, id string, freed func()) error {
	m := &seal{id: id, freed: freed}
	defer t.withdrawWhenDone(ctx, m)()
	if _, err := actors.Call[message](ctx, t.mailbox, m, &m.Reply); err != nil {
		return fmt.Errorf("seal %q: %w", id, err)
	}
	return nil
}

// Unseal undoes a Seal that succeeded: Acquires that wait go on. It never
// blocks, and does nothing where id is not sealed.
func (t *Table) Unseal(id string) { t.mailbox.Owe(&unseal{id: id}) }

// Forget ends a Seal that succeeded after the directory was removed: Acquires
// that wait get ErrNotFound, later ones ask the driver. It never blocks, and does
// nothing where id is not sealed.
func (t *Table) Forget(id string) { t.mailbox.Owe(&forget{id: id}) }

// Writers says how many write holds on id there are, and an epoch that differs
// from an earlier one if a write hold on id began or ended in between. So what
// was measured between two answers with no writers and equal epochs was not
// written to through a hold. The reverse does not hold: the epoch may change on
// account of another graph ID, rarely.
func (t *Table) Writers(ctx context.Context, id string) (n int, epoch uint64, err error) {
	m := &writers{id: id}
	w, err := actors.Call[message](ctx, t.mailbox, m, &m.Reply)
	if err != nil {
		return 0, 0, fmt.Errorf("writers of %q: %w", id, err)
	}
	return w.n, w.epoch, nil
}

// Drop ends every hold on id at once, for a face without release; Release of
// them does nothing. Acquires that still wait go on. Like the last Release it
// unmounts, waits and returns the driver's error.
func (t *Table) Drop(ctx context.Context, id string) error {
	m := &drop{id: id}
	outcome, err := actors.Call[message](ctx, t.mailbox, m, &m.Reply)
	if err == nil {
		err = outcome
	}
	if err != nil {
		return fmt.Errorf("drop the holds on %q: %w", id, err)
	}
	return nil
}

// State is what the driver is doing, or has done, with a graph ID.
type State string

const (
	Unmounted  State = "unmounted" // and not sealed: such an entry lives for an instant
	Mounting   State = "mounting"
	Mounted    State = "mounted"
	Unmounting State = "unmounting"
	Sealed     State = "sealed" // unmounted
)

// Entry is what the table knows of one graph ID.
type Entry struct {
	ID      string
	State   State
	Holders int // holds that were not released
	Writers int // those of them that may write
	Waiting int // Acquires under way
}

// Held is a snapshot of the table, ordered by graph ID, for diagnostics and
// tests. Graph IDs that are at rest and not mounted are not in it.
func (t *Table) Held(ctx context.Context) ([]Entry, error) {
	m := &list{}
	all, err := actors.Call[message](ctx, t.mailbox, m, &m.Reply)
	if err != nil {
		return nil, fmt.Errorf("list the mounts table: %w", err)
	}
	return all, nil
}

// Queued is the number of messages that wait for the table, for display.
func (t *Table) Queued() int { return t.mailbox.Len() }

// Close refuses new calls with ErrUnavailable and answers waiting Acquires and
// Seals with it, ends the holds that remain, waits for the driver to unmount all
// that is mounted, and ends the goroutine. It returns the driver's errors; what
// they name is still mounted. A second Close waits for the first and returns the
// same.
func (t *Table) Close() error {
	t.mailbox.Owe(&shutdown{})
	<-t.done
	return t.actor.closeErr
}
