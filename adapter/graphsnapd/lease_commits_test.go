package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Changes that come while a transaction is under way are made in one, and one that
// fails takes no other with it.
func TestChangesOfLeasesShareATransaction(t *testing.T) {
	db, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	m := newLeaseCommits(ctdmetadata.NewDB(db, nil, nil))
	ctx := namespaces.WithNamespace(context.Background(), namespace)
	gone, err := m.Create(ctx, leases.WithID("gone"))
	if err != nil {
		t.Fatal(err)
	}

	last := transaction(t, db)
	var g sync.WaitGroup
	entered, release := make(chan struct{}), make(chan struct{})
	enter := sync.OnceFunc(func() { close(entered) })
	g.Go(func() {
		if err := m.change(ctx, func() error { enter(); <-release; return nil }); err != nil {
			t.Errorf("the change before: %v", err)
		}
	})
	<-entered
	const parallel = 50
	failed := make([]error, 2*parallel)
	for i := range parallel {
		id := fmt.Sprint("lease-", i)
		g.Go(func() {
			l, err := m.Create(ctx, leases.WithID(id))
			if err == nil && l.ID != id {
				err = fmt.Errorf("created %q", l.ID)
			}
			failed[i] = err
		})
		g.Go(func() { // all but the first are refused
			failed[parallel+i] = m.Delete(ctx, gone)
		})
	}
	for deadline := time.Now().Add(time.Minute); m.mailbox.Len() < 2*parallel && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	close(release)
	g.Wait()

	for i, err := range failed[:parallel] {
		if err != nil {
			t.Errorf("create %d: %v", i, err)
		}
	}
	refused := slices.DeleteFunc(failed[parallel:], func(err error) bool { return err == nil })
	for _, err := range refused {
		if !errdefs.IsNotFound(err) {
			t.Errorf("delete: %v, want not found", err)
		}
	}
	if len(refused) != parallel-1 {
		t.Errorf("%d deletions of one lease were refused, want all but one of %d", len(refused), parallel)
	}
	if all, err := m.List(ctx); err != nil || len(all) != parallel {
		t.Errorf("%d leases, %v, want %d", len(all), err, parallel)
	}
	if n := transaction(t, db) - last; n != 1 {
		t.Errorf("%d transactions, want 1", n)
	}

	// A resource is added in a transaction too, and what comes after the end refused.
	l, r := leases.Lease{ID: "lease-0"}, leases.Resource{ID: "key", Type: "snapshots/overlayfs"}
	if err := m.AddResource(ctx, l, r); err != nil {
		t.Error(err)
	}
	if rr, err := m.ListResources(ctx, l); err != nil || !slices.Equal(rr, []leases.Resource{r}) {
		t.Errorf("resources %v, %v", rr, err)
	}
	if err := m.DeleteResource(ctx, l, r); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	if err := m.AddResource(ctx, l, r); !errdefs.IsUnavailable(err) {
		t.Errorf("after the end: %v, want unavailable", err)
	}
}

// transaction returns the ID of the last one.
func transaction(t *testing.T, db *bolt.DB) (id int) {
	t.Helper()
	if err := db.View(func(tx *bolt.Tx) error { id = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return id
}
