package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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

// Close sleeps while it waits for the driver, though another directory becomes due
// meanwhile: time does not pass in the bubble where somebody spins.
func TestCloseSleepsWhileTheDriverDeletes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDriver()
		e := &Engine{driver: newDriverSeam(d), leftovers: actors.NewHandover(), pending: make(chan chan Pending)}
		e.options.removals = 2
		d.before = func(_, id string) error {
			if id == "long" {
				time.Sleep(time.Hour)
			}
			return errors.New("device or resource busy")
		}
		ctx, cancel := context.WithCancel(t.Context())
		e.ctx = ctx
		began := time.Now()
		time.AfterFunc(time.Millisecond, cancel)
		e.leftovers.Put("busy")
		e.leftovers.Put("long")
		e.deleteLeftovers(ctx)
		if took := time.Since(began); took != time.Hour {
			t.Errorf("it returned after %v", took)
		}
	})
}

// What cannot be deleted is tried again after pauses that become longer, up to a minute,
// and what failed together does not come back together.
func TestPausesBetweenRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newMemoryDriver()
		e := &Engine{driver: newDriverSeam(d), leftovers: actors.NewHandover(), pending: make(chan chan Pending), shut: make(chan struct{})}
		e.options.removals = 2
		var mu sync.Mutex
		tried := map[string][]time.Time{}
		d.before = func(_, id string) error {
			mu.Lock()
			defer mu.Unlock()
			tried[id] = append(tried[id], time.Now())
			return errors.New("device or resource busy")
		}
		ctx, cancel := context.WithCancel(t.Context())
		e.ctx = ctx
		done := make(chan struct{})
		go func() {
			defer close(done)
			e.deleteLeftovers(ctx)
		}()
		e.leftovers.Put("one")
		e.leftovers.Put("another")
		time.Sleep(10 * time.Minute) // of the bubble's clock
		if p := e.Pending(); p != (Pending{Directories: 2, Failed: 2}) {
			t.Errorf("pending: %+v", p)
		}
		cancel()
		<-done
		together := 0
		for id, times := range tried {
			if len(times) < 15 {
				t.Errorf("%q was tried %d times in ten minutes", id, len(times))
			}
			for i := 1; i < len(times); i++ {
				most := min(time.Minute, 250*time.Millisecond<<i)
				if pause := times[i].Sub(times[i-1]); pause < most/2 || pause > most {
					t.Errorf("%q: the pause %d was %v, want between %v and %v", id, i, pause, most/2, most)
				}
				if id == "one" && i < len(tried["another"]) && times[i].Equal(tried["another"][i]) {
					together++
				}
			}
		}
		if together > 1 {
			t.Errorf("both were tried at one instant %d times", together)
		}
	})
}
