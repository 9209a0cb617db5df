package adapter

// Calls that end in the middle: their context ends while they wait or work, or
// the driver fails them. Nothing of them may be left.

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
)

// during calls f in a goroutine of its own and returns its error.
func during(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// beginnings are the calls that make a directory.
var beginnings = map[string]func(context.Context, *snapshotter) error{
	"Prepare":    calls["Prepare"],
	"Prepare ''": calls["Prepare ''"],
	"View ''":    calls["View ''"],
}

// While another call has the driver, a call waits for it after its parent was
// pinned and its record was written. That all goes when it is cancelled.
func TestCancelledWhileWaitingForTheDriverLeavesNothing(t *testing.T) {
	for _, d := range drivers {
		for name, call := range beginnings {
			t.Run(d+"/"+name, func(t *testing.T) {
				s := newSite(t, d)
				s.watch = newWatch()
				s.options = boundsOf1
				p := s.open(t)
				l := furnished(t, p)
				under, leased := p.lease(t)

				busy := s.watch.stop(t, "Create")
				first := during(func() error { return p.snap.Prepare(leased, "busy", "base") })
				<-busy.reached
				before := p.world(t)
				looked := s.watch.count("Exists")
				ctx, cancel := context.WithCancel(leased)
				second := during(func() error { return call(ctx, p.snap) })
				eventually(t, "the call has begun", func() bool { return s.watch.count("Exists") > looked })
				cancel()
				wantError(t, <-second, context.Canceled, `"new"`)
				if !p.absent("new") {
					t.Error("the snapshot is there though its creation was cancelled")
				}
				if after := p.world(t); !after.equal(before) {
					t.Errorf("before:\n%v\nafter:\n%v", before, after)
				}
				busy.goOn()
				must(t, <-first)
				must(t, call(inNamespace(), p.snap)) // nothing is in its way

				p.added(t, under, "new")
				p.ended(t, l, under)
				p.gone(t, "work", "view", "base", "busy", "new")
				p.emptied(t)
			})
		}
	}
}

// What the driver has begun is not given up: the snapshot is there.
func TestCancelledWhileTheDriverWorksSucceeds(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		furnished(t, p)
		w := p.site.watch
		for name, call := range beginnings {
			l, leased := p.lease(t)
			ctx, cancel := context.WithCancel(leased)
			working := w.stop(t, "Create")
			result := during(func() error { return call(ctx, p.snap) })
			<-working.reached
			if !p.absent("new") {
				t.Errorf("%s: the snapshot is served before it is whole", name)
			}
			p.there(t, "base", "work", "view") // and Stat waits for nobody
			cancel()
			working.goOn()
			must(t, <-result)
			p.there(t, "new")
			p.ended(t, l)
			p.gone(t, "new")
			p.site.settled(t, "new")
		}
	})
}

func TestCancelledWhileMeasuring(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l := furnished(t, p)
		w := p.site.watch
		for _, key := range []string{"base", "work"} {
			ctx, cancel := context.WithCancel(inNamespace())
			measuring := w.stop(t, "GetMetadata")
			result := during(func() error { _, err := p.snap.Usage(ctx, key); return err })
			<-measuring.reached
			p.there(t, key)
			p.mounts(t, "work")
			cancel()
			measuring.goOn()
			wantError(t, <-result, context.Canceled, key)
			p.usage(t, key) // works
		}
		p.ended(t, l)
		p.gone(t, "work", "view", "base")
		p.emptied(t)
	})
}

// Close ends what waits for nothing but time, and waits for what the driver does.
func TestCloseWhileMeasuring(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		furnished(t, p)
		measuring := p.site.watch.stop(t, "GetMetadata")
		result := during(func() error { _, err := p.snap.Usage(inNamespace(), "work"); return err })
		<-measuring.reached
		closed := during(p.snap.Close)
		eventually(t, "calls are refused", func() bool {
			_, err := p.snap.Stat(inNamespace(), "work")
			return errdefs.IsUnavailable(err)
		})
		measuring.goOn()
		wantError(t, <-result, errdefs.ErrUnavailable, "work")
		must(t, <-closed)
	})
}

func TestFailedDriverLeavesNothing(t *testing.T) {
	errDriver := errors.New("no space left, says the test")
	onEachFace(t, func(t *testing.T, p *process) {
		l := furnished(t, p)
		w := p.site.watch
		_, leased := p.lease(t)
		before := p.world(t)
		for _, where := range []string{"Create", "Created"} {
			w.fail(where, errDriver)
			for name, call := range beginnings {
				for _, ctx := range []context.Context{inNamespace(), leased} {
					if err := call(ctx, p.snap); !errors.Is(err, errDriver) {
						t.Errorf("%s: %v", name, err)
					}
				}
			}
			w.fail(where, nil)
			if after := p.world(t); !after.equal(before) {
				t.Errorf("before:\n%v\nafter:\n%v", before, after)
			}
		}
		// Where the directory cannot be deleted either, it goes later.
		w.fail("Created", errDriver)
		w.fail("Remove", errDriver)
		wantError(t, p.snap.Prepare(leased, "new", "base"), errDriver, `"new"`)
		w.fail("Created", nil)
		must(t, p.snap.Prepare(leased, "new", "base"))
		p.write(t, p.mounts(t, "new"), "file", "")
		if n := len(p.site.directories(t)); n != len(before.directories)+2 {
			t.Errorf("%d directories, want the %d before, that of the new snapshot and what failed", n, len(before.directories))
		}
		w.fail("Remove", nil)
		p.site.settled(t, "new")
		if files := p.files(t, p.mounts(t, "new")); fmt.Sprint(files) != "[base file]" {
			t.Errorf("the snapshot made anew holds %q after the removal of what had failed", files)
		}
		p.ended(t, l)
		p.gone(t, "work", "view")
	})
}

// overlay2 makes the directory of a layer too deep, then notices, deletes the
// directory and leaves the link to it.
func TestTooDeepLeavesNothing(t *testing.T) {
	s := newSite(t, "overlay2")
	p := s.open(t)
	l, ctx := p.lease(t)
	parent := ""
	var before world
	for depth := 1; ; depth++ {
		before = p.world(t)
		key, name := fmt.Sprintf("key-%d", depth), fmt.Sprintf("layer-%d", depth)
		err := p.snap.Prepare(inNamespace(), key, parent)
		if depth <= 128 && err != nil || depth > 200 && err == nil {
			t.Fatalf("prepare on %d layers: %v", depth-1, err)
		}
		if err != nil {
			wantError(t, err, err, fmt.Sprintf("%q", key))
			break
		}
		must(t, p.snap.Commit(ctx, name, key))
		parent = name
	}
	if after := p.world(t); !after.equal(before) {
		t.Errorf("before:\n%v\nafter:\n%v", before, after)
	}
	p.ended(t, l)
	p.gone(t, "layer-1")
	p.emptied(t)
}
