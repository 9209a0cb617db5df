package engine

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// state is what is published of a key. It is never changed once published; its
// owner publishes another. A million idle keys are a million of them, so fields lie
// where they leave no gaps, in body too. What reads look at is the end of a state and
// the beginning of a body, see loaded.
type state struct {
	leases  []Lease       // that name the key, sorted
	event   uint64        // clock of the last change to leases, and of the appearance
	pending chan struct{} // while reserved or creating: closed when that is decided
	birth   *birth        // of a snapshot made by this process
	holds   int32         // mounts of this view; those of directories are in the table of mounts
	adding  int32         // leases that are being added: the lease manager may not know them

	children int32 // snapshots that have this one as their parent
	phase    phase
	leased   bool  // a lease ended, or may have: the snapshot was loaded
	doubtful bool  // nobody knows whether the disk has that it was removed
	body     *body // nil where absent or reserved
	flip     *flip // the Commit under way
}

type phase uint8

const (
	absent   phase = iota // leases may name it all the same
	reserved              // a Commit is about to move a snapshot here
	creating              // the intent is durable, the directory is not known to be whole
	present
	lost // there is a record, but no directory: a crash took it, or that of a parent
)

// body is the snapshot itself. It is immutable too; states share it.
type body struct {
	kind     snapshots.Kind
	borrows  bool // the directory is the parent's
	stray    bool // it is no record but an orphan in the database, and lost
	adrift   bool // there is no record of the parent, so it is lost, and nobody counts it
	foreign  bool // it is a layer of the layer store, and so is the directory
	measured bool

	parent  string
	created int64 // Unix nanoseconds, 0 unknown
	updated int64
	labels  map[string]string

	usage   snapshots.Usage // where measured
	serial  uint64          // tells the snapshot from others that bear its key before and after
	graphID string          // the directory; a view of a parent has that of the parent
	removal *removal        // of the directory, whatever bears the graph ID now; nil where it is a layer's
	kept    *keeping        // the hold that ends with the snapshot, see Mountable.Keep
	layer   Layer           // that it is or was exported as, with a reference; nil for none
	chainID string          // that is recorded: of the layer, or of the one that it is about to become
}

// loaded is all that there is of a snapshot when it was loaded. A million of them
// are a million pieces of memory and not five. Among that many nothing is in a cache
// of the processor, so what Stat tells of one lies in a single line of 64 bytes, and
// the key that it is found by in the next but one.
type loaded struct {
	seat    actors.Seat[state]
	state   state
	body    body
	removal removal
	kept    keeping
}

// removal tells whether a directory is to go, or went.
type removal struct{ decision atomic.Uint32 }

const (
	durable  = 1 + iota // it is to go
	doubtful            // nobody knows whether the disk has that it is to go
)

// err returns why the directory of the snapshot key is not to be mounted, nil where it
// may be.
func (r *removal) err(key string) error {
	if r == nil {
		return nil
	}
	switch r.decision.Load() {
	case durable:
		return errNotFound(key)
	case doubtful:
		return errDoubtful(key)
	}
	return nil
}

// flip makes a Commit visible under both of its keys at one instant. The states
// of key and name point to it; until done they mean what they say, from then on
// the key is absent and the name has body. Their owners publish the same in plain
// words later.
type flip struct {
	done atomic.Bool
	body *body // set before done
}

// birth is what is remembered of a creation until the first change that follows its
// answer.
type birth struct {
	answered atomic.Uint64 // clock of the moment in which it was about to be answered, 0 before
	// whole says on disk that the directory is, unless a Commit does so sooner. Only
	// the owner looks at it.
	whole *persist.Deferred
}

// visible returns the snapshot that callers may see, nil for none.
func (s *state) visible() *body {
	switch {
	case s == nil:
		return nil
	case s.flip != nil && s.flip.done.Load():
		if s.phase == reserved {
			return s.flip.body
		}
		return nil
	case s.phase != present:
		return nil
	}
	return s.body
}

// own is visible for the owner of the key, of a state that it made plain. The name of
// a Commit is there if it was at that moment: the owner of the other key may end the
// Commit amid a handler, which must not find a snapshot then and take its body, which
// is in the flip, from the state.
func (s *state) own() *body {
	if s.phase != present {
		return nil
	}
	return s.body
}

// plain returns the state without a flip that is done.
func (s *state) plain() *state {
	if s == nil {
		return &state{}
	}
	f := s.flip
	if f == nil || !f.done.Load() {
		return s
	}
	next := *s
	next.flip = nil
	if s.phase == reserved {
		next.phase, next.body = present, f.body
	} else {
		next.vanish()
	}
	return &next
}

// vanish turns a state that is about to be published into that of an absent key.
// The leases stay: they name the key, not the snapshot.
func (s *state) vanish() {
	*s = state{leases: s.leases, adding: s.adding, event: s.event, pending: s.pending}
}

// decide ends the time in which others wait to learn what becomes of the key. The
// state is about to be published.
func (s *state) decide() {
	if s.pending != nil {
		close(s.pending)
		s.pending = nil
	}
}

// void tells whether nothing needs to be remembered of the key.
func (s *state) void() bool { return s.phase == absent && len(s.leases) == 0 && s.adding == 0 }

// unwanted tells whether the snapshot may go for want of a lease, as far as the
// state alone says.
func (s *state) unwanted() bool {
	return (s.phase == present || s.phase == lost) && s.flip == nil && s.leased &&
		len(s.leases) == 0 && s.children == 0 && s.holds == 0
}

// is tells whether the snapshot of b is visible, whatever was updated of it.
func (s *state) is(b *body) bool {
	v := s.visible()
	return v != nil && v.serial == b.serial
}

// standing returns the snapshot that there is a record of: what callers may see, or
// what is lost.
func (s *state) standing() *body {
	if s != nil && s.phase == lost {
		return s.body
	}
	return s.visible()
}

// info is what callers are told. They may change the labels: they get their own.
func (b *body) info(key string) (info snapshots.Info) {
	b.tell(key, &info)
	return info
}

// tell writes info where it is to lie: it is a hundred bytes, of which a copy takes
// longer than to find the snapshot.
func (b *body) tell(key string, info *snapshots.Info) {
	info.Kind, info.Name, info.Parent = b.kind, key, b.parent
	if b.labels != nil {
		info.Labels = maps.Clone(b.labels)
	}
	info.Created = when(b.created)
	if info.Updated = info.Created; b.updated != b.created {
		info.Updated = when(b.updated)
	}
}

func when(nanoseconds int64) time.Time {
	if nanoseconds == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanoseconds).UTC()
}

// owned tells whether there is a directory that bears the snapshot's graph ID and
// came into being with it.
func (b *body) owned() bool { return !b.borrows && !b.foreign }

// pins tells whether the snapshot is counted among the children of its parent. The
// parents of layers are the layer store's business.
func (b *body) pins() bool { return b.parent != "" && !b.foreign && !b.adrift }

// record is what is persisted of the snapshot under key.
func (b *body) record(key string) persist.Record {
	r := persist.Record{
		Key:      key,
		Parent:   b.parent,
		ChainID:  b.chainID,
		Measured: b.measured,
		Size:     b.usage.Size,
		Inodes:   b.usage.Inodes,
		Created:  b.created,
		Updated:  b.updated,
		Labels:   b.labels,
	}
	if b.owned() {
		r.GraphID = b.graphID
	}
	if b.foreign { // what the layer store knows is not recorded
		return persist.Record{Key: key, Kind: persist.Borrowed, Updated: b.updated, Labels: b.labels}
	}
	switch b.kind {
	case snapshots.KindActive:
		r.Kind = persist.Active
	case snapshots.KindView:
		r.Kind = persist.View
	case snapshots.KindCommitted:
		r.Kind = persist.Committed
	}
	return r
}

// fromRecord is the opposite of record, as the state of a snapshot that is loaded.
// What it cannot know is the graph ID of a view that borrows.
func fromRecord(r persist.Record) *loaded {
	l := &loaded{
		state: state{phase: present, leased: true},
		body: body{
			parent:   r.Parent,
			graphID:  r.GraphID,
			borrows:  r.GraphID == "",
			measured: r.Measured && r.Kind == persist.Committed && r.Inodes >= 0,
			created:  r.Created,
			updated:  r.Updated,
			labels:   r.Labels,
		},
	}
	b := &l.body
	l.state.body, b.kept = b, &l.kept
	if b.owned() {
		b.removal = &l.removal
	}
	if b.measured {
		b.usage = snapshots.Usage{Size: r.Size, Inodes: r.Inodes}
	}
	switch r.Kind {
	case persist.Active:
		b.kind = snapshots.KindActive
	case persist.View:
		b.kind = snapshots.KindView
	case persist.Committed:
		b.kind = snapshots.KindCommitted
	}
	return l
}
