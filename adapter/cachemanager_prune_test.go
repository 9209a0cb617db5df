package adapter

// Prune and expiry beside builds.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/graphsnap/graphsnap/engine"
)

// P5: leases that go without a call of Delete are noticed: those that expire, and
// those that somebody deletes behind the snapshotter's back.
func TestP5ExpiredLeaseReleases(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s, engine.WithLeaseSweep(20*time.Millisecond))
		lasting, ctx := w.lease(t)
		expiring, soon := w.lease(t, leases.WithExpiration(time.Second))
		if err := w.snap.Prepare(ctx, "both", ""); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"both", "expiring"} {
			if err := w.lm.AddResource(soon, expiring, resource(key)); err != nil {
				t.Fatal(err)
			}
		}
		// It may expire before this returns; so there is nothing to check of it yet.
		if err := w.snap.Prepare(soon, "expiring", ""); err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		w.collectUntilGone(t, expiring)
		eventually(t, "what only the expired lease named removed", func() bool {
			return slices.Equal(w.keys(t), []string{"both"}) && slices.Equal(s.directories(t), []string{"both"})
		})

		// containerd's own lease manager tells nobody.
		if err := w.prevLM.Delete(ctx, lasting); err != nil {
			t.Fatal(err)
		}
		eventually(t, "what the deleted lease named removed", func() bool { return len(w.keys(t)) == 0 })
		w.eventuallyEmpty(t)
	})
}

// Many builds at once, with prune beside them: what a build holds a reference to is
// there, whatever prune does.
func TestRefsBesidePrune(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		desc := w.blob(t, tree{"base": "image"}, true, nil)

		pruning, stop := context.WithCancel(context.Background())
		pruned := make(chan struct{})
		go func() {
			defer close(pruned)
			for pruning.Err() == nil {
				ch := make(chan client.UsageInfo, 1000) // more than there can be records
				if err := w.cm.Prune(inNamespace(), ch, client.PruneInfo{All: true}); err != nil {
					t.Errorf("prune: %v", err)
					return
				}
			}
		}()

		var builds errgroup.Group
		for build := range 6 {
			builds.Go(func() error {
				for step := range 4 {
					if err := w.build(desc, fmt.Sprintf("file%d.%d", build, step)); err != nil {
						return fmt.Errorf("build %d, step %d: %w", build, step, err)
					}
				}
				return nil
			})
		}
		if err := builds.Wait(); err != nil {
			t.Error(err)
		}
		stop()
		<-pruned
		w.eventuallyEmpty(t)
	})
}

// build unpacks an image, writes a file on top of it, and looks at the result.
func (w *worker) build(desc ocispecs.Descriptor, name string) (err error) {
	ctx := inNamespace()
	drop := func(ref cache.Ref) { err = errors.Join(err, ref.Release(ctx)) }
	base, err := w.cm.GetByBlob(ctx, desc, nil)
	if err != nil {
		return err
	}
	defer drop(base)
	active, err := w.cm.New(ctx, base, nil)
	if err != nil {
		return err
	}
	within := func(ref cache.Mountable, readonly bool, do func(dir string) error) error {
		m, err := ref.Mount(ctx, readonly, nil)
		if err != nil {
			return err
		}
		lm := snapshot.LocalMounter(m)
		dir, err := lm.Mount()
		if err != nil {
			return err
		}
		return errors.Join(do(dir), lm.Unmount())
	}
	err = within(active, false, func(dir string) error {
		return os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
	})
	if err != nil {
		drop(active)
		return err
	}
	built, err := active.Commit(ctx)
	if err != nil {
		drop(active)
		return err
	}
	defer drop(built)
	if err := built.Finalize(ctx); err != nil {
		return err
	}
	return within(built, true, func(dir string) error {
		for file, want := range map[string]string{name: name, "base": "image"} {
			if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
				return fmt.Errorf("%s holds %q, %v", file, got, err)
			}
		}
		return nil
	})
}
