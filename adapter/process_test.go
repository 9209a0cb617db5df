package adapter

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/docker/docker/daemon/graphdriver"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/leaseutil"
	bolt "go.etcd.io/bbolt"
)

// process is what a daemon has open on a site.
type process struct {
	site    *site
	driver  graphdriver.Driver
	mdb     *ctdmetadata.DB
	content content.Store  // in namespace
	prevLM  leases.Manager // containerd's, behind the snapshotter's back
	snap    *snapshotter   // as NewSnapshotter returned it
	lm      *leaseutil.Manager
	closing []func() error
	closed  func() error
}

// start is open with more to choose, and with the error of NewSnapshotter. It sets
// what opt leaves empty.
func (s *site) start(t testing.TB, opt Opt) (*process, error) {
	t.Helper()
	p := &process{site: s}
	opt.Engine = slices.Concat(s.options, opt.Engine)
	p.closed = sync.OnceValue(func() error {
		var errs []error
		for _, f := range slices.Backward(p.closing) {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	})
	t.Cleanup(func() { p.close(t) })
	if opt.GraphDriver == nil {
		opt.GraphDriver = s.openDriver(t)
	}
	prevLM := func() leases.Manager { return p.prevLM }
	if s.watch != nil {
		opt.GraphDriver = watchedDriver{opt.GraphDriver, s.watch}
		prevLM = func() leases.Manager { return watchedLeases{p.prevLM, s.watch} }
	}
	p.driver = opt.GraphDriver
	if opt.Root == "" {
		opt.Root = s.root
	}
	opt.OverlayMounts = opt.OverlayMounts || s.overlay

	blobs, err := local.NewStore(s.path("content"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(s.path("containerdmeta.db"), 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p.closing = append(p.closing, db.Close)
	p.mdb = ctdmetadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{})
	if err := p.mdb.Init(context.Background()); err != nil {
		t.Fatal(err)
	}
	p.content = containerdsnapshot.NewContentStore(p.mdb.ContentStore(), namespace)
	p.prevLM = ctdmetadata.NewLeaseManager(p.mdb)

	snap, lm, err := NewSnapshotter(opt, prevLM(), namespace)
	if err != nil {
		return nil, err
	}
	p.closing = append(p.closing, snap.Close)
	p.snap, p.lm = snap.(*snapshotter), lm
	return p, nil
}

// close ends the process in order. Closing twice is fine.
func (p *process) close(t testing.TB) {
	t.Helper()
	if err := p.closed(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// lease makes a lease and returns it with a context that names it.
func (p *process) lease(t testing.TB, opts ...leases.Opt) (leases.Lease, context.Context) {
	t.Helper()
	l, err := p.lm.Create(inNamespace(), append([]leases.Opt{leases.WithRandomID()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return l, leases.WithLease(inNamespace(), l.ID)
}

// resource is how a lease names the snapshot key.
func resource(key string) leases.Resource {
	return leases.Resource{ID: key, Type: resourceType("default")}
}

func inNamespace() context.Context {
	return namespaces.WithNamespace(context.Background(), namespace)
}
