package powerloss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/sirupsen/logrus"

	"github.com/graphsnap/graphsnap/persist"
)

// P1, P2 and P3 for the directories of a driver that stacks and of one that copies:
// what is acknowledged is recorded, so it is there after a power loss, whatever that
// leaves of the directories. And then a power loss in the recovery, with the same result.
func TestDirectoriesAfterAPowerLoss(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs"} {
		for _, synced := range []string{"synced", "not synced"} {
			t.Run(driver+"/"+synced, func(t *testing.T) {
				c := newCutter(t, driver, synced == "synced")
				recorded := newSite(t, driver)
				r := record(t, recorded.root, "builds", driver, synced)
				images := c.cut(t, r, powerlosses(3))
				t.Logf("%d images of %d writes and changes of directories, %d syncs", images, len(r.ops), len(r.syncs))

				images = 0
				moments := r.moments()
				for range powerlosses(3) {
					m := moments[c.random.IntN(len(moments))]
					fates := make([]fate, len(m.pending))
					for i := range fates {
						fates[i] = fate(c.random.IntN(2))
					}
					must(t, restarted(m.image(fates, c.random), "first").layOut(recorded.root))
					r := record(t, recorded.root, "recovers", driver)
					c.before = m.acknowledged()
					images += c.cut(t, r, powerlosses(2))
				}
				t.Logf("%d images of recoveries", images)
			})
		}
	}
}

// newSite makes a site that nobody has used, all of which is on the disk.
func newSite(t *testing.T, driver string) place {
	t.Helper()
	p := place{inMemory(t), driver}
	d, err := p.openDriver()
	must(t, err)
	s, err := p.open(d)
	must(t, err)
	b := build{s, io.Discard}
	must(t, b.lease("of something else")) // where there is none at all nothing is ever removed
	must(t, s.close())
	return p
}

// cutter opens images on a driver of its own, at the same place each.
type cutter struct {
	place
	opened graphdriver.Driver
	synced bool // Commit syncs contents
	random *rand.Rand
	before []string // lines that were acknowledged before the recording
}

func newCutter(t *testing.T, driver string, synced bool) *cutter {
	p := newSite(t, driver)
	d, err := p.openDriver()
	must(t, err)
	return &cutter{place: p, opened: d, synced: synced, random: rand.New(rand.NewPCG(1, 2))}
}

func (c *cutter) cut(t *testing.T, r *recording, limit int) (images int) {
	t.Helper()
	for _, m := range r.moments() {
		lines := slices.Concat(c.before, m.acknowledged())
		m.images(limit, c.random, func(fates []fate) {
			images++
			must(t, restarted(m.image(fates, c.random), "second").layOut(c.root))
			if err := c.check(lines); err != nil {
				t.Fatalf("%s\nacknowledged: %q\n%v", m.describe(fates), lines, err)
			}
		})
	}
	return images
}

// restarted makes the database one of another run of the machine.
func restarted(n *node, run string) *node {
	db := n.names["snapshots.db"]
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if db != nil && err == nil {
		id := bytes.TrimSpace(boot)
		other := bytes.Repeat([]byte{run[0]}, len(id))
		db.data = bytes.ReplaceAll(db.data, id, other)
	}
	return n
}

// reports collects what is logged as an error.
type reports struct{ strings.Builder }

func (r *reports) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }
func (r *reports) Fire(e *logrus.Entry) error {
	fmt.Fprintf(r, "%s %q %v\n", e.Message, e.Data["key"], e.Data["error"])
	return nil
}

// check opens what is there and holds it against what was acknowledged. It ends with
// nothing left.
func (c *cutter) check(lines []string) error {
	said := &reports{}
	old := log.L.Logger.ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: {said}})
	defer log.L.Logger.ReplaceHooks(old)
	s, err := c.open(c.opened)
	if err != nil {
		return err
	}
	seen, err := c.there(s, lines, said)
	err = errors.Join(err, c.goesOn(s, lines, seen), s.close(), c.recorded(seen))
	if err != nil {
		return fmt.Errorf("%w\nlogged:\n%s", err, said.String())
	}
	// Once more, to see that it stays so, and to end it.
	if s, err = c.open(c.opened); err != nil {
		return err
	}
	all, err := s.leases.List(inNamespace())
	for _, l := range all {
		err = errors.Join(err, s.leases.Delete(inNamespace(), leases.Lease{ID: l.ID}))
	}
	return errors.Join(err, eventually(func() error { return c.onlyDirectories() }), s.close())
}

// there checks that what was acknowledged is there, and returns all that is.
func (c *cutter) there(s *site, lines []string, said *reports) (map[string]snapshots.Info, error) {
	seen := map[string]snapshots.Info{}
	err := s.snap.Walk(context.Background(), func(_ context.Context, i snapshots.Info) error {
		seen[i.Name] = i
		return nil
	})
	for key, want := range acknowledged(lines) {
		have, ok := seen[key]
		switch {
		case want.lost(seen):
			if ok {
				err = errors.Join(err, fmt.Errorf("%q is there and its parent %q is not", key, want.Parent))
			}
		case !ok && want.Kind == snapshots.KindCommitted && !c.synced:
			if !strings.Contains(said.String(), fmt.Sprintf("%q", key)) {
				err = errors.Join(err, fmt.Errorf("%q was acknowledged, is gone, and that is not reported", key))
			}
		case !ok:
			err = errors.Join(err, fmt.Errorf("%q was acknowledged and is gone", key))
		case have.Kind != want.Kind || have.Parent != want.Parent || have.Labels["label"] != want.Labels["label"]:
			err = errors.Join(err, fmt.Errorf("%q is %+v, was acknowledged as %+v", key, have, want.Info))
		}
		if !ok && err == nil {
			if _, stat := s.snap.Stat(context.Background(), key); !errdefs.IsNotFound(stat) {
				err = fmt.Errorf("%q is not listed; Stat: %w", key, stat)
			}
		}
	}
	return seen, err
}

// wanted is what was acknowledged of a snapshot.
type wanted struct {
	snapshots.Info
	lease string
}

// lost tells whether what it stands on is gone.
func (w *wanted) lost(seen map[string]snapshots.Info) bool {
	_, ok := seen[w.Parent]
	return w.Parent != "" && !ok
}

// acknowledged are the snapshots that must be there.
func acknowledged(lines []string) map[string]wanted {
	all := map[string]wanted{}
	for _, line := range lines {
		if lease, ok := strings.CutPrefix(line, "ending "); ok {
			for key, w := range all {
				if w.lease == lease {
					delete(all, key) // it may be there or not
				}
			}
		}
		f := strings.Split(line, "\t")
		if len(f) != 4 || f[3] == noLease {
			continue
		}
		w := wanted{snapshots.Info{Name: f[1], Kind: snapshots.KindActive, Parent: f[2]}, f[3]}
		switch f[0] {
		case "viewed":
			w.Kind, w.Labels = snapshots.KindView, map[string]string{"label": f[1]}
		case "committing":
			delete(all, f[1])
			continue
		case "committed":
			w.Kind, w.Parent = snapshots.KindCommitted, f[2]
		}
		all[f[1]] = w
	}
	return all
}

// goesOn uses what is there and is to stay: each snapshot can be mounted, and built on.
func (c *cutter) goesOn(s *site, lines []string, seen map[string]snapshots.Info) (err error) {
	b := build{s, io.Discard}
	for key := range acknowledged(lines) {
		info, ok := seen[key]
		if !ok {
			continue
		}
		on := key
		if info.Kind != snapshots.KindCommitted {
			on = info.Parent
			m, mounts := s.snap.Mounts(context.Background(), key)
			if mounts == nil {
				_, release, mount := m.Mount()
				if mounts = mount; mount == nil {
					mounts = release()
				}
			}
			err = errors.Join(err, mounts)
		}
		if c.random.IntN(3) == 0 {
			err = errors.Join(err, b.prepare(noLease, "on-"+key, on))
		}
	}
	return err
}

// recorded compares the directories with the records, when nobody has them open.
func (c *cutter) recorded(seen map[string]snapshots.Info) error {
	db, err := persist.Open(context.Background(), filepath.Join(c.root, "snapshots.db"), persist.Options{})
	if err != nil {
		return err
	}
	defer db.Close()
	records, named := map[string]persist.Record{}, map[string]string{}
	err = db.Load(
		func(r persist.Record) error {
			records[r.Key] = r
			if r.GraphID != "" {
				named[r.GraphID] = r.Key
			}
			return nil
		},
		func(r persist.Removal) error { named[r.GraphID] = "a removal"; return nil },
		nil,
	)
	if err != nil {
		return err
	}
	ids, links, err := c.directories()
	for _, id := range ids {
		if named[id] == "" {
			err = errors.Join(err, fmt.Errorf("no record names the directory %q", id))
		}
	}
	for link, id := range links {
		if named[id] == "" {
			err = errors.Join(err, fmt.Errorf("the link %q leads to %q, which no record names", link, id))
		}
	}
	for key := range seen {
		if r := records[key]; r.GraphID != "" {
			err = errors.Join(err, c.whole(r, records))
		}
	}
	return err
}

// whole checks what was written into a committed snapshot, and what the driver made of
// its parents: the files by which overlay2 knows what to stack, or a copy.
func (c *cutter) whole(r persist.Record, records map[string]persist.Record) error {
	read := func(id, name string) string {
		b, _ := os.ReadFile(filepath.Join(c.home(), id, name))
		return string(b)
	}
	held := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(c.holds(r.GraphID), name))
		return string(b)
	}
	if c.synced && r.Kind == persist.Committed && r.Key != "base-again" && held(r.Key) != r.Key {
		return fmt.Errorf("%q has not what was written into it", r.Key)
	}
	if c.copies() {
		for on := r.Parent; on != ""; on = records[on].Parent {
			if held(on) != on {
				return fmt.Errorf("%q has not what was written into %q", r.Key, on)
			}
		}
		return nil
	}
	link := func(id string) string { return filepath.Join("l", read(id, "link")) }
	if target, err := os.Readlink(filepath.Join(c.home(), link(r.GraphID))); err != nil || target != "../"+r.GraphID+"/diff" {
		return fmt.Errorf("the link %q of %q leads to %q, %w", link(r.GraphID), r.Key, target, err)
	}
	var want []string
	for on := r.Parent; on != ""; on = records[on].Parent {
		want = append(want, link(records[on].GraphID))
	}
	if have := read(r.GraphID, "lower"); have != strings.Join(want, ":") {
		return fmt.Errorf("%q stands on %q, not on %q", r.Key, have, want)
	}
	return nil
}
