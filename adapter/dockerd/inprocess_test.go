package dockerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	dockersnapshot "github.com/docker/docker/builder/builder-next/adapters/snapshot"
	"github.com/docker/docker/daemon/graphdriver"
	_ "github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/docker/docker/layer"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/reexec"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// What follows calls a snapshotter as dockerd's builder calls it, on dockerd's
// own graph driver and layer store, where dockerd itself would need luck or a
// long time to get there. It is called twice: as dockerd's and as graphsnap's.

func TestMain(m *testing.M) {
	if reexec.Init() { // overlay2 mounts in a process of its own where paths are long
		return
	}
	os.Exit(m.Run())
}

// builder is the part of dockerd's builder that a snapshotter stands on.
type builder struct {
	root     string
	layers   layer.Store
	leases   leases.Manager
	snapshot snapshotter
	driver   *measured
	patience time.Duration
}

// snapshotter is what dockerd asks of one.
type snapshotter interface {
	snapshot.Snapshotter
	GetLayer(string) (layer.Layer, error)
	GetDiffIDs(ctx context.Context, key string) ([]layer.DiffID, error)
	EnsureLayer(ctx context.Context, key string) ([]layer.DiffID, error)
}

const namespace = "buildkit"

var inNamespace = namespaces.WithNamespace(context.Background(), namespace)

// complaint runs check on both snapshotters: stock dockerd's must fail it.
func complaint(t *testing.T, check func(b *builder) error) {
	requireRoot(t)
	t.Run(stock, func(t *testing.T) {
		err := onBuilder(t, newRoot(t), newStock, func(b *builder) error {
			b.patience = 5 * time.Second // what it leaves stays
			return check(b)
		})
		if err == nil {
			t.Error("stock dockerd does not have this fault any more")
		}
		t.Logf("stock dockerd: %v", err)
	})
	t.Run(graphsnap, func(t *testing.T) {
		if err := onBuilder(t, newRoot(t), newSnapshotter, check); err != nil {
			t.Error(err)
		}
	})
}

func newSnapshotter(opt Opt, lm leases.Manager) (snapshot.Snapshotter, leases.Manager, error) {
	return NewSnapshotter(opt, lm, namespace)
}

type open func(Opt, leases.Manager) (snapshot.Snapshotter, leases.Manager, error)

func newStock(opt Opt, lm leases.Manager) (snapshot.Snapshotter, leases.Manager, error) {
	return dockersnapshot.NewSnapshotter(dockersnapshot.Opt{
		GraphDriver: opt.GraphDriver, LayerStore: opt.LayerStore, Root: opt.Root,
	}, lm, namespace)
}

// newRoot makes a directory for a builder, which is unmounted and removed when the
// test ends.
func newRoot(t *testing.T) string {
	t.Helper()
	requireRoot(t)
	root, err := os.MkdirTemp("", "dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", root)
	t.Cleanup(func() {
		// Stock dockerd leaves mounts behind.
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(infos)
		for _, info := range infos {
			if err := unix.Unmount(info.Mountpoint, unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", info.Mountpoint, err)
			}
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return root
}

// onBuilder calls check with a builder as a dockerd that starts on root makes one:
// its layer store knows of no references but those of layers' children.
func onBuilder(t *testing.T, root string, open open, check func(b *builder) error) error {
	t.Helper()
	store, err := layer.NewStoreFromOptions(layer.StoreOptions{Root: root, GraphDriver: "overlay2"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Cleanup(); err != nil {
			t.Error(err)
		}
	}()
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(root, "containerdmeta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	driver := &measured{Driver: store.(interface{ Driver() graphdriver.Driver }).Driver()}
	s, lm, err := open(Opt{
		GraphDriver: driver,
		LayerStore:  store,
		Root:        root,
	}, metadata.NewLeaseManager(metadata.NewDB(db, blobs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return check(&builder{root: root, layers: store, leases: lm, snapshot: s.(snapshotter), driver: driver, patience: patience})
}

// measured lets a test step in while a directory is being measured.
type measured struct {
	graphdriver.Driver
	then func()
}

func (d *measured) DiffSize(id, parent string) (int64, error) {
	size, err := d.Driver.DiffSize(id, parent)
	if d.then != nil {
		d.then()
	}
	return size, err
}

// lease makes a lease that names keys, as BuildKit makes one for a record.
func (b *builder) lease(id string, keys ...string) error {
	if _, err := b.leases.Create(inNamespace, leases.WithID(id)); err != nil {
		return err
	}
	for _, key := range keys {
		if err := b.leases.AddResource(inNamespace, leases.Lease{ID: id}, leases.Resource{ID: key, Type: "snapshots/default"}); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) unlease(ids ...string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, b.leases.Delete(inNamespace, leases.Lease{ID: id}))
	}
	return errors.Join(errs...)
}

// commit makes the committed snapshot name with one file in it, under the lease
// record, and under a lease of its own what it was while it was made, which ends
// here.
func (b *builder) commit(record, name, parent, content string) error {
	key := "making-" + name
	if err := errors.Join(b.lease(key, key), b.snapshot.Prepare(inNamespace, key, parent)); err != nil {
		return err
	}
	err := b.inside(key, func(dir string) error {
		path := filepath.Join(dir, "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return err
		}
		past := time.Unix(1, 0) // so that the same content is the same layer
		return errors.Join(os.Chtimes(path, past, past), os.Chtimes(dir, past, past))
	})
	if err != nil {
		return err
	}
	return errors.Join(b.lease(record, name), b.snapshot.Commit(inNamespace, name, key), b.unlease(key))
}

func (b *builder) inside(key string, do func(dir string) error) error {
	m, err := b.snapshot.Mounts(inNamespace, key)
	if err != nil {
		return err
	}
	return b.mounted(m, do)
}

// mounted calls do with a directory on which m is mounted as it says.
func (b *builder) mounted(m snapshot.Mountable, do func(dir string) error) (err error) {
	mounts, release, err := m.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	dir, err := os.MkdirTemp(b.root, "mounted-")
	if err != nil {
		return err
	}
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(dir, 0), os.Remove(dir)) }()
	return do(dir)
}

// directories lists what is in overlay2's home, links included, and the read-write
// layers of the layer store.
func (b *builder) directories() (names []string) {
	for _, dir := range []string{"overlay2", "overlay2/l", "image/overlay2/layerdb/mounts"} {
		entries, err := os.ReadDir(filepath.Join(b.root, dir))
		if err != nil && !os.IsNotExist(err) {
			return []string{err.Error()}
		}
		for _, e := range entries {
			if name := filepath.Join(dir, e.Name()); name != "overlay2/l" && name != "overlay2/backingFsBlockDev" {
				names = append(names, name)
			}
		}
	}
	return names
}

// emptied waits until nothing is left on disk.
func (b *builder) emptied() error { return b.reduced(nil) }

// reduced waits until nothing is left on disk but what is expected.
func (b *builder) reduced(want []string) error {
	for deadline := time.Now().Add(b.patience); ; time.Sleep(10 * time.Millisecond) {
		left := b.directories()
		if slices.Equal(left, want) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("left on disk: %q, want %q", left, want)
		}
	}
}
