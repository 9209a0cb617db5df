package adapter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/log"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/buildkit/snapshot"
)

// faulty is a driver of which one call fails: before it does anything, when it has done
// everything, or with a panic.
type faulty struct {
	graphdriver.Driver

	mu   sync.Mutex
	call string
	nth  int
	how  string
	seen map[string]int
	met  bool
}

func (d *faulty) arm(call string, nth int, how string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.call, d.nth, d.how, d.seen, d.met = call, nth, how, map[string]int{}, false
}

// tell returns the calls since it was armed, and whether the one that fails was among
// them.
func (d *faulty) tell() (calls map[string]int, met bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.seen), d.met
}

func (d *faulty) around(call string, do func() error) error {
	d.mu.Lock()
	d.seen[call]++
	hit, how := d.call == call && d.seen[call] == d.nth, d.how
	d.met = d.met || hit
	d.mu.Unlock()
	switch {
	case hit && how == "panic":
		panic("injected")
	case hit && how == "before":
		return errors.New("injected")
	}
	err := do()
	if hit {
		err = errors.Join(err, errors.New("injected"))
	}
	return err
}

func (d *faulty) Create(id, parent string, opts *graphdriver.CreateOpts) error {
	return d.around("Create", func() error { return d.Driver.Create(id, parent, opts) })
}

func (d *faulty) Remove(id string) error {
	return d.around("Remove", func() error { return d.Driver.Remove(id) })
}

func (d *faulty) Get(id, label string) (dir string, err error) {
	err = d.around("Get", func() (err error) { dir, err = d.Driver.Get(id, label); return err })
	if err != nil {
		if dir != "" { // a driver whose Get failed has mounted nothing
			err = errors.Join(err, d.Driver.Put(id))
		}
		return "", err
	}
	return dir, nil
}

func (d *faulty) Put(id string) error {
	return d.around("Put", func() error { return d.Driver.Put(id) })
}

func (d *faulty) GetMetadata(id string) (m map[string]string, err error) {
	err = d.around("GetMetadata", func() (err error) { m, err = d.Driver.GetMetadata(id); return err })
	return m, err
}

// lived is a build from the first Prepare to the last use, under the lease of ctx. It
// ends where something fails.
func (p *process) lived(ctx context.Context) error {
	mounted := func(m snapshot.Mountable, err error) error {
		if err != nil {
			return err
		}
		_, release, err := m.Mount()
		if err != nil {
			return err
		}
		return release()
	}
	for what, step := range []func() error{
		func() error { return p.snap.Prepare(ctx, "making", "") },
		func() error { return mounted(p.snap.Mounts(ctx, "making")) },
		func() error { return p.snap.Commit(ctx, "base", "making") },
		func() error { return p.snap.Prepare(ctx, "active", "base") },
		func() error { return mounted(p.snap.Mounts(ctx, "active")) },
		func() error { return mounted(p.snap.View(ctx, "view", "base")) },
		func() error { return mounted(p.snap.View(ctx, "empty", "")) },
		func() error { _, err := p.snap.Usage(ctx, "base"); return err },
		func() error { _, err := p.snap.Usage(ctx, "active"); return err },
		func() error { return p.snap.Commit(ctx, "top", "active") },
		func() error { return mounted(p.snap.View(ctx, "view of top", "top")) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("step %d: %w", what, err)
		}
	}
	return nil
}

// P9 on the real drivers: each call fails in turn in one process, and the build after
// the one that met the fault succeeds. Nothing is left on disk or mounted.
func TestEachCallOfTheDriverFailsInTurn(t *testing.T) {
	level := log.GetLevel()
	must(t, log.SetLevel("panic")) // each fault is logged otherwise
	defer func() { must(t, log.SetLevel(level.String())) }()
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			s := newSite(t, driver)
			d := &faulty{Driver: s.openDriver(t)}
			d.arm("", 0, "")
			p, err := s.start(t, Opt{GraphDriver: d})
			must(t, err)
			build := func() error {
				l, ctx := p.lease(t)
				err := p.lived(ctx)
				p.ended(t, l)
				eventually(t, "no directory and no link is left", func() bool { return len(s.directories(t))+len(s.links(t)) == 0 })
				return err
			}
			d.arm("", 0, "")
			must(t, build())
			counts, _ := d.tell()
			faults := 0
			for call, n := range counts {
				for nth := 1; nth <= n; nth++ {
					for _, how := range []string{"before", "after", "panic"} {
						d.arm(call, nth, how)
						if err := build(); err != nil && !strings.Contains(err.Error(), "injected") {
							t.Errorf("%s %d, %s: %v does not say why", call, nth, how, err)
						}
						if _, met := d.tell(); met {
							faults++
						}
					}
					d.arm("", 0, "")
					if err := build(); err != nil {
						t.Fatalf("after %s %d: %v", call, nth, err)
					}
				}
			}
			if err := p.snap.engine.Err(); err != nil || faults < 30 {
				t.Errorf("%d faults, %v", faults, err)
			}
			t.Logf("%d faults in calls of %v", faults, counts)
		})
	}
}
