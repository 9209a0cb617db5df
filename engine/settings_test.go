package engine

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/graphsnap/graphsnap/persist"
)

// recordingLeases remembers what it was asked for.
type recordingLeases struct {
	*memoryLeases
	asked chan Known
}

func (r *recordingLeases) List(ctx context.Context, k Known, each func(Lease, []string)) error {
	select {
	case r.asked <- Known{Namespaces: slices.Clone(k.Namespaces), Names: slices.Clone(k.Names)}:
	default: // of the first alone
	}
	return r.memoryLeases.List(ctx, k, each)
}

// P5: leases are looked for under every name and in every namespace that there ever was.
func TestNamesAndNamespacesSurvive(t *testing.T) {
	ctx := t.Context()
	d, root := newMemoryDriver(), t.TempDir()
	source := &recordingLeases{newMemoryLeases(), make(chan Known, 1)}
	open := func(name string, want Known) *Engine {
		t.Helper()
		select {
		case <-source.asked:
		default:
		}
		e, err := Open(ctx, Config{Driver: d, Root: root, Name: name, Leases: source})
		must(t, err)
		if got := <-source.asked; !slices.Equal(got.Names, want.Names) || !slices.Equal(got.Namespaces, want.Namespaces) {
			t.Errorf("asked for %+v, want %+v", got, want)
		}
		if !slices.Equal(e.Names(), want.Names) {
			t.Errorf("names %q, want %q", e.Names(), want.Names)
		}
		return e
	}
	e := open("first", Known{Names: []string{"first"}})
	durable := func() error { return nil }
	for _, l := range []Lease{{"b", "1"}, {"a", "1"}, {"b", "2"}} {
		must(t, e.AddLease(ctx, l, "key", durable))
	}
	if known, _ := e.db.Setting(settingNamespaces); !slices.Equal(split(known), []string{"b", "a"}) {
		t.Errorf("durable are the namespaces %q", split(known))
	}
	must(t, e.Close())
	e = open("second", Known{Names: []string{"first", "second"}, Namespaces: []string{"b", "a"}})
	settings := map[string]string{}
	for _, name := range []string{settingNames, settingNamespaces} {
		settings[name], _ = e.db.Setting(name)
	}
	if k := KnownTo(settings); !slices.Equal(k.Names, e.Names()) || !slices.Equal(k.Namespaces, []string{"b", "a"}) {
		t.Errorf("known to the settings is %+v", k)
	}
	must(t, e.Close())
	must(t, open("first", Known{Names: []string{"first", "second"}, Namespaces: []string{"b", "a"}}).Close())

	// dockerd has one name, which it does not record.
	root, d = t.TempDir(), newMemoryDriver()
	r := &ruins{harness: &harness{t: t, driver: d, root: root}}
	r.left(persist.Put(r.record(persist.Active, "key", "")))
	r.put("key", "", "whole")
	must(t, open("other", Known{Names: []string{"default", "other"}}).Close())
	if k := KnownTo(nil); !slices.Equal(k.Names, []string{"default"}) || k.Namespaces != nil {
		t.Errorf("known to no settings is %+v", k)
	}
}

// What a lease names is known until it ends, and what could not be added is not.
func TestLeaseKeys(t *testing.T) {
	h := open(t)
	l := Lease{"ns", "l"}
	want := func(keys ...string) {
		t.Helper()
		h.quiet()
		if got := h.LeaseKeys(l); !slices.Equal(got, keys) {
			t.Errorf("it names %q, want %q", got, keys)
		}
		for _, key := range []string{"a", "b", "c"} {
			s := h.keys.Load(key)
			if names := s != nil && slices.Contains(s.leases, l); names != slices.Contains(keys, key) {
				t.Errorf("%q is named: %v", key, names)
			}
		}
	}
	remove := func(key string) {
		h.leases.mu.Lock()
		delete(h.leases.held[l], key)
		h.leases.mu.Unlock()
		h.RemoveLease(l, key)
	}
	for _, key := range []string{"b", "a", "b"} {
		h.lease(l, key)
	}
	want("a", "b")
	refused := errors.New("no such lease")
	for _, key := range []string{"c", "b"} { // new, and known already
		if err := h.AddLease(t.Context(), l, key, func() error { return refused }); !errors.Is(err, refused) {
			t.Errorf("got %v", err)
		}
	}
	want("a", "b")
	remove("c")
	want("a", "b")
	remove("a")
	want("b")
	remove("b")
	want()
	h.lease(l, "a")
	h.lease(l, "c")
	h.endLease(l)
	want()
	h.endLease(l)
	h.EndLease(Lease{"ns", "never"})
	want()
	for _, key := range []string{"a", "b", "c"} {
		if s := h.keys.Load(key); s != nil {
			t.Errorf("nothing is to be known of %q, and published is %+v", key, s)
		}
	}
}

// P5: a listing that misses a lease which is just being added, or added since it began,
// says nothing.
func TestListingMissesALeaseThatIsBeingAdded(t *testing.T) {
	h := open(t)
	l := Lease{"ns", "l"}
	var before *listing
	must(t, h.AddLease(t.Context(), l, "key", func() error {
		var err error
		before, err = h.list(t.Context())
		must(t, err)
		h.reconcile(before)
		h.leases.add(l, "key")
		return nil
	}))
	h.quiet()
	h.reconcile(before)
	h.quiet()
	if s := h.keys.Load("key"); s == nil || !slices.Contains(s.leases, l) || !slices.Contains(h.LeaseKeys(l), "key") {
		t.Errorf("published is %+v", s)
	}
}

// P8: dockerd is told by aliases which layer a lease means, and nothing else.
func TestAliasesFollowLeases(t *testing.T) {
	ctx := t.Context()
	h := openWithLayers(t)
	h.layers.contents["pulled"] = "of a layer of its own"
	low := h.layers.image("low", "")
	high := h.layers.image("high", low.ChainID())
	added := func(l Lease, keys ...string) Lease {
		for _, key := range keys {
			h.lease(l, key)
		}
		return l
	}
	aliases := func(want map[string]string) {
		t.Helper()
		h.quiet()
		must(t, h.db.Write(ctx))
		got := map[string]string{}
		must(t, h.db.Load(func(persist.Record) error { return nil }, func(persist.Removal) error { return nil }, func(l persist.Leftover) {
			if l.Oddity == persist.Aliased {
				got[l.Key] = l.Record.ChainID
			}
		}))
		if !maps.Equal(got, want) {
			t.Errorf("aliases are %v, want %v", got, want)
		}
	}
	one, other := added(Lease{"ns", "one"}, "key", low.ChainID()), added(Lease{"ns", "other"}, "key")
	added(Lease{"ns", "unknown"}, digest.FromString("unknown").String())
	aliases(map[string]string{"one": low.ChainID()})
	added(other, high.ChainID())
	// Of two namespaces, which dockerd does not tell apart.
	twin := added(Lease{"also", "one"}, high.ChainID())
	h.endLease(one)
	aliases(map[string]string{"one": high.ChainID(), "other": high.ChainID()})
	h.endLease(twin)
	aliases(map[string]string{"other": high.ChainID()})

	// Of two layers the one that is left.
	two := added(Lease{"ns", "two"}, low.ChainID(), high.ChainID())
	first, last := min(low.ChainID(), high.ChainID()), max(low.ChainID(), high.ChainID())
	aliases(map[string]string{"other": high.ChainID(), "two": first})
	h.leases.mu.Lock()
	delete(h.leases.held[two], first)
	h.leases.mu.Unlock()
	h.RemoveLease(two, first)
	aliases(map[string]string{"other": high.ChainID(), "two": last})
	h.endLease(two)

	// A layer that was pulled after a lease named it.
	pulled := h.layers.image("pulled", "")
	chain := pulled.ChainID()
	if h.layers.Peek(chain).GraphID() == "pulled" {
		must(t, h.layers.Release(pulled))
		soon := added(Lease{"ns", "soon"}, chain)
		aliases(map[string]string{"other": high.ChainID()})
		pulled = h.layers.image("pulled", "")
		must(t, h.Prepare(ctx, "child", chain))
		aliases(map[string]string{"other": high.ChainID(), "soon": chain})
		h.endLease(soon)
	} else {
		t.Error("two images have the same layer: nothing is tested here")
	}
	must(t, h.layers.Release(pulled))

	// One that was named behind the engine's back.
	late := added(Lease{"ns", "late"}, "late")
	must(t, h.layers.Release(high))
	h.leases.add(late, low.ChainID())
	h.db.Later(persist.Alias("stale", low.ChainID()))
	h.db.Later(persist.Alias("other", low.ChainID())) // by a dockerd that ran in between
	must(t, h.Close())
	h.layers.restart()
	must(t, func() error { _, err := h.layers.Get(high.ChainID()); return err }())
	h.layers.mu.Lock()
	clear(h.layers.refs) // of images, which nobody gives back
	h.layers.mu.Unlock()
	h.reopen()
	aliases(map[string]string{"other": high.ChainID(), "late": low.ChainID()})
	h.leases.drop(late)
	h.EndLease(late)
	aliases(map[string]string{"other": high.ChainID()})
}
