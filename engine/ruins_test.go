package engine

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/graphsnap/graphsnap/persist"
)

// ruins are what a dead process left: records and removals in the database, and
// directories of the driver's in some state.
type ruins struct {
	*harness
	clock int64
}

// inBoot makes the engine believe in another run of the machine.
func inBoot(id string) Option { return func(o *options) { o.boot = id } }

func newRuins(t *testing.T, copies bool) *ruins {
	t.Helper()
	h := &harness{t: t, driver: newMemoryDriver(), leases: newMemoryLeases(), root: t.TempDir(), opts: []Option{inBoot("first")}}
	h.driver.copies = copies
	return &ruins{harness: h}
}

// left writes to the database what a process left that died in the first run of
// the machine.
func (r *ruins) left(m ...persist.Mutation) {
	r.t.Helper()
	db, err := persist.Open(context.Background(), filepath.Join(r.root, "snapshots.db"), persist.Options{Boot: "first"})
	must(r.t, err)
	must(r.t, db.Write(context.Background(), m...))
	must(r.t, db.Close())
}

func (r *ruins) record(kind persist.Kind, key, parent string) persist.Record {
	r.clock++
	return persist.Record{Key: key, Kind: kind, Parent: parent, GraphID: "of-" + key, Created: r.clock, Updated: r.clock}
}

// put lays the directory of key down in a state: "whole", "parts" or "content" of
// it missing, "none", or "link" where nothing but a link is left.
func (r *ruins) put(key, parent, state string) {
	id, on := "of-"+key, ""
	if parent != "" {
		on = "of-" + parent
	}
	r.driver.links[id] = state != "none"
	if state == "none" || state == "link" {
		return
	}
	r.driver.dirs[id] = on
	if state != "whole" {
		r.driver.broken[id] = state
	}
}

// again closes the engine and opens it in another run of the machine, or the same.
func (r *ruins) again(boot string) {
	r.t.Helper()
	if r.Engine != nil {
		must(r.t, r.Close())
	}
	r.opts = []Option{inBoot(boot)}
	r.reopen()
}

func (r *ruins) settled() {
	r.t.Helper()
	eventually(r.t, "what is left over is deleted", func() bool { return r.Pending().Directories == 0 })
}

// records returns what the database holds. The engine must be closed.
func (r *ruins) records() (records map[string]persist.Record, removals []string) {
	r.t.Helper()
	db, err := persist.Open(context.Background(), filepath.Join(r.root, "snapshots.db"), persist.Options{Boot: "first"})
	must(r.t, err)
	defer db.Close()
	records = map[string]persist.Record{}
	must(r.t, db.Load(
		func(rec persist.Record) error { records[rec.Key] = rec; return nil },
		func(rm persist.Removal) error { removals = append(removals, rm.GraphID); return nil }, nil))
	return records, removals
}
