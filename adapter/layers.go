package adapter

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/layer"
	"github.com/opencontainers/go-digest"
	"github.com/vbatts/tar-split/tar/asm"
	"github.com/vbatts/tar-split/tar/storage"

	"github.com/graphsnap/graphsnap/engine"
)

// registrar is what a layer store has to offer beside layer.Store, as dockerd's
// has: to make a layer of a directory that is there already.
type registrar interface {
	RegisterByGraphID(graphID string, parent layer.ChainID, diffID layer.DiffID, tarDataFile string, size int64) (layer.Layer, error)
}

// layers makes a layer store what the engine needs.
type layers struct {
	store     layer.Store
	registrar registrar
	driver    graphdriver.Driver
}

func newLayers(store layer.Store, d graphdriver.Driver) (engine.Layers, error) {
	if store == nil {
		return nil, nil
	}
	r, ok := store.(registrar)
	if !ok {
		return nil, fmt.Errorf("the layer store %T cannot register a layer by its graph ID: %w", store, errdefs.ErrInvalidArgument)
	}
	return &layers{store: store, registrar: r, driver: d}, nil
}

// storeLayer is a layer as the engine sees it.
type storeLayer struct{ layer.Layer }

func (l storeLayer) ChainID() string { return l.Layer.ChainID().String() }

func (l storeLayer) Parent() string {
	if p := l.Layer.Parent(); p != nil {
		return p.ChainID().String()
	}
	return ""
}

// GraphID is not part of the interface of layers, but all that a layer store of
// ours keeps have it.
func (l storeLayer) GraphID() string {
	if c, ok := l.Layer.(interface{ CacheID() string }); ok {
		return c.CacheID()
	}
	return ""
}

func (l storeLayer) DiffIDs() []string {
	ids := diffIDs(l.Layer)
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
	}
	return out
}

func (l storeLayer) Size() int64 { return l.DiffSize() }

func diffIDs(l layer.Layer) []layer.DiffID {
	if p := l.Parent(); p != nil {
		return append(diffIDs(p), l.DiffID())
	}
	return []layer.DiffID{l.DiffID()}
}

func (s *layers) Get(chainID string) (engine.Layer, error) {
	l, err := s.store.Get(layer.ChainID(chainID))
	if errors.Is(err, layer.ErrLayerDoesNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return storeLayer{l}, nil
}

func (s *layers) Peek(chainID string) engine.Layer {
	if l, ok := s.store.Map()[layer.ChainID(chainID)]; ok {
		return storeLayer{l}
	}
	return nil
}

func (s *layers) Find(graphID string) engine.Layer {
	for _, l := range s.store.Map() {
		if l := (storeLayer{l}); l.GraphID() == graphID {
			return l
		}
	}
	return nil
}

func (s *layers) All() []engine.Layer {
	var all []engine.Layer
	for _, l := range s.store.Map() {
		all = append(all, storeLayer{l})
	}
	return all
}

func (s *layers) Release(l engine.Layer) error {
	removed, err := s.store.Release(l.(storeLayer).Layer)
	layer.LogReleaseMetadata(removed)
	return err
}

// Checksum does what the layer store does for a directory it is to register, but
// can be stopped.
func (s *layers) Checksum(ctx context.Context, graphID, parent, tarSplit string) (sum engine.Checksum, err error) {
	diff, err := s.driver.Diff(graphID, parent)
	if err != nil {
		return sum, err
	}
	defer diff.Close()
	f, err := os.Create(tarSplit)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	z := gzip.NewWriter(f)
	entries := &sizes{packer: storage.NewJSONPacker(z)}
	tar, err := asm.NewInputTarStream(&stoppable{ctx, diff}, entries, nil)
	if err != nil {
		return sum, err
	}
	id, err := digest.FromReader(tar)
	if err != nil {
		return sum, err
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		return sum, err
	}
	return engine.Checksum{DiffID: id.String(), Size: entries.sum}, nil
}

// Copy hands what Diff says to ApplyDiff, as a push and a pull would.
func (s *layers) Copy(ctx context.Context, graphID, parent, to, on string) error {
	diff, err := s.driver.Diff(graphID, parent)
	if err != nil {
		return err
	}
	defer diff.Close()
	_, err = s.driver.ApplyDiff(to, on, &stoppable{ctx, diff})
	return err
}

// sizes adds up what the files in a tar hold.
type sizes struct {
	packer storage.Packer
	sum    int64
}

func (s *sizes) AddEntry(e storage.Entry) (int, error) {
	n, err := s.packer.AddEntry(e)
	if err == nil {
		s.sum += e.Size
	}
	return n, err
}

// stoppable ends a stream with the context, and lets others run between reads: those
// who hash a stream and pass it on never sleep, so that whoever comes back from a system
// call waits ten milliseconds for a processor where there is but one.
type stoppable struct {
	ctx context.Context
	io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	runtime.Gosched()
	return s.Reader.Read(p)
}

func (s *layers) Register(graphID, parent string, sum engine.Checksum, tarSplit string) (engine.Layer, error) {
	l, err := s.registrar.RegisterByGraphID(graphID, layer.ChainID(parent), layer.DiffID(sum.DiffID), tarSplit, sum.Size)
	if err != nil {
		return nil, err
	}
	return storeLayer{l}, nil
}

// GetLayer returns the layer that key is or was exported as, nil where there is
// none. dockerd's image reference checker asks for it by lease.
func (s *snapshotter) GetLayer(key string) (layer.Layer, error) {
	for _, key := range s.meant(key) {
		if l := s.engine.Layer(key); l != nil {
			return l.(storeLayer).Layer, nil
		}
	}
	return nil, nil
}

// GetDiffIDs returns the diff IDs of the layer that key is or was exported as and
// of those below it, lowest first; nil where there is no such layer.
func (s *snapshotter) GetDiffIDs(_ context.Context, key string) ([]layer.DiffID, error) {
	l, err := s.GetLayer(key)
	if l == nil || err != nil {
		return nil, err
	}
	return diffIDs(l), nil
}

// EnsureLayer makes the snapshot key a layer, if it is not one, and returns its
// diff IDs as GetDiffIDs does. It blocks as engine.Engine's EnsureLayer does.
func (s *snapshotter) EnsureLayer(ctx context.Context, key string) ([]layer.DiffID, error) {
	err := fmt.Errorf("make a layer of %q: there is no such snapshot and no lease that names one: %w", key, errdefs.ErrNotFound)
	for i, key := range s.meant(key) {
		l, failed := s.engine.EnsureLayer(ctx, key)
		if failed == nil {
			return diffIDs(l.(storeLayer).Layer), nil
		}
		if i == 0 {
			err = failed
		}
		if !errdefs.IsFailedPrecondition(failed) && !errdefs.IsNotFound(failed) {
			return nil, failed
		}
		// A lease may name what is not committed, or not there yet, beside what is.
	}
	return nil, err
}

// meant returns the snapshots that dockerd may mean by key: the one of that key,
// or those that the lease of that ID names, since it calls snapshots by the IDs of
// BuildKit's cache records, which are those of leases.
func (s *snapshotter) meant(key string) []string {
	if _, err := s.engine.Stat(context.Background(), key); !errdefs.IsNotFound(err) {
		return []string{key}
	}
	return s.engine.LeaseKeys(engine.Lease{Namespace: s.namespace, ID: key})
}
