package peer

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	dockersnapshot "github.com/docker/docker/builder/builder-next/adapters/snapshot"
	"github.com/docker/docker/daemon/graphdriver"
	_ "github.com/docker/docker/daemon/graphdriver/overlay2" // by its name
	"github.com/docker/docker/layer"
	"github.com/moby/buildkit/snapshot"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/adapter"
)

const namespace = "buildkit"

// Docker is a Snapshotter on Docker's layer store, as dockerd's builder has it.
type Docker struct {
	// Layers is the layer store. Its layers are snapshots too.
	Layers layer.Store
	// Leases is the lease manager of the snapshotter, for calls in the namespace
	// that Context returns.
	Leases leases.Manager

	snapshot.Snapshotter
	root   string
	driver string
	db     *bolt.DB // of leases
	images *images
}

// Context returns ctx in the namespace of the leases.
func Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// openDocker makes the layer store and the database of leases, and opens a
// snapshotter on them.
func openDocker(o Options, open func(graphdriver.Driver, layer.Store, leases.Manager) (snapshot.Snapshotter, leases.Manager, error)) (_ *Docker, err error) {
	d := &Docker{root: o.Root, driver: cmp.Or(o.Driver, nullDriver)}
	d.Layers, err = layer.NewStoreFromOptions(layer.StoreOptions{Root: o.Root, GraphDriver: d.driver})
	if err != nil {
		return nil, err
	}
	driver := d.Layers.(interface{ Driver() graphdriver.Driver }).Driver()
	if null, ok := driver.(*Null); ok {
		null.existed = o.Existed
	}
	if d.images, err = openImages(d.Layers, filepath.Join(o.Root, "images")); err != nil {
		return nil, errors.Join(err, d.Layers.Cleanup())
	}
	d.db, err = bolt.Open(d.leaseDatabase(), 0o600, nil)
	if err != nil {
		return nil, errors.Join(err, d.Layers.Cleanup())
	}
	d.Snapshotter, d.Leases, err = open(driver, d.Layers, metadata.NewLeaseManager(metadata.NewDB(d.db, nil, nil)))
	if err != nil {
		return nil, errors.Join(err, d.db.Close(), d.Layers.Cleanup())
	}
	return d, nil
}

func openGraphsnap(o Options) (Snapshotter, error) {
	return openDocker(o, func(g graphdriver.Driver, s layer.Store, lm leases.Manager) (snapshot.Snapshotter, leases.Manager, error) {
		return adapter.NewSnapshotter(adapter.Opt{GraphDriver: g, LayerStore: s, Root: o.Root, Engine: o.Engine}, lm, namespace)
	})
}

func openMoby(o Options) (Snapshotter, error) {
	return openDocker(o, func(g graphdriver.Driver, s layer.Store, lm leases.Manager) (snapshot.Snapshotter, leases.Manager, error) {
		return dockersnapshot.NewSnapshotter(dockersnapshot.Opt{GraphDriver: g, LayerStore: s, Root: o.Root}, lm, namespace)
	})
}

// Database is the path of the bolt database that holds the snapshots.
func (d *Docker) Database() string { return filepath.Join(d.root, "snapshots.db") }

// Check compares what graphsnap has left on disk, after Close.
func (d *Docker) Check(ctx context.Context) (*adapter.CheckReport, error) {
	db, err := bolt.Open(d.leaseDatabase(), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return adapter.Check(ctx, adapter.CheckOpt{
		Database: d.Database(), Driver: d.driver, Home: filepath.Join(d.root, d.driver),
		LayerDB: d.layerDB(),
		Leases:  metadata.NewLeaseManager(metadata.NewDB(db, nil, nil)), Namespace: namespace,
	})
}

// Owns tells whether the directory is that of a layer, or of one that the layer store was
// removing when it was killed: that it ends in Close.
func (d *Docker) Owns(graphID string) bool {
	for _, l := range d.Layers.Map() {
		if l, ok := l.(interface{ CacheID() string }); ok && l.CacheID() == graphID {
			return true
		}
	}
	files, _ := filepath.Glob(filepath.Join(d.layerDB(), "sha256", "*-removing", "cache-id"))
	return slices.ContainsFunc(files, func(file string) bool {
		id, err := os.ReadFile(file)
		return err == nil && string(id) == graphID
	})
}

func (d *Docker) layerDB() string {
	return filepath.Join(d.root, "image", d.Layers.DriverName(), "layerdb")
}

func (d *Docker) leaseDatabase() string { return filepath.Join(d.root, "leases.db") }

// View is BuildKit's. That of moby makes no snapshot.
func (d *Docker) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (Mountable, error) {
	m, err := d.Snapshotter.View(ctx, key, parent, opts...)
	if err != nil {
		return nil, err // not a nil in an interface
	}
	return m, nil
}

// Mounts is BuildKit's.
func (d *Docker) Mounts(ctx context.Context, key string) (Mountable, error) {
	m, err := d.Snapshotter.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Keep makes a lease of the same name as key.
func (d *Docker) Keep(ctx context.Context, key string) error {
	ctx = Context(ctx)
	l, err := d.Leases.Create(ctx, leases.WithID(key))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	l.ID = key
	return d.Leases.AddResource(ctx, l, leases.Resource{ID: key, Type: "snapshots/" + d.Name()})
}

// Remove deletes the lease that Keep made.
func (d *Docker) Remove(ctx context.Context, key string) error {
	return d.Leases.Delete(Context(ctx), leases.Lease{ID: key})
}

// Close closes the snapshotter and the lease database and ends what is mounted
// still below the driver's home.
func (d *Docker) Close() error {
	return errors.Join(d.Snapshotter.Close(), d.db.Close(), d.Layers.Cleanup())
}
