package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// listing is everything that all leases named at some time after clock.
type listing struct {
	clock  uint64
	leases int
	named  map[string][]Lease // by key, sorted
}

func (e *Engine) list(ctx context.Context) (*listing, error) {
	l := &listing{clock: e.clock.Add(1), named: map[string][]Lease{}}
	k := Known{Names: e.names}
	if ns := e.namespaces.Load(allNamespaces); ns != nil {
		k.Namespaces = *ns
	}
	err := protect("lease listing", "", func() error {
		return e.source.List(ctx, k, func(lease Lease, keys []string) {
			l.leases++
			for _, key := range keys {
				l.named[key] = append(l.named[key], lease)
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	for key, leases := range l.named {
		slices.SortFunc(leases, Lease.compare)
		l.named[key] = slices.Compact(leases)
	}
	return l, nil
}

// reconcile makes the owners know what the listing says, where nothing newer is
// known: leases that went without a call, such as expired ones, and leases that
// somebody else added.
func (e *Engine) reconcile(l *listing) {
	e.keys.Range(func(key string, s *state) bool {
		if !slices.Equal(s.leases, l.named[key]) {
			e.believe(l, key)
		}
		return true
	})
	for key := range l.named {
		if e.keys.Load(key) == nil && checkKey("key", key) == nil {
			e.believe(l, key)
		}
	}
}

// believe makes the owners know what the listing says of key.
func (e *Engine) believe(l *listing, key string) {
	c, err := actors.AskOwed(e.keys, key, &listed{question[leaseChange]{e: e}, l})
	if err != nil {
		return // all owners have stopped
	}
	for _, lease := range c.gone {
		e.leases.Owe(lease.owner(), &disclaim{e: e, key: key})
	}
	for _, lease := range c.came {
		e.leases.Owe(lease.owner(), &claim{e: e, lease: lease, key: key})
	}
	if len(c.came) > 0 {
		e.borrowLeased(e.ctx, key)
	}
}

type leaseChange struct{ gone, came []Lease }

// listed makes the key's leases those of a listing, all at once, unless something
// happened to them since it began: a lease that ended must not come back with it,
// nor one go that it was too early to see. The next listing knows.
type listed struct {
	question[leaseChange]
	listing *listing
}

func (m *listed) Handle(o *owner) {
	s := *o.Value().plain()
	if s.adding > 0 || s.event >= m.listing.clock {
		m.Answer(leaseChange{})
		return
	}
	named := m.listing.named[o.Key()]
	without := func(a, b []Lease) []Lease {
		return slices.DeleteFunc(slices.Clone(a), func(l Lease) bool { return slices.Contains(b, l) })
	}
	c := leaseChange{gone: without(s.leases, named), came: without(named, s.leases)}
	if len(c.gone)+len(c.came) > 0 {
		s.leases, s.leased = named, s.leased || len(c.gone) > 0
		s.event = m.e.clock.Add(1)
		m.e.publish(o, s)
	}
	m.Answer(c)
}

// The namespaces in which leases named snapshots have an owner as well, with this
// key, so that two that are learned at once are both kept.
const allNamespaces = "namespaces"

func (e *Engine) learnNamespace(ctx context.Context, ns string) error {
	if known := e.namespaces.Load(allNamespaces); known != nil && slices.Contains(*known, ns) {
		return nil
	}
	_, err := actors.Ask(ctx, e.namespaces, allNamespaces, &learn{db: e.db, ctx: ctx, namespace: ns})
	return err
}

type learn struct {
	actors.Reply[done]
	db        *persist.DB
	ctx       context.Context // of the caller, ends the wait for room in the write queue
	namespace string
}

func (m *learn) Handle(o *actors.Owner[[]string]) {
	var known []string
	if v := o.Value(); v != nil {
		known = *v
	}
	if !slices.Contains(known, m.namespace) {
		known = append(slices.Clone(known), m.namespace)
		if err := m.db.Write(m.ctx, persist.Set(settingNamespaces, join(known))); err != nil {
			m.Fail(err)
			return
		}
		o.Publish(&known)
	}
	m.Answer(done{})
}

// Settings of the engine in the database. Neither names nor namespaces contain
// NUL.
const (
	settingNames      = "names"
	settingNamespaces = "namespaces"
)

func join(list []string) string { return strings.Join(list, "\x00") }

func split(joined string) []string {
	if joined == "" {
		return nil
	}
	return strings.Split(joined, "\x00")
}
