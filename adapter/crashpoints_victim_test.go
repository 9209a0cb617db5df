//go:build crashpoints

package adapter

// The process that dies.

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/layer"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
	"github.com/graphsnap/graphsnap/engine"
)

// TestProcessThatDiesAtACrashPoint is that process.
func TestProcessThatDiesAtACrashPoint(t *testing.T) {
	text := os.Getenv(crashOrder)
	if text == "" {
		t.Skip("it has to be killed: TestKilledAtEachCrashPoint runs it")
	}
	v := &victim{}
	must(t, json.Unmarshal([]byte(text), &v.order))
	unix.Umask(0) // as BuildKit has it
	v.site = &site{driver: v.order.Driver, root: v.order.Root}
	if v.order.Opening {
		v.open(t)
	}
	if _, err := os.Stat(v.note(fileScene)); err == nil {
		v.compare(t)
	}
	if t.Failed() || v.order.Scene == "" {
		return
	}
	for _, name := range []string{fileAnswered, fileMissed, fileOver} {
		must(t, os.RemoveAll(v.note(name)))
	}
	writeJSON(t, v.note(fileScene), v.order.Scene)
	v.act(t)
}

// victim is a process that does something and dies.
type victim struct {
	*site
	order assignment
	mu    sync.Mutex
	armed bool
	calls int // between their two points
	all   []moment
	nth   map[moment]int
}

// act does the operation, and dies at its moment or at the end.
func (v *victim) act(t *testing.T) {
	sc := sceneOf(t, v.order.Scene)
	d := v.raise(t, sc)
	if sc.run != nil {
		v.knows(t, d.driver)
		d.stage(t)
	}
	if sc.prepare != nil {
		sc.prepare(t, d)
	}
	if sc.run == nil { // it leaves something to recover
		writeJSON(t, v.note(fileBefore), d.looked(t))
		if sc.closes {
			must(t, d.closed())
		}
		if sc.anew {
			must(t, os.Remove(v.path("snapshots.db")))
		}
		die()
	}
	d.barrier(t)
	writeJSON(t, v.note(fileBefore), d.looked(t))
	if !sc.unsynced {
		must(t, v.synced())
	}
	v.arm(t)
	must(t, sc.run(t, d))
	must(t, os.WriteFile(v.note(fileAnswered), nil, 0o600))
	if !sc.closes {
		eventually(t, "work in the background is over", func() bool {
			return !slices.ContainsFunc(sc.gone, func(key string) bool { return !d.absent(key) }) && v.idle(t, d)
		})
		d.barrier(t)
	}
	v.end(t, d, sc)
}

// knows has the driver try what the kernel can, which overlay2 does when it first needs
// to know, and leaves what it tried with where it is cut short. Then all that is there is
// on the disk.
func (v *victim) knows(t *testing.T, d graphdriver.Driver) {
	t.Helper()
	_ = d.Status()
	must(t, v.synced())
}

// open opens the site, and dies at its moment or when recovery is over.
func (v *victim) open(t *testing.T) {
	must(t, errors.Join(os.RemoveAll(v.note(fileMissed)), os.RemoveAll(v.note(fileOver))))
	sc := sceneOf(t, v.order.Scene)
	store := v.store(t)
	v.knows(t, driverOf(store))
	v.arm(t)
	d := v.raiseOn(t, store, sc)
	eventually(t, "work in the background is over", func() bool { return v.idle(t, d) })
	if !sc.anew {
		d.barrier(t)
	}
	v.end(t, d, sc)
}

// arm has the process die at its moment, from now on.
func (v *victim) arm(t *testing.T) {
	t.Helper()
	v.armed, v.nth = true, map[moment]int{}
	crashpoint.Hook(func(point string, done bool) error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if !v.armed {
			return nil
		}
		if v.calls++; done {
			v.calls -= 2
		}
		m := moment{Point: point, Done: done}
		v.nth[m]++
		m.Nth = v.nth[m]
		v.all = append(v.all, m)
		if m == v.order.At {
			die()
		}
		return nil
	})
	if v.order.Calls {
		beWatched(t)
	}
}

// idle tells whether nothing is going on in the background, as far as one can see.
func (v *victim) idle(t *testing.T, d *daemon) bool {
	if len(d.orphans(t)) > 0 {
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.calls <= 0
}

// end is reached by a process that did not die at its moment.
func (v *victim) end(t *testing.T, d *daemon, sc scene) {
	v.mu.Lock()
	v.armed = false
	v.mu.Unlock()
	must(t, os.WriteFile(v.note(fileOver), nil, 0o600))
	if v.order.At != (moment{}) {
		must(t, os.WriteFile(v.note(fileMissed), nil, 0o600))
		die()
	}
	writeJSON(t, v.note(fileMoments), v.all)
	var after appearance
	if sc.closes && sc.run != nil {
		readJSON(t, v.note(fileBefore), &after)
	} else {
		after = d.looked(t)
	}
	writeJSON(t, v.note(fileAfter), after)
	die()
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func sceneOf(t *testing.T, name string) scene {
	t.Helper()
	for _, sc := range append(slices.Clone(scenes), ends...) {
		if sc.name == name {
			return sc
		}
	}
	t.Fatalf("there is no scene %q", name)
	return scene{}
}

// raise opens the site as a daemon with a layer store does.
func (s *site) raise(t *testing.T, sc scene) *daemon {
	t.Helper()
	return s.raiseOn(t, s.store(t), sc)
}

func (s *site) store(t *testing.T) layer.Store {
	t.Helper()
	store, err := layer.NewStoreFromOptions(layer.StoreOptions{Root: s.root, GraphDriver: s.driver})
	must(t, err)
	return store
}

func driverOf(store layer.Store) graphdriver.Driver {
	return store.(interface{ Driver() graphdriver.Driver }).Driver()
}

func (s *site) raiseOn(t *testing.T, store layer.Store, sc scene) *daemon {
	t.Helper()
	opt := Opt{
		GraphDriver:   driverOf(store),
		LayerStore:    store,
		OverlayMounts: sc.overlays,
		Engine:        append([]engine.Option{engine.WithGrace(0)}, sc.options...),
	}
	if sc.byCall {
		return &daemon{process: s.startWithoutLeases(t, opt), store: store}
	}
	p, err := s.start(t, opt)
	must(t, err)
	return &daemon{process: p, store: store}
}

// startWithoutLeases is start for an engine on which Remove works: there is no lease
// manager.
func (s *site) startWithoutLeases(t *testing.T, opt Opt) *process {
	t.Helper()
	w, err := newDriver(opt.GraphDriver, DriverOpt{OverlayMounts: opt.OverlayMounts})
	must(t, err)
	e, err := engine.Open(t.Context(), engine.Config{Driver: w, Root: s.root, Name: "default"}, opt.Engine...)
	must(t, err)
	p := &process{site: s, driver: opt.GraphDriver, snap: &snapshotter{engine: e, name: "default"}}
	p.closed = sync.OnceValue(e.Close)
	t.Cleanup(func() { p.close(t) })
	return p
}

func writeJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := json.Marshal(v)
	must(t, err)
	must(t, os.WriteFile(path, text, 0o600))
}

func readJSON(t *testing.T, path string, v any) {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, json.Unmarshal(text, v))
}
