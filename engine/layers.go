package engine

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// Layers is the layer store as far as the engine needs it. It shares the driver
// with the engine, and deletes the directory of a layer with its last reference.
// References are not persisted: those of an earlier process are gone.
type Layers interface {
	// Get returns the layer chainID with a reference to it, or ErrNotFound.
	Get(chainID string) (Layer, error)
	// Peek returns the layer chainID without a reference, nil for none. It may
	// vanish at any time.
	Peek(chainID string) Layer
	// Find returns the layer whose directory is that of graphID, without a
	// reference, nil for none.
	Find(graphID string) Layer
	// All returns every layer, without references.
	All() []Layer
	// Release gives a reference back.
	Release(Layer) error
	// Checksum computes the layer that the directory of graphID is on top of that
	// of parent, "" for none, and writes to the file tarSplit what is needed to
	// make the same tar again. It reads the whole directory and stops when ctx
	// ends.
	Checksum(ctx context.Context, graphID, parent, tarSplit string) (Checksum, error)
	// Copy makes the directory of to, which was created on top of that of on, hold
	// beyond that what the directory of graphID holds beyond that of parent. It
	// stops when ctx ends.
	Copy(ctx context.Context, graphID, parent, to, on string) error
	// Register makes a layer of the directory of graphID on top of the layer
	// parent, "" for none, and returns it with a reference. Where that layer is
	// there already it is returned instead, with a graph ID of its own. The driver
	// must have built the directory on that of parent, or on nothing: it is all
	// that the layer store keeps for it.
	Register(graphID, parent string, c Checksum, tarSplit string) (Layer, error)
}

// Layer is a read-only layer of the layer store.
type Layer interface {
	ChainID() string
	Parent() string    // chain ID, "" for none
	GraphID() string   // of the directory, which belongs to the layer
	DiffIDs() []string // from the lowest layer to this
	Size() int64       // bytes beyond the parent
}

// Checksum identifies the contents of a layer.
type Checksum struct {
	DiffID string
	Size   int64 // bytes
}

// chainID tells whether key may name a layer of the layer store.
func chainID(key string) bool {
	if !strings.HasPrefix(key, "sha256:") {
		return false
	}
	_, err := digest.Parse(key)
	return err == nil
}

// lender returns the layer that key names in the layer store, without a reference,
// where there is no snapshot of that key.
func (e *Engine) lender(key string) Layer {
	if e.layers == nil || !chainID(key) {
		return nil
	}
	return e.layers.Peek(key)
}

// borrowedBody describes a layer as a snapshot.
func (e *Engine) borrowedBody(l Layer) *body {
	return &body{
		serial:   e.clock.Add(1),
		kind:     snapshots.KindCommitted,
		parent:   l.Parent(),
		graphID:  l.GraphID(),
		foreign:  true,
		layer:    l,
		chainID:  l.ChainID(),
		measured: true,
		usage:    snapshots.Usage{Size: l.Size()},
	}
}

// borrowLayer makes the layer key a snapshot, which holds a reference to it for as
// long as a lease names it or it has children. Where pinned, it gets a child at
// once. Where key is a snapshot already that one is meant.
func (e *Engine) borrowLayer(ctx context.Context, key string, pinned bool) (*body, error) {
	if e.layers == nil || !chainID(key) {
		return nil, errNotFound(key)
	}
	var l Layer
	err := protect("Get of the layer store", key, func() (err error) {
		l, err = e.layers.Get(key)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", key, err)
	}
	m := &borrow{question: question[*body]{e: e}, ctx: ctx, body: e.borrowedBody(l), pinned: pinned}
	b, err := actors.Ask(ctx, e.keys, key, m)
	if b != m.body {
		if err == nil || !e.closed.Load() { // Close releases none: a lease may need it
			_ = e.releaseLayer(l)
		}
		return b, err
	}
	for _, lease := range e.keys.Load(key).plain().leases {
		e.leases.Owe(lease.owner(), &realias{e: e})
	}
	return b, nil
}

// borrowLeased makes the layer key a snapshot after a lease came to name it: under
// a lease it must not go. Where it just did, it was never there as far as the
// caller can tell.
func (e *Engine) borrowLeased(ctx context.Context, key string) {
	if e.lender(key) == nil || e.keys.Load(key).visible() != nil {
		return
	}
	if _, err := e.borrowLayer(ctx, key, false); err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).WithField("key", key).Warn("a leased layer is not held yet")
	}
}

// errUnborrowed is instead of err, where that says that there is no snapshot of the key,
// for the key of a layer. Stat and Prepare know that as a committed snapshot; but it has
// no record until a lease or a child makes the engine borrow it.
func (e *Engine) errUnborrowed(key string, err error) error {
	if errdefs.IsNotFound(err) && e.lender(key) != nil {
		return fmt.Errorf("snapshot %q is a layer of the layer store that no lease names: %w", key, errdefs.ErrFailedPrecondition)
	}
	return err
}

// releaseLayer gives a reference back. Where it was the last one and the layer's
// directory cannot be deleted, the layer is gone all the same.
func (e *Engine) releaseLayer(l Layer) error {
	err := protect("Release of the layer store", l.ChainID(), func() error { return e.layers.Release(l) })
	if err != nil {
		log.G(e.ctx).WithError(err).WithField("layer", l.ChainID()).Error("a layer could not be released")
	}
	return err
}

// borrow publishes a layer as a snapshot.
type borrow struct {
	question[*body]
	ctx    context.Context // of the caller, ends the wait for room in the write queue
	body   *body           // with a reference
	pinned bool
}

func (m *borrow) Handle(o *owner) {
	s := *o.Value().plain()
	switch b := s.own(); {
	case b != nil && b.kind != snapshots.KindCommitted:
		m.Fail(fmt.Errorf("snapshot %q is not committed: %w", o.Key(), errdefs.ErrFailedPrecondition))
		return
	case b == nil && s.phase != absent:
		m.Fail(errNotFound(o.Key()))
		return
	case b == nil:
		if err := m.e.db.Write(m.ctx, persist.Put(m.body.record(o.Key()))); err != nil {
			m.Fail(err)
			return
		}
		// Nobody was told of a snapshot, so it goes again as soon as neither a
		// lease nor a child needs it.
		s.phase, s.body, s.leased = present, m.body, true
		s.event = m.e.clock.Add(1)
	}
	if m.pinned {
		s.children++
	}
	m.e.publish(o, s)
	m.Answer(s.body)
}

// pinParent pins a committed snapshot, a layer of the layer store included.
func (e *Engine) pinParent(ctx context.Context, parent string) (*body, error) {
	b, err := actors.Ask(ctx, e.keys, parent, &pin{question[*body]{e: e}})
	if err == nil || !errdefs.IsNotFound(err) || e.layers == nil || !chainID(parent) {
		return b, err
	}
	if b, err = e.borrowLayer(ctx, parent, true); err != nil {
		return nil, fmt.Errorf("parent: %w", err)
	}
	return b, nil
}

// Layer returns the layer that key is, or was exported as, nil for none.
func (e *Engine) Layer(key string) Layer {
	if b := e.keys.Load(key).visible(); b != nil {
		return b.layer
	}
	return e.lender(key)
}
