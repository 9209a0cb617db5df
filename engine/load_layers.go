package engine

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// layerLoader gives snapshots that are loaded their layers, with references. All
// records are loaded before anything is released or removed, since a reference that
// is taken last may be the first that a layer has.
type layerLoader struct {
	e       *Engine
	chainID map[string]string // of the layer that has the directory, by graph ID
	below   map[string]bool   // chain IDs on which snapshots stand
	repair  []persist.Mutation
	lost    []string // borrowed layers that are not there any more
}

func (e *Engine) newLayerLoader() *layerLoader {
	l := &layerLoader{e: e, chainID: map[string]string{}, below: map[string]bool{}}
	if e.layers != nil {
		for _, layer := range e.layers.All() {
			l.chainID[layer.GraphID()] = layer.ChainID()
		}
	}
	return l
}

// state turns a record into a snapshot. It answers nil for a borrowed layer that is
// not there any more.
func (l *layerLoader) state(ctx context.Context, r persist.Record) *loaded {
	if r.Kind == persist.Borrowed {
		return l.borrowed(ctx, r)
	}
	s := fromRecord(r)
	l.attach(ctx, &s.body, r)
	if s.body.pins() && chainID(r.Parent) {
		l.below[r.Parent] = true
	}
	return s
}

// attach gives the body of a record its serial and its layer.
func (l *layerLoader) attach(ctx context.Context, b *body, r persist.Record) {
	b.serial = l.e.clock.Add(1)
	if b.kind != snapshots.KindCommitted || l.e.layers == nil {
		b.chainID = r.ChainID
		return
	}
	id := r.ChainID
	if owner := l.chainID[b.graphID]; owner != "" && b.owned() {
		// Registration may have outrun the record: the directory is that of this
		// layer, whatever is recorded.
		id = owner
	}
	if id == "" {
		return
	}
	layer, err := l.e.layers.Get(id)
	if err != nil {
		// The directory is ours again. An intent to register that came to nothing
		// ends here as well.
		log.G(ctx).WithError(err).WithField("key", r.Key).WithField("chainID", id).Warn("the layer of a snapshot is gone")
		r.ChainID = ""
		l.repair = append(l.repair, persist.Put(r))
		return
	}
	b.layer, b.chainID = layer, id
	if id != r.ChainID {
		r.ChainID = id
		l.repair = append(l.repair, persist.Put(r))
	}
}

func (l *layerLoader) borrowed(ctx context.Context, r persist.Record) *loaded {
	if l.e.layers == nil {
		log.G(ctx).WithField("key", r.Key).Error("a layer of the layer store is recorded and there is no layer store")
		l.lost = append(l.lost, r.Key)
		return nil
	}
	layer, err := l.e.layers.Get(r.Key)
	if err != nil {
		log.G(ctx).WithError(err).WithField("key", r.Key).Error("a borrowed layer is gone")
		l.repair = append(l.repair, persist.Delete(r.Key))
		l.lost = append(l.lost, r.Key)
		return nil
	}
	b := l.e.borrowedBody(layer)
	b.labels, b.updated = r.Labels, r.Updated
	return &loaded{state: state{phase: present, body: b, leased: true}}
}

// finish writes down what was found and takes out of found what stood on layers that
// are lost. The directory of such a snapshot does not hold what it should, so it is
// removed; but where there is no layer store at all it is only hidden, since that
// may have been forgotten.
func (l *layerLoader) finish(ctx context.Context, found []entry) (sound []entry) {
	e := l.e
	for parent := range l.below {
		if e.keys.Load(parent) != nil || slices.Contains(l.lost, parent) {
			continue
		}
		// dockerd forgets that it borrowed a layer when any lease of it ends.
		r := persist.Record{Key: parent, Kind: persist.Borrowed}
		if s := l.borrowed(ctx, r); s != nil {
			l.repair = append(l.repair, persist.Put(r))
			e.keys.Seed(parent, &s.state)
			found = append(found, entry{parent, &s.state})
		}
	}
	if len(l.repair) > 0 {
		e.db.Later(l.repair...)
	}
	if len(l.lost) == 0 {
		return found
	}
	on := map[string][]string{}
	for _, f := range found {
		if b := f.state.body; b.pins() {
			on[b.parent] = append(on[b.parent], f.key)
		}
	}
	unsound := map[string]bool{}
	for lost := l.lost; len(lost) > 0; lost = lost[1:] {
		for _, key := range on[lost[0]] {
			unsound[key] = true
			lost = append(lost, key)
			l.drop(ctx, key)
		}
	}
	return slices.DeleteFunc(found, func(f entry) bool { return unsound[f.key] })
}

func (l *layerLoader) drop(ctx context.Context, key string) {
	e := l.e
	b := e.keys.Load(key).body
	log.G(ctx).WithField("key", key).WithField("parent", b.parent).Error("a snapshot stands on a layer that is gone")
	e.keys.Seed(key, nil)
	switch {
	case e.layers == nil:
	case b.owned():
		if b.layer != nil {
			_ = e.releaseLayer(b.layer)
		}
		e.db.Later(persist.Remove(key, b.graphID))
		e.leftovers.Put(b.graphID)
	default:
		e.db.Later(persist.Delete(key))
	}
}
