package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
)

// exportedBase makes the committed snapshot "base" of the directory "key" under the
// lease l, and a layer of it.
func exportedBase(t *testing.T, h *harness, l Lease) Layer {
	t.Helper()
	ctx := context.Background()
	h.lease(l, "base")
	must(t, h.Prepare(ctx, "key", ""))
	must(t, h.Commit(ctx, "base", "key"))
	layer, err := h.EnsureLayer(ctx, "base")
	must(t, err)
	return layer
}

// The layer store takes a layer out of its list before it deletes the directory. When
// that fails the directory is ours to delete.
func TestDirectoryOfAReleasedLayerIsDeletedInTheEnd(t *testing.T) {
	h := openWithLayers(t)
	l := Lease{"ns", "l"}
	exportedBase(t, h, l)
	failed := make(chan struct{}, 1)
	h.driver.before = func(call, id string) error {
		if call != "Remove" {
			return nil
		}
		select {
		case failed <- struct{}{}:
			return errors.New("device or resource busy")
		default:
			return nil
		}
	}
	h.endLease(l)
	eventually(t, "the directory is deleted", func() bool { return len(failed) == 1 && !h.driver.Exists("key") })
	if len(h.layers.chainIDs()) > 0 {
		t.Error("the layer is there")
	}
	eventually(t, "its graph ID is free", func() bool {
		if !h.graphIDs.Take("key") {
			return false
		}
		h.graphIDs.Free("key")
		return true
	})
}

// A layer made of a snapshot is borrowed under its chain ID as well. Who mounts a view
// of that while the snapshot is being removed gets it.
func TestViewOfALayerWhoseSnapshotIsBeingRemoved(t *testing.T) {
	ctx := context.Background()
	h := openWithLayers(t, WithDriverParallelism(4))
	l := Lease{"ns", "l"}
	layer := exportedBase(t, h, l)
	m, err := h.View(ctx, "view", layer.ChainID())
	must(t, err)

	releasing, goOn := make(chan struct{}), make(chan struct{})
	h.driver.before = func(call, id string) error {
		if call == "Release" {
			close(releasing)
			<-goOn
		}
		return nil
	}
	h.endLease(l)
	<-releasing // the removal is durable, and the directory sealed
	mounted := make(chan error, 1)
	go func() {
		_, release, err := m.Mount()
		if err == nil {
			err = release()
		}
		mounted <- err
	}()
	eventually(t, "the mount waits", func() bool {
		held, err := h.Engine.mounts.Held(ctx)
		must(t, err)
		return len(held) == 1 && held[0].Waiting == 1
	})
	h.driver.calm()
	close(goOn)
	must(t, <-mounted)
	if !h.absent("base") || h.absent(layer.ChainID()) {
		t.Error("want the layer and not the snapshot that it was made of")
	}
}

// What cannot be registered is told, and nothing is left of the attempt.
func TestRegistrationThatFailsIsUndone(t *testing.T) {
	for _, call := range []string{"Checksum", "Register"} {
		for _, panics := range []bool{false, true} {
			ctx := context.Background()
			h := openWithLayers(t)
			must(t, h.Prepare(ctx, "key", ""))
			must(t, h.Commit(ctx, "base", "key"))
			broken := errors.New("no space left on device")
			h.driver.before = func(c, id string) error {
				if c == call && panics {
					panic(broken)
				} else if c == call {
					return broken
				}
				return nil
			}
			for range 2 {
				_, err := h.EnsureLayer(ctx, "base")
				if !panics && !errors.Is(err, broken) || panics && !errdefs.IsInternal(err) {
					t.Errorf("%s fails: %v", call, err)
				}
			}
			h.checkTables()
			h.driver.calm()
			if r := h.crashed()["base"]; r.ChainID != "" {
				t.Errorf("%s failed, and recorded is the intent to be %s", call, r.ChainID)
			}
			_, err := h.EnsureLayer(ctx, "base")
			must(t, err)
		}
	}
}

// P1: the intent to register is durable before the layer store knows, and labels that
// change in between do not take it back.
func TestIntentToRegisterIsDurableBeforeTheRegistration(t *testing.T) {
	ctx := context.Background()
	h := openWithLayers(t)
	must(t, h.Prepare(ctx, "key", ""))
	must(t, h.Commit(ctx, "base", "key"))
	registering, goOn := make(chan struct{}), make(chan struct{})
	h.driver.before = func(call, id string) error {
		if call == "Register" {
			close(registering)
			<-goOn
		}
		return nil
	}
	done := make(chan error, 1)
	go func() { _, err := h.EnsureLayer(ctx, "base"); done <- err }()
	<-registering
	_, err := h.Update(ctx, snapshots.Info{Name: "base", Labels: map[string]string{"a": "b"}})
	must(t, err)
	_, err = h.Usage(ctx, "base")
	must(t, err)
	if r := h.crashed()["base"]; r.ChainID == "" || len(r.Labels) == 0 {
		t.Errorf("meanwhile recorded is %+v", r)
	}
	if h.Layer("base") != nil {
		t.Error("it is served as a layer before it is one")
	}
	h.driver.calm()
	close(goOn)
	must(t, <-done)
}

// crashed returns the records that a process would find that began now, were this one
// killed.
func (h *harness) crashed() map[string]persist.Record {
	h.t.Helper()
	must(h.t, h.db.Write(context.Background())) // nothing is being written now
	data, err := os.ReadFile(filepath.Join(h.root, "snapshots.db"))
	must(h.t, err)
	path := filepath.Join(h.t.TempDir(), "snapshots.db")
	must(h.t, os.WriteFile(path, data, 0o600))
	db, err := persist.Open(context.Background(), path, persist.Options{})
	must(h.t, err)
	defer db.Close()
	found := map[string]persist.Record{}
	must(h.t, db.Load(
		func(r persist.Record) error { found[r.Key] = r; return nil },
		func(persist.Removal) error { return nil },
		nil,
	))
	return found
}

// A layer that nobody borrows is a committed snapshot to all that could tell.
func TestLayerThatNobodyBorrowsIsCommitted(t *testing.T) {
	ctx := context.Background()
	h := openWithLayers(t)
	image := h.layers.image("image", "")
	chain := image.ChainID()
	refused := func(class func(error) bool, err error) {
		t.Helper()
		if !class(err) {
			t.Error(err)
		}
	}
	_, err := h.Stat(ctx, chain)
	must(t, err)
	_, err = h.Mounts(ctx, chain)
	refused(errdefs.IsFailedPrecondition, err)
	refused(errdefs.IsFailedPrecondition, h.Commit(ctx, "name", chain))
	_, err = h.Update(ctx, snapshots.Info{Name: chain, Labels: map[string]string{"a": "b"}})
	refused(errdefs.IsFailedPrecondition, err)

	must(t, h.layers.Release(image))
	refused(errdefs.IsNotFound, h.Commit(ctx, "name", chain))
	_, err = h.Update(ctx, snapshots.Info{Name: chain})
	refused(errdefs.IsNotFound, err)
}

// A layer that many ask for at once, while leases of it come and go, has one
// reference.
func TestLayerIsBorrowedOnce(t *testing.T) {
	ctx := context.Background()
	h := openWithLayers(t, WithLeaseSweep(time.Hour))
	image := h.layers.image("image", "")
	chain := image.ChainID()
	done := make(chan error, 32)
	for i := range cap(done) {
		go func() {
			key := "work-" + string(rune('a'+i))
			l := Lease{"ns", key}
			err := h.AddLease(ctx, l, chain, func() error { h.leases.add(l, chain); return nil })
			done <- errors.Join(err, h.Prepare(ctx, key, chain))
		}()
	}
	for range cap(done) {
		must(t, <-done)
	}
	must(t, h.layers.Release(image))
	h.layers.mu.Lock()
	defer h.layers.mu.Unlock()
	if n := len(h.layers.refs); n != 1 {
		t.Errorf("there are %d references", n)
	}
}
