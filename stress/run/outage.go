package run

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
)

// restart closes the target and opens it again, between the calls of all families
// that are open.
func (r *runner) restart(ctx context.Context) {
	if r.gate.Acquire(ctx, everybody) != nil {
		return
	}
	defer r.gate.Release(everybody)
	r.full.Lock()
	defer r.full.Unlock()
	r.reopen(ctx)
}

// reopen is restart while no call is under way and the disk has room.
func (r *runner) reopen(ctx context.Context) {
	before := r.config.Faults.Calm(true)
	defer r.config.Faults.Calm(before)
	began := r.clock.Now()
	if err := r.target.Restart(context.WithoutCancel(ctx)); err != nil {
		r.violation("", fmt.Sprintf("restart: %v", err), nil, "")
		return
	}
	select {
	case <-r.refusals: // it was made good
	default:
	}
	r.dead.Store(false)
	r.round.Add(1)
	over := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for f := range r.open {
		// What was on disk and told to nobody is seen from now on.
		f.history.Settle(began)
		f.history.Add(history.Operation{Client: 0, Input: model.Input{Kind: model.Restart, Key: model.None, Lease: model.None, Handle: model.None}, Call: began, Return: over})
	}
}

// refused says that the target may refuse changes until it is opened again.
func (r *runner) refused() {
	select {
	case r.refusals <- struct{}{}:
	default:
	}
}

// mend restarts a target that refuses changes.
func (r *runner) mend(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.refusals:
			r.restart(ctx)
		}
	}
}

// kills kills the target at random moments, while calls are under way, and starts it
// again.
func (r *runner) kills(ctx context.Context) {
	t := r.target.(target.Mortal)
	moments := rand.New(rand.NewPCG(r.config.Seed, 1<<62))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(moments.Int64N(int64(r.config.Kill)))):
		}
		if r.enter(ctx) != nil { // beside calls, not beside a restart or a look
			return
		}
		r.pulling.Lock()
		r.dead.Store(true)
		err := t.Kill()
		r.pulling.Unlock()
		r.leave()
		if err != nil {
			r.violation("", fmt.Sprintf("kill: %v", err), nil, "")
			return
		}
		r.config.Faults.Count("kill")
		r.restart(context.WithoutCancel(ctx)) // also where the run ended meanwhile: it is to be closed
	}
}

// The longest times that the disk has room, and none.
const (
	roomy = 500 * time.Millisecond
	tight = 200 * time.Millisecond
)

// fills makes the disk full at random moments, for a while.
func (r *runner) fills(ctx context.Context) {
	moments := rand.New(rand.NewPCG(r.config.Seed, 1<<61))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(moments.Int64N(int64(roomy)))):
		}
		if err := r.fill(time.Duration(moments.Int64N(int64(tight)))); err != nil {
			r.violation("", fmt.Sprintf("fill the disk: %v", err), nil, "")
			return
		}
	}
}

func (r *runner) fill(during time.Duration) error {
	r.full.Lock()
	defer r.full.Unlock()
	room, err := r.config.Fill()
	if err != nil {
		return err
	}
	time.Sleep(during)
	r.config.Faults.Count("full disk")
	return room()
}
