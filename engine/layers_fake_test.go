package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// memoryLayers is a layer store on a memoryDriver. It counts references as the real
// one does and complains where the engine breaks a promise. No call holds its lock
// while the driver works.
type memoryLayers struct {
	driver *memoryDriver

	mu       sync.Mutex
	layers   map[string]*memoryLayer // by chain ID
	refs     map[*layerRef]bool      // that were not released
	contents map[string]string       // by graph ID, of what is not as it was created
}

// memoryLayer is a layer. Its references are those in refs and one of each child.
type memoryLayer struct {
	chainID, diffID, graphID string
	parent                   *memoryLayer
	references               int
}

func (l *memoryLayer) ChainID() string { return l.chainID }
func (l *memoryLayer) GraphID() string { return l.graphID }
func (l *memoryLayer) Size() int64     { return 1 }

func (l *memoryLayer) Parent() string {
	if l.parent == nil {
		return ""
	}
	return l.parent.chainID
}

func (l *memoryLayer) DiffIDs() []string {
	if l.parent == nil {
		return []string{l.diffID}
	}
	return append(l.parent.DiffIDs(), l.diffID)
}

// layerRef is one reference.
type layerRef struct{ *memoryLayer }

func newMemoryLayers(d *memoryDriver) *memoryLayers {
	return &memoryLayers{driver: d, layers: map[string]*memoryLayer{}, refs: map[*layerRef]bool{}, contents: map[string]string{}}
}

// restart forgets all references but those of children.
func (s *memoryLayers) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.refs)
	for _, l := range s.layers {
		l.references = 0
	}
	for _, l := range s.layers {
		if l.parent != nil {
			l.parent.references++
		}
	}
}

// content is what a directory holds beyond its parent: one of few things, so that
// many are the same.
func (s *memoryLayers) content(graphID string) string {
	if c, ok := s.contents[graphID]; ok {
		return c
	}
	h := fnv.New32()
	_, _ = h.Write([]byte(graphID))
	return fmt.Sprint("content ", h.Sum32()%3)
}

func (s *memoryLayers) ref(l *memoryLayer) Layer {
	r := &layerRef{l}
	s.refs[r] = true
	l.references++
	return r
}

// linger lets others come between, without faults.
func (s *memoryLayers) linger(call, chainID string) {
	defer func() { _ = recover() }()
	_ = s.driver.enter(call, chainID)
}

func (s *memoryLayers) Get(chainID string) (Layer, error) {
	s.linger("Layer", chainID)
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[chainID]; l != nil {
		return s.ref(l), nil
	}
	return nil, errdefs.ErrNotFound
}

func (s *memoryLayers) Peek(chainID string) Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[chainID]; l != nil {
		return l
	}
	return nil
}

func (s *memoryLayers) Find(graphID string) Layer {
	if l := s.find(graphID); l != nil {
		return l
	}
	return nil
}

func (s *memoryLayers) find(graphID string) *memoryLayer {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		if l.graphID == graphID {
			return l
		}
	}
	return nil
}

func (s *memoryLayers) All() (all []Layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		all = append(all, l)
	}
	return all
}

func (s *memoryLayers) Release(layer Layer) error { return s.giveBack(layer, 1) }

// giveBack gives up the directories that the driver fails to delete, from the first
// one that does not matter to who gives back on: the store forgets them. The engine
// sees to that of the layer that it had itself.
func (s *memoryLayers) giveBack(layer Layer, first int) error {
	r := layer.(*layerRef)
	s.linger("Release", r.chainID)
	s.mu.Lock()
	if !s.refs[r] {
		s.complain("Release of %s twice", r.chainID)
		s.mu.Unlock()
		return errdefs.ErrInternal
	}
	delete(s.refs, r)
	return s.release(r.memoryLayer, first)
}

// release drops a reference and unlocks s.
func (s *memoryLayers) release(l *memoryLayer, first int) error {
	var gone []*memoryLayer
	for ; l != nil; l = l.parent {
		if l.references--; l.references > 0 {
			break
		}
		delete(s.layers, l.chainID)
		gone = append(gone, l)
	}
	s.mu.Unlock()
	var errs []error
	for i, l := range gone {
		err := protect("Remove", l.graphID, func() error { return s.driver.Remove(l.graphID) })
		if err != nil && i >= first {
			s.driver.keep(l.graphID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *memoryLayers) Checksum(ctx context.Context, graphID, parent, tarSplit string) (Checksum, error) {
	if err := s.driver.enter("Checksum", graphID); err != nil {
		return Checksum{}, err
	}
	if ctx.Err() != nil {
		return Checksum{}, context.Cause(ctx)
	}
	s.driver.mu.Lock()
	on, ok := s.driver.dirs[graphID]
	s.driver.mu.Unlock()
	if !ok || on != parent {
		s.complain("Checksum of %q on %q, which stands on %q", graphID, parent, on)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return Checksum{DiffID: digest.FromString(s.content(graphID)).String(), Size: 1}, os.WriteFile(tarSplit, nil, 0o600)
}

func (s *memoryLayers) Copy(ctx context.Context, graphID, _, to, _ string) error {
	if err := s.driver.enter("Copy", graphID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contents[to] = s.content(graphID)
	return nil
}

func (s *memoryLayers) Register(graphID, parent string, c Checksum, tarSplit string) (Layer, error) {
	if err := s.driver.enter("Register", graphID); err != nil {
		return nil, err
	}
	if _, err := os.Stat(tarSplit); err != nil {
		s.complain("Register of %q: %v", graphID, err)
	}
	s.driver.mu.Lock()
	built := s.driver.dirs[graphID]
	s.driver.mu.Unlock()
	s.linger("Registering", graphID)
	s.mu.Lock()
	l := &memoryLayer{chainID: c.DiffID, diffID: c.DiffID, graphID: graphID}
	if parent != "" {
		if l.parent = s.layers[parent]; l.parent == nil {
			s.mu.Unlock()
			return nil, errdefs.ErrNotFound
		}
		l.chainID = digest.FromString(parent + " " + c.DiffID).String()
	}
	defer s.mu.Unlock()
	if known := s.layers[l.chainID]; known != nil {
		return s.ref(known), nil
	}
	on := ""
	if l.parent != nil {
		l.parent.references++
		on = l.parent.graphID
	}
	if built != on {
		s.complain("Register of %q, which is built on %q, on the layer of %q", graphID, built, on)
	}
	s.layers[l.chainID] = l
	return s.ref(l), nil
}

func (s *memoryLayers) complain(format string, args ...any) {
	s.driver.mu.Lock()
	defer s.driver.mu.Unlock()
	s.driver.complain(format, args...)
}

// chainIDs lists the layers there are, in order.
func (s *memoryLayers) chainIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.layers))
}

// image makes a layer of a directory of its own, as a pull does, and returns it with
// a reference.
func (s *memoryLayers) image(graphID, parent string) Layer {
	on := ""
	if p := s.Peek(parent); p != nil {
		on = p.GraphID()
	}
	s.driver.mu.Lock()
	s.driver.dirs[graphID], s.driver.links[graphID] = on, true
	s.driver.mu.Unlock()
	s.mu.Lock()
	sum := Checksum{DiffID: digest.FromString(s.content(graphID)).String()}
	s.mu.Unlock()
	l, err := s.Register(graphID, parent, sum, os.DevNull)
	if err != nil {
		panic(err)
	}
	if l.GraphID() != graphID {
		_ = s.driver.Remove(graphID)
	}
	return l
}

// checkLayers compares the references that are held with the snapshots that hold
// them. Tests have released their own by then.
func (h *harness) checkLayers() {
	h.t.Helper()
	if h.layers == nil {
		return
	}
	held := map[Layer]string{}
	h.keys.Range(func(key string, s *state) bool {
		b := s.visible()
		if b == nil || b.layer == nil {
			if b != nil && b.chainID != "" {
				h.t.Errorf("%q is left as an intent to be the layer %s", key, b.chainID)
			}
			return true
		}
		if other, twice := held[b.layer]; twice {
			h.t.Errorf("%q and %q share a reference to %s", key, other, b.chainID)
		}
		held[b.layer] = key
		if b.chainID != b.layer.ChainID() || b.foreign && b.chainID != key {
			h.t.Errorf("%q is the layer %s and records %s", key, b.layer.ChainID(), b.chainID)
		}
		return true
	})
	h.layers.mu.Lock()
	defer h.layers.mu.Unlock()
	for r := range h.layers.refs {
		if _, ok := held[r]; !ok {
			h.t.Errorf("a reference to %s leaked", r.chainID)
		}
		delete(held, r)
	}
	for l, key := range held {
		h.t.Errorf("%q has no reference to %s any more", key, l.ChainID())
	}
	for _, l := range h.layers.layers {
		h.driver.mu.Lock()
		if _, ok := h.driver.dirs[l.graphID]; !ok {
			h.t.Errorf("the layer %s has no directory %q", l.chainID, l.graphID)
		}
		h.driver.mu.Unlock()
	}
	files, err := os.ReadDir(h.workDir())
	if err != nil || len(files) > 0 {
		h.t.Errorf("temporary files are left: %v, %v", files, err)
	}
}
