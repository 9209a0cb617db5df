package engine

import (
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/mounts"
)

// Resident is what the engine knows of one key, a key without a snapshot that
// leases name included.
type Resident struct {
	Key     string
	Present bool // callers may see a snapshot
	Kind    snapshots.Kind
	Parent  string
	GraphID string // of the directory, that of the parent for a view of one
	Owned   bool   // the directory came into being with the snapshot
	Layer   Layer  // that it is or was exported as, with its reference; nil for none
	Pins    bool   // it is counted among the children of its parent

	Children int // that the engine counts
	Holds    int // mounts of a view that the engine counts
	Leases   []Lease
	Unwanted bool // it may be removed for want of a lease, as far as the engine knows
}

// Census lists all keys, in no order, and the table of mounts, for diagnostics and
// tests. Each entry was true at some moment of the call, so that the whole is
// consistent only where nothing happens meanwhile. It blocks until the table of
// mounts answers.
//
// Errors: ErrUnavailable after Close, the cause of ctx.
func (e *Engine) Census(ctx context.Context) ([]Resident, []mounts.Entry, error) {
	var all []Resident
	e.keys.Range(func(key string, s *state) bool {
		r := Resident{Key: key, Children: int(s.children), Holds: int(s.holds), Leases: slices.Clone(s.leases), Unwanted: s.unwanted()}
		if b := s.visible(); b != nil {
			r.Present, r.Kind, r.Parent, r.GraphID = true, b.kind, b.parent, b.graphID
			r.Layer = b.layer
			r.Owned, r.Pins = b.owned(), b.pins()
		}
		all = append(all, r)
		return true
	})
	table, err := e.mounts.Held(ctx)
	return all, table, err
}
