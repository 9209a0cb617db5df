package target

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/graphsnap/graphsnap/engine"
)

// contents is how many different things the directories of a Null hold: few, so that
// many layers are the same.
const contents = 3

// Layers is a layer store in memory on a Null: an engine.Layers that counts references,
// and lets what steps in before calls of the Null step in before its own. It outlives
// the engines that are opened on it, but for their references.
type Layers struct {
	driver *Null

	mu     sync.Mutex
	layers map[string]*storedLayer // by chain ID
	given  map[*reference]bool     // references that were not released
	copied map[string]string       // what a copy holds, by its graph ID
}

// storedLayer is a layer. What keeps it are references and the layers on top of it.
type storedLayer struct {
	chainID, diffID, graphID string
	on                       *storedLayer
	kept                     int
}

// reference is one to a layer.
type reference struct{ *storedLayer }

// NewLayers returns a layer store without layers.
func NewLayers(d *Null) *Layers {
	return &Layers{driver: d, layers: map[string]*storedLayer{}, given: map[*reference]bool{}, copied: map[string]string{}}
}

// ChainID implements engine.Layer.
func (l *storedLayer) ChainID() string { return l.chainID }

// GraphID implements engine.Layer.
func (l *storedLayer) GraphID() string { return l.graphID }

// Size implements engine.Layer.
func (l *storedLayer) Size() int64 { return 1 }

// Parent implements engine.Layer.
func (l *storedLayer) Parent() string {
	if l.on == nil {
		return ""
	}
	return l.on.chainID
}

// DiffIDs implements engine.Layer.
func (l *storedLayer) DiffIDs() []string {
	if l.on == nil {
		return []string{l.diffID}
	}
	return append(l.on.DiffIDs(), l.diffID)
}

// forget drops the references of an engine that was closed.
func (s *Layers) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.given {
		r.kept--
	}
	clear(s.given)
}

func (s *Layers) give(l *storedLayer) engine.Layer {
	r := &reference{l}
	s.given[r] = true
	l.kept++
	return r
}

// Get implements engine.Layers.
func (s *Layers) Get(chainID string) (engine.Layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[chainID]; l != nil {
		return s.give(l), nil
	}
	return nil, fmt.Errorf("layer %s: %w", chainID, errdefs.ErrNotFound)
}

// Peek implements engine.Layers.
func (s *Layers) Peek(chainID string) engine.Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.layers[chainID]; l != nil {
		return l
	}
	return nil
}

// Find implements engine.Layers.
func (s *Layers) Find(graphID string) engine.Layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		if l.graphID == graphID {
			return l
		}
	}
	return nil
}

// All implements engine.Layers.
func (s *Layers) All() (all []engine.Layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		all = append(all, l)
	}
	return all
}

// Release implements engine.Layers. A copy, and the directories of the layers below, which
// nobody else would delete, go without a fault: Docker's looks for them when it starts.
func (s *Layers) Release(l engine.Layer) error {
	r := l.(*reference)
	s.mu.Lock()
	if !s.given[r] {
		s.mu.Unlock()
		s.driver.mu.Lock()
		defer s.driver.mu.Unlock()
		s.driver.complain("a reference to the layer %s was released twice", r.chainID)
		return errdefs.ErrInternal
	}
	delete(s.given, r)
	var gone []string
	for l := r.storedLayer; l != nil; l = l.on {
		if l.kept--; l.kept > 0 {
			break
		}
		delete(s.layers, l.chainID)
		gone = append(gone, l.graphID)
	}
	s.mu.Unlock()
	var err error
	for i, id := range gone {
		if i == 0 && !s.isCopy(id) {
			err = s.driver.Remove(id)
			continue
		}
		s.driver.drop(id)
	}
	return err
}

func (s *Layers) isCopy(graphID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, copied := s.copied[graphID]
	return copied
}

func (s *Layers) content(graphID string) string {
	if c, ok := s.copied[graphID]; ok {
		return c
	}
	h := fnv.New32()
	_, _ = h.Write([]byte(graphID))
	return fmt.Sprint(h.Sum32() % contents)
}

// Checksum implements engine.Layers.
func (s *Layers) Checksum(ctx context.Context, graphID, parent, tarSplit string) (engine.Checksum, error) {
	if err := errors.Join(s.driver.enter("Checksum", graphID), ctx.Err()); err != nil {
		return engine.Checksum{}, err
	}
	s.driver.standsOn(graphID, parent)
	s.mu.Lock()
	defer s.mu.Unlock()
	return engine.Checksum{DiffID: digest.FromString(s.content(graphID)).String(), Size: 1}, os.WriteFile(tarSplit, nil, 0o600)
}

// Copy implements engine.Layers.
func (s *Layers) Copy(_ context.Context, graphID, _, to, _ string) error {
	if err := s.driver.enter("Copy", graphID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.copied[to] = s.content(graphID)
	return nil
}

// Register implements engine.Layers.
func (s *Layers) Register(graphID, parent string, c engine.Checksum, _ string) (engine.Layer, error) {
	if err := s.driver.enter("Register", graphID); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &storedLayer{chainID: c.DiffID, diffID: c.DiffID, graphID: graphID}
	built := ""
	if parent != "" {
		if l.on = s.layers[parent]; l.on == nil {
			return nil, fmt.Errorf("layer %s: %w", parent, errdefs.ErrNotFound)
		}
		l.chainID, built = digest.FromString(parent+" "+c.DiffID).String(), l.on.graphID
	}
	if there := s.layers[l.chainID]; there != nil {
		return s.give(there), nil
	}
	s.driver.standsOn(graphID, built)
	if l.on != nil {
		l.on.kept++
	}
	s.layers[l.chainID] = l
	return s.give(l), nil
}

// disagreements compares the references that are held with those of snapshots.
func (s *Layers) disagreements(all []engine.Resident, complain func(format string, args ...any)) {
	holders := map[engine.Layer]string{}
	for _, r := range all {
		if r.Layer == nil {
			continue
		}
		if other, twice := holders[r.Layer]; twice {
			complain("%q and %q share a reference to the layer %s", r.Key, other, r.Layer.ChainID())
		}
		holders[r.Layer] = r.Key
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for r := range s.given {
		if holders[r] == "" {
			complain("a reference to the layer %s is nobody's", r.chainID)
		}
		delete(holders, r)
	}
	for l, key := range holders {
		complain("%q has no reference to the layer %s any more", key, l.ChainID())
	}
}

// owns tells whether the directory is that of a layer. There may be no layer store.
func (s *Layers) owns(graphID string) bool { return s != nil && s.Find(graphID) != nil }
