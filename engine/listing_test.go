package engine

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
)

// pausedLeases stops once in the middle of a listing, when it knows all leases and
// has told none.
type pausedLeases struct {
	*memoryLeases
	pause chan pause // of one, for the next listing
}

type pause struct{ reached, goOn chan struct{} }

func (p *pausedLeases) List(ctx context.Context, k Known, each func(Lease, []string)) error {
	found := map[Lease][]string{}
	err := p.memoryLeases.List(ctx, k, func(l Lease, keys []string) { found[l] = keys })
	if err != nil {
		return err
	}
	select {
	case p := <-p.pause:
		close(p.reached)
		<-p.goOn
	default:
	}
	for l, keys := range found {
		each(l, keys)
	}
	return nil
}

// P5: a lease that ends while leases are being listed, too late for the listing to
// know, does not come back with it.
func TestP5LeaseEndedDuringListingStaysEnded(t *testing.T) {
	source := &pausedLeases{newMemoryLeases(), make(chan pause, 1)}
	e, err := Open(context.Background(), Config{
		Driver: newMemoryDriver(), Root: t.TempDir(), Name: "test", Leases: source,
	}, WithLeaseSweep(time.Hour))
	must(t, err)
	h := &harness{Engine: e, t: t, leases: source.memoryLeases}
	defer func() { must(t, e.Close()) }()

	slow, quick := Lease{"ns", "slow"}, Lease{"ns", "quick"}
	h.lease(slow, "key")
	h.lease(quick, "other")
	must(t, e.Prepare(context.Background(), "key", ""))
	must(t, e.Prepare(context.Background(), "other", ""))

	p := pause{make(chan struct{}), make(chan struct{})}
	source.pause <- p
	h.endLease(quick)
	<-p.reached
	h.endLease(slow)
	eventually(t, "the owner told", func() bool { return len(e.keys.Load("key").leases) == 0 })
	close(p.goOn)

	eventually(t, "other gone", func() bool { return h.absent("other") })
	eventually(t, "key gone", func() bool { return h.absent("key") })
}

// A snapshot whose children go in one pass goes once, without a word about it.
func TestParentOfSeveralIsRemovedOnce(t *testing.T) {
	var said bytes.Buffer // written to until Close
	logger := logrus.New()
	logger.SetOutput(&said)
	ctx := log.WithLogger(context.Background(), logrus.NewEntry(logger))
	source := newMemoryLeases()
	e, err := Open(ctx, Config{Driver: newMemoryDriver(), Root: t.TempDir(), Name: "test", Leases: source})
	must(t, err)
	h := &harness{Engine: e, t: t, leases: source}

	l := Lease{"ns", "l"}
	h.lease(l, "key")
	must(t, e.Prepare(ctx, "key", ""))
	h.lease(l, "parent")
	must(t, e.Commit(ctx, "parent", "key"))
	for i := range 8 {
		child := fmt.Sprint("child", i)
		h.lease(l, child)
		must(t, e.Prepare(ctx, child, "parent"))
	}
	h.endLease(l)
	eventually(t, "parent gone", func() bool { return h.absent("parent") })
	must(t, e.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		t.Errorf("%q is left", i.Name)
		return nil
	}))
	must(t, e.Close())
	if said.Len() > 0 {
		t.Errorf("logged:\n%s", said.String())
	}
}
