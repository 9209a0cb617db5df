package engine

import (
	"context"
	"slices"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// Records that cannot all be true. None of them is damaged in itself: a bit flipped in
// a name that one of them gives. Those that are sound are kept from it.

// contradictions looks for them before children are counted. shared are graph IDs that
// more than one record bears.
func (r *recovery) contradictions(ctx context.Context, shared []string) {
	if len(shared) > 0 {
		r.divide(ctx, setOf(shared))
	}
	for _, circle := range persist.Circles(r.suspectsOfCircles, r.counted) {
		log.G(ctx).WithField("keys", circle).Error("the parents of snapshots lead back to themselves; there are no such snapshots any more, nor those on top of them")
		for _, key := range circle {
			s := r.e.keys.Load(key)
			s.phase, s.body.adrift = lost, true // each would keep the next one for ever
			r.gone++
		}
	}
}

// divide gives each of the directories to one of those that bear its graph ID. The
// records of the others go at once, and their directories are not theirs to delete.
func (r *recovery) divide(ctx context.Context, shared map[string]bool) {
	bearers := map[string][]persist.Record{}
	for _, f := range r.found {
		if b := f.state.body; b.owned() && shared[b.graphID] {
			rec := b.record(f.key)
			rec.Creating = slices.Contains(r.creating, f.key)
			bearers[b.graphID] = append(bearers[b.graphID], rec)
		}
	}
	gone := map[string]bool{}
	var w []persist.Mutation
	for id, rr := range bearers {
		first := rr[0]
		for _, rec := range rr[1:] {
			if rec.Outranks(&first) {
				first = rec
			}
		}
		for _, rec := range rr {
			if rec.Key == first.Key {
				continue
			}
			log.G(ctx).WithField("key", rec.Key).WithField("graphID", id).WithField("owner", first.Key).
				Error("the directory of a snapshot is that of another one; there is no such snapshot any more, nor those on top of it")
			if l := r.body(rec.Key).layer; l != nil {
				_ = r.e.releaseLayer(l)
			}
			gone[rec.Key] = true
			r.e.keys.Seed(rec.Key, nil)
			w = append(w, persist.Delete(rec.Key))
		}
		// The bucket that went may be the one that holds its parent.
		w = append(w, persist.Delete(first.Key), persist.Put(first))
	}
	r.found = slices.DeleteFunc(r.found, func(f entry) bool { return gone[f.key] })
	r.creating = slices.DeleteFunc(r.creating, func(key string) bool { return gone[key] })
	r.e.db.Later(w...)
}

// suspectsOfCircles yields keys of which every circle has one: a snapshot is made after
// its parent, and in a circle that cannot be so everywhere.
func (r *recovery) suspectsOfCircles(yield func(string) bool) {
	var last *body
	var parent *state
	for _, f := range r.found {
		b := f.state.body
		if !b.pins() {
			continue
		}
		if last == nil || b.parent != last.parent { // many in a row may have the same
			last, parent = b, r.e.keys.Load(b.parent)
		}
		if parent != nil && parent.body != nil && parent.body.pins() && parent.body.created >= b.created && !yield(f.key) {
			return
		}
	}
}

// counted returns the parent among whose children a snapshot is to be counted, "" for
// none.
func (r *recovery) counted(key string) string {
	if s := r.e.keys.Load(key); s != nil && s.body != nil && s.body.pins() {
		return s.body.parent
	}
	return ""
}
