package mounts

// The goroutine that owns the table, and what it does on each message. It never
// blocks but for the next message: driver calls run beside it (driver.go), and
// answers go to slots that always have room.

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"runtime/debug"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/actors"
)

// actor is the goroutine's state.
type actor struct {
	driver      Driver
	parallelism *semaphore.Weighted
	mailbox     *actors.Mailbox[message]
	calls       sync.WaitGroup // goroutines of driver calls

	// Below: touched by run and the handlers only.

	entries map[string]*entry // none for a graph ID at rest that is not mounted or sealed
	// epochs change whenever a write hold begins or ends, each for the graph IDs
	// whose hash it is. So an epoch outlives the entry without a record of every
	// graph ID there ever was; graph IDs that share one cost each other a
	// measurement now and then. One counter for all would, in a busy builder, let
	// no measurement count.
	epochs   [4096]uint64
	seed     maphash.Seed
	closing  bool
	closeErr error // of graph IDs that could not be unmounted; final when run has returned
}

// entry is what is known of one graph ID. All of it belongs to the goroutine.
type entry struct {
	id    string
	state State
	dir   string // where Mounted or Unmounting
	call  *call  // the driver call under way: where Mounting or Unmounting

	holders int
	writers int
	round   uint64 // holds of an earlier round were ended by Drop or Close

	waiters   []*acquire             // none where Mounted, but before settle
	seal      *seal                  // waits for the mount to go; later acquires wait behind it
	releases  []*actors.Reply[error] // wait for the Put under way
	putFailed error                  // Mounted without holders, and Put is not to be tried again unasked
	freed     func()
}

func newActor(d Driver, parallelism *semaphore.Weighted, mailbox *actors.Mailbox[message]) *actor {
	return &actor{
		driver:      d,
		parallelism: parallelism,
		mailbox:     mailbox,
		entries:     make(map[string]*entry),
		seed:        maphash.MakeSeed(),
	}
}

func (a *actor) run() {
	defer a.calls.Wait() // what was withdrawn may still be on its way out
	var batch []message
	for {
		var more bool
		batch, more = a.mailbox.Receive(batch[:0], 64)
		if !more {
			return
		}
		for _, m := range batch {
			a.handle(m)
		}
		clear(batch)
		if a.closing && len(a.entries) == 0 {
			// Not before: the results of driver calls come through the mailbox.
			a.mailbox.Close()
		}
	}
}

// handle keeps a panic from ending the process: it becomes an error for the
// caller, and the table goes on.
func (a *actor) handle(m message) {
	defer recovered("mounts table", "", func(err error) {
		defer recovered("mounts table", "", func(error) {})
		m.fail(a, err)
	})
	switch m := m.(type) {
	case *acquire:
		a.acquire(m)
	case *release:
		a.release(m)
	case *seal:
		a.seal(m)
	case *unseal:
		a.unseal(m)
	case *forget:
		a.forget(m)
	case *writers:
		a.writers(m)
	case *drop:
		a.drop(m)
	case *list:
		a.list(m)
	case *withdraw:
		m.parked.withdraw(a, m.cause)
	case *returned:
		a.returned(m)
	case *shutdown:
		a.shutdown()
	}
}

// recovered is deferred: it logs a panic with its stack and hands it on as error.
func recovered(who, id string, report func(error)) {
	if p := recover(); p != nil {
		log.L.WithField("id", id).WithField("stack", string(debug.Stack())).Errorf("%s: panic: %v", who, p)
		report(fmt.Errorf("%s: panic: %v: %w", who, p, errdefs.ErrInternal))
	}
}

var errClosing = fmt.Errorf("mounts table is closed: %w", errdefs.ErrUnavailable)

func (a *actor) entry(id string) *entry {
	e := a.entries[id]
	if e == nil {
		e = &entry{id: id, state: Unmounted}
		a.entries[id] = e
	}
	return e
}

func (a *actor) acquire(m *acquire) {
	switch {
	case a.closing:
		m.Fail(errClosing)
		return
	case m.withdrawn != nil:
		m.Fail(m.withdrawn)
		return
	}
	e := a.entry(m.id)
	m.entry = e
	e.waiters = append(e.waiters, m)
	a.settle(e)
}

func (a *actor) release(m *release) {
	h, e := m.hold, m.hold.entry
	if h.round != e.round {
		m.Answer(nil)
		return
	}
	e.holders--
	if h.write {
		e.writers--
		a.wrote(e.id)
	}
	if e.holders > 0 {
		m.Answer(nil)
		return
	}
	e.releases = append(e.releases, &m.Reply)
	a.settle(e)
}

func (a *actor) seal(m *seal) {
	switch {
	case a.closing:
		m.Fail(errClosing)
		return
	case m.withdrawn != nil:
		m.Fail(m.withdrawn)
		return
	}
	e := a.entry(m.id)
	switch {
	case e.state == Sealed || e.seal != nil:
		m.Fail(fmt.Errorf("a removal is under way: %w", errdefs.ErrAlreadyExists))
	case e.holders > 0 || len(e.waiters) > 0:
		if m.freed != nil {
			e.freed = m.freed
		}
		m.Fail(fmt.Errorf("held by %d, awaited by %d: %w", e.holders, len(e.waiters), errdefs.ErrFailedPrecondition))
	default:
		m.entry = e
		e.seal = m
		e.putFailed = nil
		a.settle(e)
	}
}

func (a *actor) unseal(m *unseal) {
	if e := a.entries[m.id]; e != nil && e.state == Sealed {
		e.state = Unmounted
		a.settle(e)
	}
}

func (a *actor) forget(m *forget) {
	if e := a.entries[m.id]; e != nil && e.state == Sealed {
		e.state = Unmounted
		e.failWaiters(fmt.Errorf("removed: %w", errdefs.ErrNotFound))
		a.settle(e)
	}
}

func (a *actor) writers(m *writers) {
	if a.closing {
		m.Fail(errClosing)
		return
	}
	w := writing{epoch: *a.epoch(m.id)}
	if e := a.entries[m.id]; e != nil {
		w.n = e.writers
	}
	m.Answer(w)
}

func (a *actor) drop(m *drop) {
	e := a.entries[m.id]
	// Elsewhere there is neither a hold nor a mount that one left behind.
	if e == nil || e.state != Mounted && e.state != Unmounting {
		m.Answer(nil)
		return
	}
	a.endHolds(e)
	e.releases = append(e.releases, &m.Reply)
	e.putFailed = nil
	a.settle(e)
}

func (a *actor) endHolds(e *entry) {
	e.round++
	if e.writers > 0 {
		a.wrote(e.id)
	}
	e.holders, e.writers = 0, 0
}

func (a *actor) list(m *list) {
	all := make([]Entry, 0, len(a.entries))
	for _, e := range a.entries {
		all = append(all, Entry{ID: e.id, State: e.state, Holders: e.holders, Writers: e.writers, Waiting: len(e.waiters)})
	}
	slices.SortFunc(all, func(x, y Entry) int { return cmp.Compare(x.ID, y.ID) })
	m.Answer(all)
}

func (a *actor) returned(m *returned) {
	e := m.call.entry
	e.call = nil
	switch e.state {
	case Mounting:
		a.mounted(e, m.dir, m.err)
	case Unmounting:
		a.unmounted(e, m.err)
	}
	a.settle(e)
}

func (a *actor) shutdown() {
	if a.closing {
		return
	}
	a.closing = true
	var holds, ids int
	for _, e := range a.entries {
		if e.holders > 0 {
			holds += e.holders
			ids++
		}
		a.endHolds(e)
		e.failWaiters(errClosing)
		if e.seal != nil {
			e.seal.Fail(errClosing)
			e.seal = nil
		}
		if e.state == Sealed {
			e.state = Unmounted
		}
		e.freed, e.putFailed = nil, nil
		a.settle(e)
	}
	if holds > 0 {
		log.L.Warnf("mounts table: closed with %d holds on %d graph IDs, unmounting", holds, ids)
	}
}

func (a *actor) wrote(id string) { *a.epoch(id)++ }

func (a *actor) epoch(id string) *uint64 {
	return &a.epochs[maphash.String(a.seed, id)%uint64(len(a.epochs))]
}
