package dockerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// Stock dockerd files its leases under the wrong map, so that the end of any
// lease is the end of the snapshot.
func TestLeaseOfTwoKeepsSnapshot(t *testing.T) {
	complaint(t, func(b *builder) error {
		if err := errors.Join(b.commit("first", "shared", "", "x"), b.lease("second", "shared"), b.unlease("first")); err != nil {
			return err
		}
		time.Sleep(200 * time.Millisecond) // a removal is not waited for
		if _, err := b.snapshot.Stat(inNamespace, "shared"); err != nil {
			return fmt.Errorf("the second lease still names the snapshot: %w", err)
		}
		if err := b.unlease("second"); err != nil {
			return err
		}
		return b.emptied()
	})
}

// moby/moby#45939: registration of a layer that is there answers the one that is
// there, with another directory. Stock dockerd forgets its own.
func TestMoby45939IdenticalLayersLeaveNothing(t *testing.T) {
	complaint(t, func(b *builder) error {
		for _, name := range []string{"one", "two"} {
			if err := b.commit("record-"+name, name, "", "the same"); err != nil {
				return err
			}
			if _, err := b.snapshot.EnsureLayer(inNamespace, name); err != nil {
				return err
			}
		}
		one, err1 := b.snapshot.GetLayer("one")
		two, err2 := b.snapshot.GetLayer("two")
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if one.ChainID() != two.ChainID() {
			return fmt.Errorf("the same files became layers %s and %s", one.ChainID(), two.ChainID())
		}
		if err := b.unlease("record-one", "record-two"); err != nil {
			return err
		}
		return b.emptied()
	})
}

// moby/moby#40858: dockerd asks for layers by the ID of a record, which stock
// dockerd takes for that of a snapshot, "can not convert active".
func TestMoby40858LayersByRecordID(t *testing.T) {
	complaint(t, func(b *builder) error {
		if err := errors.Join(b.commit("record-below", "below", "", "x"), b.commit("record", "above", "below", "y")); err != nil {
			return err
		}
		if l, err := b.snapshot.GetLayer("record"); l != nil || err != nil {
			return fmt.Errorf("layer before there is one: %v, %v", l, err)
		}
		diffIDs, err := b.snapshot.EnsureLayer(inNamespace, "record")
		if err != nil {
			return err
		}
		if len(diffIDs) != 2 {
			return fmt.Errorf("%d diff IDs of a chain of two", len(diffIDs))
		}
		again, err := b.snapshot.GetDiffIDs(inNamespace, "record")
		if err != nil || !slices.Equal(again, diffIDs) {
			return fmt.Errorf("diff IDs %v when made and %v later, %v", diffIDs, again, err)
		}
		if l, err := b.snapshot.GetLayer("record"); l == nil || err != nil {
			return fmt.Errorf("layer of the record: %v, %v", l, err)
		}
		if err := b.unlease("record", "record-below"); err != nil {
			return err
		}
		return b.emptied()
	})
}

// Stock dockerd's view is the snapshot itself, mounted writable.
func TestViewCannotBeWrittenThrough(t *testing.T) {
	complaint(t, func(b *builder) error {
		if err := errors.Join(b.commit("record", "name", "", "x"), b.lease("view", "view")); err != nil {
			return err
		}
		view, err := b.snapshot.View(inNamespace, "view", "name")
		if err != nil {
			return err
		}
		return b.mounted(view, func(dir string) error {
			if err := os.WriteFile(filepath.Join(dir, "file"), []byte("changed"), 0o600); err == nil {
				return errors.New("a write into a view succeeds")
			}
			return nil
		})
	})
}

// A view of a layer is a new read-write layer for each holder with stock dockerd.
func TestViewsOfLayerShareOneMount(t *testing.T) {
	complaint(t, func(b *builder) error {
		if err := b.commit("record", "name", "", "x"); err != nil {
			return err
		}
		if _, err := b.snapshot.EnsureLayer(inNamespace, "name"); err != nil {
			return err
		}
		l, err := b.snapshot.GetLayer("name")
		if err != nil {
			return err
		}
		borrowed := l.ChainID().String()
		if err := b.lease("image", borrowed); err != nil {
			return err
		}
		before := b.directories()
		var roots []string
		for _, key := range []string{"view-1", "view-2"} {
			if err := b.lease(key, key); err != nil {
				return err
			}
			view, err := b.snapshot.View(inNamespace, key, borrowed)
			if err != nil {
				return err
			}
			mounts, release, err := view.Mount()
			if err != nil {
				return err
			}
			defer release()
			roots = append(roots, mounts[0].Source)
		}
		if now := b.directories(); !slices.Equal(now, before) {
			return fmt.Errorf("two views made directories: %q, before %q", now, before)
		}
		if roots[0] != roots[1] {
			return fmt.Errorf("views at %q and %q", roots[0], roots[1])
		}
		return nil
	})
}

// Stock dockerd's Walk yields nothing.
func TestWalkYieldsSnapshots(t *testing.T) {
	complaint(t, func(b *builder) error {
		if err := b.commit("record", "name", "", "x"); err != nil {
			return err
		}
		var names []string
		err := b.snapshot.Walk(inNamespace, func(_ context.Context, info snapshots.Info) error {
			names = append(names, info.Name)
			return nil
		})
		if err != nil || !slices.Equal(names, []string{"name"}) {
			return fmt.Errorf("Walk yields %q, %v", names, err)
		}
		return nil
	})
}

// Stock dockerd ignores labels, at Prepare and in Update.
func TestLabelsAreKept(t *testing.T) {
	complaint(t, func(b *builder) error {
		given := snapshots.WithLabels(map[string]string{"given": "1"})
		if err := errors.Join(b.lease("record", "key"), b.snapshot.Prepare(inNamespace, "key", "", given)); err != nil {
			return err
		}
		info, err := b.snapshot.Stat(inNamespace, "key")
		if err != nil || info.Labels["given"] != "1" {
			return fmt.Errorf("labels after Prepare: %v, %v", info.Labels, err)
		}
		info.Labels["updated"] = "2"
		if _, err := b.snapshot.Update(inNamespace, info, "labels"); err != nil {
			return err
		}
		if info, err = b.snapshot.Stat(inNamespace, "key"); err != nil || info.Labels["updated"] != "2" {
			return fmt.Errorf("labels after Update: %v, %v", info.Labels, err)
		}
		return nil
	})
}

// moby/moby#45939: a Create that overlay2 refuses, here for the depth of its
// chain, leaves a link in l/ that nothing removes.
func TestMoby45939FailedCreateLeavesNothing(t *testing.T) {
	complaint(t, func(b *builder) error {
		parent := ""
		var all []string
		for i := 0; ; i++ {
			if i > 200 {
				return errors.New("overlay2 has no limit of depth any more")
			}
			key := fmt.Sprint("key-", i)
			name := fmt.Sprint("name-", i)
			if err := b.lease("record-"+name, name, key); err != nil {
				return err
			}
			all = append(all, "record-"+name)
			if b.snapshot.Prepare(inNamespace, key, parent) != nil {
				break
			}
			if err := b.snapshot.Commit(inNamespace, name, key); err != nil {
				return err
			}
			parent = name
		}
		slices.Reverse(all)
		if err := b.unlease(all...); err != nil {
			return err
		}
		return b.emptied()
	})
}

// The builder looks for an image's layers and lets go of them before it leases
// them. Where they go in between, stock dockerd leases what is not there, and the
// build fails with "unlazy requires an applier".
func TestLeaseOfLayerThatIsGoneNamesIt(t *testing.T) {
	complaint(t, func(b *builder) error {
		if err := writeRecords(filepath.Join(b.root, "metadata_v2.db"), func(*bolt.Bucket) error { return nil }); err != nil {
			return err
		}
		gone := digest.FromString("gone").String()
		if _, err := b.leases.Create(inNamespace, leases.WithID("record")); err != nil {
			return err
		}
		err := b.leases.AddResource(inNamespace, leases.Lease{ID: "record"}, leases.Resource{ID: gone, Type: "snapshots/default"})
		if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), gone) {
			return fmt.Errorf("AddResource answers %v", err)
		}
		rr, err := b.leases.ListResources(inNamespace, leases.Lease{ID: "record"})
		if err != nil || len(rr) > 0 {
			return fmt.Errorf("the lease names %v, %v", rr, err)
		}
		return nil
	})
}
