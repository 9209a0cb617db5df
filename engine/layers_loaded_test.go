package engine

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/graphsnap/graphsnap/persist"
)

// ruinsWithLayers is what a dead process left, and a layer store.
func ruinsWithLayers(t *testing.T) *ruins {
	r := newRuins(t, false)
	r.layers = newMemoryLayers(r.driver)
	r.opts = append(r.opts, WithGrace(0))
	return r
}

// committed leaves a committed snapshot, under a lease of its own.
func (r *ruins) committed(key, parent string, change func(*persist.Record)) Lease {
	rec := r.record(persist.Committed, key, parent)
	change(&rec)
	r.left(persist.Put(rec))
	l := Lease{"ns", key}
	r.leases.add(l, key)
	return l
}

// What is recorded of layers is what the layer store has: a directory that became a
// layer's is that layer's, and an intent that came to nothing ends.
func TestRecordsFollowTheLayerStore(t *testing.T) {
	nothing := digest.FromString("nothing").String()
	for name, chain := range map[string]string{"no intent": "", "an intent": "its own", "another intent": nothing} {
		t.Run(name, func(t *testing.T) {
			r := ruinsWithLayers(t)
			image := r.layers.image("of-k", "")
			r.layers.restart()
			if chain == "its own" {
				chain = image.ChainID()
			}
			r.committed("k", "", func(rec *persist.Record) { rec.ChainID = chain })
			r.put("other", "", "whole")
			r.committed("other", "", func(rec *persist.Record) { rec.ChainID = nothing })
			for range 2 {
				r.again("first")
				if l := r.Layer("k"); l == nil || l.ChainID() != image.ChainID() {
					t.Errorf("its layer is %v", l)
				}
				if r.Layer("other") != nil {
					t.Error("an intent came to nothing, and there is a layer")
				}
				r.checkTables()
				must(t, r.Close())
				records, _ := r.records()
				if got := records["k"].ChainID; got != image.ChainID() {
					t.Errorf("recorded is the layer %q", got)
				}
				if got := records["other"].ChainID; got != "" {
					t.Errorf("an intent came to nothing, and recorded is %q", got)
				}
				r.layers.restart()
			}
			r.reopen()
			r.finish()
		})
	}
}

// dockerd forgets that it borrowed a layer; what stands on it borrows it again.
func TestForgottenLayerIsBorrowedAgain(t *testing.T) {
	r := ruinsWithLayers(t)
	image := r.layers.image("image", "")
	chain := image.ChainID()
	r.driver.dirs["of-k"], r.driver.links["of-k"] = "image", true
	l := r.committed("k", chain, func(*persist.Record) {})
	must(t, r.layers.Release(r.layers.ref(image.(*layerRef).memoryLayer))) // that of the image stays
	r.reopen()
	if r.absent("k") || r.absent(chain) || r.keys.Load(chain).children != 1 {
		t.Errorf("%+v", r.keys.Load(chain))
	}
	must(t, r.Close())
	if records, _ := r.records(); records[chain].Kind != persist.Borrowed {
		t.Errorf("recorded is %+v", records[chain])
	}
	r.layers.restart()
	image, err := r.layers.Get(chain)
	must(t, err)
	r.reopen()
	r.endLease(l)
	eventually(t, "both go", func() bool { return r.absent("k") && r.keys.Load(chain) == nil })
	must(t, r.layers.Release(image))
	r.finish()
}

// What stood on a layer that is gone goes, with the references that it has; where there
// is no layer store it is hidden.
func TestWhatStandsOnALostLayerGoes(t *testing.T) {
	r := ruinsWithLayers(t)
	lost := digest.FromString("lost").String()
	r.left(persist.Put(persist.Record{Key: lost, Kind: persist.Borrowed}))
	r.put("child", "", "whole")
	r.committed("child", lost, func(*persist.Record) {})
	r.layers.image("of-top", "")
	r.layers.restart()
	r.committed("top", "child", func(*persist.Record) {})
	r.left(persist.Put(persist.Record{Key: "view", Parent: "top", Kind: persist.View}))
	r.put("sound", "", "whole")
	r.committed("sound", "", func(*persist.Record) {})
	r.leases.add(Lease{"ns", "view"}, "view")

	there := func(what string) {
		t.Helper()
		for _, key := range []string{lost, "child", "top", "view"} {
			if !r.absent(key) {
				t.Errorf("%s: %q is there", what, key)
			}
		}
		if r.absent("sound") {
			t.Errorf("%s: what stands on nothing is gone", what)
		}
	}
	layers := r.layers
	r.layers = nil
	r.reopen()
	there("without a layer store")
	must(t, r.Close())
	if records, removals := r.records(); len(records) != 5 || len(removals) > 0 {
		t.Errorf("without a layer store: recorded are %v and removals of %q", records, removals)
	}
	r.layers = layers
	r.reopen()
	there("with a layer store")
	r.settled()
	must(t, r.Close())
	if records, removals := r.records(); len(records) != 1 || len(removals) > 0 {
		t.Errorf("recorded are %v and removals of %q", records, removals)
	}
	if len(r.driver.dirs) != 1 {
		t.Errorf("directories: %v", r.driver.dirs)
	}
	r.reopen()
	r.finish()
}

// Of two names of one directory that is a layer's, the one that goes gives its reference
// back.
func TestTwoRecordsOfALayersDirectory(t *testing.T) {
	r := ruinsWithLayers(t)
	r.layers.image("of-a", "")
	r.layers.restart()
	r.committed("a", "", func(*persist.Record) {})
	r.committed("b", "", func(rec *persist.Record) { rec.GraphID = "of-a" })
	r.reopen()
	if r.absent("a") || !r.absent("b") || r.Layer("a") == nil {
		t.Error("want the first, as the layer")
	}
	r.finish()
}

// A lease that somebody else added names a layer that is not a snapshot yet.
func TestListedLeaseBorrowsItsLayer(t *testing.T) {
	h := openWithLayers(t)
	image := h.layers.image("image", "")
	h.leases.add(Lease{"ns", "theirs"}, image.ChainID())
	l := Lease{"ns", "l"}
	h.lease(l, "key")
	must(t, h.Prepare(t.Context(), "key", ""))
	h.endLease(l) // has leases listed
	eventually(t, "it is borrowed", func() bool { return h.keys.Load(image.ChainID()).visible() != nil })
	must(t, h.layers.Release(image))
	if h.absent(image.ChainID()) {
		t.Error("it went with the image though a lease names it")
	}
	eventually(t, "the other goes", h.gone("key"))
}

// Work whose callers left ends all the same, beside that of callers who came later.
// There is one layer with one reference.
func TestExportsOfOneSnapshotShareALayer(t *testing.T) {
	for _, first := range []bool{true, false} { // whether the one that was left ends first
		ctx := t.Context()
		h := openWithLayers(t, WithScanParallelism(4))
		must(t, h.Prepare(ctx, "key", ""))
		must(t, h.Commit(ctx, "base", "key"))
		type registering struct{ goOn chan struct{} }
		at := make(chan registering)
		h.driver.before = func(call, _ string) error {
			if call == "Register" {
				r := registering{make(chan struct{})}
				at <- r
				<-r.goOn
			}
			return nil
		}
		given, cancel := context.WithCancel(ctx)
		left, stayed := make(chan error, 1), make(chan error, 1)
		go func() { left <- second(h.EnsureLayer(given, "base")) }()
		a := <-at
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
		go func() { stayed <- second(h.EnsureLayer(ctx, "base")) }()
		b := <-at
		if first {
			close(a.goOn)
			eventually(t, "it is a layer", func() bool { return h.Layer("base") != nil })
			close(b.goOn)
			must(t, <-stayed)
		} else {
			close(b.goOn)
			must(t, <-stayed)
			close(a.goOn)
		}
		eventually(t, "both ended", func() bool { return h.keys.Load("base").children == 0 })
		h.driver.calm()
		h.checkTables()
		if n := h.driver.count("Release"); n != 1 {
			t.Errorf("of two references %d were given back", n)
		}
	}
}

// A layer is computed when nobody writes, and again if somebody wrote meanwhile.
func TestLayerIsThatOfADirectoryAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		h := openWithLayers(t)
		must(t, h.Prepare(ctx, "key", ""))
		m, err := h.Mounts(ctx, "key")
		must(t, err)
		must(t, h.Commit(ctx, "base", "key"))
		_, release, err := m.Mount()
		must(t, err)
		done := make(chan error, 1)
		go func() { done <- second(h.EnsureLayer(ctx, "base")) }()
		synctest.Wait()
		if n := h.driver.count("Checksum"); n != 0 {
			t.Error("it is computed while somebody writes")
		}
		n := 0
		h.driver.before = func(call, _ string) error {
			if n++; call != "Checksum" || n > 2 {
				return nil
			}
			_, release, err := m.Mount()
			if err == nil {
				err = release()
			}
			return err
		}
		must(t, release())
		must(t, <-done)
		h.driver.calm()
		if n := h.driver.count("Checksum"); n < 2 {
			t.Error("somebody wrote while it was computed, and it was not computed again")
		}
	})
}

// A copy of a directory that does not become a layer's goes, also if not at once.
func TestCopyThatIsNotNeededGoes(t *testing.T) {
	ctx := t.Context()
	h := openWithLayers(t)
	for _, id := range []string{"a", "b"} {
		h.layers.contents[id] = "the same"
		must(t, h.Prepare(ctx, id, ""))
		must(t, h.Commit(ctx, "base-"+id, id))
	}
	must(t, h.Prepare(ctx, "work", "base-b"))
	must(t, h.Commit(ctx, "child", "work"))
	base, err := h.EnsureLayer(ctx, "base-a")
	must(t, err)
	var image Layer
	failed := false
	h.driver.mu.Lock()
	h.driver.before = func(call, id string) error {
		switch {
		case call == "Create":
			if _, removals := h.onDisk(); len(removals) != 1 || removals[0] != id {
				t.Errorf("%q is made, and to be deleted after a crash are %q", id, removals)
			}
		case call == "Copy": // somebody pulls an image with the same layer
			h.layers.mu.Lock()
			h.layers.contents["image"] = h.layers.content("work")
			h.layers.mu.Unlock()
			image = h.layers.image("image", base.ChainID())
		case call == "Remove" && !failed:
			failed = true
			return errors.New("device or resource busy")
		}
		return nil
	}
	h.driver.mu.Unlock()
	layer, err := h.EnsureLayer(ctx, "child")
	must(t, err)
	if layer.GraphID() != "image" {
		t.Errorf("the layer is of %q", layer.GraphID())
	}
	eventually(t, "the copy goes", func() bool { return h.Pending() == (Pending{}) })
	h.driver.calm()
	if !failed {
		t.Error("no removal failed")
	}
	if !h.scans.TryAcquire(int64(defaults().scans)) {
		t.Error("a scan that has ended counts as under way")
	}
	must(t, h.layers.Release(image))
}

// Close ends work that waits for somebody who writes.
func TestCloseEndsAnExportThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := t.Context()
		h := openWithLayers(t)
		must(t, h.Prepare(ctx, "key", ""))
		m, err := h.Mounts(ctx, "key")
		must(t, err)
		must(t, h.Commit(ctx, "base", "key"))
		must(t, second(m.Keep())) // counts for none who writes
		_, _, err = m.Mount()
		must(t, err)
		done := make(chan error, 1)
		go func() { done <- second(h.EnsureLayer(ctx, "base")) }()
		synctest.Wait()
		must(t, h.Close())
		if err := <-done; !errdefs.IsUnavailable(err) {
			t.Errorf("got %v", err)
		}
	})
}

// Where there is no layer store, or what is asked for is none, that is said.
func TestEnsureLayerOfWhatCannotBeOne(t *testing.T) {
	ctx := t.Context()
	if err := second(furnished(t).EnsureLayer(ctx, "base")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("without a layer store: %v", err)
	}
	h := openWithLayers(t)
	must(t, h.Prepare(ctx, "work", ""))
	if err := second(h.EnsureLayer(ctx, "work")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("what is not committed: %v", err)
	}
	if err := second(h.EnsureLayer(ctx, "absent")); !errdefs.IsNotFound(err) {
		t.Errorf("what is not there: %v", err)
	}
}
