package target

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/mounts"
	"github.com/graphsnap/graphsnap/persist"
)

// Scene is what an audit looks at while no call is under way.
type Scene struct {
	Engine interface {
		Census(context.Context) ([]engine.Resident, []mounts.Entry, error)
		Stats() engine.Stats
	}
	Disk Disk
	// Names tells whether the lease manager has the key in the lease.
	Names func(ctx context.Context, l engine.Lease, key string) (bool, error)
	// Owns tells whether the directory is the layer store's.
	Owns func(graphID string) bool
	// References complains about those to layers that do not agree with the census. Nil:
	// nobody knows them.
	References func(all []engine.Resident, complain func(format string, args ...any))
}

// Disk is what a driver has.
type Disk interface {
	// Describes tells whether a directory that is held need not be mounted.
	Describes() bool
	// Directories returns the graph IDs that have one.
	Directories() (map[string]bool, error)
	// Mounted returns the graph IDs that are mounted by the driver.
	Mounted() ([]string, error)
}

// Audit waits until nothing is under way and all agrees, or until patience ends, and
// then says what does not.
func (s Scene) Audit(ctx context.Context, patience time.Duration) (wrong []string) {
	for deadline := time.Now().Add(patience); ; {
		if wrong = s.disagreements(ctx); len(wrong) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			return wrong
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// disagreements is one look.
func (s Scene) disagreements(ctx context.Context) (wrong []string) {
	complain := func(format string, args ...any) {
		if len(wrong) < 20 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	all, table, err := s.Engine.Census(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	stats := s.Engine.Stats()
	if stats.Keys+stats.Leases > 0 {
		complain("%d owners of keys and %d of leases are at work though no call is under way", stats.Keys, stats.Leases)
	}
	if n := stats.Pending.Directories; n > 0 {
		complain("%d directories are still to be deleted", n)
	}
	children, owners := map[string]int{}, map[string]string{}
	holders := map[string]int{}
	for _, m := range table {
		holders[m.ID] = m.Holders
	}
	directories, mounted, err := onDisk(s.Disk)
	if err != nil {
		return append(wrong, err.Error())
	}
	for _, r := range all {
		if r.Pins {
			children[r.Parent]++
		}
		for _, l := range r.Leases {
			if named, err := s.Names(ctx, l, r.Key); err != nil {
				complain("the lease %q cannot be listed: %v", l.ID, err)
			} else if !named {
				complain("%q counts on the lease %q, which does not name it", r.Key, l.ID)
			}
		}
		if r.Unwanted && holders[r.GraphID] == 0 { // a hold outlasts calls
			complain("%q stays though nothing wants it", r.Key)
		}
		if !r.Present || !r.Owned {
			continue
		}
		if other, twice := owners[r.GraphID]; twice {
			complain("%q and %q have the same directory", r.Key, other)
		}
		owners[r.GraphID] = r.Key
		if !directories[r.GraphID] {
			complain("%q has no directory", r.Key)
		}
	}
	for _, r := range all {
		if r.Children != children[r.Key] {
			complain("%q counts %d children and has %d", r.Key, r.Children, children[r.Key])
		}
		if r.Holds < 0 {
			complain("%q counts %d holds", r.Key, r.Holds)
		}
	}
	if s.References != nil {
		s.References(all, complain)
	}
	for id := range directories {
		if owners[id] == "" && !s.Owns(id) {
			complain("the directory %q has no snapshot", id)
		}
	}
	held := map[string]bool{}
	for _, m := range table {
		held[m.ID] = true
		if m.Holders > 0 && !s.Disk.Describes() && !slices.Contains(mounted, m.ID) {
			complain("%q is held %d times and not mounted", m.ID, m.Holders)
		}
	}
	for _, id := range mounted {
		if !held[id] {
			complain("%q is mounted and in no table", id)
		}
	}
	return wrong
}

func onDisk(d Disk) (directories map[string]bool, mounted []string, err error) {
	if directories, err = d.Directories(); err != nil {
		return nil, nil, err
	}
	mounted, err = d.Mounted()
	return directories, mounted, err
}

// Audit implements Audited. It waits for Patience at most.
func (t *Engine) Audit(ctx context.Context) []string {
	s := Scene{
		Engine: t.engine, Disk: t.driver, Owns: t.layers.owns,
		Names: func(_ context.Context, l engine.Lease, key string) (bool, error) {
			return t.leases.names(l.ID, key), nil
		},
	}
	if t.layers != nil {
		s.References = t.layers.disagreements
	}
	return append(s.Audit(ctx, t.Patience), t.driver.Wrong()...)
}

// AuditClosed implements Audited. It compares the database of a closed engine with the
// driver's directories.
func (t *Engine) AuditClosed(ctx context.Context) (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	database := filepath.Join(t.root, "snapshots.db")
	wrong = t.driver.Check(ctx, database)
	db, err := persist.Open(ctx, database, persist.Options{})
	if err != nil {
		return []string{err.Error()}
	}
	defer db.Close()
	directories, mounted, err := onDisk(t.driver)
	if err != nil {
		return []string{err.Error()}
	}
	recorded := map[string]bool{}
	err = db.Load(func(r persist.Record) error {
		if r.Creating {
			complain("the creation of %q is still an intent", r.Key)
		}
		if r.GraphID != "" {
			recorded[r.GraphID] = true
			if !directories[r.GraphID] {
				complain("the record of %q has no directory", r.Key)
			}
		}
		return nil
	}, func(r persist.Removal) error { recorded[r.GraphID] = true; return nil }, nil)
	if err != nil {
		complain("%v", err)
	}
	for id := range directories {
		if !recorded[id] && !t.layers.owns(id) {
			complain("the directory %q has no record", id)
		}
	}
	for _, id := range mounted {
		complain("%q is mounted after Close", id)
	}
	return append(wrong, t.driver.Wrong()...)
}
