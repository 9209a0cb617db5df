package adapter

// What the tests of layers stand on: a real layer store over the site's driver, into
// which a test puts images.

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/layer"
	"github.com/moby/buildkit/snapshot"
	"github.com/opencontainers/go-digest"

	"github.com/graphsnap/graphsnap/engine"
)

// daemon is a process that has a layer store as well.
type daemon struct {
	*process
	store layer.Store
	watch *watch
}

// onEachStore runs test for every driver with the usual bounds and with all bounds
// at 1, each time on a new site.
func onEachStore(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	for _, d := range drivers {
		for bounds, options := range map[string][]engine.Option{"default": nil, "one": boundsOf1} {
			t.Run(d+"/bounds="+bounds, func(t *testing.T) {
				s := newSite(t, d)
				s.options = options
				test(t, s)
			})
		}
	}
}

// daemon opens the site as a new process would, with a layer store in which no layer
// has a reference yet but by its children. before, if it is not nil, is called with
// it first: images take their references before a builder is opened. Snapshots from
// before may go at once.
func (s *site) daemon(t testing.TB, before func(layer.Store), options ...engine.Option) *daemon {
	t.Helper()
	s.openDriver(t) // says whether it works here
	store, err := layer.NewStoreFromOptions(layer.StoreOptions{Root: s.root, GraphDriver: s.driver})
	must(t, err)
	if before != nil {
		before(store)
	}
	s.watch = newWatch()
	p, err := s.start(t, Opt{
		GraphDriver: store.(interface{ Driver() graphdriver.Driver }).Driver(),
		LayerStore:  store,
		Engine:      append([]engine.Option{engine.WithGrace(0)}, options...),
	})
	must(t, err)
	return &daemon{process: p, store: store, watch: s.watch}
}

// layers reads from the layer store's directory which layers there are, and the
// graph IDs of their directories.
func (s *site) layers(t testing.TB) map[string]string {
	t.Helper()
	layers := map[string]string{}
	home := s.path("image", s.driver, "layerdb", "sha256")
	for _, e := range entries(t, home) {
		if strings.HasSuffix(e.Name(), "-removing") {
			continue // which the layer store had begun when the process died, and ends in its Cleanup
		}
		id, err := os.ReadFile(filepath.Join(home, e.Name(), "cache-id"))
		if os.IsNotExist(err) {
			continue // it went since
		}
		must(t, err)
		layers["sha256:"+e.Name()] = string(id)
	}
	return layers
}

// loses takes a layer out of the layer store's directory, as a power loss may.
func (s *site) loses(t testing.TB, chainID string) {
	t.Helper()
	must(t, os.RemoveAll(s.path("image", s.driver, "layerdb", "sha256", strings.TrimPrefix(chainID, "sha256:"))))
}

// image puts a chain of layers into the store, one for each file, which it holds.
// The references to all are the test's.
func (d *daemon) image(t testing.TB, files ...string) []layer.Layer {
	t.Helper()
	return image(t, d.store, files...)
}

func image(t testing.TB, store layer.Store, files ...string) (ls []layer.Layer) {
	t.Helper()
	var parent layer.ChainID
	for _, file := range files {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		must(t, w.WriteHeader(&tar.Header{Name: file, Mode: 0o600, Size: int64(len(file)), ModTime: time.Unix(1e9, 0)}))
		_, err := w.Write([]byte(file))
		must(t, err)
		must(t, w.Close())
		l, err := store.Register(&b, parent)
		must(t, err)
		ls = append(ls, l)
		parent = l.ChainID()
	}
	return ls
}

// untag gives the references to an image's layers back.
func (d *daemon) untag(t testing.TB, ls ...layer.Layer) {
	t.Helper()
	for _, l := range ls {
		_, err := d.store.Release(l)
		must(t, err)
	}
}

func idOf(l layer.Layer) string { return l.ChainID().String() }

func (d *daemon) has(chainID string) bool {
	_, ok := d.store.Map()[layer.ChainID(chainID)]
	return ok
}

// kept expects the layers in the store.
func (d *daemon) kept(t testing.TB, chainIDs ...string) {
	t.Helper()
	for _, id := range chainIDs {
		if !d.has(id) {
			t.Errorf("the layer store has let go of %s", id)
		}
	}
}

// released waits until the store has none of the layers.
func (d *daemon) released(t testing.TB, chainIDs ...string) {
	t.Helper()
	for _, id := range chainIDs {
		eventually(t, "the layer "+id+" is released", func() bool { return !d.has(id) })
	}
}

// cleared waits until there is neither a directory nor a layer nor a snapshot.
func (d *daemon) cleared(t testing.TB) {
	t.Helper()
	d.emptied(t)
	for id := range d.store.Map() {
		t.Errorf("the layer store still has %s", id)
	}
}

// layer returns what GetLayer does, which must not be an error.
func (d *daemon) layer(t testing.TB, key string) layer.Layer {
	t.Helper()
	l, err := d.snap.GetLayer(key)
	must(t, err)
	return l
}

func cacheID(l layer.Layer) string { return l.(interface{ CacheID() string }).CacheID() }

func (d *daemon) ensure(t testing.TB, key string) []layer.DiffID {
	t.Helper()
	ids, err := d.snap.EnsureLayer(inNamespace(), key)
	must(t, err)
	return ids
}

// checksum computes the diff ID of a directory as the layer store itself does.
func (d *daemon) checksum(t testing.TB, graphID, parent string) layer.DiffID {
	t.Helper()
	f := d.site.path("tmp", "checksum")
	id, _, err := d.store.(interface {
		ChecksumForGraphID(id, parent, newTarDataPath string) (layer.DiffID, int64, error)
	}).ChecksumForGraphID(graphID, parent, f)
	must(t, err)
	must(t, os.Remove(f))
	return id
}

// same makes the committed snapshot name on parent, with a file of which all
// attributes are the same each time.
func (d *daemon) same(t testing.TB, ctx context.Context, name, parent, file string) {
	t.Helper()
	must(t, d.sameFile(ctx, name, parent, file))
}

func (d *daemon) sameFile(ctx context.Context, name, parent, file string) (err error) {
	key := "making-" + name
	if err := d.snap.Prepare(ctx, key, parent); err != nil {
		return err
	}
	m, err := d.snap.Mounts(ctx, key)
	if err != nil {
		return err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, release()); err == nil {
			err = d.snap.Commit(ctx, name, key)
		}
	}()
	f := filepath.Join(mounts[0].Source, file)
	if err := os.WriteFile(f, []byte(file), 0o600); err != nil {
		return err
	}
	then := time.Unix(1e9, 0)
	return errors.Join(os.Chtimes(f, then, then), os.Chtimes(mounts[0].Source, then, then))
}

// holds expects the files in a mount.
func (d *daemon) holds(t testing.TB, m snapshot.Mountable, want ...string) {
	t.Helper()
	if files := d.files(t, m); !slices.Equal(files, want) {
		t.Errorf("mounted are %q, want %q", files, want)
	}
}

func unknownChain() string { return digest.FromString("no layer has this").String() }
