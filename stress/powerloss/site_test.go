package powerloss

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/docker/docker/daemon/graphdriver/vfs"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/user"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/adapter"
	"github.com/graphsnap/graphsnap/engine"
)

const namespace = "buildkit"

// place is where a daemon keeps what it has: a graph driver's home, containerd's
// database of leases and the snapshotter's, all below root.
type place struct{ root, driver string }

// site is what a daemon has open of a place.
type site struct {
	place
	leases leases.Manager
	snap   snapshot.Snapshotter
	close  func() error
}

func (p place) copies() bool { return p.driver == "vfs" }

// home is where the directories of graph IDs lie.
func (p place) home() string {
	if p.copies() {
		return filepath.Join(p.root, p.driver, "dir")
	}
	return filepath.Join(p.root, p.driver)
}

// holds is where what the directory of a graph ID holds lies.
func (p place) holds(id string) string {
	if p.copies() {
		return filepath.Join(p.home(), id)
	}
	return filepath.Join(p.home(), id, "diff")
}

func (p place) openDriver() (graphdriver.Driver, error) {
	open := overlay2.Init
	if p.copies() {
		open = vfs.Init
	}
	return open(filepath.Join(p.root, p.driver), nil, user.IdentityMapping{})
}

func (p place) open(driver graphdriver.Driver, options ...engine.Option) (*site, error) {
	db, err := bolt.Open(filepath.Join(p.root, "containerdmeta.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	mdb := metadata.NewDB(db, nil, nil)
	if err := mdb.Init(context.Background()); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	snap, lm, err := adapter.NewSnapshotter(adapter.Opt{
		GraphDriver: driver, Root: p.root, Engine: append(options, engine.WithGrace(0)),
	}, metadata.NewLeaseManager(mdb), namespace)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &site{p, lm, snap, func() error { return errors.Join(snap.Close(), db.Close()) }}, nil
}

func inNamespace() context.Context {
	return namespaces.WithNamespace(context.Background(), namespace)
}

// directories are the names of the directories in the driver's home, links those of
// the links, and where they lead.
func (p place) directories() (ids []string, links map[string]string, err error) {
	list, err := os.ReadDir(p.home())
	if p.copies() && errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil // the driver makes it with the first directory
	}
	if err != nil {
		return nil, nil, err
	}
	for _, e := range list {
		if e.Name() != "l" {
			ids = append(ids, e.Name())
		}
	}
	if p.copies() {
		return ids, nil, nil
	}
	links = map[string]string{}
	list, err = os.ReadDir(filepath.Join(p.home(), "l"))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range list {
		target, err := os.Readlink(filepath.Join(p.home(), "l", e.Name()))
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
func (p place) onlyDirectories(ids ...string) error {
	have, links, err := p.directories()
	want := 2 * len(ids)
	if p.copies() {
		want = len(ids)
	}
	if err == nil && len(have)+len(links) != want {
		err = fmt.Errorf("there are the directories %q and the links %q", have, links)
	}
	return err
}
