package adapter

// Leases that come and go while the snapshotter is busy with them: each test holds
// up one call to decide a race.

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/graphsnap/graphsnap/engine"
)

// AddResource passes the key's owner before the lease manager knows. A listing in
// between finds nothing; that must not make the engine forget the lease, or its
// deletion removes nothing.
func TestListingThatMissesALeaseBeingAddedForgetsNothing(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		w := p.site.watch
		for _, before := range []string{"AddResource", "Prepare"} {
			l, ctx := p.lease(t)
			adding := w.stop(t, "AddResource "+namespace)
			result := during(func() error {
				if before == "Prepare" {
					return p.snap.Prepare(ctx, "key", "")
				}
				return p.lm.AddResource(ctx, l, resource("key"))
			})
			<-adding.reached
			p.considered(t)
			adding.goOn()
			must(t, <-result)
			if before == "AddResource" {
				must(t, p.snap.Prepare(inNamespace(), "key", ""))
			}
			p.there(t, "key")
			p.ended(t, l)
			p.gone(t, "key")
			p.site.settled(t, "key")
		}
	}, calm...)
}

// staleListing makes "base" and "work" on it lose their last lease, and holds the
// listing up that follows when it has passed the namespace in which leases are.
func staleListing(t *testing.T, p *process) *stop {
	t.Helper()
	l, ctx := p.lease(t)
	p.committed(t, ctx, "base", "")
	must(t, p.snap.Prepare(ctx, "work", "base"))
	listing := p.site.watch.stop(t, "List "+history)
	p.ended(t, l)
	<-listing.reached
	return listing
}

// The listing that a removal rests on is older than the lease.
func TestAddResourceRevokesARemoval(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		listing := staleListing(t, p)
		l, _ := p.lease(t)
		p.added(t, l, "work", "base")
		listing.goOn()
		p.considered(t, "work", "base")
		p.there(t, "work", "base")
		p.ended(t, l)
		p.gone(t, "work", "base")
		p.emptied(t)
	}, calm...)
}

// A lease that comes and goes meanwhile does not make the removal forgotten.
func TestRemovalThatWasRevokedComesAgain(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		listing := staleListing(t, p)
		l, _ := p.lease(t)
		p.added(t, l, "work")
		must(t, p.lm.DeleteResource(inNamespace(), l, resource("work")))
		listing.goOn()
		p.gone(t, "work", "base")
		p.emptied(t)
	}, calm...)
}

// Until the driver is called a snapshot that nothing names is one like any other.
func TestSnapshotAboutToBeRemovedIsAnOrdinaryOne(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		listing := staleListing(t, p)
		p.there(t, "work", "base")
		mounts, release := hold(t, p.mounts(t, "work"))
		l, ctx := p.lease(t)
		view, err := p.snap.View(ctx, "view", "base")
		must(t, err)
		must(t, p.snap.Prepare(ctx, "child", "base"))
		listing.goOn()
		p.considered(t, "work", "base", "view", "child")
		p.there(t, "work", "base", "view", "child")
		if files := p.files(t, view); !slices.Equal(files, []string{"base"}) {
			t.Errorf("the view holds %q", files)
		}
		p.bound(t, mounts, func(string) {})
		must(t, release())
		p.gone(t, "work")
		p.ended(t, l)
		p.gone(t, "view", "child", "base")
		p.emptied(t)
	}, calm...)
}

// A snapshot that was committed meanwhile lives on under its name, by that name's
// leases.
func TestCommitRevokesARemoval(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		listing := staleListing(t, p)
		l, ctx := p.lease(t)
		must(t, p.snap.Commit(ctx, "name", "work"))
		listing.goOn()
		p.considered(t, "name", "base")
		p.there(t, "name", "base")
		p.ended(t, l)
		p.gone(t, "name", "base")
		p.emptied(t)
	}, calm...)
}

// Once the driver is called the key is absent and free, for another directory.
func TestKeyIsFreeWhileItsDirectoryIsDeleted(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "key", ""))
		p.write(t, p.mounts(t, "key"), "old", "")
		removing := p.site.watch.stop(t, "Remove")
		p.ended(t, l)
		<-removing.reached
		if !p.absent("key") {
			t.Error("the key is there while its directory is deleted")
		}
		l, ctx = p.lease(t)
		p.added(t, l, "key") // revokes nothing any more
		if !p.absent("key") {
			t.Error("a lease brought the key back")
		}
		must(t, p.snap.Prepare(ctx, "key", ""))
		if ids := p.site.directories(t); len(ids) != 2 || !slices.Contains(ids, "key") {
			t.Errorf("directories are %q, want the old one beside a new one", ids)
		}
		p.write(t, p.mounts(t, "key"), "new", "")
		removing.goOn()
		p.site.settled(t, "key")
		p.considered(t, "key")
		if files := p.files(t, p.mounts(t, "key")); !slices.Equal(files, []string{"new"}) {
			t.Errorf("the new snapshot holds %q", files)
		}
		p.ended(t, l)
		p.gone(t, "key")
		p.emptied(t)
	}, calm...)
}

func TestListingThatFailsRemovesNothing(t *testing.T) {
	for _, call := range []string{"List " + namespace, "List " + history, "ListResources " + namespace} {
		t.Run(call, func(t *testing.T) {
			onEachFace(t, func(t *testing.T, p *process) {
				p.lease(t) // one whose resources are to be listed
				l, ctx := p.lease(t)
				must(t, p.snap.Prepare(ctx, "key", ""))
				w := p.site.watch
				messages := captureLog(t)
				w.fail(call, errors.New("says the test"))
				p.ended(t, l)
				eventually(t, "the log says so", func() bool {
					return messages.says("no snapshot is removed") && messages.says("says the test")
				})
				tries := w.count(call)
				eventually(t, "leases are listed again", func() bool { return w.count(call) > tries })
				p.there(t, "key")
				w.fail(call, nil)
				p.gone(t, "key")
				p.emptied(t)
			}, calm...)
		})
	}
}

// Expired leases go without a call.
func TestLeaseThatExpiresIsNoticed(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		must(t, p.snap.Prepare(ctx, "work", "base"))
		other, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "other", ""))
		// A lease that somebody adds behind the snapshotter's back counts too.
		must(t, p.prevLM.AddResource(inNamespace(), other, resource("base")))
		must(t, p.prevLM.Delete(inNamespace(), l))
		p.gone(t, "work")
		p.considered(t, "base", "other")
		p.there(t, "base", "other")
		must(t, p.prevLM.Delete(inNamespace(), other))
		p.gone(t, "other", "base")
		p.emptied(t)
	}, engine.WithLeaseSweep(20*time.Millisecond))
}

// A Prepare that fails may share its lease with another one of the same key, or with
// an AddResource: what they added is not the failed one's to take back.
func TestFailedPrepareLeavesTheLeaseOfOthers(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		w := p.site.watch
		l, ctx := p.lease(t)
		creating := w.stop(t, "Create")
		failed := during(func() error { return p.snap.Prepare(ctx, "key", "") })
		<-creating.reached
		p.added(t, l, "key")
		fault := errors.New("no space left on device")
		w.fail("Create", fault)
		creating.goOn()
		if err := <-failed; !errors.Is(err, fault) {
			t.Fatalf("Prepare with a driver that fails: %v", err)
		}
		w.fail("Create", nil)
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		if rr, err := p.lm.ListResources(inNamespace(), l); err != nil || !slices.Contains(rr, resource("key")) {
			t.Errorf("the lease names %v (%v), not the key that was added to it", rr, err)
		}
		p.ended(t, l)
		p.gone(t, "key")
		p.site.settled(t, "key")
	}, calm...)
}
