package adapter

// P8: what dockerd is told of leases that name layers. It asks for layers by the IDs
// of leases, and finds them in buckets that bear those.

import (
	"context"
	"maps"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"

	"github.com/graphsnap/graphsnap/persist"
)

// aliases reads snapshots.db, which nobody may have open.
func (s *site) aliases(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	db, err := persist.Open(context.Background(), s.path("snapshots.db"), persist.Options{})
	must(t, err)
	defer db.Close()
	must(t, db.Load(
		func(persist.Record) error { return nil },
		func(persist.Removal) error { return nil },
		func(l persist.Leftover) {
			if l.Oddity == persist.Aliased {
				found[l.Key] = l.Record.ChainID
			}
		},
	))
	return found
}

func (s *site) wantAliases(t testing.TB, when string, want map[string]string) {
	t.Helper()
	if found := s.aliases(t); !maps.Equal(found, want) {
		t.Errorf("%s the aliases are %v, want %v", when, found, want)
	}
}

func TestP8AliasesAreWrittenForDockerd(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low", "high")
		low, high := idOf(ls[0]), idOf(ls[1])
		both, _ := d.lease(t)
		d.added(t, both, high)
		ends, _ := d.lease(t)
		d.added(t, ends, low)
		changes, _ := d.lease(t)
		d.added(t, changes, low)
		loses, _ := d.lease(t)
		d.added(t, loses, low)
		keeps, _ := d.lease(t)
		d.added(t, keeps, low)
		d.added(t, keeps, unknownChain())
		other, ctx := d.lease(t)
		d.committed(t, ctx, "own", "")
		d.added(t, other, unknownChain())

		d.ended(t, ends)
		for _, l := range []leases.Lease{loses, keeps} {
			must(t, d.lm.DeleteResource(inNamespace(), l, resource(low)))
		}
		must(t, d.lm.DeleteResource(inNamespace(), changes, resource(low)))
		d.added(t, changes, high)
		d.untag(t, ls...)
		d.close(t)
		want := map[string]string{both.ID: high, changes.ID: high}
		s.wantAliases(t, "at first", want)

		// Whatever became of them meanwhile, they are rebuilt from the leases.
		s.writes(t, persist.Unalias(both.ID), persist.Alias(changes.ID, low), persist.Alias("stray", high), persist.Alias(other.ID, high))
		d = s.daemon(t, nil)
		for _, key := range []string{both.ID, changes.ID, "stray", other.ID} {
			if !d.absent(key) {
				t.Errorf("the alias %q is served", key)
			}
		}
		if got := d.layer(t, "stray"); got != nil {
			t.Errorf("a stray alias means the layer %v", got)
		}
		if got := d.layer(t, changes.ID); got == nil || idOf(got) != high {
			t.Errorf("by its lease the layer is %v", got)
		}
		d.close(t)
		s.wantAliases(t, "after a restart", want)

		// A lease may end while nobody looks.
		d = s.daemon(t, nil)
		must(t, d.prevLM.Delete(inNamespace(), both))
		d.close(t)
		d = s.daemon(t, nil)
		d.close(t)
		s.wantAliases(t, "with a lease that went", map[string]string{changes.ID: high})

		d = s.daemon(t, nil)
		d.ended(t, changes, other)
		d.cleared(t)
		d.close(t)
		s.wantAliases(t, "in the end", map[string]string{})
	})
}

// A layer may be pulled after a lease came to name it.
func TestP8AliasOfALayerThatComesLater(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low")
		d.untag(t, ls...)
		l, _ := d.lease(t)
		d.added(t, l, idOf(ls[0]))
		d.close(t)
		s.wantAliases(t, "without the layer", map[string]string{})
		d = s.daemon(t, nil)
		ls = d.image(t, "low")
		d.there(t, idOf(ls[0]))
		d.untag(t, ls...)
		d.close(t)
		s.wantAliases(t, "with the layer", map[string]string{l.ID: idOf(ls[0])})
		d = s.daemon(t, nil)
		d.ended(t, l)
		d.cleared(t)
	})
}

// A snapshot whose key is the ID of a lease is meant before what the lease names.
func TestP8AliasGivesWayToASnapshot(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		ls := d.image(t, "low")
		l, ctx := d.lease(t)
		d.added(t, l, idOf(ls[0]))
		must(t, d.snap.Prepare(ctx, l.ID, idOf(ls[0])))
		if got := d.layer(t, l.ID); got != nil {
			t.Errorf("an active snapshot is the layer %v", got)
		}
		d.untag(t, ls...)
		d.close(t)
		s.wantAliases(t, "beside a snapshot", map[string]string{})
		d = s.daemon(t, nil)
		d.there(t, l.ID)
		d.ended(t, l)
		d.cleared(t)
	})
}
