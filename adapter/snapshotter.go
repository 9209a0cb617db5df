package adapter

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/layer"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/sys/user"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/mounts"
)

// Opt says what a snapshotter stands on. The first four fields are those of the
// snapshotter in dockerd's builder.
type Opt struct {
	// GraphDriver makes the directories. It may be shared with a layer store.
	GraphDriver graphdriver.Driver
	// LayerStore keeps the layers of images, on the same GraphDriver. Its layers
	// are snapshots too, under their chain IDs, and snapshots can be made layers.
	// Nil: there are none.
	LayerStore layer.Store
	// Root is the directory that holds snapshots.db.
	Root string
	// IdentityMapping is handed on to BuildKit.
	IdentityMapping user.IdentityMapping

	// Name is that of the snapshotter, "default" if empty. Its lease resources
	// have the type "snapshots/"+Name. A root that was opened under other names
	// keeps what their resources name.
	Name string
	// OverlayMounts makes Mounts and View of overlay2 answer how to mount a snapshot
	// with overlayfs, where that fits into the options of a mount, instead of a bind
	// of what the engine mounted. BuildKit then computes differences from the upper
	// directory, and, where Name is "overlayfs", makes merges of hard links on top of
	// the base. With other drivers it does nothing.
	OverlayMounts bool
	// Engine tunes the engine.
	Engine []engine.Option
}

// NewSnapshotter opens the snapshotter in opt.Root and returns it with the lease
// manager that is to be used from now on instead of prevLM, in the namespace ns. A
// snapshot is removed when no lease names it any more, whichever namespace the
// lease is in.
//
// It blocks while the database is read. Errors: ErrInvalidArgument for options
// that cannot be, ErrUnavailable where another process holds the database, and
// those of the file system.
func NewSnapshotter(opt Opt, prevLM leases.Manager, ns string) (snapshot.Snapshotter, *leaseutil.Manager, error) {
	if opt.Name == "" {
		opt.Name = "default"
	}
	switch {
	case opt.GraphDriver == nil:
		return nil, nil, fmt.Errorf("new snapshotter: no graph driver: %w", errdefs.ErrInvalidArgument)
	case strings.ContainsAny(opt.Name, "\x00/"):
		return nil, nil, fmt.Errorf("new snapshotter: the name %q contains NUL or a slash: %w", opt.Name, errdefs.ErrInvalidArgument)
	}
	d, err := newDriver(opt.GraphDriver, DriverOpt{IdentityMapping: opt.IdentityMapping, OverlayMounts: opt.OverlayMounts})
	if err != nil {
		return nil, nil, fmt.Errorf("new snapshotter: %w", err)
	}
	ls, err := newLayers(opt.LayerStore, opt.GraphDriver)
	if err != nil {
		return nil, nil, fmt.Errorf("new snapshotter: %w", err)
	}
	e, err := engine.Open(context.TODO(), engine.Config{
		Driver: d,
		Layers: ls,
		Root:   opt.Root,
		Name:   opt.Name,
		Leases: leaseSource{manager: leaseSeam{prevLM}, namespace: ns},
	}, opt.Engine...)
	if err != nil {
		return nil, nil, fmt.Errorf("new snapshotter: %w", err)
	}
	lm := &leaseManager{leaseSeam: leaseSeam{prevLM}, engine: e, types: resourceTypes(e.Names())}
	s := &snapshotter{engine: e, leases: lm, namespace: ns, name: opt.Name, idmap: opt.IdentityMapping}
	return s, leaseutil.WithNamespace(lm, ns), nil
}

// snapshotter is the face for BuildKit.
type snapshotter struct {
	engine    *engine.Engine
	leases    *leaseManager
	namespace string // of leases that a context names
	name      string
	idmap     user.IdentityMapping
}

func (s *snapshotter) Name() string { return s.name }

// IdentityMapping is nil where nothing is mapped: BuildKit takes one that is empty
// for one that maps (moby/moby#39444).
func (s *snapshotter) IdentityMapping() *user.IdentityMapping { return mapping(s.idmap) }

func mapping(m user.IdentityMapping) *user.IdentityMapping {
	if m.Empty() {
		return nil
	}
	return &m
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	return s.underLease(ctx, key, func() error {
		return s.engine.Prepare(ctx, key, parent, opts...)
	})
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (snapshot.Mountable, error) {
	var m *engine.Mountable
	err := s.underLease(ctx, key, func() (err error) {
		m, err = s.engine.View(ctx, key, parent, opts...)
		return err
	})
	if err != nil {
		return nil, err // BuildKit keeps what it gets, so not a nil in an interface
	}
	return s.mountable(m), nil
}

func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.underLease(ctx, name, func() error {
		return s.engine.Commit(ctx, name, key, opts...)
	})
}

// underLease adds key to the lease that ctx names, where it names one, before it
// calls create, as containerd's metadata store does in one transaction. BuildKit
// relies on it for what it unpacks, merges and diffs.
//
// Where create fails the lease goes on naming the key: another call, under way or
// done, may have added it too and rely on it. A key without a snapshot costs nothing.
func (s *snapshotter) underLease(ctx context.Context, key string, create func() error) error {
	id, ok := leases.FromContext(ctx)
	if !ok {
		return create()
	}
	ctx = namespaces.WithNamespace(ctx, s.namespace)
	if err := s.leases.AddResource(ctx, leases.Lease{ID: id}, s.resource(key)); err != nil {
		return fmt.Errorf("add %q to the lease %q of the context: %w", key, id, err)
	}
	return create()
}

func (s *snapshotter) resource(key string) leases.Resource {
	return leases.Resource{ID: key, Type: resourceType(s.name)}
}

func (s *snapshotter) Mounts(ctx context.Context, key string) (snapshot.Mountable, error) {
	m, err := s.engine.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return s.mountable(m), nil
}

func (s *snapshotter) mountable(m *engine.Mountable) snapshot.Mountable {
	return mountable{m, s.idmap}
}

type mountable struct {
	*engine.Mountable
	idmap user.IdentityMapping
}

func (m mountable) IdentityMapping() *user.IdentityMapping { return mapping(m.idmap) }

func (s *snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	return s.engine.Stat(ctx, key)
}

func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	return s.engine.Update(ctx, info, fieldpaths...)
}

func (s *snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return s.engine.Usage(ctx, key)
}

func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	return s.engine.Walk(ctx, fn, filters...)
}

// Remove is refused, as dockerd's snapshotter refuses it: a snapshot goes with its
// last lease.
func (s *snapshotter) Remove(_ context.Context, key string) error {
	return fmt.Errorf("remove %q: a snapshot is removed when no lease names it any more: %w", key, errdefs.ErrFailedPrecondition)
}

func (s *snapshotter) Close() error { return s.engine.Close() }

// Stats tells of the engine, to those that assert it.
func (s *snapshotter) Stats() engine.Stats { return s.engine.Stats() }

// Census lists what the engine knows, to those that assert it.
func (s *snapshotter) Census(ctx context.Context) ([]engine.Resident, []mounts.Entry, error) {
	return s.engine.Census(ctx)
}
