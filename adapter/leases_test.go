package adapter

// A snapshot lives as long as any lease names it (P5): every way in which BuildKit
// makes a lease name one, and every way in which it stops. What restarts and races
// do to that is in the files beside this one.

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/leaseutil"

	"github.com/graphsnap/graphsnap/engine"
)

// calm lets leases be listed only when a call is the reason, so that no timer makes
// up for one that was missed.
var calm = []engine.Option{engine.WithLeaseSweep(time.Hour), engine.WithGrace(time.Hour)}

// history is the namespace of BuildKit's build history, which shares the database.
const history = namespace + "_history"

// ways make a lease name the snapshot "key", which they also make, and return what
// makes it not do so any more.
var ways = map[string]func(t *testing.T, p *process) (drop func()){
	"resource before Prepare": func(t *testing.T, p *process) func() {
		l, _ := p.lease(t)
		p.added(t, l, "key")
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		return func() { p.ended(t, l) }
	},
	"resource after Prepare": func(t *testing.T, p *process) func() {
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		l, _ := p.lease(t)
		p.added(t, l, "key")
		return func() { p.ended(t, l) }
	},
	"resource added twice": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		p.added(t, l, "key")
		must(t, p.snap.Prepare(ctx, "key", ""))
		p.added(t, l, "key")
		return func() { p.ended(t, l) }
	},
	"resource of a name before Commit": func(t *testing.T, p *process) func() {
		l, _ := p.lease(t)
		p.added(t, l, "key")
		p.committed(t, inNamespace(), "key", "")
		return func() { p.ended(t, l) }
	},
	"resource of a view": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		p.added(t, l, "key")
		_, err := p.snap.View(inNamespace(), "key", "base")
		must(t, err)
		return func() { p.ended(t, l) }
	},
	"resource taken out": func(t *testing.T, p *process) func() {
		l, _ := p.lease(t)
		p.added(t, l, "key", "another")
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		return func() { must(t, p.lm.DeleteResource(inNamespace(), l, resource("key"))) }
	},
	"context of Prepare": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "key", ""))
		wantNamed(t, p, l, "key")
		return func() { p.ended(t, l) }
	},
	"context of View": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		_, err := p.snap.View(ctx, "key", "")
		must(t, err)
		wantNamed(t, p, l, "key")
		return func() { p.ended(t, l) }
	},
	"context of Commit": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(inNamespace(), "making", ""))
		must(t, p.snap.Commit(ctx, "key", "making"))
		wantNamed(t, p, l, "key")
		return func() { p.ended(t, l) }
	},
	"view that another lease made": func(t *testing.T, p *process) func() {
		first, ctx := p.lease(t)
		_, err := p.snap.View(ctx, "key", "")
		must(t, err)
		second, ctx := p.lease(t)
		_, err = p.snap.View(ctx, "key", "")
		wantError(t, err, errdefs.ErrAlreadyExists, "key")
		p.mounts(t, "key") // as BuildKit goes on
		p.ended(t, first)
		return func() { p.ended(t, second) }
	},
	"lease of the history": func(t *testing.T, p *process) func() {
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		past := p.lm.WithNamespace(history)
		l, err := past.Create(inNamespace(), leases.WithRandomID())
		must(t, err)
		must(t, past.AddResource(inNamespace(), l, resource("key")))
		return func() { must(t, past.Delete(inNamespace(), l)) }
	},
	"lease that garbage collection took": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "key", ""))
		return func() {
			must(t, p.prevLM.Delete(inNamespace(), l))
			wantError(t, p.lm.Delete(inNamespace(), l), errdefs.ErrNotFound, l.ID)
		}
	},
	"lease that garbage collection took from its resource": func(t *testing.T, p *process) func() {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "key", ""))
		return func() {
			must(t, p.prevLM.Delete(inNamespace(), l))
			wantError(t, p.lm.DeleteResource(inNamespace(), l, resource("key")), errdefs.ErrNotFound, l.ID)
		}
	},
	"temporary lease that another adopts": func(t *testing.T, p *process) func() {
		temporary, ctx, err := leaseutil.NewLease(inNamespace(), p.lm, leaseutil.MakeTemporary)
		must(t, err)
		must(t, p.snap.Prepare(ctx, "key", ""))
		l, ctx := p.lease(t)
		must(t, temporary.Adopt(ctx))
		eventually(t, "the temporary lease is discarded", func() bool {
			all, err := p.prevLM.List(inNamespace())
			must(t, err)
			return len(all) == 1
		})
		return func() { p.ended(t, l) }
	},
	"temporary lease": func(t *testing.T, p *process) func() {
		ctx, done, err := leaseutil.WithLease(inNamespace(), p.lm, leaseutil.MakeTemporary)
		must(t, err)
		must(t, p.snap.Prepare(ctx, "key", ""))
		return func() { must(t, done(context.Background())) }
	},
}

func wantNamed(t testing.TB, p *process, l leases.Lease, key string) {
	t.Helper()
	if named := p.named(t, l); !slices.Contains(named, "snapshots/default "+key) {
		t.Errorf("the lease names %q, which lacks %q", named, key)
	}
}

func TestEveryWayOfBuildKitKeepsAndLetsGo(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			onEachFace(t, func(t *testing.T, p *process) {
				drop := way(t, p)
				p.considered(t, "key")
				p.there(t, "key")
				drop()
				p.gone(t, "key")
				if !p.absent("making") {
					p.emptied(t)
				}
			}, calm...)
		})
	}
}

// dockerd 28.5.2 stores leases under the wrong map: there, deleting the first of two
// deletes the snapshot.
func TestLeaseOfTwoKeepsSnapshot(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		first, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "key", ""))
		second, _ := p.lease(t)
		p.added(t, second, "key")
		p.ended(t, first)
		p.considered(t, "key")
		p.there(t, "key")
		third, _ := p.lease(t)
		p.added(t, third, "key")
		must(t, p.lm.DeleteResource(inNamespace(), second, resource("key")))
		p.considered(t, "key")
		p.there(t, "key")
		p.ended(t, second)
		p.considered(t, "key")
		p.there(t, "key")
		p.ended(t, third)
		p.gone(t, "key")
		p.emptied(t)
	}, calm...)
}

// Leases are known by namespace and ID: BuildKit's history has its own.
func TestLeasesOfTwoNamespacesMayShareAnID(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		past := p.lm.WithNamespace(history)
		for _, order := range [][]*leaseutil.Manager{{p.lm, past}, {past, p.lm}} {
			must(t, p.snap.Prepare(inNamespace(), "key", ""))
			for _, lm := range order {
				l, err := lm.Create(inNamespace(), leases.WithID("same"))
				must(t, err)
				must(t, lm.AddResource(inNamespace(), l, resource("key")))
			}
			must(t, order[0].Delete(inNamespace(), leases.Lease{ID: "same"}))
			p.considered(t, "key")
			p.there(t, "key")
			must(t, order[1].Delete(inNamespace(), leases.Lease{ID: "same"}))
			p.gone(t, "key")
			p.emptied(t)
		}
	}, calm...)
}

func TestContextLeaseThatIsNotThereLeavesNothing(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l := furnished(t, p)
		before := p.world(t)
		ctx := leases.WithLease(inNamespace(), "no-such-lease")
		for _, name := range []string{"Prepare", "Prepare ''", "View", "View ''", "Commit"} {
			wantError(t, calls[name](ctx, p.snap), errdefs.ErrNotFound, `"new"`)
			wantError(t, calls[name](ctx, p.snap), errdefs.ErrNotFound, "no-such-lease")
		}
		if after := p.world(t); !after.equal(before) {
			t.Errorf("before:\n%v\nafter:\n%v", before, after)
		}
		p.ended(t, l)
		p.gone(t, "work", "view", "base")
		p.emptied(t)
	}, calm...)
}

// A resource of another snapshotter, or of another kind, is none of ours.
func TestForeignResourcesKeepNothing(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "key", ""))
		other, _ := p.lease(t)
		for _, r := range []leases.Resource{
			{ID: "key", Type: "snapshots/overlayfs"},
			{ID: chain("a"), Type: "content"},
		} {
			must(t, p.lm.AddResource(inNamespace(), other, r))
		}
		rr, err := p.lm.ListResources(inNamespace(), other)
		must(t, err)
		if len(rr) != 2 {
			t.Errorf("the lease names %v", rr)
		}
		p.ended(t, l)
		p.gone(t, "key")
		p.emptied(t)
	}, calm...)
}

// As BuildKit unpacks blobs: under the lease of the context alone, from keys that
// contain a colon and a space, to names that are chain IDs.
func TestUnpackedChainLivesByTheContextLease(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		blobs := []string{chain("1"), chain("2"), chain("3")}
		unpack := func(ctx context.Context, id int, taken error) {
			parent := ""
			for _, blob := range blobs {
				key := fmt.Sprintf("extract-%d %s", id, blob)
				must(t, p.snap.Prepare(ctx, key, parent))
				p.write(t, p.mounts(t, key), "file", blob)
				if err := p.snap.Commit(ctx, blob, key); taken == nil {
					must(t, err)
				} else {
					wantError(t, err, taken, blob)
				}
				parent = blob
			}
		}
		first, ctx := p.lease(t)
		unpack(ctx, 1, nil)
		// Another build finds the names taken and goes on with them under its lease.
		second, ctx := p.lease(t)
		unpack(ctx, 2, errdefs.ErrAlreadyExists)
		p.ended(t, first)
		p.considered(t, blobs...)
		p.there(t, blobs...)
		p.ended(t, second)
		p.gone(t, blobs...)
		p.emptied(t)
	}, calm...)
}

func TestKeyWithoutAnyLeaseStays(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		p.committed(t, inNamespace(), "base", "")
		must(t, p.snap.Prepare(inNamespace(), "work", "base"))
		_, err := p.snap.View(inNamespace(), "view", "base")
		must(t, err)
		p.considered(t, "base", "work", "view")
		// Neither does it go with the children and holds that it had.
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "child", "base"))
		_, release := hold(t, p.mounts(t, "work"))
		must(t, release())
		p.ended(t, l)
		p.gone(t, "child")
		p.considered(t, "base", "work", "view")
		p.there(t, "base", "work", "view")
	}, calm...)
}

// BuildKit deletes leases also of snapshots that were never made, and while they
// are being made.
func TestLeaseThatEndsBeforeItsSnapshotIsMade(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		before, _ := p.lease(t)
		p.added(t, before, "key", "never made")
		p.ended(t, before)
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		p.considered(t, "key")
		p.there(t, "key") // no lease of the snapshot has ended
		l, _ := p.lease(t)
		p.added(t, l, "key")
		p.ended(t, l)
		p.gone(t, "key")
		p.site.settled(t, "key")

		meanwhile, ctx := p.lease(t)
		creating := p.site.watch.stop(t, "Create")
		result := during(func() error { return p.snap.Prepare(ctx, "key", "") })
		<-creating.reached
		p.ended(t, meanwhile)
		creating.goOn()
		must(t, <-result)
		p.gone(t, "key")
		p.emptied(t)
	}, calm...)
}

func TestChainOf20GoesTogether(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		var chain []string
		var ended []leases.Lease
		parent := ""
		for i := range 20 {
			l, ctx := p.lease(t)
			name := fmt.Sprintf("layer-%d", i)
			p.committed(t, ctx, name, parent)
			chain, ended, parent = append(chain, name), append(ended, l), name
		}
		top := ended[19]
		p.ended(t, ended[:19]...)
		p.considered(t, chain...)
		p.there(t, chain...)
		p.ended(t, top)
		p.gone(t, chain...)
		p.emptied(t)
	}, calm...)
}
