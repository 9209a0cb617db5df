package engine

import (
	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// dockerd calls snapshots by the IDs of leases. Where a lease names a layer of the
// layer store, dockerd's own snapshotter remembers which one in an alias: a bucket
// that bears the lease's ID. Nothing here reads aliases, they are kept for the
// dockerd that may come after: written when a lease begins to name a layer, swept
// when it does not any more. None is waited for, since all can be made again from
// the leases, which is done at start.

// settleAlias makes the alias of a lease what it should be. The lease's owner calls
// it with what it is about to publish.
func (e *Engine) settleAlias(c *claims) {
	var want string
	for _, key := range c.keys {
		if e.borrows(key) {
			want = key
			break
		}
	}
	if want == c.alias || checkKey("lease", c.lease.ID) != nil {
		return
	}
	c.alias = want
	if want == "" {
		want = e.namesakeAlias(c.lease)
	}
	if want == "" {
		e.db.Later(persist.Unalias(c.lease.ID))
		return
	}
	e.db.Later(persist.Alias(c.lease.ID, want))
}

// borrows tells whether key is a layer of the layer store, be it a snapshot yet or
// not.
func (e *Engine) borrows(key string) bool {
	if b := e.keys.Load(key).visible(); b != nil {
		return b.foreign
	}
	return e.lender(key) != nil
}

// namesakeAlias returns the alias of a lease of the same ID in another namespace.
// dockerd's format does not tell the two apart.
func (e *Engine) namesakeAlias(l Lease) string {
	known := e.namespaces.Load(allNamespaces)
	if known == nil {
		return ""
	}
	for _, ns := range *known {
		if c := e.leases.Load(Lease{ns, l.ID}.owner()); c != nil && ns != l.Namespace && c.alias != "" {
			return c.alias
		}
	}
	return ""
}

// realias is sent to the owner of a lease after a layer that the lease names became
// a snapshot.
type realias struct {
	actors.Reply[done]
	e *Engine
}

func (m *realias) Handle(o *actors.Owner[claims]) {
	defer m.Answer(done{})
	if o.Value() == nil {
		return
	}
	c := *o.Value()
	m.e.settleAlias(&c)
	o.Publish(&c)
}

// sweepAliases removes the aliases that an earlier process left of leases that the
// first complete listing does not know, or that name no layer any more.
func (e *Engine) sweepAliases(l *listing) {
	if len(e.aliases) == 0 {
		return
	}
	for key, leases := range l.named {
		if !e.borrows(key) {
			continue
		}
		for _, lease := range leases {
			delete(e.aliases, lease.ID)
		}
	}
	for lease := range e.aliases {
		if e.namesakeAlias(Lease{ID: lease}) != "" {
			continue // written meanwhile
		}
		e.db.Later(persist.Unalias(lease))
	}
	e.aliases = nil
}
