package engine

import (
	"cmp"
	"context"
	"slices"

	"github.com/graphsnap/graphsnap/actors"
)

// Lease names a lease. IDs are unique within a namespace only.
type Lease struct{ Namespace, ID string }

func (l Lease) compare(m Lease) int {
	return cmp.Or(cmp.Compare(l.Namespace, m.Namespace), cmp.Compare(l.ID, m.ID))
}

// owner is the key of the lease among the owners of leases. No namespace contains
// NUL.
func (l Lease) owner() string { return l.Namespace + "\x00" + l.ID }

// Known is what a listing of leases has to cover.
type Known struct {
	// Namespaces in which a lease ever named a snapshot.
	Namespaces []string
	// Names that the snapshotter was opened under, the present one included. The
	// type of the resources that name its snapshots is made of them.
	Names []string
}

// Leases is the lease manager as far as the engine asks it. It is the one that
// persists which leases there are and what they name; the engine keeps a copy to
// know where to look, and removes nothing that a complete listing did not leave
// unnamed.
type Leases interface {
	// List calls each for every lease there is in the known namespaces, and in
	// others that the implementation knows of, with the keys of the snapshots
	// that it names, also where there are none. A lease that goes meanwhile may be
	// missing. Where anything could not be listed it returns an error.
	List(ctx context.Context, k Known, each func(l Lease, keys []string)) error
}

// AddLease makes l name key, which need not exist yet. durable adds it to the lease
// manager; AddLease returns its error, and l then names key only if it did before. A
// removal of key that was about to begin for want of a lease does not happen.
//
// Errors: ErrInvalidArgument for a key that cannot be, ErrUnavailable after Close,
// where the database is, and where the removal of key is in doubt; the cause of ctx,
// and that of durable.
func (e *Engine) AddLease(ctx context.Context, l Lease, key string, durable func() error) error {
	if err := checkKey("key", key); err != nil {
		return err
	}
	if !e.gate.Enter() {
		return errClosed
	}
	defer e.gate.Leave()
	if err := e.learnNamespace(ctx, l.Namespace); err != nil {
		return err
	}
	// The owners know before the lease manager does. So whoever finds the key in
	// the lease there, to delete it, finds it here as well.
	had, err := actors.Ask(ctx, e.keys, key, &lend{question[bool]{e: e}, l})
	if err != nil {
		return err
	}
	defer func() { e.keys.Tell(key, &lent{question[done]{e: e}}) }()
	kept := had
	defer func() {
		if !kept {
			e.leases.Owe(l.owner(), &disclaim{e: e, key: key})
			e.keys.Owe(key, &unlend{question: question[done]{e: e}, lease: l, undo: true})
		}
	}()
	if _, err := actors.AskOwed(e.leases, l.owner(), &claim{e: e, lease: l, key: key}); err != nil {
		return err
	}
	if err := durable(); err != nil {
		return err
	}
	kept = true
	e.borrowLeased(ctx, key)
	return nil
}

// RemoveLease makes l not name key any more, after the lease manager was told so.
func (e *Engine) RemoveLease(l Lease, key string) {
	if !e.gate.Enter() {
		return
	}
	defer e.gate.Leave()
	e.leases.Owe(l.owner(), &disclaim{e: e, key: key})
	e.keys.Owe(key, &unlend{question: question[done]{e: e}, lease: l})
}

// EndLease forgets l, after the lease manager did.
func (e *Engine) EndLease(l Lease) {
	if !e.gate.Enter() {
		return
	}
	defer e.gate.Leave()
	keys, err := actors.AskOwed(e.leases, l.owner(), &end{e: e})
	if err != nil {
		return // all owners have stopped: nothing is removed any more
	}
	for _, key := range keys {
		e.keys.Owe(key, &unlend{question: question[done]{e: e}, lease: l})
	}
}

// LeaseKeys returns the keys that l names as far as the engine knows. It does not
// block.
func (e *Engine) LeaseKeys(l Lease) []string {
	if c := e.leases.Load(l.owner()); c != nil {
		return slices.Clone(c.keys)
	}
	return nil
}

// lend adds a lease to the key's state, of which the lease manager is yet to know, and
// answers whether it was there already. A lent follows.
type lend struct {
	question[bool]
	lease Lease
}

func (m *lend) Handle(o *owner) {
	s := *o.Value().plain()
	if s.doubtful {
		m.Fail(errDoubtful(o.Key()))
		return
	}
	i, had := slices.BinarySearchFunc(s.leases, m.lease, Lease.compare)
	if !had {
		s.leases = slices.Insert(slices.Clone(s.leases), i, m.lease)
	}
	s.adding++
	s.event = m.e.clock.Add(1)
	m.e.publish(o, s)
	m.Answer(had)
}

// lent ends what a lend began: the lease manager knows the lease, or refused it.
// A listing that began before may have missed it and must not speak about the key.
type lent struct{ question[done] }

func (m *lent) Handle(o *owner) {
	s := *o.Value().plain()
	s.adding--
	s.event = m.e.clock.Add(1)
	m.e.publish(o, s)
	m.Answer(done{})
}

// unlend removes a lease from the key's state.
type unlend struct {
	question[done]
	lease Lease
	undo  bool // the lease manager did not take it: as if it had never been
}

func (m *unlend) Handle(o *owner) {
	defer m.Answer(done{})
	s := *o.Value().plain()
	i, has := slices.BinarySearchFunc(s.leases, m.lease, Lease.compare)
	if !has {
		return
	}
	s.leases = slices.Delete(slices.Clone(s.leases), i, i+1)
	s.leased = s.leased || !m.undo
	s.event = m.e.clock.Add(1)
	m.e.publish(o, s)
}

// claims is what is published of a lease: the keys that it names.
type claims struct {
	lease Lease
	keys  []string // sorted
	alias string   // the chain ID that dockerd is told the lease means, "" for none
}

// claim adds a key to a lease.
type claim struct {
	actors.Reply[done]
	e     *Engine
	lease Lease
	key   string
}

func (m *claim) Handle(o *actors.Owner[claims]) {
	c := claims{lease: m.lease}
	if v := o.Value(); v != nil {
		c = *v
	}
	if i, has := slices.BinarySearch(c.keys, m.key); !has {
		c.keys = slices.Insert(slices.Clone(c.keys), i, m.key)
		m.e.settleAlias(&c)
		o.Publish(&c)
	}
	m.Answer(done{})
}

// disclaim removes a key from a lease.
type disclaim struct {
	actors.Reply[done]
	e   *Engine
	key string
}

func (m *disclaim) Handle(o *actors.Owner[claims]) {
	defer m.Answer(done{})
	if o.Value() == nil {
		return
	}
	c := *o.Value()
	i, has := slices.BinarySearch(c.keys, m.key)
	switch {
	case !has:
	case len(c.keys) == 1:
		c.keys = nil
		m.e.settleAlias(&c)
		o.Publish(nil)
	default:
		c.keys = slices.Delete(slices.Clone(c.keys), i, i+1)
		m.e.settleAlias(&c)
		o.Publish(&c)
	}
}

// end forgets a lease and answers the keys that it named.
type end struct {
	actors.Reply[[]string]
	e *Engine
}

func (m *end) Handle(o *actors.Owner[claims]) {
	var keys []string
	if v := o.Value(); v != nil {
		c := *v
		keys, c.keys = c.keys, nil
		m.e.settleAlias(&c)
		o.Publish(nil)
	}
	m.Answer(keys)
}
