package adapter

// Snapshots that are made layers: what is computed, by whom, how often, and what a
// failure leaves.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/layer"

	"github.com/graphsnap/graphsnap/engine"
)

// stack makes n committed snapshots on top of each other, with names of prefix and a
// number, and returns the names, lowest first.
func (d *daemon) stack(t testing.TB, ctx context.Context, prefix, parent string, n int) (names []string) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("%s%d", prefix, i)
		d.committed(t, ctx, name, parent)
		names = append(names, name)
		parent = name
	}
	return names
}

// diffs is how often the contents of a snapshot were read to make a layer.
func (d *daemon) diffs(name string) int { return d.watch.count("Diff making-" + name) }

func TestEnsureLayerOfAChain(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		base := d.image(t, "base")
		l, ctx := d.lease(t)
		names := d.stack(t, ctx, "n", idOf(base[0]), 10)
		top := names[9]
		if got := d.layer(t, top); got != nil {
			t.Fatalf("it is a layer before it was made one: %v", got)
		}
		ids := d.ensure(t, top)

		want := []layer.DiffID{base[0].DiffID()}
		parent := cacheID(base[0])
		for i, name := range names {
			want = append(want, d.checksum(t, "making-"+name, parent))
			parent = "making-" + name
			got := d.layer(t, name)
			if got == nil {
				t.Fatalf("%q is no layer", name)
			}
			if cacheID(got) != parent || got.ChainID() != layer.CreateChainID(want[:i+2]) {
				t.Errorf("%q is the layer %v of directory %q", name, got.ChainID(), cacheID(got))
			}
			if n := d.diffs(name); n != 1 {
				t.Errorf("%q was read %d times", name, n)
			}
			u, err := d.snap.Usage(ctx, name)
			must(t, err)
			if u.Size == 0 {
				t.Errorf("the usage of %q is %+v", name, u)
			}
		}
		if !slices.Equal(ids, want) {
			t.Errorf("diff IDs are %v, want %v", ids, want)
		}
		if again := d.ensure(t, top); !slices.Equal(again, want) || d.diffs(top) != 1 {
			t.Errorf("the second time it was read %d times and is %v", d.diffs(top), again)
		}
		if left := entries(t, s.path("tar-split")); len(left) > 0 {
			t.Errorf("temporary files are left: %v", left)
		}

		// dockerd asks by lease.
		record, _ := d.lease(t)
		d.added(t, record, top)
		if got := d.layer(t, record.ID); got == nil || got.ChainID() != d.layer(t, top).ChainID() {
			t.Errorf("by its lease the layer is %v", got)
		}
		if got := d.ensure(t, record.ID); !slices.Equal(got, want) {
			t.Errorf("by its lease the diff IDs are %v", got)
		}

		// A restart changes nothing of that.
		d.untag(t, base...)
		d.close(t)
		d = s.daemon(t, nil)
		for _, key := range []string{top, record.ID} {
			got, err := d.snap.GetDiffIDs(ctx, key)
			must(t, err)
			if !slices.Equal(got, want) {
				t.Errorf("after a restart the diff IDs of %q are %v", key, got)
			}
		}
		d.ensure(t, top)
		if n := d.watch.count("Diff"); n != 0 {
			t.Errorf("after a restart %d layers were computed again", n)
		}
		if records := d.walked(t); len(records) != 11 {
			t.Errorf("snapshots are %q", records)
		}
		d.ended(t, l, record)
		d.gone(t, names...)
		d.cleared(t)
	})
}

func TestEnsureLayerRefusesWhatIsNotCommitted(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		d.committed(t, ctx, "base", "")
		must(t, d.snap.Prepare(ctx, "active", "base"))
		_, err := d.snap.View(ctx, "view", "base")
		must(t, err)
		nothing, _ := d.lease(t)
		before := d.world(t)
		for key, class := range map[string]error{
			"active":       errdefs.ErrFailedPrecondition,
			"view":         errdefs.ErrFailedPrecondition,
			"unknown":      errdefs.ErrNotFound,
			unknownChain(): errdefs.ErrNotFound,
			nothing.ID:     errdefs.ErrNotFound,
			"":             errdefs.ErrInvalidArgument,
		} {
			_, err := d.snap.EnsureLayer(ctx, key)
			wantError(t, err, class, key)
		}
		if !d.world(t).equal(before) || d.watch.count("Diff") != 0 {
			t.Error("what was refused left something behind")
		}
		// A lease that names several means the one that can be a layer.
		if ids := d.ensure(t, l.ID); len(ids) != 1 {
			t.Errorf("by the lease there are diff IDs %v", ids)
		}
		d.ended(t, l)
		d.gone(t, "active", "view", "base")
		d.cleared(t)
	})
}

// Without a layer store there is nothing to export to.
func TestEnsureLayerWithoutALayerStore(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		p.committed(t, inNamespace(), "base", "")
		_, err := p.snap.EnsureLayer(inNamespace(), "base")
		wantError(t, err, errdefs.ErrFailedPrecondition, "base")
		got, err := p.snap.GetLayer("base")
		if got != nil || err != nil {
			t.Errorf("GetLayer answers %v, %v", got, err)
		}
	})
}

// The layers of a chain are computed side by side: here none could end before
// another began.
func TestEnsureLayerIsParallel(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			d := newSite(t, driver).daemon(t, nil, engine.WithScanParallelism(3))
			l, ctx := d.lease(t)
			var stops []*stop
			for _, name := range d.stack(t, ctx, "n", "", 3) {
				stops = append(stops, d.watch.stop(t, "Diff making-"+name))
			}
			result := during(func() error {
				_, err := d.snap.EnsureLayer(ctx, "n2")
				return err
			})
			for _, s := range stops {
				<-s.reached
			}
			for _, s := range stops {
				s.goOn()
			}
			must(t, <-result)
			d.ended(t, l)
			d.cleared(t)
		})
	}
}

// At most so many directories are read at once.
func TestEnsureLayerIsBounded(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			d := newSite(t, driver).daemon(t, nil, engine.WithScanParallelism(2))
			l, ctx := d.lease(t)
			names := d.stack(t, ctx, "n", "", 6)
			var stops []*stop
			for _, name := range names {
				stops = append(stops, d.watch.stop(t, "Diff making-"+name))
			}
			result := during(func() error {
				_, err := d.snap.EnsureLayer(ctx, names[5])
				return err
			})
			eventually(t, "the whole chain is under way", func() bool {
				return len(entries(t, d.site.path("tar-split"))) == 6 && d.watch.count("Diff") > 1
			})
			if n := d.watch.count("Diff"); n != 2 {
				t.Errorf("%d directories are read at once, want 2", n)
			}
			var reading, most atomic.Int64
			var all sync.WaitGroup
			for _, s := range stops {
				all.Go(func() {
					<-s.reached
					n := reading.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					reading.Add(-1)
					s.goOn()
				})
			}
			all.Wait()
			if n := most.Load(); n > 2 {
				t.Errorf("%d directories were read at once, want 2 at most", n)
			}
			must(t, <-result)
			d.ended(t, l)
			d.cleared(t)
		})
	}
}

// Two exports that share the lower part of their chains read it once.
func TestOverlappingExportsComputeEachLayerOnce(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			d := newSite(t, driver).daemon(t, nil, engine.WithScanParallelism(16))
			l, ctx := d.lease(t)
			shared := d.stack(t, ctx, "shared", "", 4)
			left := d.stack(t, ctx, "left", shared[3], 2)
			right := d.stack(t, ctx, "right", shared[3], 2)
			slow := d.watch.stop(t, "Diff making-"+shared[0])
			var results []<-chan error
			for _, top := range []string{left[1], right[1], left[1], shared[2]} {
				results = append(results, during(func() error {
					ids, err := d.snap.EnsureLayer(ctx, top)
					if err == nil && len(ids) < 3 {
						err = fmt.Errorf("diff IDs of %q are %v", top, ids)
					}
					return err
				}))
			}
			<-slow.reached
			for _, name := range slices.Concat(left, right, shared) {
				eventually(t, name+" is read", func() bool { return d.diffs(name) > 0 })
			}
			slow.goOn()
			for _, r := range results {
				must(t, <-r)
			}
			for _, name := range slices.Concat(left, right, shared) {
				if n := d.diffs(name); n != 1 {
					t.Errorf("%q was read %d times", name, n)
				}
			}
			d.ended(t, l)
			d.cleared(t)
		})
	}
}

// What is written through a mount that is held across Commit is part of the layer.
func TestEnsureLayerWaitsForTheWriter(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		must(t, d.snap.Prepare(ctx, "work", ""))
		held, release := hold(t, d.mounts(t, "work"))
		must(t, d.snap.Commit(ctx, "name", "work"))
		var ids []layer.DiffID
		result := during(func() (err error) {
			ids, err = d.snap.EnsureLayer(ctx, "name")
			return err
		})
		eventually(t, "the export is under way", func() bool { return len(entries(t, s.path("tar-split"))) == 1 })
		// Who writes may want to know how much it is meanwhile.
		_, err := d.snap.Usage(ctx, "name")
		must(t, err)
		must(t, os.WriteFile(filepath.Join(held[0].Source, "late"), []byte("late"), 0o600))
		select {
		case err := <-result:
			t.Fatalf("EnsureLayer did not wait: %v", err)
		default:
		}
		if n := d.watch.count("Diff"); n != 0 {
			t.Errorf("what is written to was read %d times", n)
		}
		must(t, release())
		must(t, <-result)
		if want := d.checksum(t, "work", ""); !slices.Equal(ids, []layer.DiffID{want}) {
			t.Errorf("the diff ID is %v, that of the contents is %v", ids, want)
		}
		d.ended(t, l)
		d.cleared(t)
	})
}

// What is written while the contents are read may be half in what was read: they are
// read again.
func TestEnsureLayerReadsAgainWhatWasWrittenTo(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		for _, stays := range []bool{false, true} {
			name := fmt.Sprint("name-", stays)
			must(t, d.snap.Prepare(ctx, "making-"+name, ""))
			m := d.mounts(t, "making-"+name)
			must(t, d.snap.Commit(ctx, name, "making-"+name))
			slow := d.watch.stop(t, "Diff making-"+name)
			var ids []layer.DiffID
			result := during(func() (err error) {
				ids, err = d.snap.EnsureLayer(ctx, name)
				return err
			})
			<-slow.reached
			held, release := hold(t, m)
			write := func() { must(t, os.WriteFile(filepath.Join(held[0].Source, "late"), []byte(name), 0o600)) }
			if !stays {
				write()
				must(t, release())
			}
			slow.goOn()
			if stays {
				write()
				must(t, release())
			}
			must(t, <-result)
			if n := d.diffs(name); n != 2 {
				t.Errorf("%q was read %d times", name, n)
			}
			if want := d.checksum(t, "making-"+name, ""); !slices.Equal(ids, []layer.DiffID{want}) {
				t.Errorf("the diff ID is %v, that of the contents is %v", ids, want)
			}
		}
		d.ended(t, l)
		d.cleared(t)
	})
}
