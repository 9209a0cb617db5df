package peer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/docker/docker/layer"
)

// images are those that hold layers of the layer store, as the image store of dockerd
// does: with references that are taken again at each start, before the builder opens.
// What the images are is written into files, which bear their names.
type images struct {
	store layer.Store
	dir   string

	mu     sync.Mutex
	layers map[string]layer.Layer // by the name of the image
}

func openImages(store layer.Store, dir string) (*images, error) {
	i := &images{store: store, dir: dir, layers: map[string]layer.Layer{}}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return i, os.Mkdir(dir, 0o700)
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		chainID, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		if i.layers[e.Name()], err = store.Get(layer.ChainID(chainID)); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// Pull makes an image of one layer, which holds a file of the image's name, and returns
// its chain ID. One that is there stays as it is.
func (d *Docker) Pull(_ context.Context, image string) (chainID string, err error) {
	i := d.images
	i.mu.Lock()
	defer i.mu.Unlock()
	if l := i.layers[image]; l != nil {
		return l.ChainID().String(), nil
	}
	var diff bytes.Buffer
	w := tar.NewWriter(&diff)
	header := &tar.Header{Name: image, Mode: 0o600, ModTime: time.Unix(0, 0)}
	if err := errors.Join(w.WriteHeader(header), w.Close()); err != nil {
		return "", err
	}
	l, err := i.store.Register(&diff, "")
	if err != nil {
		return "", err
	}
	// Written at one stroke, and not before the layer is there.
	if err := os.WriteFile(filepath.Join(i.dir, image), []byte(l.ChainID()), 0o600); err != nil {
		_, failed := i.store.Release(l)
		return "", errors.Join(err, failed, os.RemoveAll(filepath.Join(i.dir, image)))
	}
	i.layers[image] = l
	return l.ChainID().String(), nil
}

// Untag gives back the reference of the image. Without one it does nothing.
func (d *Docker) Untag(_ context.Context, image string) error {
	i := d.images
	i.mu.Lock()
	defer i.mu.Unlock()
	l := i.layers[image]
	if l == nil {
		return nil
	}
	if err := os.Remove(filepath.Join(i.dir, image)); err != nil {
		return err
	}
	delete(i.layers, image)
	_, err := i.store.Release(l)
	return err
}
