// Package faults makes calls fail, take long and panic, at given rates and as a
// seed says.
//
// It imports errdefs only.
package faults

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// ErrInjected is wrapped by every injected error, beside errdefs.ErrInternal.
var ErrInjected = errors.New("injected fault")

// Rates are probabilities per call.
type Rates struct {
	Error float64
	Panic float64
	Delay float64
	// Cancel is the probability with which a client's context ends early.
	Cancel float64
	// Longest is the longest delay.
	Longest time.Duration
}

// Any tells whether something is injected at all.
func (r Rates) Any() bool { return r.Error+r.Panic+r.Delay+r.Cancel > 0 }

// Injector injects. It is safe for concurrent use; the n-th decision of a seed is
// always the same.
type Injector struct {
	Rates
	calm atomic.Bool

	mu     sync.Mutex
	rand   *rand.Rand
	counts map[string]uint64
}

// New returns an Injector.
func New(r Rates, seed uint64) *Injector {
	return &Injector{Rates: r, rand: rand.New(rand.NewPCG(seed, 1<<63)), counts: map[string]uint64{}}
}

// Calm stops or resumes injecting, and answers what it was.
func (i *Injector) Calm(calm bool) bool { return i.calm.Swap(calm) }

// Counts returns what was injected, by kind.
func (i *Injector) Counts() map[string]uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.counts)
}

// Before is called before a call of the driver.
func (i *Injector) Before(call, id string) error {
	if i.calm.Load() {
		return nil
	}
	i.mu.Lock()
	dice, wait := i.rand.Float64(), time.Duration(0)
	if i.rand.Float64() < i.Delay {
		// Not zero: timers without duration are a special case of synctest.
		wait = 1 + time.Duration(i.rand.Int64N(max(1, int64(i.Longest))))
		i.counts["delay"]++
	}
	fail, explode := dice < i.Error, dice >= i.Error && dice < i.Error+i.Panic
	switch {
	case fail:
		i.counts["error of "+call]++
	case explode:
		i.counts["panic of "+call]++
	}
	i.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	switch {
	case fail:
		return fmt.Errorf("%s of %q: %w: %w", call, id, ErrInjected, errdefs.ErrInternal)
	case explode:
		panic(fmt.Sprintf("injected panic in %s of %q", call, id))
	}
	return nil
}

// Count counts a fault that somebody else made.
func (i *Injector) Count(kind string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counts[kind]++
}
