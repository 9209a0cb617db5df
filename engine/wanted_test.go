package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
)

// P5: a lease that ends while its snapshot is being created: the reaper leaves the
// snapshot alone until its creation is answered, and nobody else comes to look at it
// again.
func TestLeaseEndsDuringTheCreation(t *testing.T) {
	h := open(t, WithLeaseSweep(time.Hour))
	l, probe := Lease{"ns", "l"}, Lease{"ns", "probe"}
	h.lease(l, "key")
	must(t, h.Prepare(t.Context(), "key", ""))
	s := *h.keys.Load("key")
	s.leases, s.leased, s.birth = nil, true, &birth{} // as a creation that is about to be answered
	h.leases.drop(l)
	h.keys.Seed("key", &s)
	h.lease(probe, "probe")
	must(t, h.Prepare(t.Context(), "probe", ""))
	h.reaper.consider("key")
	h.endLease(probe)
	eventually(t, "the reaper looked", func() bool { return h.absent("probe") && h.reaper.unwanted.Len() == 0 })
	if h.absent("key") {
		t.Error("it went before it was answered")
	}
	h.answer("key", s.birth)
	eventually(t, "it goes", func() bool { return h.absent("key") })
	eventually(t, "the directory goes", h.gone("key"))
}

// A lease that went without a call names nothing any more.
func TestLeaseThatExpiredNamesNothing(t *testing.T) {
	h := open(t)
	expired, l := Lease{"ns", "expired"}, Lease{"ns", "l"}
	h.lease(expired, "key")
	h.lease(l, "other")
	must(t, h.Prepare(t.Context(), "key", ""))
	must(t, h.Prepare(t.Context(), "other", ""))
	h.leases.drop(expired)
	h.endLease(l) // has leases listed
	eventually(t, "both go", func() bool { return h.absent("key") && h.absent("other") })
	h.quiet()
	if keys := h.LeaseKeys(expired); len(keys) > 0 {
		t.Errorf("it names %q", keys)
	}
}

// What could not be judged, since leases could not be listed, is judged when they can.
func TestListingThatFailsIsMadeUpFor(t *testing.T) {
	h := open(t, WithLeaseSweep(time.Hour))
	l := Lease{"ns", "l"}
	h.lease(l, "key")
	must(t, h.Prepare(t.Context(), "key", ""))
	failed := make(chan struct{}, 100)
	h.leases.mu.Lock()
	h.leases.fail = errors.New("the database is closed")
	h.leases.mu.Unlock()
	h.driver.before = func(string, string) error {
		failed <- struct{}{}
		return nil
	}
	h.endLease(l)
	eventually(t, "a listing failed", func() bool { return h.reaper.unwanted.Len() == 1 })
	if len(failed) > 0 || h.absent("key") {
		t.Error("it went though nobody knows the leases")
	}
	h.driver.calm()
	h.leases.mu.Lock()
	h.leases.fail = nil
	h.leases.mu.Unlock()
	eventually(t, "it goes", func() bool { return h.absent("key") })
	eventually(t, "the directory goes", h.gone("key"))
}

// What Mounts returned is of a snapshot, and not of the next one with the same key and
// the same graph ID.
func TestMountableOfWhatWasReapedMountsNothing(t *testing.T) {
	ctx := t.Context()
	h := open(t)
	l := Lease{"ns", "l"}
	h.lease(l, "key")
	must(t, h.Prepare(ctx, "key", ""))
	m, err := h.Mounts(ctx, "key")
	must(t, err)
	h.endLease(l)
	eventually(t, "the directory goes", func() bool { return h.absent("key") && h.gone("key")() })
	eventually(t, "the graph ID is free", func() bool {
		if !h.graphIDs.Take("key") {
			return false
		}
		h.graphIDs.Free("key")
		return true
	})
	must(t, h.Prepare(ctx, "key", ""))
	if id := h.keys.Load("key").body.graphID; id != "key" {
		t.Fatalf("the graph ID is %q", id)
	}
	if _, _, err := m.Mount(); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	h.quiet()
	if held, _ := h.Engine.mounts.Held(ctx); len(held) > 0 {
		t.Errorf("held: %+v", held)
	}
}

// A foreign directory that bears the key is left alone, and when it is gone its name
// may be used.
func TestForeignDirectoryOfTheName(t *testing.T) {
	h := open(t)
	h.driver.dirs["key"] = ""
	h.driver.keep("key")
	must(t, h.Prepare(t.Context(), "key", ""))
	if id := h.keys.Load("key").body.graphID; id == "key" {
		t.Error("the directory is taken for its own")
	}
	if !h.graphIDs.Take("key") {
		t.Error("the name is not free")
	}
}

// A snapshot that became a layer goes by a call, too, with its reference.
func TestRemoveOfALayer(t *testing.T) {
	ctx := t.Context()
	d := newMemoryDriver()
	h := &harness{t: t, driver: d, layers: newMemoryLayers(d), root: t.TempDir()}
	h.reopen()
	t.Cleanup(h.finish)
	must(t, h.Prepare(ctx, "key", ""))
	must(t, h.Commit(ctx, "base", "key"))
	must(t, second(h.EnsureLayer(ctx, "base")))
	must(t, h.Remove(ctx, "base"))
	eventually(t, "the layer goes", func() bool { return len(h.layers.chainIDs()) == 0 && !d.Exists("key") })
	must(t, h.Cleanup(ctx))
}

// A directory that is to be deleted became a layer's before the process died: it goes
// with the layer, if nobody else needs that.
func TestRemovalOfADirectoryThatIsALayers(t *testing.T) {
	for _, needed := range []bool{false, true} {
		r := ruinsWithLayers(t)
		image := r.layers.image("of-gone", "")
		r.layers.restart()
		if needed {
			var err error
			image, err = r.layers.Get(image.ChainID())
			must(t, err)
		}
		r.left(persist.Removing("of-gone"))
		r.reopen()
		r.settled()
		if there := r.driver.Exists("of-gone"); there != needed {
			t.Errorf("needed %v, the directory is there: %v", needed, there)
		}
		if needed {
			must(t, r.layers.Release(image))
		}
		if !r.graphIDs.Take("of-gone") {
			t.Error("its graph ID is not free")
		}
		r.graphIDs.Free("of-gone")
		must(t, r.Close())
		if _, removals := r.records(); len(removals) > 0 {
			t.Errorf("the removal of %q is recorded still", removals)
		}
	}
}
