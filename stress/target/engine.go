package target

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

// Engine is the engine on a null driver and leases in memory.
type Engine struct {
	// Patience is how long Audit waits for what happens in the background, two
	// minutes by default: removals that failed are tried again after a while.
	Patience time.Duration

	driver  *Null
	leases  *memoryLeases
	root    string
	options []engine.Option

	engine *engine.Engine
}

// OpenEngine opens the engine on driver with its database in root.
func OpenEngine(ctx context.Context, driver *Null, root string, options ...engine.Option) (*Engine, error) {
	t := newEngine(driver, root, options)
	return t, t.begin(ctx)
}

// OpenPersistent is OpenEngine with leases and directories that outlive the process, as
// what it writes in root tells.
func OpenPersistent(ctx context.Context, driver *Null, root string, options ...engine.Option) (*Engine, error) {
	t := newEngine(driver, root, options)
	if err := errors.Join(driver.persist(filepath.Join(root, "directories")), t.leases.persist(filepath.Join(root, "leases"))); err != nil {
		return nil, err
	}
	return t, t.begin(ctx)
}

func newEngine(driver *Null, root string, options []engine.Option) *Engine {
	return &Engine{
		Patience: 2 * time.Minute,
		driver:   driver, leases: &memoryLeases{held: map[string]map[string]bool{}}, root: root,
		// Snapshots without a lease go fast, so that removal runs beside everything else.
		options: append([]engine.Option{engine.WithGrace(50 * time.Millisecond), engine.WithLeaseSweep(200 * time.Millisecond)}, options...),
	}
}

// begin is the first open.
func (t *Engine) begin(ctx context.Context) error {
	// Where a start finds no lease at all it keeps everything.
	if err := t.CreateLease(ctx, "anchor"); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	return t.open(ctx)
}

func (t *Engine) open(ctx context.Context) error {
	e, err := engine.Open(ctx, engine.Config{Driver: t.driver, Root: t.root, Name: "stress", Leases: t.leases}, t.options...)
	if err == nil {
		t.engine = e
	}
	return err
}

// Traits implements Target.
func (t *Engine) Traits() Traits { return Traits{Name: "engine", Driver: "null", Leased: true} }

// Stats implements Telling.
func (t *Engine) Stats() engine.Stats { return t.engine.Stats() }

// DriverCalls implements Counting.
func (t *Engine) DriverCalls() map[string]uint64 { return t.driver.Calls() }

// Prepare implements Target.
func (t *Engine) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	return t.engine.Prepare(ctx, key, parent, opts...)
}

// View implements Target.
func (t *Engine) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error) {
	m, err := t.engine.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Commit implements Target.
func (t *Engine) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return t.engine.Commit(ctx, name, key, opts...)
}

// Stat implements Target.
func (t *Engine) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return t.engine.Stat(ctx, key)
}

// Update implements Target.
func (t *Engine) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	return t.engine.Update(ctx, info, paths...)
}

// Usage implements Target.
func (t *Engine) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return t.engine.Usage(ctx, key)
}

// Walk implements Target.
func (t *Engine) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return t.engine.Walk(ctx, fn, filters...)
}

// Mounts implements Target.
func (t *Engine) Mounts(ctx context.Context, key string) (Mountable, error) {
	m, err := t.engine.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Remove implements Target.
func (t *Engine) Remove(context.Context, string) error {
	return fmt.Errorf("remove: %w", errdefs.ErrFailedPrecondition)
}

// CreateLease implements Target.
func (t *Engine) CreateLease(_ context.Context, lease string) error {
	return t.leases.create(lease)
}

// AddLease implements Target.
func (t *Engine) AddLease(ctx context.Context, lease, key string) error {
	err := t.engine.AddLease(ctx, engine.Lease{Namespace: namespace, ID: lease}, key, func() error {
		return t.leases.add(lease, key)
	})
	return err
}

// RemoveLease implements Target.
func (t *Engine) RemoveLease(_ context.Context, lease, key string) error {
	err := t.leases.remove(lease, key)
	t.engine.RemoveLease(engine.Lease{Namespace: namespace, ID: lease}, key)
	return err
}

// EndLease implements Target.
func (t *Engine) EndLease(_ context.Context, lease string, expire bool) error {
	if err := t.leases.drop(lease); err != nil {
		return err
	}
	if !expire {
		t.engine.EndLease(engine.Lease{Namespace: namespace, ID: lease})
	}
	return nil
}

// Restart implements Target.
func (t *Engine) Restart(ctx context.Context) error {
	return errors.Join(t.engine.Close(), t.open(ctx))
}

// Close implements Target.
func (t *Engine) Close() error { return t.engine.Close() }
