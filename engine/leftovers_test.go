package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// A directory that hangs, and one that fails for ever, hold up no other; what is
// left is visible.
func TestOneDirectoryHoldsUpNoOther(t *testing.T) {
	r := newRuins(t, false)
	for _, key := range []string{"hangs", "fails", "a", "b", "c"} {
		r.put(key, "", "whole")
		r.left(persist.Removing("of-" + key))
	}
	hangs := make(chan struct{})
	r.driver.before = func(call, id string) error {
		switch {
		case call != "Remove":
		case id == "of-hangs":
			<-hangs
		case id == "of-fails":
			return errors.New("device or resource busy")
		}
		return nil
	}
	r.opts = []Option{WithRemovalParallelism(2)}
	r.reopen()
	want := Pending{Directories: 2, Deleting: 1, Failed: 1}
	eventually(t, "the others are deleted", func() bool { return r.Pending() == want })
	r.driver.calm()
	close(hangs)
	r.settled()
	if p := r.Pending(); p != (Pending{}) {
		t.Errorf("pending: %+v", p)
	}
	r.finish()
}

// Close waits for the driver, not for the time at which it was to be asked again.
func TestCloseDoesNotWaitForRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDriver()
		e := &Engine{driver: newDriverSeam(d), leftovers: actors.NewHandover(), pending: make(chan chan Pending)}
		e.options.removals = 1
		d.before = func(string, string) error { return errors.New("device or resource busy") }
		ctx, cancel := context.WithCancel(t.Context())
		e.ctx = ctx
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.deleteLeftovers(ctx)
		}()
		e.leftovers.Put("busy")
		synctest.Wait()
		if n := d.count("Remove"); n != 1 {
			t.Errorf("Remove was called %d times without a pause", n)
		}
		cancel()
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("it waits for the next try")
		}
	})
}
