//go:build crashpoints

package adapter

// What the processes do that die at a crash point.

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/moby/buildkit/snapshot"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
	"github.com/graphsnap/graphsnap/engine"
)

// scene is an operation in which a process dies, on what stage made.
type scene struct {
	name     string
	prepare  func(t *testing.T, d *daemon) // what it needs beside, before crash points count
	run      func(t *testing.T, d *daemon) error
	gone     []string // keys, which is when work behind the scene is over
	steps    bool     // of several changes, of which any number may have happened
	overlays bool     // with Opt.OverlayMounts
	closes   bool
	anew     bool // without a database
	byCall   bool // without leases, as on the face of containerd
	layers   bool // of the layer store, which a power loss may cost
	unsynced bool // what prepare writes may be lost with the power, but what was committed
	options  []engine.Option
}

// stage is what each scene begins with: two committed snapshots, an active one with
// a label and a file, and a view, all of the lease "keep".
func (d *daemon) stage(t *testing.T) {
	t.Helper()
	ctx := d.leased(t, "keep")
	d.committed(t, ctx, "base", "")
	d.committed(t, ctx, "mid", "base")
	must(t, d.snap.Prepare(ctx, "work", "mid", snapshots.WithLabels(map[string]string{"stage": "set"})))
	d.write(t, d.mounts(t, "work"), "written", "by nobody else")
	_, err := d.snap.View(ctx, "look", "mid")
	must(t, errors.Join(err, d.site.synced()))
}

// leased makes a lease of that name, where there are any.
func (d *daemon) leased(t *testing.T, id string) (ctx context.Context) {
	t.Helper()
	if d.lm == nil {
		return inNamespace()
	}
	_, ctx = d.lease(t, leases.WithID(id))
	return ctx
}

// kept is a context with the lease "keep".
func kept() context.Context { return leases.WithLease(inNamespace(), "keep") }

// barrier returns when all that was written before is durable.
func (d *daemon) barrier(t *testing.T) {
	t.Helper()
	_, err := d.snap.Update(inNamespace(), snapshots.Info{Name: "work", Labels: map[string]string{"stage": "set"}}, "labels.stage")
	must(t, err)
}

// top returns the chain ID of the layer that has a parent.
func (d *daemon) top() string {
	for id, l := range d.store.Map() {
		if l.Parent() != nil {
			return id.String()
		}
	}
	return ""
}

func mounted(m snapshot.Mountable, err error) (release func() error, _ error) {
	if err != nil {
		return nil, err
	}
	_, release, err = m.Mount()
	return release, err
}

// mounting is a run that mounts key.
func mounting(key string) func(t *testing.T, d *daemon) error {
	return func(t *testing.T, d *daemon) error {
		_, err := mounted(d.snap.Mounts(inNamespace(), key))
		return err
	}
}

// unmount is a scene in which key is mounted and then not.
func unmount(name, key string) scene {
	var release func() error
	return scene{name: name, prepare: func(t *testing.T, d *daemon) {
		var err error
		release, err = mounted(d.snap.Mounts(inNamespace(), key))
		must(t, err)
	}, run: func(*testing.T, *daemon) error { return release() }}
}

func endLease(_ *testing.T, d *daemon) error {
	return d.lm.Delete(inNamespace(), leases.Lease{ID: "end"})
}

// byCall is a run that removes key as containerd does.
func byCall(key string) func(t *testing.T, d *daemon) error {
	return func(t *testing.T, d *daemon) error {
		return d.snap.engine.Remove(inNamespace(), key)
	}
}

// held prepares a snapshot and two holds of it: one that ends with Remove, and one
// that release ends.
func (d *daemon) held(t *testing.T, key string) (release func() error) {
	t.Helper()
	must(t, d.snap.Prepare(inNamespace(), key, "mid"))
	m := d.mounts(t, key)
	_, err := m.(mountable).Keep()
	must(t, err)
	release, err = mounted(m, nil)
	must(t, err)
	return release
}

// removeHeld is a scene in which what is held is removed and then released.
func removeHeld() scene {
	var release func() error
	return scene{name: "Remove what is held, by call", byCall: true, prepare: func(t *testing.T, d *daemon) {
		release = d.held(t, "leaf")
	}, run: func(t *testing.T, d *daemon) error {
		must(t, byCall("leaf")(t, d))
		return release()
	}, gone: []string{"leaf"}}
}

var scenes = []scene{
	{name: "Prepare", run: func(t *testing.T, d *daemon) error {
		return d.snap.Prepare(kept(), "new", "mid", snapshots.WithLabels(map[string]string{"a": "b"}))
	}},
	{name: "Prepare on nothing", run: func(t *testing.T, d *daemon) error {
		return d.snap.Prepare(kept(), "new", "")
	}},
	{name: "Prepare on a layer", prepare: func(t *testing.T, d *daemon) {
		d.image(t, "bottom", "top")
	}, run: func(t *testing.T, d *daemon) error {
		return d.snap.Prepare(kept(), "new", d.top())
	}},
	{name: "View", run: func(t *testing.T, d *daemon) error {
		_, err := d.snap.View(kept(), "new", "mid")
		return err
	}},
	{name: "View of nothing", run: func(t *testing.T, d *daemon) error {
		_, err := d.snap.View(kept(), "new", "")
		return err
	}},
	{name: "Commit", prepare: func(t *testing.T, d *daemon) {
		must(t, d.snap.Prepare(kept(), "making-name", "mid"))
		d.write(t, d.mounts(t, "making-name"), "of", "name")
	}, run: func(t *testing.T, d *daemon) error {
		return d.snap.Commit(kept(), "name", "making-name", snapshots.WithLabels(map[string]string{"c": "d"}))
	}},
	{name: "Commit, synced", options: []engine.Option{engine.WithSyncOnCommit()}, unsynced: true, prepare: func(t *testing.T, d *daemon) {
		must(t, d.snap.Prepare(kept(), "making-name", "mid"))
		d.write(t, d.mounts(t, "making-name"), "of", "name")
	}, run: func(t *testing.T, d *daemon) error {
		return d.snap.Commit(kept(), "name", "making-name")
	}},
	{name: "Update", run: func(t *testing.T, d *daemon) error {
		_, err := d.snap.Update(kept(), snapshots.Info{Name: "mid", Labels: map[string]string{"e": "f"}}, "labels.e")
		return err
	}},
	{name: "Remove", prepare: func(t *testing.T, d *daemon) {
		must(t, d.snap.Prepare(d.leased(t, "end"), "leaf", "mid"))
	}, run: endLease, gone: []string{"leaf"}},
	{name: "Remove a chain", prepare: func(t *testing.T, d *daemon) {
		ctx := d.leased(t, "end")
		d.committed(t, ctx, "low", "")
		d.committed(t, ctx, "high", "low")
		_, err := d.snap.View(ctx, "above", "high")
		must(t, err)
	}, run: endLease, gone: []string{"above", "high", "low"}, steps: true},
	{name: "Remove what is a layer", layers: true, prepare: func(t *testing.T, d *daemon) {
		d.committed(t, d.leased(t, "end"), "exported", "")
		d.ensure(t, "exported")
	}, run: endLease, gone: []string{"exported"}, steps: true},
	{name: "Remove from a lease", prepare: func(t *testing.T, d *daemon) {
		must(t, d.snap.Prepare(kept(), "leaf", ""))
	}, run: func(t *testing.T, d *daemon) error {
		return d.lm.DeleteResource(inNamespace(), leases.Lease{ID: "keep"}, resource("leaf"))
	}, gone: []string{"leaf"}},
	{name: "Remove by call", byCall: true, prepare: func(t *testing.T, d *daemon) {
		must(t, d.snap.Prepare(inNamespace(), "leaf", "mid"))
	}, run: byCall("leaf"), gone: []string{"leaf"}},
	{name: "Remove what was committed, by call", byCall: true, prepare: func(t *testing.T, d *daemon) {
		d.committed(t, inNamespace(), "leaf", "mid")
	}, run: byCall("leaf"), gone: []string{"leaf"}},
	removeHeld(),
	{name: "make a lease", run: func(t *testing.T, d *daemon) error {
		_, err := d.lm.Create(inNamespace(), leases.WithID("another"))
		return err
	}},
	{name: "add to a lease", prepare: func(t *testing.T, d *daemon) {
		d.leased(t, "another")
	}, run: func(t *testing.T, d *daemon) error {
		return d.lm.AddResource(inNamespace(), leases.Lease{ID: "another"}, resource("mid"))
	}},
	{name: "borrow a layer", prepare: func(t *testing.T, d *daemon) {
		d.image(t, "bottom", "top")
	}, run: func(t *testing.T, d *daemon) error {
		return d.lm.AddResource(inNamespace(), leases.Lease{ID: "keep"}, resource(d.top()))
	}},
	{name: "EnsureLayer", layers: true, run: func(t *testing.T, d *daemon) error {
		_, err := d.snap.EnsureLayer(inNamespace(), "mid")
		return err
	}, steps: true},
	{name: "EnsureLayer on a twin", layers: true, prepare: func(t *testing.T, d *daemon) {
		d.same(t, kept(), "first", "", "same")
		d.same(t, kept(), "second", "", "same")
		d.committed(t, kept(), "upper", "second")
		d.ensure(t, "first")
	}, run: func(t *testing.T, d *daemon) error {
		_, err := d.snap.EnsureLayer(inNamespace(), "upper")
		return err
	}, steps: true},
	{name: "Usage", run: func(t *testing.T, d *daemon) error {
		_, err := d.snap.Usage(inNamespace(), "mid")
		return err
	}},
	{name: "mount", run: mounting("work")},
	{name: "mount a view", run: mounting("look")},
	{name: "mount an overlay", overlays: true, run: mounting("work")},
	unmount("unmount", "work"),
	unmount("unmount a view", "look"),
	{name: "Close", prepare: func(t *testing.T, d *daemon) {
		must(t, mounting("work")(t, d))
		must(t, d.snap.Prepare(kept(), "late", "mid"))
	}, run: func(t *testing.T, d *daemon) error { return d.closed() }, closes: true},
}

// ends are how processes end that leave something to recover.
var ends = []scene{
	{name: "nothing", anew: true, closes: true},
	{name: "an end in order", prepare: func(t *testing.T, d *daemon) { d.stage(t) }, closes: true},
	{name: "a kill", layers: true, prepare: func(t *testing.T, d *daemon) {
		d.stage(t)
		d.committed(t, kept(), "exported", "")
		d.committed(t, d.leased(t, "end"), "leaf", "")
		d.barrier(t)
		prepare := func(key string) func() {
			return func() { _ = d.snap.Prepare(kept(), key, "mid") }
		}
		stuck("driver.Create", false, prepare("half0"))
		stuck("driver.Create", true, prepare("half1"))
		stuck("driver.Create", true, prepare("half2"))
		if d.site.driver == "overlay2" { // as Create leaves them where it is cut short
			must(t, os.Remove(d.site.path("overlay2", "half1", "lower")))
			must(t, os.Remove(d.site.path("overlay2", "half2", "lower")))
			must(t, os.Remove(d.site.path("overlay2", "half2", "link")))
			for link, id := range d.site.links(t) {
				if id == "half2" {
					must(t, os.Remove(d.site.path("overlay2", "l", link)))
				}
			}
		}
		stuck("driver.Remove", false, func() { _ = endLease(t, d) })
		stuck("layers.Register", true, func() { _, _ = d.snap.EnsureLayer(inNamespace(), "exported") })
		must(t, mounting("work")(t, d))
		must(t, mounting("look")(t, d))
		must(t, d.snap.Prepare(kept(), "late", "mid")) // answered, and not yet marked as whole
	}, steps: true},
	{name: "a kill in a removal", prepare: func(t *testing.T, d *daemon) {
		d.stage(t)
		must(t, d.snap.Prepare(d.leased(t, "end"), "leaf", "mid"))
		d.barrier(t)
		stuck("driver.Remove", true, func() { _ = endLease(t, d) })
	}},
	{name: "a kill while what was removed by call is held", byCall: true, prepare: func(t *testing.T, d *daemon) {
		d.stage(t)
		_ = d.held(t, "leaf")
		must(t, byCall("leaf")(t, d))
	}},
}

// stuck begins what never gets past a crash point.
func stuck(point string, done bool, begin func()) {
	there := make(chan struct{})
	crashpoint.Hook(func(p string, d bool) error {
		if p == point && d == done {
			crashpoint.Hook(func(string, bool) error { return nil })
			close(there)
			select {}
		}
		return nil
	})
	go begin()
	<-there
}
