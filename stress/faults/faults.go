package faults

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// ErrInjected is wrapped by every injected error, beside errdefs.ErrInternal.
var ErrInjected = errors.New("injected fault")

// Injector injects. It is safe for concurrent use; what becomes of the n-th call of a
// name follows from the seed, whatever is called beside it.
type Injector struct {
	Rates
	seed uint64
	calm atomic.Bool

	mu     sync.Mutex
	calls  map[string]uint64 // that were decided, by name
	counts map[string]uint64
}

// New returns an Injector.
func New(r Rates, seed uint64) *Injector {
	return &Injector{Rates: r, seed: seed, calls: map[string]uint64{}, counts: map[string]uint64{}}
}

// Calm stops or resumes injecting, and answers what it was.
func (i *Injector) Calm(calm bool) bool { return i.calm.Swap(calm) }

// Calmed tells whether Calm stopped it.
func (i *Injector) Calmed() bool { return i.calm.Load() }

// Counts returns what was injected, by kind.
func (i *Injector) Counts() map[string]uint64 {
	i.mu.Lock()
	defer i.mu.Unlock()
	return maps.Clone(i.counts)
}

// Count counts a fault that somebody else made.
func (i *Injector) Count(kind string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.counts[kind]++
}

// Memory is called before a call of a driver or a layer store in memory, such as
// driver.Create or layers.Register.
func (i *Injector) Memory(call, id string) error {
	if strings.HasPrefix(call, "layers.") {
		return i.meet(i.Rates.Layers, call, id)
	}
	return i.meet(i.Rates.Driver, call, id)
}

// Hook injects at crash points from now on: into the database, and, where real is
// set, into the driver and the layer store. It takes the place of an earlier hook.
func (i *Injector) Hook(real bool) {
	crashpoint.Hook(func(point string, done bool) error {
		var c Calls
		switch part, _, _ := strings.Cut(point, "."); {
		case part == "db":
			c = i.Database
			if point != "db.Commit" {
				c.Panic, c.Full = 0, 0 // no page is written there, and few are looked at
			}
		case part == "driver" && real:
			c = i.Rates.Driver
		case part == "layers" && real:
			c = i.Rates.Layers
		}
		switch point {
		case "driver.Exists", "layers.Peek", "layers.Find", "layers.All": // have no error to answer with
			c.Error, c.Panic = 0, 0
		}
		c.Panic /= 2 // there are two points, and it may come to either
		if done {
			return i.meet(Calls{Panic: c.Panic}, point+", done", "")
		}
		return i.meet(c, point, "")
	})
}

// meet decides what becomes of a call.
func (i *Injector) meet(c Calls, call, id string) error {
	if i.calm.Load() || !c.Any() {
		return nil
	}
	i.mu.Lock()
	n := i.calls[call]
	i.calls[call]++
	name := fnv.New64a()
	name.Write([]byte(call))
	choice := rand.New(rand.NewPCG(i.seed, name.Sum64()+n))
	var wait time.Duration
	if choice.Float64() < c.Delay {
		// Not zero: timers without duration are a special case of synctest.
		wait = 1 + time.Duration(choice.Int64N(max(1, int64(i.Longest))))
		i.counts["delay of "+call]++
	}
	kind, dice := "", choice.Float64()
	for _, k := range []struct {
		name string
		p    float64
	}{{"error", c.Error}, {"panic", c.Panic}, {"full", c.Full}} {
		if dice -= k.p; dice < 0 {
			kind = k.name
			i.counts[kind+" of "+call]++
			break
		}
	}
	i.mu.Unlock()
	if wait > 0 {
		time.Sleep(wait)
	}
	switch kind {
	case "error":
		return fmt.Errorf("%s of %q: %w: %w", call, id, ErrInjected, errdefs.ErrInternal)
	case "full":
		return fmt.Errorf("%w: %w", ErrInjected, &fs.PathError{Op: "write", Path: call, Err: syscall.ENOSPC})
	case "panic":
		panic(fmt.Sprintf("injected panic in %s of %q", call, id))
	}
	return nil
}
