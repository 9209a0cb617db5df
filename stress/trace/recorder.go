package trace

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// Recorder is a snapshotter that records what it is asked, and has another one answer.
type Recorder struct {
	snapshots.Snapshotter

	mu     sync.Mutex
	began  time.Time // of the first call
	events []Event
}

// NewRecorder records what s is asked.
func NewRecorder(s snapshots.Snapshotter) *Recorder { return &Recorder{Snapshotter: s} }

// Events returns what was recorded so far.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Event(nil), r.events...)
}

// record begins a call; what it returns ends it.
func (r *Recorder) record(e Event) (end func(err error, info snapshots.Info)) {
	began := time.Now()
	r.mu.Lock()
	if r.began.IsZero() {
		r.began = began
	}
	e.At = began.Sub(r.began)
	r.mu.Unlock()
	return func(err error, info snapshots.Info) {
		e.Took, e.Failed = time.Since(began), class(err)
		if err == nil && info.Name != "" {
			e.Kind, e.Parent = info.Kind.String(), info.Parent
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.events = append(r.events, e)
	}
}

func labels(opts []snapshots.Opt) map[string]string {
	var info snapshots.Info
	for _, o := range opts {
		_ = o(&info) // what is wrong with them the snapshotter says
	}
	return info.Labels
}

// Stat implements snapshots.Snapshotter.
func (r *Recorder) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	end := r.record(Event{Call: "stat", Key: key})
	info, err := r.Snapshotter.Stat(ctx, key)
	end(err, info)
	return info, err
}

// Update implements snapshots.Snapshotter.
func (r *Recorder) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	end := r.record(Event{Call: "update", Key: info.Name, Set: info.Labels, Path: paths})
	told, err := r.Snapshotter.Update(ctx, info, paths...)
	end(err, told)
	return told, err
}

// Usage implements snapshots.Snapshotter.
func (r *Recorder) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	end := r.record(Event{Call: "usage", Key: key})
	u, err := r.Snapshotter.Usage(ctx, key)
	end(err, snapshots.Info{})
	return u, err
}

// Mounts implements snapshots.Snapshotter.
func (r *Recorder) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	end := r.record(Event{Call: "mounts", Key: key})
	m, err := r.Snapshotter.Mounts(ctx, key)
	end(err, snapshots.Info{})
	return m, err
}

// Prepare implements snapshots.Snapshotter.
func (r *Recorder) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	end := r.record(Event{Call: "prepare", Key: key, On: parent, Set: labels(opts)})
	m, err := r.Snapshotter.Prepare(ctx, key, parent, opts...)
	end(err, snapshots.Info{})
	return m, err
}

// View implements snapshots.Snapshotter.
func (r *Recorder) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	end := r.record(Event{Call: "view", Key: key, On: parent, Set: labels(opts)})
	m, err := r.Snapshotter.View(ctx, key, parent, opts...)
	end(err, snapshots.Info{})
	return m, err
}

// Commit implements snapshots.Snapshotter.
func (r *Recorder) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	end := r.record(Event{Call: "commit", Key: key, On: name, Set: labels(opts)})
	err := r.Snapshotter.Commit(ctx, name, key, opts...)
	end(err, snapshots.Info{})
	return err
}

// Remove implements snapshots.Snapshotter.
func (r *Recorder) Remove(ctx context.Context, key string) error {
	end := r.record(Event{Call: "remove", Key: key})
	err := r.Snapshotter.Remove(ctx, key)
	end(err, snapshots.Info{})
	return err
}

// Walk implements snapshots.Snapshotter.
func (r *Recorder) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	end := r.record(Event{Call: "walk", Path: filters})
	err := r.Snapshotter.Walk(ctx, fn, filters...)
	end(err, snapshots.Info{})
	return err
}

// Cleanup implements snapshots.Cleaner. It is not recorded: not all targets have it.
func (r *Recorder) Cleanup(ctx context.Context) error {
	if c, ok := r.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return nil
}
