package mounts

// The messages to the goroutine that owns the table, and how each gives up.

import (
	"errors"
	"fmt"
	"slices"

	"github.com/graphsnap/graphsnap/actors"
)

// message is what the goroutine takes. After a panic in the handler fail is
// called in its place; it answers whoever waits for the message.
type message interface {
	fail(a *actor, err error)
}

// parked is a message whose answer may have to wait for the driver or for
// another caller, and whose caller may stop waiting before that.
type parked interface {
	message
	// withdraw answers err where the message waits, and makes one that has not
	// arrived yet be refused when it does: the caller may give up while it is
	// still in line for the mailbox, where nobody may answer it.
	withdraw(a *actor, err error)
}

type (
	acquire struct {
		id   string
		hold *Hold
		wait
		actors.Reply[*Hold]
	}
	release struct {
		hold                *Hold
		actors.Reply[error] // the driver's error; Fail is for those of the table
	}
	seal struct {
		id    string
		freed func()
		wait
		actors.Reply[struct{}]
	}
	unseal  struct{ id string }
	forget  struct{ id string }
	writers struct {
		id string
		actors.Reply[writing]
	}
	drop struct {
		id                  string
		actors.Reply[error] // as in release
	}
	list     struct{ actors.Reply[[]Entry] }
	withdraw struct {
		parked parked
		cause  error
	}
	returned struct { // a driver call came back
		call *call
		dir  string
		err  error
	}
	shutdown struct{}
)

type writing struct {
	n     int
	epoch uint64
}

// wait is the part of a parked message that the goroutine owns.
type wait struct {
	entry     *entry // where it waits; nil before it arrived
	withdrawn error  // set where the caller stopped waiting
}

func (m *acquire) withdraw(a *actor, err error) {
	m.withdrawn = err
	if m.entry == nil {
		return
	}
	// Not there where it was answered, which stands.
	if i := slices.Index(m.entry.waiters, m); i >= 0 {
		m.entry.waiters = slices.Delete(m.entry.waiters, i, i+1)
		m.Fail(fmt.Errorf("while %s: %w", m.entry.state, err))
		a.settle(m.entry)
	}
}

func (m *seal) withdraw(a *actor, err error) {
	m.withdrawn = err
	if m.entry != nil && m.entry.seal == m {
		m.entry.seal = nil
		m.Fail(err)
		a.settle(m.entry)
	}
}

func (m *acquire) fail(a *actor, err error) { m.withdraw(a, err); m.Fail(err) }
func (m *release) fail(_ *actor, err error) { m.Fail(err) }
func (m *seal) fail(a *actor, err error)    { m.withdraw(a, err); m.Fail(err) }
func (m *unseal) fail(*actor, error)        {}
func (m *forget) fail(*actor, error)        {}
func (m *writers) fail(_ *actor, err error) { m.Fail(err) }
func (m *drop) fail(_ *actor, err error)    { m.Fail(err) }
func (m *list) fail(_ *actor, err error)    { m.Fail(err) }
func (m *withdraw) fail(*actor, error)      {}

// fail answers all who wait for the driver call, or wanted what it made.
func (m *returned) fail(a *actor, err error) {
	e := m.call.entry
	e.failWaiters(err)
	e.answerReleases(err)
	if e.seal != nil {
		e.seal.Fail(err)
		e.seal = nil
	}
	a.settle(e)
}

// fail gives the table up, so that Close returns.
func (m *shutdown) fail(a *actor, err error) {
	a.closeErr = errors.Join(a.closeErr, err)
	clear(a.entries)
}
