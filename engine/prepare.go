package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// Prepare creates the active snapshot key on top of the committed snapshot
// parent, or an empty one where parent is "". It returns when the record is
// durable and the directory is there. It blocks while the driver works and while
// WithDriverParallelism calls are under way; the end of ctx ends the waiting but
// not a call of the driver.
//
// Errors: ErrInvalidArgument for keys that cannot be and labels too long,
// ErrAlreadyExists where key is taken, ErrNotFound where the parent is not there,
// ErrFailedPrecondition where it is not committed, ErrUnavailable after Close or
// where the database is, the driver's, and the cause of ctx. After an error
// nothing is left behind; only where it wraps persist.ErrIndeterminate may the
// snapshot be there after the next start.
func (e *Engine) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	if _, err := e.create(ctx, snapshots.KindActive, key, parent, opts); err != nil {
		return fmt.Errorf("prepare %q: %w", abridged(key), err)
	}
	return nil
}

// PrepareMounts is Prepare, and Mounts of what it made, whatever becomes of the key
// meanwhile. It blocks and fails as Prepare does.
func (e *Engine) PrepareMounts(ctx context.Context, key, parent string, opts ...snapshots.Opt) (*Mountable, error) {
	b, err := e.create(ctx, snapshots.KindActive, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", abridged(key), err)
	}
	return e.mountable(key, b), nil
}

// View creates the read-only snapshot key of the committed snapshot parent, or of
// an empty directory where parent is "", and returns how to mount it. Views of
// one snapshot share its directory and its mount. It blocks and fails as Prepare
// does.
func (e *Engine) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (*Mountable, error) {
	b, err := e.create(ctx, snapshots.KindView, key, parent, opts)
	if err != nil {
		return nil, fmt.Errorf("view %q: %w", abridged(key), err)
	}
	return e.mountable(key, b), nil
}

// create is the saga of Prepare and View: pin the parent, make the intent durable,
// make the directory, tell the owner. A view that borrows its parent's directory
// skips the last two: its record is whole at once.
func (e *Engine) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (_ *body, err error) {
	if err := checkKey("key", key); err != nil {
		return nil, err
	}
	set, err := initialLabels(opts)
	if err != nil {
		return nil, err
	}
	if !e.gate.Enter() {
		return nil, errClosed
	}
	defer e.gate.Leave()

	now := time.Now().UnixNano()
	b := &body{serial: e.clock.Add(1), kind: kind, parent: parent, created: now, updated: now, labels: set, kept: new(keeping)}
	kept := false
	if parent != "" {
		if err := checkKey("parent", parent); err != nil {
			return nil, err
		}
		p, err := e.pinParent(ctx, parent)
		if err != nil {
			return nil, err
		}
		defer func() {
			if !kept {
				e.unpin(parent)
			}
		}()
		b.graphID, b.removal = p.graphID, p.removal // what a view mounts, and what the driver builds on
	}
	if kind == snapshots.KindView && parent != "" {
		if e.lender(key) != nil {
			return nil, errTaken(key)
		}
		b.borrows = true
		answered, err := e.record(ctx, key, b)
		if err != nil {
			return nil, err
		}
		kept = true
		e.answer(key, answered)
		return b, nil
	}

	// A key that is taken is refused here already: reserving a graph ID for it
	// would look into the driver's home for nothing.
	if err := e.awaitFree(ctx, key); err != nil {
		return nil, err
	}
	on := b.graphID
	b.graphID, b.removal = e.takeGraphID(key), new(removal)
	recorded := false
	defer func() {
		if !kept && !recorded {
			e.graphIDs.Free(b.graphID)
		}
	}()
	answered, err := e.record(ctx, key, b)
	if errors.Is(err, persist.ErrIndeterminate) {
		recorded = true // the intent may be on disk: what bears the graph ID is for recovery to say
	}
	if err != nil {
		return nil, err
	}
	recorded = true
	defer func() {
		if kept {
			return
		}
		if left := e.abandon(key, b); left != nil {
			err = fmt.Errorf("%w (nor could it be undone: %w: %w)", err, left, persist.ErrIndeterminate)
		}
	}()
	err = e.driverSlot(ctx, "Create", b.graphID, func() error {
		if err := e.driver.Create(b.graphID, on); err != nil || !e.driver.Copies() {
			return err
		}
		return e.driver.Sync(b.graphID)
	})
	if err != nil {
		return nil, err
	}
	if _, err := actors.AskOwed(e.keys, key, &created{question: question[done]{e: e}, body: b}); err != nil {
		return nil, err
	}
	kept = true
	e.answer(key, answered)
	return b, nil
}

// record has the owner make the record of b durable.
func (e *Engine) record(ctx context.Context, key string, b *body) (answered *birth, err error) {
	err = e.untilDecided(ctx, func() (err error) {
		answered, err = actors.Ask(ctx, e.keys, key, &create{question: question[*birth]{e: e}, ctx: ctx, body: b})
		return err
	})
	return answered, err
}

// answer marks the moment in which a creation is answered: no listing of leases
// that began earlier may remove the snapshot. Where the lease went while it was
// being created nobody else may look at the key again.
func (e *Engine) answer(key string, b *birth) {
	b.answered.Store(e.clock.Add(1))
	if s := e.keys.Load(key); s != nil && s.unwanted() {
		e.reaper.consider(key)
	}
}

// abandon undoes a creation whose intent is durable. The directory goes first and
// the record afterwards, so that a crash in between leaves a record that recovery
// knows what to do with. Where the directory does not go it stays in the care of
// the reaper, and the key is free. Where the database refuses all writes both stay:
// what it has on disk of the snapshot may be that it is whole. The error says that
// the record is on disk still, and why.
func (e *Engine) abandon(key string, b *body) error {
	ctx := context.WithoutCancel(e.ctx)
	removed := e.db.Err()
	if removed == nil {
		removed = protect("Remove", b.graphID, func() error { return e.driver.Remove(b.graphID) })
	}
	m := &abandoned{question: question[error]{e: e}, body: b, leftover: removed != nil}
	late, err := actors.AskOwed(e.keys, key, m)
	switch {
	case err != nil:
		// The record stays an intent; the graph ID stays taken with it.
		log.G(ctx).WithError(err).WithField("key", key).Error("an unfinished snapshot stays recorded until the next start")
	case removed != nil:
		log.G(ctx).WithError(removed).WithField("graphID", b.graphID).Warn("the directory of an unfinished snapshot could not be deleted yet")
		e.reaper.retry(b.graphID)
	default:
		e.graphIDs.Free(b.graphID)
	}
	return cmp.Or(err, late)
}

// initialLabels applies the options of Prepare, View and Commit.
func initialLabels(opts []snapshots.Opt) (map[string]string, error) {
	if len(opts) == 0 {
		return nil, nil
	}
	var base snapshots.Info
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return nil, err
		}
	}
	return cleanLabels(base.Labels)
}

// cleanLabels checks labels by containerd's limits and returns a copy without
// those that are empty, which containerd does not store either.
func cleanLabels(set map[string]string) (map[string]string, error) {
	var clean map[string]string
	for k, v := range set {
		if err := labels.Validate(k, v); err != nil {
			return nil, err
		}
		if v == "" {
			continue
		}
		if clean == nil {
			clean = make(map[string]string, len(set))
		}
		clean[k] = v
	}
	return clean, nil
}

// create makes the record of a snapshot durable: an intent where the directory is
// yet to be made.
type create struct {
	question[*birth]
	ctx  context.Context // of the caller, ends the wait for room in the write queue
	body *body
}

func (m *create) Handle(o *owner) {
	s := *o.Value().plain()
	if err := s.free(o.Key()); err != nil {
		m.Fail(err)
		return
	}
	r := m.body.record(o.Key())
	r.Creating = !m.body.borrows
	if err := m.e.db.Write(m.ctx, persist.Put(r)); err != nil {
		m.Fail(err)
		return
	}
	s.phase, s.body, s.birth = present, m.body, &birth{}
	if !m.body.borrows {
		s.phase, s.pending = creating, make(chan struct{})
	}
	s.event = m.e.clock.Add(1)
	m.e.publish(o, s)
	m.Answer(s.birth)
}

// created is the result of a creation: the directory is whole.
type created struct {
	question[done]
	body *body
}

func (m *created) Handle(o *owner) {
	s := *o.Value().plain()
	if s.phase != creating || s.body != m.body {
		// The owner panicked over this creation and another one began.
		m.Fail(fmt.Errorf("snapshot %q was given up while it was created: %w", o.Key(), errdefs.ErrAborted))
		return
	}
	whole := persist.Put(m.body.record(o.Key()))
	if m.e.driver.Copies() {
		if err := m.e.db.Write(context.WithoutCancel(m.e.ctx), whole); err != nil {
			m.Fail(err)
			return
		}
	} else {
		s.birth.whole = m.e.db.Later(whole)
	}
	s.phase = present
	s.event = m.e.clock.Add(1)
	m.e.publish(o, s)
	m.Answer(done{})
}

// abandoned ends a creation that came to nothing. It answers why that is not on disk
// yet, nil if it is.
type abandoned struct {
	question[error]
	body     *body
	leftover bool // something of the directory may be left
}

func (m *abandoned) Handle(o *owner) {
	s := *o.Value().plain()
	ours := s.phase == creating && s.body == m.body
	var w []persist.Mutation
	switch {
	case ours && m.leftover:
		w = append(w, persist.Remove(o.Key(), m.body.graphID))
	case ours:
		w = append(w, persist.Delete(o.Key()))
	case s.phase == absent && m.leftover:
		w = append(w, persist.Remove(o.Key(), m.body.graphID))
	case s.phase == absent:
		// The owner panicked between its write and what it would have published.
		w = append(w, persist.Delete(o.Key()))
	case m.leftover:
		// Another creation has the key, and its record took the place of ours.
		w = append(w, persist.Removing(m.body.graphID))
	}
	var late error
	err := m.e.db.Write(context.WithoutCancel(m.e.ctx), w...)
	if errors.Is(err, persist.ErrNoRoom) {
		// Nobody was told of the snapshot, so the key need not wait until there is
		// room. What a crash before that leaves is a snapshot without a lease.
		m.e.db.Later(w...)
		err, late = nil, err
	}
	if ours {
		if err == nil {
			s.vanish()
		} else {
			s.decide() // it stays as it is until the next start
		}
		m.e.publish(o, s)
	}
	if err != nil {
		m.Fail(err)
		return
	}
	m.Answer(late)
}
