package adapter

// Each inconsistency is planted alone on a site that a real engine made, and must be
// found, be mended by whoever the report says mends it, and cost nothing beside.

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/errdefs"
	"github.com/docker/docker/layer"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/engine"
)

// check compares what is on the site, which nobody may have open.
func (s *site) check(t testing.TB) *CheckReport {
	t.Helper()
	r, err := s.tryCheck(t)
	must(t, err)
	return r
}

func (s *site) tryCheck(t testing.TB) (*CheckReport, error) {
	t.Helper()
	db, err := bolt.Open(s.path("containerdmeta.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	must(t, err)
	defer db.Close()
	opt := CheckOpt{
		Database: s.path("snapshots.db"), Driver: s.driver, Home: s.path(s.driver),
		Leases: ctdmetadata.NewLeaseManager(ctdmetadata.NewDB(db, nil, nil)), Namespace: namespace,
	}
	if layers := s.path("image", s.driver, "layerdb"); isDirectory(layers) {
		opt.LayerDB = layers
	}
	return Check(context.Background(), opt)
}

// find expects findings of a kind, and each to be a line and to have a kind that is
// documented.
func (r *CheckReport) find(t testing.TB, kind string) (found []Finding) {
	t.Helper()
	for _, f := range r.Findings {
		if order(f.Kind) < 0 || strings.Contains(f.String(), "\n") {
			t.Errorf("%v", f)
		}
		if f.Kind == kind {
			found = append(found, f)
		}
	}
	return found
}

func (r *CheckReport) wantConsistent(t testing.TB) {
	t.Helper()
	for _, f := range r.Findings {
		if !f.Note {
			t.Errorf("found: %v", f)
		}
	}
}

// plant writes into snapshots.db what no mutation writes.
func (s *site) plant(t testing.TB, f func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(s.path("snapshots.db"), 0o600, &bolt.Options{Timeout: time.Second})
	must(t, err)
	must(t, errors.Join(db.Update(f), db.Close()))
}

func bucketOf(tx *bolt.Tx, name string, fields ...string) error {
	b, err := tx.CreateBucketIfNotExists([]byte(name))
	for i := 0; err == nil && i < len(fields); i += 2 {
		err = b.Put([]byte(fields[i]), []byte(fields[i+1]))
	}
	return err
}

func TestCheckFindsWhatIsPlanted(t *testing.T) {
	for _, driver := range append(slices.Clone(drivers), "btrfs") {
		for _, c := range plantings {
			if c.drivers != "" && c.drivers != driver {
				continue
			}
			t.Run(driver+"/"+c.name, func(t *testing.T) { c.test(t, driver) })
		}
	}
}

func (c *planted) test(t *testing.T, driver string) {
	s := newSite(t, driver)
	if driver == "btrfs" {
		must(t, os.Mkdir(s.path(driver), 0o700))
		mountDisk(t, s.path(driver), 128, "mkfs.btrfs", "-q")
		// The disk goes first, and then nothing may name what was on it.
		defer func() { must(t, os.Remove(s.path("snapshots.db"))) }()
	}
	strangers := s.mounts(t)
	p := s.open(t)
	l, ctx := p.lease(t)
	p.added(t, l, "half", "half2", "half3")
	for i, name := range []string{"n0", "n1", "n2", "gone"} {
		p.committed(t, ctx, name, []string{"", "n0", "n1", "n0"}[i])
	}
	must(t, p.snap.Prepare(ctx, "act", "n2"))
	p.close(t)
	before := s.check(t)
	before.wantConsistent(t)
	if unmet := before.find(t, "lease-unmet"); before.Snapshots != 5 || len(unmet) != 7 { // with the keys that were committed
		t.Fatalf("%d snapshots, %d keys of leases that are not there: %v", before.Snapshots, len(unmet), before.Findings)
	}

	c.plant(t, s)
	found := s.check(t)
	c.wantFound(t, found)
	if c.remedy == RemedyNone {
		if _, err := found.Repair(context.Background()); err != nil {
			t.Fatal(err)
		}
		c.wantFound(t, s.check(t))
		c.clean(t, s)
	}
	for range 2 { // what is damaged takes a second one
		if found = s.check(t); found.Repairable() {
			backup, err := found.Repair(context.Background())
			if err != nil || backup == "" {
				t.Fatal(backup, err)
			}
		}
	}
	for _, f := range s.check(t).Findings {
		if !f.Note && f.Remedy != RemedyStart {
			t.Errorf("after the repair: %v", f)
		}
	}

	p = s.open(t, engine.WithGrace(0))
	for _, key := range []string{"n0", "n1", "n2", "act", "gone"} {
		if slices.Contains(c.lost, key) != p.absent(key) {
			t.Errorf("%q is absent: %v", key, p.absent(key))
		}
	}
	for _, key := range c.lost {
		if !p.absent(key) {
			t.Errorf("%q is there still", key)
		}
	}
	if files := p.files(t, p.mounts(t, "act")); !slices.Equal(files, []string{"n0", "n1", "n2"}) {
		t.Errorf("the snapshots that were sound hold %q", files)
	}
	must(t, p.snap.Prepare(ctx, "more", "n2"))
	eventually(t, "what was to be deleted is", func() bool { return p.snap.engine.Pending().Directories == 0 })
	p.close(t)
	if points := s.mounts(t); !slices.Equal(points, strangers) {
		t.Errorf("mounted: %q", points)
	}
	s.check(t).wantConsistent(t)
}

func (c *planted) wantFound(t *testing.T, r *CheckReport) {
	t.Helper()
	for _, f := range r.find(t, c.kind) {
		if c.key != "" && f.Key != c.key {
			continue
		}
		if f.Remedy != c.remedy || f.Note != c.note {
			t.Errorf("found: %+v, want remedy %s and note %v", f, c.remedy, c.note)
		}
		line, _ := json.Marshal(f)
		for _, has := range []string{f.String(), string(line)} {
			if !strings.Contains(has, c.kind) || !strings.Contains(has, c.key) {
				t.Errorf("%q does not tell %q of %q", has, c.kind, c.key)
			}
		}
		if r.Consistent() != c.note {
			t.Errorf("consistent: %v", r.Consistent())
		}
		return
	}
	t.Errorf("not found: %s of %q in %v", c.kind, c.key, r.Findings)
}

func TestCheckFindsWhatNoLeaseNames(t *testing.T) {
	s := newSite(t, "overlay2")
	p := s.open(t)
	l, ctx := p.lease(t)
	kept, keptCtx := p.lease(t)
	p.committed(t, keptCtx, "kept", "")
	p.committed(t, ctx, "below", "")
	p.committed(t, ctx, "above", "below")
	must(t, p.prevLM.Delete(inNamespace(), leases.Lease{ID: l.ID}))
	p.close(t)
	r := s.check(t)
	if f := r.find(t, "snapshot-unleased"); len(f) != 1 || f[0].Key != "above" || f[0].Remedy != RemedyStart || r.Repairable() {
		t.Errorf("found: %v", r.Findings)
	}
	p = s.open(t, engine.WithGrace(0))
	p.gone(t, "above", "below")
	p.there(t, "kept")
	_ = kept
	eventually(t, "the directories are deleted", func() bool { return p.snap.engine.Pending().Directories == 0 && len(s.directories(t)) == 1 })
	p.close(t)
	s.check(t).wantConsistent(t)
}

// With a layer store, what is in the driver's home may be an image's or a container's.
func TestCheckBesideALayerStore(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			s := newSite(t, driver)
			d := s.daemon(t, nil)
			l, ctx := d.lease(t)
			image := d.image(t, "base", "top")
			_, err := d.store.CreateRWLayer("container", image[1].ChainID(), nil)
			must(t, err)
			d.added(t, l, idOf(image[1]))
			d.committed(t, ctx, "n", idOf(image[1]))
			d.ensure(t, "n")
			chainID := idOf(d.layer(t, "n"))
			d.close(t)
			s.check(t).wantConsistent(t)

			made("stray")(t, s)
			r := s.check(t)
			if f := r.find(t, "directory-unnamed"); len(f) != 1 || f[0].GraphID != "stray" || f[0].Remedy != RemedyNone || r.Repairable() {
				t.Errorf("found: %v", r.Findings)
			}
			must(t, s.openDriver(t).Remove("stray"))

			s.loses(t, chainID)
			r = s.check(t)
			if f := r.find(t, "layer-gone"); len(f) != 1 || f[0].Key != "n" || f[0].Remedy != RemedyStart {
				t.Errorf("found: %v", r.Findings)
			}
			d = s.daemon(t, func(store layer.Store) {
				_, err := store.Get(image[1].ChainID())
				must(t, err)
			})
			d.there(t, "n")
			d.close(t)
			s.check(t).wantConsistent(t)

			must(t, s.openDriver(t).Remove(cacheID(image[0])))
			if f := s.check(t).find(t, "layer-directory-missing"); len(f) != 1 || f[0].Key != idOf(image[0]) || f[0].Remedy != RemedyNone {
				t.Errorf("found: %v", f)
			}
			s.loses(t, idOf(image[1]))
			s.loses(t, idOf(image[0]))
			r = s.check(t)
			if f := r.find(t, "layer-gone"); len(f) != 1 || f[0].Key != idOf(image[1]) {
				t.Errorf("found: %v", r.Findings)
			}
			d = s.daemon(t, nil)
			d.gone(t, "n")
			eventually(t, "the directory is deleted", func() bool { return d.snap.engine.Pending().Directories == 0 })
			d.close(t)
			for _, dir := range s.directories(t) { // the layers' and the container's, of which the layer store knows no more
				must(t, s.openDriver(t).Remove(dir))
			}
			must(t, os.RemoveAll(s.path("image")))
			for link := range s.links(t) {
				must(t, os.Remove(s.path(s.driver, "l", link)))
			}
		})
	}
}

func TestCheckOfARunningDaemon(t *testing.T) {
	s := newSite(t, "vfs")
	p := s.open(t)
	opt := CheckOpt{Database: s.path("snapshots.db"), Driver: "vfs", Home: s.path("vfs")}
	if _, err := Check(context.Background(), opt); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), s.path("snapshots.db")) {
		t.Errorf("got %v", err)
	}
	p.close(t)
	if _, err := Check(context.Background(), CheckOpt{Database: filepath.Join(s.root, "none.db"), Driver: "vfs", Home: s.path("vfs")}); !errdefs.IsNotFound(err) {
		t.Errorf("no database: %v", err)
	}
}
