package target

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/graphsnap/graphsnap/persist"
)

// Audit implements Audited. It waits until two looks see the same and nothing is
// under way, or until Patience ends, and then says what does not agree.
func (t *Engine) Audit(ctx context.Context) []string {
	var wrong []string
	for deadline := time.Now().Add(t.Patience); ; {
		if wrong = t.disagreements(ctx); len(wrong) == 0 || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return append(wrong, t.driver.Wrong()...)
}

// disagreements is one look.
func (t *Engine) disagreements(ctx context.Context) (wrong []string) {
	complain := func(format string, args ...any) {
		if len(wrong) < 20 {
			wrong = append(wrong, fmt.Sprintf(format, args...))
		}
	}
	all, table, err := t.engine.Census(ctx)
	if err != nil {
		return []string{err.Error()}
	}
	stats := t.engine.Stats()
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
	directories, mounted, err := t.onDisk()
	if err != nil {
		return append(wrong, err.Error())
	}
	for _, r := range all {
		if r.Pins {
			children[r.Parent]++
		}
		for _, l := range r.Leases {
			if !t.leases.names(l.ID, r.Key) {
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
	if t.layers != nil {
		t.layers.disagreements(all, complain)
	}
	for id := range directories {
		if owners[id] == "" && !t.layers.owns(id) {
			complain("the directory %q has no snapshot", id)
		}
	}
	held := map[string]bool{}
	for _, m := range table {
		held[m.ID] = true
		if m.Holders > 0 && !t.driver.Describes() && !slices.Contains(mounted, m.ID) {
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

func (t *Engine) onDisk() (directories map[string]bool, mounted []string, err error) {
	if directories, err = t.driver.Directories(); err != nil {
		return nil, nil, err
	}
	mounted, err = t.driver.Mounted()
	return directories, mounted, err
}

// AuditClosed compares the database of a closed engine with the driver's
// directories.
func (t *Engine) AuditClosed(ctx context.Context) (wrong []string) {
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	db, err := persist.Open(ctx, filepath.Join(t.root, "snapshots.db"), persist.Options{})
	if err != nil {
		return []string{err.Error()}
	}
	defer db.Close()
	directories, mounted, err := t.onDisk()
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
