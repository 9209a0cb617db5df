package engine

// What Open does about the disk after it has read the records.
//
// # What is looked at
//
// A process that died leaves intents: records of directories that may be half made,
// and removals of directories that may be half gone. It leaves mounts. What it had
// recorded as whole is whole, since the kernel went on.
//
// A machine that lost its power leaves less: of what was made shortly before, the
// file system may have lost any entry of a directory, while the database, which
// syncs, has the record. File systems write such entries back on their own within
// half a minute at most; ten are allowed for here.
//
// So of every record it is checked that there is a directory, by reading the
// driver's home once and comparing the names: about a microsecond each. Only those of
// which more may be missing are looked into one by one, some 40 microseconds each:
// those that are marked as unfinished, and after a restart of the
// machine those that were made in the last ten minutes before its end.
//
// # What is done about it
//
//	creating, driver copies    undone: the record goes, the directory after it
//	creating, others           made whole, its content kept; made anew where it is
//	                           empty. It may have been answered
//	active or own view, lost   made anew, empty
//	committed, lost            its record stays, but nobody sees it, nor what stands
//	                           on it. It goes when no lease names it any more
//	removal                    given to those who delete; forgotten where nothing is
//	                           left; dropped where a record bears the graph ID anew
//	mounts                     ended, at graph IDs of records and removals alone
//
// A committed snapshot of which the directory is there but broken is marked as
// unfinished, so that the next Open looks into it again.
//
// Each step leaves the intent that caused it until it is done, so that dying in
// between, however often, leads to the same end. Nothing is deleted or unmounted but
// what a record or a removal names: the driver's home may be shared.

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// recent is how long before its end a machine may have made what it then lost.
const recent = 10 * time.Minute

// recovery is what is known while Open runs. Nobody else looks at the states yet,
// so they may be changed in place.
type recovery struct {
	ctx      context.Context
	e        *Engine
	progress *progress

	found      []entry
	creating   []string        // keys of records that say so
	unreadable map[string]bool // keys of records that were read in part
	removing   map[string]bool // graph IDs
	newest     int64           // the last creation there is a record of, Unix nanoseconds

	missing map[string]bool // graph IDs without a directory
	linked  map[string]bool // of which there is something elsewhere
	touched string          // graph ID of a directory that was made or changed
	writes  []persist.Mutation

	// For the log.
	restored, anew, undone, gone, unmounted, removals, dropped int
}

func newRecovery(ctx context.Context, e *Engine) *recovery {
	return &recovery{
		ctx: ctx, e: e,
		progress:   newProgress(ctx, "reading the records"),
		unreadable: map[string]bool{},
		removing:   map[string]bool{},
	}
}

// entry is a snapshot that was loaded, with what is published of its key: of a million
// keys each look in the table is a wait for memory.
type entry struct {
	key   string
	state *state
}

// record takes note of a record that was loaded.
func (r *recovery) record(rec persist.Record, at entry) {
	r.found = append(r.found, at)
	r.newest = max(r.newest, rec.Created)
	if rec.Creating {
		r.creating = append(r.creating, at.key)
	}
}

// countChildren makes every parent know its children, and hides those that have a
// parent that is not recorded.
func (r *recovery) countChildren() {
	var parent string
	var p *state
	for _, f := range r.found {
		// Nobody else looks at the states yet, so they may still be changed.
		s := f.state
		if !s.body.pins() {
			continue
		}
		if p == nil || parent != s.body.parent { // many in a row may have the same
			parent, p = r.e.keys.Find(s.body.parent)
		}
		if p == nil || p.body == nil {
			log.G(r.ctx).WithField("key", f.key).WithField("parent", s.body.parent).Error("the parent of a snapshot is not recorded; there is no such snapshot any more, nor those on top of it")
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
}

func (r *recovery) run() error {
	began := time.Now()
	r.creating = slices.DeleteFunc(r.creating, func(key string) bool {
		return r.e.keys.Load(key) == nil // it stood on a layer that is gone
	})
	r.dropRemovals()
	if err := r.survey(); err != nil {
		return fmt.Errorf("look at the directories of the graph driver: %w", err)
	}
	suspects := r.suspects()
	suspects = r.undo(suspects)
	r.mend(suspects)
	r.hideChildren()
	r.settle()
	r.remove()
	r.report(time.Since(began), len(suspects))
	return nil
}

// report says in one line what was found and done. After an end in order, with
// nothing left to do, there is nothing to say.
func (r *recovery) report(took time.Duration, lookedInto int) {
	level := log.InfoLevel
	if r.e.db.Ended() == persist.InOrder && lookedInto+r.undone+r.unmounted+r.removals+r.dropped == 0 {
		level = log.DebugLevel
	}
	log.G(r.ctx).WithFields(log.Fields{
		"snapshots": len(r.found), "lastEnd": r.e.db.Ended().String(), "took": took.Round(time.Millisecond),
		"unfinished": len(r.creating), "lookedInto": lookedInto, "restored": r.restored, "madeAnew": r.anew,
		"undone": r.undone, "lost": r.gone, "unmounted": r.unmounted, "removals": r.removals, "removalsDropped": r.dropped,
	}).Log(level, "snapshots recovered")
}

// dropRemovals gives up removals of graph IDs that live snapshots bear. Such a
// removal was carried through, and what said so was lost in the crash, after the
// graph ID had been borne anew.
func (r *recovery) dropRemovals() {
	if len(r.removing) == 0 {
		return
	}
	for _, f := range r.found {
		if b := f.state.body; b.owned() && r.removing[b.graphID] {
			r.e.db.Later(persist.Removed(b.graphID))
			delete(r.removing, b.graphID)
			r.dropped++
		}
	}
}

func (r *recovery) body(key string) *body { return r.e.keys.Load(key).body }

// survey asks the driver about all graph IDs that this engine may have made a
// directory or a mount of, and ends the mounts.
func (r *recovery) survey() error {
	ids := make([]string, 0, len(r.found)+len(r.removing))
	lent := map[string]bool{} // layers that views were mounted of
	for _, f := range r.found {
		switch b := f.state.body; {
		case b.owned():
			ids = append(ids, b.graphID)
		case b.borrows && b.graphID != "" && r.body(b.parent).foreign:
			lent[b.graphID] = true
		}
	}
	for id := range r.removing {
		ids = append(ids, id)
	}
	for id := range lent {
		ids = append(ids, id)
	}
	r.progress.stage("looking at the directories", len(ids))
	var found Survey
	err := protect("Survey", "", func() (err error) {
		found, err = r.e.driver.Survey(ids)
		return err
	})
	if err != nil {
		return err
	}
	r.missing, r.linked = setOf(found.Missing), setOf(found.Linked)
	for _, id := range found.Mounted {
		if err := protect("Unmount", id, func() error { return r.e.driver.Unmount(id) }); err != nil {
			log.G(r.ctx).WithError(err).WithField("graphID", id).Error("what a dead process had mounted stays mounted")
			continue
		}
		r.unmounted++
	}
	return nil
}

func setOf(names []string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// suspects returns the keys of the snapshots whose directory is to be looked into.
func (r *recovery) suspects() []string {
	suspects := r.creating
	restarted := r.e.db.Ended() == persist.Restarted
	if len(r.missing) == 0 && !restarted {
		return suspects
	}
	known := setOf(suspects)
	for _, f := range r.found {
		key, b := f.key, f.state.body
		switch {
		case known[key] || !b.owned():
		case r.missing[b.graphID], restarted && (b.created == 0 || b.created > r.newest-int64(recent)):
			suspects = append(suspects, key)
		}
	}
	return suspects
}

// undo ends creations that a copying driver may have left half made. They were not
// answered. It returns the other suspects.
func (r *recovery) undo(suspects []string) (rest []string) {
	if !r.e.driver.Copies() {
		return suspects
	}
	creating := setOf(r.creating)
	var undone []string
	var w []persist.Mutation
	for _, key := range suspects {
		b := r.body(key)
		// What is marked though it was committed is to be looked into. And what
		// could not be read does not say that it is unfinished.
		if !creating[key] || b.kind == snapshots.KindCommitted || r.unreadable[key] {
			rest = append(rest, key)
			continue
		}
		undone = append(undone, key)
		w = append(w, persist.Remove(key, b.graphID))
	}
	if len(undone) == 0 {
		return rest
	}
	if err := r.e.db.Write(r.ctx, w...); err != nil {
		log.G(r.ctx).WithError(err).Error("unfinished snapshots stay recorded until the next start")
		for _, key := range undone {
			r.e.keys.Load(key).phase = lost
		}
		return rest
	}
	gone := setOf(undone)
	kept := r.found[:0]
	for _, f := range r.found {
		if !gone[f.key] {
			kept = append(kept, f)
			continue
		}
		key, b := f.key, f.state.body
		r.removing[b.graphID] = true
		if p := r.e.keys.Load(b.parent); b.pins() && p != nil {
			p.children--
		}
		r.e.keys.Seed(key, nil)
		r.undone++
	}
	r.found = kept
	return rest
}

// settle makes durable what was made or changed on disk, and then the marks that
// say so. After another power loss nobody would look for it: the records are old.
func (r *recovery) settle() {
	if r.touched != "" {
		if err := protect("Sync", r.touched, func() error { return r.e.driver.Sync(r.touched) }); err != nil {
			log.G(r.ctx).WithError(err).Error("what recovery made on disk could not be synced, and is looked at again at the next start")
			return
		}
	}
	if len(r.writes) > 0 {
		r.e.db.Later(r.writes...)
	}
}

// remove hands the removals to those who delete, but for those of which nothing is
// left: with these a process that died had done everything but say so.
func (r *recovery) remove() {
	for id := range r.removing {
		r.removals++
		if r.missing[id] && !r.linked[id] {
			r.e.db.Later(persist.Removed(id))
			r.e.graphIDs.Free(id)
			continue
		}
		r.e.leftovers.Put(id)
	}
}
