package mounts

// What becomes of an entry: the one place that decides whether the driver is to
// mount or unmount, who is granted and when an entry goes.

import (
	"errors"
	"fmt"

	"github.com/containerd/log"
)

// settle takes e one step towards what is wanted of it. Every handler that
// changed e ends here, so the order in which messages came does not matter: what
// happens next follows from the entry alone.
func (a *actor) settle(e *entry) {
	// Acquires that came after a seal wait for what becomes of it.
	wanted := len(e.waiters) > 0 && e.seal == nil

	// A call still waiting for its turn need not be made.
	if e.state == Mounting && !wanted && e.call.withdraw() {
		e.call, e.state = nil, Unmounted
	}
	if e.state == Unmounting && wanted && e.call.withdraw() {
		e.call, e.state = nil, Mounted
		e.answerReleases(nil)
	}

	switch {
	case e.call != nil:
		return // its result comes here again
	case e.state == Mounted && wanted:
		a.grant(e)
		return
	case e.state == Mounted && e.holders > 0:
		return
	case e.state == Mounted && e.dir == "":
		a.unmounted(e, nil) // the driver mounted nothing
	case e.state == Mounted && e.putFailed == nil:
		e.state = Unmounting
		a.start(e)
		return
	case e.state == Unmounted && wanted:
		e.state = Mounting
		a.start(e)
		return
	}

	// At rest: nobody holds e, and who waits for it waits for the end of a seal.
	if e.freed != nil {
		freed := e.freed
		e.freed = nil
		func() {
			defer recovered("mounts table: freed", e.id, func(error) {})
			freed()
		}()
	}
	if e.seal != nil {
		e.state = Sealed
		e.seal.Answer(struct{}{})
		e.seal = nil
	}
	if a.closing && e.state == Mounted {
		a.closeErr = errors.Join(a.closeErr, fmt.Errorf("close: graph ID %q: %w", e.id, e.putFailed))
		e.state = Unmounted
	}
	if e.state == Unmounted {
		delete(a.entries, e.id)
	}
}

// grant gives every waiter its hold.
func (a *actor) grant(e *entry) {
	e.putFailed = nil
	for n := len(e.waiters); n > 0; n = len(e.waiters) {
		m := e.waiters[n-1]
		h := m.hold
		h.dir, h.entry, h.round = e.dir, e, e.round
		e.waiters[n-1] = nil
		e.waiters = e.waiters[:n-1]
		e.holders++
		if h.write {
			e.writers++
			a.wrote(e.id)
		}
		m.Answer(h)
	}
}

func (e *entry) failWaiters(err error) {
	for _, m := range e.waiters {
		m.Fail(err)
	}
	e.waiters = nil
}

func (e *entry) answerReleases(err error) {
	for _, r := range e.releases {
		r.Answer(err)
	}
	e.releases = nil
}

func (a *actor) mounted(e *entry, dir string, err error) {
	if err != nil {
		e.state = Unmounted
		// Those who wait behind a seal did not wait for this mount.
		if e.seal == nil {
			e.failWaiters(fmt.Errorf("mount: %w", err))
		}
		return
	}
	e.state, e.dir = Mounted, dir
}

func (a *actor) unmounted(e *entry, err error) {
	if err != nil {
		err = fmt.Errorf("unmount: %w", err)
		e.state, e.putFailed = Mounted, err
		if len(e.releases) == 0 && e.seal == nil {
			log.L.WithError(err).WithField("id", e.id).Error("mounts table: a mount that nobody holds stays")
		}
	} else {
		e.state, e.dir = Unmounted, ""
	}
	e.answerReleases(err)
	if e.seal != nil && err != nil {
		e.seal.Fail(err)
		e.seal = nil
	}
}
