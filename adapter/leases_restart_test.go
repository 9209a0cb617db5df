package adapter

// What leases keep is still kept, and what they let go still goes, when there is a
// restart in between. Only at a start a grace period is kept, and a database of
// leases that has none is not believed.

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/engine"
)

// graceless are the options of a start after which nothing is kept for a while.
var graceless = []engine.Option{engine.WithLeaseSweep(time.Hour), engine.WithGrace(0)}

// restart closes p and opens its site anew.
func (p *process) restart(t testing.TB, options ...engine.Option) *process {
	t.Helper()
	p.close(t)
	return p.site.open(t, options...)
}

// logged is what is logged from now on.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logged) says(s string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), s)
}

func captureLog(t testing.TB) *logged {
	l, before := &logged{}, log.L.Logger.Out
	log.L.Logger.SetOutput(l)
	t.Cleanup(func() { log.L.Logger.SetOutput(before) })
	return l
}

func TestLeasesAreKnownAfterARestart(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		must(t, p.snap.Prepare(ctx, "work", "base"))
		_, err := p.snap.View(ctx, "view", "base")
		must(t, err)
		past := p.lm.WithNamespace(history)
		record, err := past.Create(inNamespace(), leases.WithRandomID())
		must(t, err)
		must(t, past.AddResource(inNamespace(), record, resource("work")))

		p = p.restart(t, graceless...)
		p.considered(t, "base", "work", "view")
		p.there(t, "base", "work", "view")
		p.ended(t, l)
		p.gone(t, "view")
		p.considered(t, "base", "work")
		p.there(t, "base", "work")
		must(t, p.lm.WithNamespace(history).Delete(inNamespace(), record))
		p.gone(t, "work", "base")
		p.emptied(t)
	}, calm...)
}

// A namespace that is neither BuildKit's nor its history's is remembered, once a
// lease in it named a snapshot.
func TestForeignNamespaceIsKnownAfterARestart(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		const far = "somebody-else"
		other := p.lm.WithNamespace(far)
		l, err := other.Create(inNamespace(), leases.WithRandomID())
		must(t, err)
		must(t, other.AddResource(inNamespace(), l, resource("key")))
		must(t, p.snap.Prepare(inNamespace(), "key", ""))
		p = p.restart(t, graceless...)
		p.considered(t, "key")
		p.there(t, "key")
		must(t, p.lm.WithNamespace(far).Delete(inNamespace(), l))
		p.gone(t, "key")
		p.emptied(t)
	}, calm...)
}

// A removal that waits for a child is not forgotten.
func TestDeferredRemovalSurvivesARestart(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		parent, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		child, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "work", "base"))
		p.ended(t, parent)
		p.considered(t, "base")

		p = p.restart(t, graceless...)
		p.considered(t, "base", "work")
		p.there(t, "base", "work")
		p.ended(t, child)
		p.gone(t, "work", "base")
		p.emptied(t)
	}, calm...)
}

// One that waits for a hold goes at the next start: holds end with the process.
func TestRemovalOfWhatWasHeldSurvivesARestart(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		other, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "other", ""))
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "work", ""))
		hold(t, p.mounts(t, "work"))
		p.ended(t, l)
		p.considered(t, "work")
		p.there(t, "work")
		p = p.restart(t, graceless...)
		p.gone(t, "work")
		p.there(t, "other")
		p.ended(t, other)
		p.gone(t, "other")
		p.emptied(t)
	}, calm...)
}

func TestKeyWithoutAnyLeaseGoesWithTheProcess(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "leased", ""))
		p.committed(t, inNamespace(), "base", "")
		must(t, p.snap.Prepare(inNamespace(), "work", "base"))
		p = p.restart(t, graceless...)
		p.gone(t, "work", "base")
		p.there(t, "leased")
		p.ended(t, l)
		p.gone(t, "leased")
		p.emptied(t)
	}, calm...)
}

// Where there are snapshots and not a single lease, the leases were lost.
func TestNoLeaseAtAllAtStartRemovesNothing(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		p.committed(t, ctx, "base", "")
		must(t, p.snap.Prepare(ctx, "work", "base"))
		must(t, p.prevLM.Delete(inNamespace(), l)) // so that the engine does not see it
		messages := captureLog(t)
		p = p.restart(t, graceless...)
		eventually(t, "the log says so", func() bool { return messages.says("not a single lease") })
		p.considered(t, "base", "work")
		p.there(t, "base", "work")
		p.considered(t, "base", "work") // also after a lease was seen
		p.there(t, "base", "work")
		l, _ = p.lease(t)
		p.added(t, l, "base", "work")
		p.ended(t, l)
		p.gone(t, "work", "base")
		p.emptied(t)
	}, calm...)
}

func TestSnapshotsFromBeforeAreKeptForAGracePeriod(t *testing.T) {
	const grace = 300 * time.Millisecond
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "late", ""))
		must(t, p.snap.Prepare(ctx, "let go", ""))
		other, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "other", ""))
		must(t, p.prevLM.Delete(inNamespace(), l))

		p = p.restart(t, calm...)
		p.considered(t, "late", "let go", "other")
		p.there(t, "late", "let go", "other")
		// Neither does a lease that ends end the period.
		first, _ := p.lease(t)
		p.added(t, first, "let go")
		p.ended(t, first)
		p.considered(t, "late", "let go")
		p.there(t, "late", "let go")

		p.close(t)
		began := time.Now()
		p = p.site.open(t, engine.WithLeaseSweep(time.Hour), engine.WithGrace(grace))
		l, _ = p.lease(t) // as BuildKit's migrations do after the start
		p.added(t, l, "late")
		p.gone(t, "let go")
		if d := time.Since(began); d < grace {
			t.Errorf("removed %v after the start, within the grace period of %v", d, grace)
		}
		p.considered(t, "late", "other")
		p.there(t, "late", "other")
		p.ended(t, l, other)
		p.gone(t, "late", "other")
		p.emptied(t)
	}, calm...)
}

func TestLeasesThatCannotBeListedAtStartRemoveNothing(t *testing.T) {
	for _, call := range []string{"List " + namespace, "List " + history, "ListResources " + namespace} {
		t.Run(call, func(t *testing.T) {
			onEachFace(t, func(t *testing.T, p *process) {
				kept, ctx := p.lease(t)
				must(t, p.snap.Prepare(ctx, "kept", ""))
				must(t, p.snap.Prepare(inNamespace(), "unnamed", ""))
				w := p.site.watch
				messages := captureLog(t)
				w.fail(call, errors.New("says the test"))
				p = p.restart(t, graceless...)
				eventually(t, "the log says so", func() bool {
					return messages.says("says the test") && messages.says("no snapshot is removed")
				})
				tries := w.count(call)
				eventually(t, "leases are listed again", func() bool { return w.count(call) > tries })
				p.there(t, "kept", "unnamed")
				w.fail(call, nil)
				p.gone(t, "unnamed")
				p.there(t, "kept")
				p.ended(t, kept)
				p.gone(t, "kept")
				p.emptied(t)
			}, calm...)
		})
	}
}

// Resources of an earlier name count as long as they are there, and those of the
// present one too.
func TestResourcesOfAnEarlierNameKeepCounting(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		first, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "before", ""))
		must(t, p.snap.Prepare(inNamespace(), "unnamed", ""))
		p.close(t)
		p, err := p.site.start(t, Opt{Name: "overlayfs", Engine: graceless})
		must(t, err)
		p.gone(t, "unnamed")
		p.considered(t, "before")
		p.there(t, "before")

		second, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "after", ""))
		if named := p.named(t, second); len(named) != 1 || named[0] != "snapshots/overlayfs after" {
			t.Errorf("the lease of the context names %q", named)
		}
		third, _ := p.lease(t)
		p.added(t, third, "after") // under the earlier name
		must(t, p.lm.AddResource(inNamespace(), third, leases.Resource{ID: "before", Type: resourceType("overlayfs")}))
		p.ended(t, first, second)
		p.considered(t, "before", "after")
		p.there(t, "before", "after")

		p.close(t)
		p, err = p.site.start(t, Opt{Name: "third", Engine: graceless})
		must(t, err)
		p.considered(t, "before", "after")
		p.there(t, "before", "after")
		must(t, p.lm.DeleteResource(inNamespace(), third, resource("after")))
		p.gone(t, "after")
		p.considered(t, "before")
		p.there(t, "before")
		p.ended(t, third)
		p.gone(t, "before")
		p.emptied(t)
	}, calm...)
}
