// Package faces makes targets of what stands on real graph drivers.
package faces

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	_ "github.com/docker/docker/daemon/graphdriver/btrfs" // empty without a C compiler
	_ "github.com/docker/docker/daemon/graphdriver/vfs"   // by its name
	"github.com/docker/docker/layer"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/peer"
	"github.com/graphsnap/graphsnap/stress/target"
)

// BuildKit is the BuildKit face on a graph driver and Docker's layer store, with
// containerd's lease manager, or moby's snapshotter in its place.
type BuildKit struct {
	name    string // of the target
	stock   bool   // it is moby's
	driver  string
	root    string
	options []engine.Option
	// Patience is how long Audit waits for what happens in the background, two minutes
	// by default.
	Patience time.Duration

	*peer.Docker
}

// OpenBuildKit opens the face with all that it keeps in root. Where the driver does
// not work there the error is the driver's.
func OpenBuildKit(ctx context.Context, driver, root string, options ...engine.Option) (*BuildKit, error) {
	// What was there before a start goes fast, so that removal runs beside everything else.
	options = append([]engine.Option{engine.WithGrace(50 * time.Millisecond)}, options...)
	return openBuildKit(ctx, &BuildKit{name: "buildkit", driver: driver, root: root, options: options, Patience: 2 * time.Minute})
}

// OpenMoby opens the snapshotter inside dockerd 28.5.2's builder in the same way. It
// tells nothing of itself.
func OpenMoby(ctx context.Context, driver, root string) (target.Target, error) {
	t, err := openBuildKit(ctx, &BuildKit{name: "moby", stock: true, driver: driver, root: root})
	if err != nil {
		return nil, err
	}
	return struct{ target.Target }{t}, nil
}

func openBuildKit(ctx context.Context, t *BuildKit) (*BuildKit, error) {
	if err := t.open(ctx); err != nil {
		return nil, err
	}
	// Where a start finds no lease at all it keeps everything.
	if err := t.CreateLease(ctx, "anchor"); err != nil && !errdefs.IsAlreadyExists(err) {
		return nil, err
	}
	return t, nil
}

func (t *BuildKit) open(ctx context.Context) error {
	name := "graphsnap"
	if t.stock {
		name = "moby"
	}
	s, err := peer.Open(ctx, name, peer.Options{Root: t.root, Driver: t.driver, Engine: t.options})
	if err != nil {
		return fmt.Errorf("open %s on %s in %s: %w", name, t.driver, t.root, err)
	}
	t.Docker = s.(*peer.Docker)
	return nil
}

// Traits implements target.Target.
func (t *BuildKit) Traits() target.Traits {
	return target.Traits{Name: t.name, Driver: t.driver, Leased: true, Layers: true}
}

// Stats implements target.Telling.
func (t *BuildKit) Stats() engine.Stats {
	return t.Snapshotter.(target.Telling).Stats()
}

// View implements target.Target.
func (t *BuildKit) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (target.Mountable, error) {
	m, err := t.Docker.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Mounts implements target.Target.
func (t *BuildKit) Mounts(ctx context.Context, key string) (target.Mountable, error) {
	m, err := t.Docker.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// EnsureLayer implements target.Target.
func (t *BuildKit) EnsureLayer(ctx context.Context, key string) ([]string, error) {
	ids, err := t.Snapshotter.(interface {
		EnsureLayer(context.Context, string) ([]layer.DiffID, error)
	}).EnsureLayer(ctx, key)
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = id.String()
	}
	return all, err
}

// Remove implements target.Target. That of Docker ends a lease.
func (t *BuildKit) Remove(ctx context.Context, key string) error {
	return t.Snapshotter.Remove(ctx, key)
}

func (t *BuildKit) resource(key string) leases.Resource {
	return leases.Resource{ID: key, Type: "snapshots/" + t.Name()}
}

// CreateLease implements target.Target.
func (t *BuildKit) CreateLease(ctx context.Context, lease string) error {
	_, err := t.Leases.Create(peer.Context(ctx), leases.WithID(lease))
	return err
}

// AddLease implements target.Target.
func (t *BuildKit) AddLease(ctx context.Context, lease, key string) error {
	return t.Leases.AddResource(peer.Context(ctx), leases.Lease{ID: lease}, t.resource(key))
}

// RemoveLease implements target.Target.
func (t *BuildKit) RemoveLease(ctx context.Context, lease, key string) error {
	return t.Leases.DeleteResource(peer.Context(ctx), leases.Lease{ID: lease}, t.resource(key))
}

// EndLease implements target.Target. Nothing expires here: that is a deletion.
func (t *BuildKit) EndLease(ctx context.Context, lease string, _ bool) error {
	return t.Leases.Delete(peer.Context(ctx), leases.Lease{ID: lease})
}

// Restart implements target.Target.
func (t *BuildKit) Restart(ctx context.Context) error {
	if err := t.Close(); err != nil {
		return err
	}
	return t.open(ctx)
}
