package persist

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/actors"
)

// env is what the writer does to the database, for tests that stop it at a chosen
// point or let it fail.
type env struct {
	begin func() (*bolt.Tx, error)
	// commit makes a transaction durable. After an error it is not known whether
	// it did.
	commit func(*bolt.Tx) error
	// last is the ID of the transaction that a reader sees.
	last func() (int, error)
}

// message is a list of mutations that are applied all or none.
type message struct {
	mutations []Mutation
	due       bool        // somebody waits: a Write, or the end of the idle time
	dropped   atomic.Bool // see Deferred.Drop
	actors.Reply[struct{}]
}

// writer is the actor that alone writes to the database. Two invariants hold:
//
//   - A message is answered after the transaction that carries it is durable, or
//     was rolled back. Nothing is ever answered on hope.
//   - Messages are applied in the order in which they were queued. So Later keeps
//     its place between the Writes of the same caller, and a Write without
//     mutations is a barrier.
//
// An fsync costs a millisecond, applying a message some microseconds. So one
// goroutine takes all that is queued, applies it to one transaction, and makes
// that durable with one commit. What arrives during the fsync waits in the mailbox
// and is the next batch: the slower the disk, the larger the batches. A lone
// caller pays for one commit and nothing else.
//
// A batch does not wait for company. What it does is look again: when the last
// message was applied, those that arrived meanwhile are taken along, until none is
// left or the batch is full. Before it stops looking it yields once, so that
// callers who are ready to run come to send, unless there is but one: a yield wakes a
// processor to look for work. Callers that were answered together come back together,
// some microseconds apart; without the second look the first
// of them gets a commit of its own and the rest the next one, and every other
// commit carries one message. With 256 callers on two cores a commit carries 130
// messages without looking again, 150 without the yield, 235 with both.
//
// Rejected:
//
//   - bolt.DB.Batch waits ten milliseconds for company, takes a timer and a
//     closure per batch, and runs a failing function a second time, alone.
//   - Two transactions in flight, one being applied while the other is synced: a
//     bbolt transaction begins on the meta page of the one before.
//   - Checking a message against the database before the transaction, to keep
//     failing ones out: what it reads may be changed by a message before it in
//     the same batch. They are applied, and the batch starts over without those
//     that fail. The engine checks first, so failing is rare.
//   - Answering while the next batch is applied: the answer is a channel send.
//
// When a sync fails the page cache may hold what the disk does not, and a second
// fsync would claim success (the kernel reports a write error once). So the first
// failure is final: everything is refused until the database is opened again
// (ending.go). It is different where a page found no room: that is said before
// anything is synced, and before the page is written that makes the transaction the
// last one. Such a transaction never was: its callers are told so, what nobody
// waits for is kept for the next one, and all goes on when there is room.
type writer struct {
	env     env
	mailbox *actors.Mailbox[*message]
	limit   int           // messages per transaction
	idle    time.Duration // see Options.Idle
	path    string
	boot    string // this run of the machine
	log     *log.Entry

	// Of the goroutine in run.
	txn    txn
	timer  *time.Timer // runs while only Laters are waiting
	kept   []*message  // Laters of transactions that found no room
	shared bool        // the last transaction answered several callers, who come back
	full   bool        // the last transaction found no room
	marked bool        // a durable transaction says that this process writes
	stuck  bool        // bbolt panicked and has kept its locks

	// Written by run, read by anybody.
	failed       atomic.Pointer[error]
	transactions atomic.Uint64
	messages     atomic.Uint64
	mutations    atomic.Uint64
	committing   atomic.Int64 // nanoseconds
}

// write is Write.
func (w *writer) write(ctx context.Context, mutations []Mutation) error {
	if err := w.err(); err != nil {
		return err
	}
	for i := range mutations {
		if err := mutations[i].check(); err != nil {
			return err
		}
	}
	m := &message{mutations: mutations, due: true}
	_, err := actors.Call(ctx, w.mailbox, m, &m.Reply)
	return err
}

// later is Later.
func (w *writer) later(mutations []Mutation) *message {
	for i := range mutations {
		if err := mutations[i].check(); err != nil {
			w.log.WithError(err).Error("snapshot database: a change nobody waits for was dropped")
			return nil
		}
	}
	m := &message{mutations: mutations}
	if !w.mailbox.Owe(m) {
		w.log.Error("snapshot database: a change nobody waits for came after Close and was dropped")
	}
	return m
}

func (w *writer) err() error {
	if err := w.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// run is the actor. It returns when the mailbox is closed and everything in it was
// answered.
func (w *writer) run() {
	debug.SetPanicOnFault(true) // where the disk cannot read a page that is mapped
	var batch []*message
	for {
		seen := len(batch)
		var open bool
		batch, open = w.mailbox.Receive(batch, w.limit-seen)
		due := !open || len(batch) == w.limit
		for _, m := range batch[seen:] {
			due = due || m.due
		}
		switch {
		case !due:
			w.startTimer()
			continue
		case len(batch) > 0:
			w.stopTimer()
			batch = w.commit(batch)
			clear(batch)
			batch = batch[:0]
		case !open && len(w.kept) > 0:
			_ = w.commit(nil)
		}
		if !open {
			for _, m := range w.kept {
				w.drop(m, ErrNoRoom)
			}
			return
		}
		if len(w.kept) > 0 {
			w.startTimer()
		}
	}
}

// startTimer has the mailbox reminded of Laters that no Write came to carry. The
// reminder goes through the mailbox because the actor sleeps nowhere else.
func (w *writer) startTimer() {
	if w.timer == nil {
		w.timer = time.AfterFunc(w.idle, func() { w.mailbox.Owe(&message{due: true}) })
	}
}

func (w *writer) stopTimer() {
	if w.timer != nil {
		w.timer.Stop() // a reminder that is already queued finds nothing to do
		w.timer = nil
	}
}

// commit applies the batch, and what arrives meanwhile, makes it durable and
// answers it. It returns the batch for reuse.
func (w *writer) commit(batch []*message) []*message {
	if len(w.kept) > 0 {
		batch = append(w.kept, batch...) // in their old order
		w.kept = nil
	}
	if err := w.err(); err != nil {
		return fail(batch, err)
	}
	for {
		tx, err := w.begin()
		if err != nil {
			return fail(batch, w.degrade(fmt.Errorf("begin: %w", err), errdefs.ErrUnavailable))
		}
		w.txn.reset(tx)
		id := tx.ID()

		var failed int
		batch, failed, err = w.applyAll(batch)
		if err != nil {
			w.rollback(tx) // it wrote nothing to disk yet
			w.drop(batch[failed], err)
			batch = append(batch[:failed], batch[failed+1:]...)
			continue
		}
		if messages, mutations := count(batch); messages > 0 {
			began := time.Now()
			err = w.caught(w.mark)
			if err == nil {
				err = w.commitTx(tx, w.env.commit)
			} else {
				w.rollback(tx)
			}
			w.committing.Add(int64(time.Since(began)))
			if err != nil && noRoom(err) && w.neverWas(id) {
				return w.keep(batch, err)
			}
			if err != nil {
				return fail(batch, w.degrade(err, fmt.Errorf("%w: %w", ErrIndeterminate, errdefs.ErrUnavailable)))
			}
			w.marked = true
			if w.full {
				w.full = false
				w.log.Infof("snapshot database %s: there is room again", w.path)
			}
			w.transactions.Add(1)
			w.messages.Add(uint64(messages))
			w.mutations.Add(uint64(mutations))
		} else {
			w.rollback(tx) // barriers and reminders only
		}
		waiting := 0
		for _, m := range batch {
			if m.due {
				waiting++
			}
			m.mutations = nil // who may still drop it does not keep them
			m.Answer(struct{}{})
		}
		w.shared = waiting > 1
		return batch
	}
}

// mark says in the first transaction of the process that it writes.
func (w *writer) mark() error {
	if w.marked {
		return nil
	}
	return w.txn.putOurs(bucketSettings, settingProcess, bytesOf(w.boot+wordOpen))
}

// applyAll applies the batch and takes in what arrives meanwhile. On error it says
// which message failed.
func (w *writer) applyAll(batch []*message) ([]*message, int, error) {
	for i := 0; ; i++ {
		if i == len(batch) && i < w.limit { // more where some were kept
			batch = w.mailbox.TryReceive(batch, w.limit-i)
		}
		if i == len(batch) && i < w.limit && (w.shared || i > 1) {
			runtime.Gosched()
			batch = w.mailbox.TryReceive(batch, w.limit-i)
		}
		if i == len(batch) {
			return batch, 0, nil
		}
		if err := w.apply(batch[i]); err != nil {
			return batch, i, err
		}
	}
}

// apply applies one message. Where it meets a page that is not what it should be only
// this message fails.
func (w *writer) apply(m *message) error {
	return w.caught(func() error {
		if m.dropped.Load() {
			m.mutations = nil
		}
		for i := range m.mutations {
			if err := w.txn.apply(&m.mutations[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// drop answers a message that could not be applied.
func (w *writer) drop(m *message, err error) {
	if !m.due {
		w.log.WithError(err).Error("snapshot database: a change nobody waits for was dropped")
	}
	m.Fail(err)
}

// degrade refuses writes from now on. It returns the error for the callers of the
// transaction that failed; class says what they may conclude.
func (w *writer) degrade(cause, class error) error {
	w.log.WithError(cause).Errorf("snapshot database %s: a transaction failed, writes are refused until it is opened again", w.path)
	refused := fmt.Errorf("snapshot database %s: writes are refused since a transaction failed (%w), open it again: %w", w.path, cause, errdefs.ErrUnavailable)
	w.failed.Store(&refused)
	return fmt.Errorf("snapshot database %s: transaction failed (%w): %w", w.path, cause, class)
}

func fail(batch []*message, err error) []*message {
	for _, m := range batch {
		m.Fail(err)
	}
	return batch
}

// count leaves out barriers and reminders.
func count(batch []*message) (messages, mutations int) {
	for _, m := range batch {
		if len(m.mutations) > 0 {
			messages++
			mutations += len(m.mutations)
		}
	}
	return messages, mutations
}
