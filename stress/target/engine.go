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

// Engine is the engine on a driver and leases in memory.
type Engine struct {
	// Patience is how long Audit waits for what happens in the background, two
	// minutes by default: removals that failed are tried again after a while.
	Patience time.Duration

	driver  Driver
	leases  *memoryLeases
	layers  *Layers // nil for none
	root    string
	options []engine.Option

	engine *engine.Engine
}

// OpenEngine opens the engine on driver with its database in root.
//
// On a Null there is a layer store in memory.
func OpenEngine(ctx context.Context, driver Driver, root string, options ...engine.Option) (*Engine, error) {
	t := newEngine(driver, root, options)
	if d, ok := driver.(*Null); ok {
		t.layers = NewLayers(d)
	}
	return t, t.begin(ctx)
}

// OpenPersistent is OpenEngine with leases and directories that outlive the process, as
// what it writes in root tells.
func OpenPersistent(ctx context.Context, driver Driver, root string, options ...engine.Option) (*Engine, error) {
	t := newEngine(driver, root, options)
	if err := errors.Join(outlive(driver, root), t.leases.persist(filepath.Join(root, "leases"))); err != nil {
		return nil, err
	}
	return t, t.begin(ctx)
}

// OpenUnleased opens the engine as the face for containerd needs it: without leases,
// so that Remove works. The methods for leases answer ErrNotImplemented. Where persist
// is set the directories outlive the process.
func OpenUnleased(ctx context.Context, driver Driver, root string, persist bool, options ...engine.Option) (*Engine, error) {
	t := &Engine{Patience: 2 * time.Minute, driver: driver, root: root, options: options}
	if persist {
		if err := outlive(driver, root); err != nil {
			return nil, err
		}
	}
	return t, t.open(ctx)
}

// outlive makes the directories of a driver in memory outlive the process. Those of
// others do.
func outlive(driver Driver, root string) error {
	if d, ok := driver.(*Null); ok {
		return d.persist(filepath.Join(root, "directories"))
	}
	return nil
}

func newEngine(driver Driver, root string, options []engine.Option) *Engine {
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
	c := engine.Config{Driver: t.driver, Root: t.root, Name: "stress"}
	if t.leases != nil {
		c.Leases = t.leases
	}
	if t.layers != nil {
		c.Layers = t.layers
	}
	e, err := engine.Open(ctx, c, t.options...)
	if err == nil {
		t.engine = e
	}
	return err
}

// Opened returns the engine, until the next restart.
func (t *Engine) Opened() *engine.Engine { return t.engine }

// Traits implements Target.
func (t *Engine) Traits() Traits {
	return Traits{Name: "engine", Driver: t.driver.Name(), Leased: t.leases != nil, Layers: t.layers != nil}
}

// Stats implements Telling.
func (t *Engine) Stats() engine.Stats { return t.engine.Stats() }

// DriverCalls implements Counting.
func (t *Engine) DriverCalls() map[string]uint64 { return t.driver.Calls() }

// Directories implements Counting.
func (t *Engine) Directories() (map[string]bool, error) { return t.driver.Directories() }

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

// EnsureLayer implements Target.
func (t *Engine) EnsureLayer(ctx context.Context, key string) ([]string, error) {
	l, err := t.engine.EnsureLayer(ctx, key)
	if err != nil {
		return nil, err
	}
	return l.DiffIDs(), nil
}

var errNoImages = fmt.Errorf("there is no layer store: %w", errdefs.ErrNotImplemented)

// Pull implements Target.
func (t *Engine) Pull(_ context.Context, image string) (string, error) {
	if t.layers == nil {
		return "", errNoImages
	}
	return t.layers.pull(image), nil
}

// Untag implements Target.
func (t *Engine) Untag(_ context.Context, image string) error {
	if t.layers == nil {
		return errNoImages
	}
	t.layers.untag(image)
	return nil
}

// Remove implements Target.
func (t *Engine) Remove(ctx context.Context, key string) error { return t.engine.Remove(ctx, key) }

var errNoLeases = fmt.Errorf("there are no leases: %w", errdefs.ErrNotImplemented)

// CreateLease implements Target.
func (t *Engine) CreateLease(_ context.Context, lease string) error {
	if t.leases == nil {
		return errNoLeases
	}
	return t.leases.create(lease)
}

// AddLease implements Target.
func (t *Engine) AddLease(ctx context.Context, lease, key string) error {
	if t.leases == nil {
		return errNoLeases
	}
	err := t.engine.AddLease(ctx, engine.Lease{Namespace: namespace, ID: lease}, key, func() error {
		return t.leases.add(lease, key)
	})
	return err
}

// RemoveLease implements Target.
func (t *Engine) RemoveLease(_ context.Context, lease, key string) error {
	if t.leases == nil {
		return errNoLeases
	}
	err := t.leases.remove(lease, key)
	t.engine.RemoveLease(engine.Lease{Namespace: namespace, ID: lease}, key)
	return err
}

// EndLease implements Target.
func (t *Engine) EndLease(_ context.Context, lease string, expire bool) error {
	if t.leases == nil {
		return errNoLeases
	}
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
	closing := t.engine.Close()
	if t.layers != nil {
		t.layers.forget()
	}
	return errors.Join(closing, t.open(ctx))
}

// Close implements Target.
func (t *Engine) Close() error { return t.engine.Close() }
