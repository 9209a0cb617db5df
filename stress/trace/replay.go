package trace

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/target"
)

// Options say how a trace is replayed.
type Options struct {
	// Speed is how many times as fast as it was recorded; not positive: as fast as it
	// goes.
	Speed float64
	// Clients is how many calls are under way at most.
	Clients int
	// Lenient says that other answers than those that were recorded are no violations:
	// the target is a peer, which is measured.
	Lenient bool
}

// goes is how long a snapshot without a lease may stay.
const goes = 30 * time.Second

// replay is one of them.
type replay struct {
	Options
	t        target.Target
	traits   target.Traits
	recorder *metrics.Recorder

	mu      sync.Mutex
	leases  map[string]string         // that keep a key
	made    int                       // leases
	held    map[string][]func() error // mounts of a key
	verdict metrics.Verdict
}

// Replay replays events on t, which has to be new, until all calls have ended or ctx
// ends. Where snapshots go with their leases each gets one of its own, which ends in
// place of a removal. Where mounts are released they are held until the snapshot is
// committed or removed.
func Replay(ctx context.Context, t target.Target, events []Event, o Options) *metrics.Result {
	o.Clients = max(1, o.Clients)
	r := &replay{
		Options: o, t: t, traits: t.Traits(), recorder: metrics.NewRecorder(o.Clients),
		leases: map[string]string{}, held: map[string][]func() error{},
	}
	r.verdict.Histories = 1
	order := ordered(events)
	ended := make([]chan struct{}, len(events))
	for i := range ended {
		ended[i] = make(chan struct{})
	}
	room := semaphore.NewWeighted(int64(o.Clients))
	began := time.Now()
	var calls errgroup.Group
	for i := range events {
		calls.Go(func() error {
			defer close(ended[i])
			if o.Speed > 0 {
				select {
				case <-time.After(time.Until(began.Add(time.Duration(float64(events[i].At) / o.Speed)))):
				case <-ctx.Done():
				}
			}
			for _, j := range order.after[i] {
				<-ended[j]
			}
			if ctx.Err() == nil && room.Acquire(ctx, 1) == nil {
				defer room.Release(1)
				r.call(ctx, i, &events[i], order.alone[i])
			}
			return nil
		})
	}
	_ = calls.Wait()
	elapsed := time.Since(began)
	for _, all := range r.held {
		for _, release := range all {
			_ = release()
		}
	}
	result := &metrics.Result{Target: r.traits.Name, Driver: r.traits.Driver, Workload: "trace", Clients: o.Clients, Elapsed: elapsed, Verdict: r.verdict}
	r.recorder.Sample(nil)
	r.recorder.Fill(result)
	return result
}

// call replays one call and compares its answer with what was recorded.
func (r *replay) call(ctx context.Context, i int, e *Event, alone bool) {
	if e.Call == "remove" && r.traits.Leased && e.Failed != "" {
		return // a lease cannot be ended in vain
	}
	var info snapshots.Info
	err := r.before(ctx, e)
	if err == nil {
		end := r.recorder.Begin(i, e.Call)
		info, err = r.do(ctx, e)
		answered := class(err)
		end(answered, answered == "error")
	}
	if err == nil {
		err = r.after(ctx, e)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !alone || r.Lenient || ctx.Err() != nil {
		return
	}
	r.verdict.Operations++
	answered, wrong := class(err), ""
	switch {
	case answered != e.Failed:
		wrong = fmt.Sprintf("%q (%v), recorded was %q", answered, err, e.Failed)
	case e.Kind != "" && (info.Kind.String() != e.Kind || info.Parent != e.Parent):
		wrong = fmt.Sprintf("%v on %q, recorded was %s on %q", info.Kind, info.Parent, e.Kind, e.Parent)
	}
	if wrong != "" {
		r.verdict.Violations = append(r.verdict.Violations, metrics.Violation{
			Message: fmt.Sprintf("call %d, %s of %q: %s", i, e.Call, e.Key, wrong),
		})
	}
}

func (r *replay) do(ctx context.Context, e *Event) (info snapshots.Info, err error) {
	set := snapshots.WithLabels(e.Set)
	switch e.Call {
	case "prepare":
		err = r.t.Prepare(ctx, e.Key, e.On, set)
	case "view":
		var m target.Mountable
		if m, err = r.t.View(ctx, e.Key, e.On, set); err == nil {
			err = r.hold(e.Key, m)
		}
	case "commit":
		err = r.t.Commit(ctx, e.On, e.Key, set)
	case "stat":
		info, err = r.t.Stat(ctx, e.Key)
	case "update":
		info, err = r.t.Update(ctx, snapshots.Info{Name: e.Key, Labels: e.Set}, e.Path...)
	case "usage":
		_, err = r.t.Usage(ctx, e.Key)
	case "mounts":
		_, err = r.t.Mounts(ctx, e.Key)
	case "walk":
		err = r.t.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }, e.Path...)
	case "remove":
		if !r.traits.Leased {
			return info, r.t.Remove(ctx, e.Key)
		}
		r.mu.Lock()
		lease := r.leases[e.Key]
		delete(r.leases, e.Key)
		r.mu.Unlock()
		err = r.t.EndLease(ctx, lease, false)
	}
	return info, err
}

// before makes the lease of what is about to be made, and ends the mounts of what is
// about to be committed or removed.
func (r *replay) before(ctx context.Context, e *Event) error {
	key := e.Key
	switch e.Call {
	case "commit":
		key = e.On
		fallthrough
	case "remove":
		r.mu.Lock()
		held := r.held[e.Key]
		delete(r.held, e.Key)
		r.mu.Unlock()
		for _, release := range held {
			if err := release(); err != nil {
				return err
			}
		}
	}
	if !r.traits.Leased || e.Failed != "" || e.Call != "prepare" && e.Call != "view" && e.Call != "commit" {
		return nil
	}
	r.mu.Lock()
	r.made++
	lease := fmt.Sprint("trace-", r.made)
	r.leases[key] = lease
	r.mu.Unlock()
	if err := r.t.CreateLease(ctx, lease); err != nil {
		return err
	}
	return r.t.AddLease(ctx, lease, key)
}

// after mounts what was prepared, ends the lease of what was committed, and waits for
// what was removed to go.
func (r *replay) after(ctx context.Context, e *Event) error {
	switch e.Call {
	case "prepare":
		if r.traits.Keeps {
			return nil
		}
		m, err := r.t.Mounts(ctx, e.Key)
		if err != nil {
			return err
		}
		return r.hold(e.Key, m)
	case "commit":
		r.mu.Lock()
		lease, ok := r.leases[e.Key]
		delete(r.leases, e.Key)
		r.mu.Unlock()
		if ok {
			return r.t.EndLease(ctx, lease, false)
		}
	case "remove":
		for began := time.Now(); r.traits.Leased && !r.Lenient; {
			if _, err := r.t.Stat(ctx, e.Key); errdefs.IsNotFound(err) {
				return nil
			} else if err != nil {
				return err
			}
			if time.Since(began) > goes {
				return errors.New("it stays without a lease")
			}
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

func (r *replay) hold(key string, m target.Mountable) error {
	_, release, err := m.Mount()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[key] = append(r.held[key], release)
	return nil
}
