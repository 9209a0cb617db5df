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
// and lets what steps in before calls of the Null step in before its own, such as
// layers.Register. It outlives the engines that are opened on it, but for their
// references.
type Layers struct {
	driver *Null

	mu     sync.Mutex
	layers map[string]*storedLayer // by chain ID
	given  map[*reference]bool     // references that were not released
	held   map[string]string       // what directories hold that the engine did not make, by graph ID
	images map[string]*storedLayer // that are tagged
	stuck  map[string]bool         // graph IDs of layers that are gone, which failed to delete
}

// storedLayer is a layer. What keeps it are references, its image, and the layers on top
// of it.
type storedLayer struct {
	chainID, diffID, graphID string
	on                       *storedLayer
	kept                     int
}

// reference is one to a layer.
type reference struct{ *storedLayer }

// NewLayers returns a layer store without layers.
func NewLayers(d *Null) *Layers {
	return &Layers{driver: d, layers: map[string]*storedLayer{}, given: map[*reference]bool{}, held: map[string]string{}, images: map[string]*storedLayer{}, stuck: map[string]bool{}}
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

// enter lets faults step in before a call.
func (s *Layers) enter(call, id string) error {
	if s.driver.before == nil {
		return nil
	}
	return s.driver.before("layers."+call, id)
}

// pull makes an image of one layer, with a directory that is the layer store's, and
// returns the chain ID.
func (s *Layers) pull(image string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.images[image]; l != nil {
		return l.chainID
	}
	id := digest.FromString("image " + image).String()
	l := &storedLayer{chainID: id, diffID: id, graphID: "image-" + image, kept: 1}
	s.driver.add(l.graphID)
	s.held[l.graphID], s.layers[id], s.images[image] = image, l, l
	return id
}

// untag gives up the reference of the image.
func (s *Layers) untag(image string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.images[image]
	if l == nil {
		return
	}
	delete(s.images, image)
	for _, id := range s.letGo(l) {
		s.delete(id)
	}
}

func (s *Layers) give(l *storedLayer) engine.Layer {
	r := &reference{l}
	s.given[r] = true
	l.kept++
	return r
}

// Get implements engine.Layers.
func (s *Layers) Get(chainID string) (engine.Layer, error) {
	if err := s.enter("Get", chainID); err != nil {
		return nil, err
	}
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

// Release implements engine.Layers. As with Docker's, a fault keeps the directory of the
// layer that goes from being deleted, and the layer is gone all the same.
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
	gone := s.letGo(r.storedLayer)
	s.mu.Unlock()
	failed := true
	defer func() { // a panic comes by as well
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, id := range gone {
			if i == 0 && failed {
				s.stuck[id] = true
				continue
			}
			s.delete(id)
		}
	}()
	err := s.enter("Release", r.chainID)
	failed = err != nil
	return err
}

// letGo takes away one of what keeps the layer, and returns the graph IDs of the layers
// that are gone with that, from the top.
func (s *Layers) letGo(l *storedLayer) (gone []string) {
	for ; l != nil; l = l.on {
		if l.kept--; l.kept > 0 {
			break
		}
		delete(s.layers, l.chainID)
		gone = append(gone, l.graphID)
	}
	return gone
}

// delete deletes the directory of a layer that is gone. One that the engine made is not
// mounted by then. Of others the driver ends what is mounted, where unmounting failed.
func (s *Layers) delete(graphID string) {
	_, held := s.held[graphID]
	s.driver.drop(graphID, held)
}

func (s *Layers) content(graphID string) string {
	if c, ok := s.held[graphID]; ok {
		return c
	}
	h := fnv.New32()
	_, _ = h.Write([]byte(graphID))
	return fmt.Sprint(h.Sum32() % contents)
}

// Checksum implements engine.Layers.
func (s *Layers) Checksum(ctx context.Context, graphID, parent, tarSplit string) (engine.Checksum, error) {
	if err := errors.Join(s.enter("Checksum", graphID), ctx.Err()); err != nil {
		return engine.Checksum{}, err
	}
	s.driver.standsOn(graphID, parent)
	s.mu.Lock()
	defer s.mu.Unlock()
	return engine.Checksum{DiffID: digest.FromString(s.content(graphID)).String(), Size: 1}, os.WriteFile(tarSplit, nil, 0o600)
}

// Copy implements engine.Layers.
func (s *Layers) Copy(_ context.Context, graphID, _, to, _ string) error {
	if err := s.enter("Copy", graphID); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[to] = s.content(graphID)
	return nil
}

// Register implements engine.Layers.
func (s *Layers) Register(graphID, parent string, c engine.Checksum, _ string) (engine.Layer, error) {
	if err := s.enter("Register", graphID); err != nil {
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

// owns tells whether the directory is that of a layer, or was. There may be no layer
// store.
func (s *Layers) owns(graphID string) bool {
	if s == nil || s.Find(graphID) != nil {
		return s != nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stuck[graphID]
}
