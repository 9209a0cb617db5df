package engine

import (
	"context"
	"slices"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// load publishes what the database holds and finishes what an earlier process
// left unfinished on disk (recovery.go).
func (e *Engine) load(ctx context.Context, name string) error {
	if err := e.emptyWorkDir(); err != nil {
		return err
	}
	defer relaxCollector()()
	e.aliases = map[string]string{}
	layers := e.newLayerLoader()
	r := newRecovery(ctx, e)
	defer r.progress.stop()
	n, err := e.db.Count()
	if err != nil {
		return err
	}
	// What grows bit by bit is copied several times over.
	e.keys.Reserve(n)
	e.graphIDs.Reserve(n)
	r.found = make([]entry, 0, n)
	names := newNamesTaker(e.graphIDs)
	record := func(rec persist.Record) error {
		l := layers.state(ctx, rec)
		if l == nil {
			return nil
		}
		s := &l.state
		key := e.keys.SeedAt(&l.seat, rec.Key, s)
		if b := s.body; b.owned() {
			if b.graphID == key {
				b.graphID = key // one copy of a name is enough
			}
			names.take(b.graphID)
		}
		r.record(rec, entry{key, s})
		return nil
	}
	removal := func(rec persist.Removal) error {
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
	err = e.db.Load(record, removal, leftover)
	shared := names.wait() // graph IDs that more than one record bears
	if err != nil {
		return err
	}
	for id := range r.removing {
		e.graphIDs.Take(id)
	}
	if err := e.loadSettings(ctx, name, len(r.found) > 0); err != nil {
		return err
	}
	r.found = layers.finish(ctx, r.found)
	for _, id := range e.leftovers.Take() { // of what stood on layers that are gone
		r.removing[id] = true
	}
	r.strays(strays)
	if len(r.found) > 0 {
		e.loaded = e.clock.Load()
	}
	r.contradictions(ctx, shared)
	r.countChildren()
	return r.run()
}

// namesTaker takes names in a goroutine of its own: they are in no order, so that
// most of it is waiting for memory.
type namesTaker struct {
	batch []string
	todo  chan []string
	taken chan []string // those that were in use
}

func newNamesTaker(names *actors.Names) *namesTaker {
	t := &namesTaker{todo: make(chan []string, 16), taken: make(chan []string, 1)}
	go func() {
		var taken []string
		for batch := range t.todo {
			for _, name := range batch {
				if !names.Take(name) {
					taken = append(taken, name)
				}
			}
		}
		t.taken <- taken
	}()
	return t
}

func (t *namesTaker) take(name string) {
	if t.batch == nil {
		t.batch = make([]string, 0, 512)
	}
	if t.batch = append(t.batch, name); len(t.batch) == cap(t.batch) {
		t.todo <- t.batch
		t.batch = nil
	}
}

// wait ends the goroutine and returns the names that were in use already.
func (t *namesTaker) wait() []string {
	t.todo <- t.batch
	close(t.todo)
	return <-t.taken
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
