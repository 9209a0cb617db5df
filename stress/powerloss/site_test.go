package powerloss

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/user"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/adapter"
	"github.com/graphsnap/graphsnap/engine"
)

const namespace = "buildkit"

// site is what a daemon has open: overlay2, containerd's database of leases and the
// snapshotter, all below root.
type site struct {
	root   string
	leases leases.Manager
	snap   snapshot.Snapshotter
	close  func() error
}

func home(root string) string { return filepath.Join(root, "overlay2") }

func openDriver(root string) (graphdriver.Driver, error) {
	return overlay2.Init(home(root), nil, user.IdentityMapping{})
}

func openSite(root string, driver graphdriver.Driver, options ...engine.Option) (*site, error) {
	db, err := bolt.Open(filepath.Join(root, "containerdmeta.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	mdb := metadata.NewDB(db, nil, nil)
	if err := mdb.Init(context.Background()); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	snap, lm, err := adapter.NewSnapshotter(adapter.Opt{
		GraphDriver: driver, Root: root, Engine: append(options, engine.WithGrace(0)),
	}, metadata.NewLeaseManager(mdb), namespace)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &site{root, lm, snap, func() error { return errors.Join(snap.Close(), db.Close()) }}, nil
}

func inNamespace() context.Context {
	return namespaces.WithNamespace(context.Background(), namespace)
}

// directories are the names of the directories in the driver's home, links those of
// the links, and where they lead.
func directories(root string) (ids []string, links map[string]string, err error) {
	list, err := os.ReadDir(home(root))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range list {
		if e.Name() != "l" {
			ids = append(ids, e.Name())
		}
	}
	links = map[string]string{}
	list, err = os.ReadDir(filepath.Join(home(root), "l"))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range list {
		target, err := os.Readlink(filepath.Join(home(root), "l", e.Name()))
		if err != nil {
			return nil, nil, err
		}
		links[e.Name()] = strings.TrimSuffix(strings.TrimPrefix(target, "../"), "/diff")
	}
	return ids, links, nil
}

// eventually polls until what is wrong is nothing any more.
func eventually(wrong func() error) (err error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if err = wrong(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// onlyDirectories says what else there is than the directories ids.
func onlyDirectories(root string, ids ...string) error {
	have, links, err := directories(root)
	if err == nil && len(have)+len(links) != 2*len(ids) {
		err = fmt.Errorf("there are the directories %q and the links %q", have, links)
	}
	return err
}
