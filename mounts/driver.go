package mounts

// Driver calls, which run beside the goroutine that owns the table and come back
// to it as messages.

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// call is one driver call: a Get where its entry was Mounting when it started,
// else a Put.
type call struct {
	entry *entry
	// decided is taken by whoever comes first: the call's goroutine when its turn
	// has come, or the actor when the call is no longer wanted.
	decided atomic.Bool
	leave   context.CancelFunc // ends the wait for the turn
}

// withdraw says whether c was stopped before the driver was called. Then nothing
// comes back from it.
func (c *call) withdraw() bool {
	if !c.decided.CompareAndSwap(false, true) {
		return false
	}
	c.leave()
	return true
}

// start begins the call that e's state asks for.
func (a *actor) start(e *entry) {
	ctx, leave := context.WithCancel(context.Background())
	c := &call{entry: e, leave: leave}
	e.call = c
	id, do := e.id, a.get
	if e.state == Unmounting {
		do = a.put
	}
	a.calls.Go(func() {
		defer leave()
		if a.parallelism != nil {
			if a.parallelism.Acquire(ctx, 1) != nil {
				return // withdrawn: nothing else ends ctx
			}
			defer a.parallelism.Release(1)
		}
		if !c.decided.CompareAndSwap(false, true) {
			return
		}
		result := &returned{call: c, err: errExited}
		// Deferred, for a driver may end its goroutine; somebody waits all the same.
		defer func() { a.mailbox.Owe(result) }()
		result.dir, result.err = do(id)
	})
}

var errExited = errors.New("the driver ended its goroutine")

func (a *actor) get(id string) (dir string, err error) {
	defer recovered("graph driver's Get", id, func(panicked error) { err = panicked })
	if err := crashpoint.Before("driver.Get"); err != nil {
		return "", err
	}
	dir, err = a.driver.Get(id)
	crashpoint.After("driver.Get")
	return dir, err
}

func (a *actor) put(id string) (_ string, err error) {
	defer recovered("graph driver's Put", id, func(panicked error) { err = panicked })
	if err := crashpoint.Before("driver.Put"); err != nil {
		return "", err
	}
	err = a.driver.Put(id)
	crashpoint.After("driver.Put")
	return "", err
}
