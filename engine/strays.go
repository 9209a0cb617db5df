package engine

import (
	"slices"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// strays decides what becomes of what the database holds beside records. dockerd's
// own snapshotter leaves it, and so does running dockerd in between:
//
//	orphan    its name was committed once more, of another key. The directory that it
//	          names is nobody's
//	broken    a name of which the key is gone, so that nobody knows its parent
//	shadowed  a record of ours, of a key that dockerd recorded anew
//	empty     a size that was measured of a snapshot which was removed meanwhile
//
// None is a snapshot that could be served. Orphans and broken names become snapshots
// that are lost, so that they go as those do: when no lease names them and nothing
// stands on them. Where no lease manager rules all of it stays.
//
// All records were loaded before: a directory that one of them bears is theirs.
func (r *recovery) strays(found []persist.Leftover) {
	for _, l := range found {
		logger := log.G(r.ctx).WithField("key", l.Key)
		switch {
		case r.e.source == nil:
			logger.Warn("the database holds something of this key that is no snapshot; it is left alone")
		case l.Oddity == persist.Empty:
			r.e.empty = append(r.e.empty, l.Key)
		case l.Oddity == persist.Shadowed:
			r.shadowed(l.Record)
		case r.e.keys.Load(l.Key) != nil:
			logger.Warn("a key that a snapshot bears was committed under a name that is gone; its directory is left alone")
		case l.Oddity == persist.Broken:
			logger.Error("nobody knows the parent of a snapshot; there is no such snapshot any more, nor those on top of it")
			b := &body{kind: snapshots.KindCommitted, graphID: l.Record.GraphID}
			b.borrows = !r.claim(b.graphID) // then the directory is another one's
			r.lose(l.Key, b)
		case !r.claim(l.Key):
			logger.Warn("a key was committed under a name that is gone; its directory is another snapshot's or cannot be one, and is left alone")
		default:
			logger.Info("a key was committed under a name that is gone; its directory goes when no lease names it")
			r.lose(l.Key, &body{kind: snapshots.KindCommitted, graphID: l.Key, stray: true})
		}
	}
}

// claim takes a graph ID for a directory that is to go, unless it may be another
// snapshot's or the driver's own.
func (r *recovery) claim(graphID string) bool {
	return plainName(graphID) && !r.removing[graphID] && r.e.graphIDs.Take(graphID)
}

// lose publishes a snapshot that is lost and counts none as its parent.
func (r *recovery) lose(key string, b *body) {
	b.serial, b.adrift, b.kept = r.e.clock.Add(1), true, new(keeping)
	if b.owned() {
		b.removal = new(removal)
	}
	s := &state{phase: lost, body: b, leased: true}
	r.e.keys.Seed(key, s)
	r.found = append(r.found, entry{key, s})
	r.gone++
}

// shadowed gives up a record of which the key is dockerd's now. A committed one stays
// where it is: what was made on top of it needs its directory still.
func (r *recovery) shadowed(rec persist.Record) {
	if rec.Kind == persist.Committed {
		log.G(r.ctx).WithField("key", rec.Key).Warn("dockerd recorded another snapshot of a name that was committed already; the directory of the first is left alone")
		return
	}
	if !r.claim(rec.GraphID) {
		rec.GraphID = ""
	}
	r.e.db.Later(persist.Discard(rec.Key, rec.GraphID))
	if rec.GraphID != "" {
		r.removing[rec.GraphID] = true
	}
}

// sweepEmpty removes the buckets with nothing in them that no lease names, under the
// rules of snapshots from before Open.
func (r *reaper) sweepEmpty(l *listing) {
	if len(r.e.empty) == 0 || time.Now().Before(r.graceful) || r.e.keepLoaded.Load() {
		return
	}
	r.e.empty = slices.DeleteFunc(r.e.empty, func(key string) bool {
		if len(l.named[key]) > 0 {
			return false
		}
		r.e.db.Later(persist.Discard(key, ""))
		return true
	})
}
