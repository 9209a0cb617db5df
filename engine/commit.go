package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// Commit makes the active snapshot key the committed snapshot name, with the
// labels of opts and those that containerd's rules let it inherit from key. It
// returns when that is durable; at one instant key is gone and name is there. A
// mount of key that is still held goes on.
//
// Errors: ErrInvalidArgument for keys that cannot be, ErrNotFound where key is
// not there, ErrFailedPrecondition where it is not active, ErrAlreadyExists where
// name is taken, ErrUnavailable after Close or where the database is, and the
// cause of ctx. After an error nothing has changed, unless the error is
// persist.ErrIndeterminate.
func (e *Engine) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := e.commit(ctx, name, key, opts); err != nil {
		return fmt.Errorf("commit %q as %q: %w", abridged(key), abridged(name), err)
	}
	return nil
}

// commit is the saga: reserve the name, then let the owner of the key make both
// changes durable in one transaction and flip them.
func (e *Engine) commit(ctx context.Context, name, key string, opts []snapshots.Opt) error {
	if err := errors.Join(checkKey("name", name), checkKey("key", key)); err != nil {
		return err
	}
	set, err := initialLabels(opts)
	if err != nil {
		return err
	}
	if !e.gate.Enter() {
		return errClosed
	}
	defer e.gate.Leave()

	if e.options.syncOnCommit {
		b, err := e.lookup(ctx, key)
		if err != nil {
			return err
		}
		if err := e.driverSlot(ctx, "Sync", b.graphID, func() error { return e.driver.Sync(b.graphID) }); err != nil {
			return err
		}
	}
	if e.lender(name) != nil {
		return errTaken(name)
	}
	f := &flip{}
	var answered *birth
	err = e.untilDecided(ctx, func() (err error) {
		answered, err = actors.Ask(ctx, e.keys, name, &reserve{question[*birth]{e: e}, f})
		return err
	})
	if err != nil {
		return err
	}
	// Done or not, the name's owner says so in plain words afterwards.
	defer e.keys.Tell(name, &settle{question[done]{e: e}, f})
	m := &commit{question: question[done]{e: e}, ctx: ctx, name: name, labels: set, flip: f}
	if _, err := actors.Ask(ctx, e.keys, key, m); err != nil {
		return e.errUnborrowed(key, err)
	}
	answered.answered.Store(e.clock.Add(1))
	return nil
}

// reserve keeps the name for a Commit. Nothing of it is durable: until the flip
// there is nothing under the name.
type reserve struct {
	question[*birth]
	flip *flip
}

func (m *reserve) Handle(o *owner) {
	s := *o.Value().plain()
	if err := s.free(o.Key()); err != nil {
		m.Fail(err)
		return
	}
	s.phase, s.flip, s.birth, s.pending = reserved, m.flip, &birth{}, make(chan struct{})
	m.e.publish(o, s)
	m.Answer(s.birth)
}

// commit ends the key and begins the name.
type commit struct {
	question[done]
	ctx    context.Context // of the caller, ends the wait for room in the write queue
	name   string
	labels map[string]string
	flip   *flip
}

func (m *commit) Handle(o *owner) {
	s := *o.Value().plain()
	switch {
	case s.own() == nil:
		m.Fail(errNotFound(o.Key()))
		return
	case s.body.kind != snapshots.KindActive:
		m.Fail(fmt.Errorf("snapshot %q is not active: %w", o.Key(), errdefs.ErrFailedPrecondition))
		return
	}
	now := time.Now().UnixNano()
	m.flip.body = &body{
		serial:  m.e.clock.Add(1),
		kind:    snapshots.KindCommitted,
		parent:  s.body.parent,
		graphID: s.body.graphID,
		removal: s.body.removal,
		kept:    s.body.kept,
		created: now,
		updated: now,
		labels:  inherit(s.body.labels, m.labels),
	}
	var whole *persist.Deferred
	if s.birth != nil {
		whole = s.birth.whole
	}
	// The committed record, too, says that the directory is whole.
	whole.Drop()
	if err := m.e.db.Write(m.ctx, persist.Commit(m.flip.body.record(m.name), o.Key())); err != nil {
		if whole != nil {
			m.e.db.Later(persist.Put(s.body.record(o.Key())))
		}
		m.Fail(err)
		return
	}
	s.flip = m.flip
	m.e.publish(o, s)
	m.e.commits.append(m.name, m.flip)
	m.flip.done.Store(true)
	m.e.publish(o, *s.plain())
	m.Answer(done{})
}

// inherit adds what containerd lets a commit inherit from the active snapshot to
// what the caller asked for.
func inherit(active, asked map[string]string) map[string]string {
	inherited := snapshots.FilterInheritedLabels(active)
	if len(inherited) == 0 {
		return asked
	}
	maps.Copy(inherited, asked)
	return inherited
}

// settle replaces the flip in the name's state, done or given up.
type settle struct {
	question[done]
	flip *flip
}

func (m *settle) Handle(o *owner) {
	s := *o.Value().plain()
	if s.flip == m.flip {
		s.vanish()
	} else if b := s.visible(); b != nil && b.serial == m.flip.body.serial {
		// The appearance counts as an event, so that no listing that began before
		// it speaks about the snapshot.
		s.event = m.e.clock.Add(1)
	}
	m.e.publish(o, s)
	m.Answer(done{})
}
