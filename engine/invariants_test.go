package engine

import (
	"context"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/persist"
)

// quiet waits until nothing is under way that was begun: owners, and directories that
// are being deleted for the first time.
func (h *harness) quiet() {
	h.t.Helper()
	eventually(h.t, "directories are deleted", func() bool { p := h.Pending(); return p.Directories == p.Failed })
	eventually(h.t, "owners idle", func() bool { return h.keys.Running() == 0 && h.Engine.leases.Running() == 0 })
}

// checkTables compares what owners publish with each other, with the driver's
// directories and with the table of mounts: pins equal children, nothing is left
// halfway, every directory has a snapshot or waits for its deletion.
func (h *harness) checkTables() {
	h.t.Helper()
	if h.closed.Load() {
		return
	}
	h.quiet()
	children := map[string]int{}
	dirs := map[string]string{}
	h.keys.Range(func(key string, s *state) bool {
		switch {
		case s.phase == creating || s.phase == reserved:
			h.t.Errorf("%q is left in phase %d", key, s.phase)
		case s.flip != nil:
			h.t.Errorf("%q is left in a commit", key)
		case s.void():
			h.t.Errorf("%q is void and published", key)
		}
		for _, l := range s.leases {
			if !h.leases.names(l, key) {
				h.t.Errorf("%q is leased by %v, which does not name it", key, l)
			}
		}
		b := s.visible()
		if b == nil {
			return true
		}
		if b.pins() {
			children[b.parent]++
		}
		if b.owned() {
			if other, twice := dirs[b.graphID]; twice {
				h.t.Errorf("%q and %q have the directory %q", key, other, b.graphID)
			}
			dirs[b.graphID] = key
			if !h.driver.Exists(b.graphID) {
				h.t.Errorf("%q has no directory %q", key, b.graphID)
			}
		}
		return true
	})
	h.keys.Range(func(key string, s *state) bool {
		if int(s.children) != children[key] {
			h.t.Errorf("%q has %d pins and %d children", key, s.children, children[key])
		}
		return true
	})
	h.checkLayers()
	h.driver.mu.Lock()
	for id := range h.driver.dirs {
		if h.layers.find(id) != nil {
			continue // a layer's, whatever became of the snapshot that it was made of
		}
		if _, ok := dirs[id]; !ok && !h.driver.kept[id] {
			h.t.Errorf("directory %q has no snapshot", id)
		}
		if h.graphIDs.Take(id) && !h.driver.kept[id] {
			h.t.Errorf("the graph ID %q is free though its directory is there", id)
		}
	}
	mounted := map[string]int{}
	for id, n := range h.driver.mounted {
		if n > 0 {
			mounted[id] = n
		}
	}
	h.driver.mu.Unlock()
	held, err := h.Engine.mounts.Held(context.Background())
	if err != nil {
		h.t.Error(err)
	}
	for _, e := range held {
		if e.Holders > 0 && mounted[e.ID] == 0 && !h.driver.leaves {
			h.t.Errorf("%q has %d holders and no mount", e.ID, e.Holders)
		}
		delete(mounted, e.ID)
	}
	for id := range mounted {
		h.t.Errorf("%q is mounted and in no table", id)
	}
}

// checkDatabase compares what is recorded with what was published at the end.
func (h *harness) checkDatabase() {
	h.t.Helper()
	db, err := persist.Open(context.Background(), filepath.Join(h.root, "snapshots.db"), persist.Options{})
	if err != nil {
		h.t.Error(err)
		return
	}
	defer db.Close()
	published := map[string]*body{}
	h.keys.Range(func(key string, s *state) bool {
		if b := s.visible(); b != nil {
			published[key] = b
		}
		return true
	})
	err = db.Load(func(r persist.Record) error {
		b := published[r.Key]
		delete(published, r.Key)
		switch {
		case b == nil:
			h.t.Errorf("%q is recorded but not there", r.Key)
		case r.Creating:
			h.t.Errorf("%q is recorded as an intent", r.Key)
		case b.foreign:
			if r.Kind != persist.Borrowed || len(r.Labels) != len(b.labels) {
				h.t.Errorf("%q is recorded as %+v but is %+v", r.Key, r, *b)
			}
		case r.Parent != b.parent || r.GraphID != b.record(r.Key).GraphID || r.ChainID != b.chainID || kindOf(r) != b.kind:
			h.t.Errorf("%q is recorded as %+v but is %+v", r.Key, r, *b)
		case len(r.Labels) != len(b.labels):
			h.t.Errorf("%q is recorded with labels %v but has %v", r.Key, r.Labels, b.labels)
		}
		return nil
	}, func(r persist.Removal) error {
		if !h.driver.kept[r.GraphID] && !slices.Contains(h.leftovers.Take(), r.GraphID) && !h.driver.Exists(r.GraphID) {
			h.t.Errorf("the removal of %q is recorded though its directory is gone", r.GraphID)
		}
		return nil
	}, nil)
	if err != nil {
		h.t.Error(err)
	}
	for key := range published {
		h.t.Errorf("%q is there but not recorded", key)
	}
}

func kindOf(r persist.Record) snapshots.Kind { return fromRecord(r).body.kind }
