package engine

import (
	"context"
	"slices"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// load publishes what the database holds and finishes what an earlier process
// left unfinished on disk (recovery.go).
func (e *Engine) load(ctx context.Context, name string) error {
	if err := e.emptyWorkDir(); err != nil {
		return err
	}
	e.aliases = map[string]string{}
	layers := e.newLayerLoader()
	r := newRecovery(ctx, e)
	defer r.progress.stop()
	var shared []string // graph IDs that more than one record bears
	record := func(rec persist.Record) error {
		l := layers.state(ctx, rec)
		if l == nil {
			return nil
		}
		s := &l.state
		rec.Key = e.keys.SeedAt(&l.seat, rec.Key, s)
		if b := s.body; b.owned() && !e.graphIDs.Take(b.graphID) {
			shared = append(shared, b.graphID)
		}
		r.record(rec)
		return nil
	}
	removal := func(rec persist.Removal) error {
		e.graphIDs.Take(rec.GraphID)
		r.removing[rec.GraphID] = true
		return nil
	}
	var strays []persist.Leftover
	leftover := func(l persist.Leftover) {
		switch l.Oddity {
		case persist.Orphan, persist.Broken, persist.Empty, persist.Shadowed:
			strays = append(strays, l)
		case persist.Aliased:
			e.aliases[l.Key] = l.Record.ChainID
		case persist.Undecodable:
			log.G(ctx).WithError(l.Err).WithField("key", l.Key).Error("a record cannot be read and is left alone")
			r.unreadable[l.Key] = true
		}
	}
	if err := e.db.Load(record, removal, leftover); err != nil {
		return err
	}
	if err := e.loadSettings(ctx, name, len(r.keys) > 0); err != nil {
		return err
	}
	r.keys = layers.finish(ctx, r.keys)
	for _, id := range e.leftovers.Take() { // of what stood on layers that are gone
		r.removing[id] = true
	}
	r.strays(strays)
	if len(r.keys) > 0 {
		e.loaded = e.clock.Load()
	}
	r.contradictions(ctx, shared)
	for _, key := range r.keys {
		// Nobody else looks at the states yet, so they may still be changed.
		s := e.keys.Load(key)
		if !s.body.pins() {
			continue
		}
		parent, p := e.keys.Find(s.body.parent)
		if p == nil || p.body == nil {
			log.G(ctx).WithField("key", key).WithField("parent", s.body.parent).Error("the parent of a snapshot is not recorded; there is no such snapshot any more, nor those on top of it")
			s.phase, s.body.adrift = lost, true
			r.gone++
			continue
		}
		s.body.parent = parent // one copy of a name is enough
		p.children++
		if s.body.borrows {
			s.body.graphID, s.body.removal = p.body.graphID, p.body.removal
		}
	}
	return r.run()
}

// loadSettings reads what the database knows of names and namespaces and adds the
// present name to it. found says whether there are records.
func (e *Engine) loadSettings(ctx context.Context, name string, found bool) error {
	names, ok := e.db.Setting(settingNames)
	switch {
	case ok:
		e.names = split(names)
	case found:
		// Then they are of dockerd's snapshotter, which has no other name and
		// does not record it.
		e.names = []string{"default"}
	}
	if !slices.Contains(e.names, name) {
		e.names = append(e.names, name)
	}
	if names != join(e.names) {
		if err := e.db.Write(ctx, persist.Set(settingNames, join(e.names))); err != nil {
			return err
		}
	}
	if ns, ok := e.db.Setting(settingNamespaces); ok {
		known := split(ns)
		e.namespaces.Seed(allNamespaces, &known)
	}
	return nil
}
