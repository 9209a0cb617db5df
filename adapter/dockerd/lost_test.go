package dockerd

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/moby/buildkit/util/leaseutil"
	bolt "go.etcd.io/bbolt"
)

// TestLostRecordsLoseTheirLeases has leases as a crash leaves them: of records
// that the build cache has, of records that it has not, and of others.
func TestLostRecordsLoseTheirLeases(t *testing.T) {
	requireRoot(t)
	flat := leases.WithLabel("containerd.io/gc.flat", "now")
	all := map[string][]leases.Opt{
		"known":          {flat},
		"lost":           {flat},
		"lost-view":      {flat, leaseutil.MakeTemporary},
		"known-variants": nil,
		"foreign":        nil,
	}
	kept := func(t *testing.T, write func(main *bolt.Bucket) error) map[string]bool {
		kept := map[string]bool{}
		err := onBuilder(t, newRoot(t), newSnapshotter, func(b *builder) error {
			path := filepath.Join(b.root, "metadata_v2.db")
			if write != nil {
				if err := writeRecords(path, write); err != nil {
					return err
				}
			}
			for id, opts := range all {
				if _, err := b.leases.Create(inNamespace, append(opts, leases.WithID(id))...); err != nil {
					return err
				}
			}
			if err := endLostLeases(inNamespace, path, b.leases); err != nil {
				return err
			}
			ll, err := b.leases.List(inNamespace)
			for _, l := range ll {
				kept[l.ID] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return kept
	}

	t.Run("records", func(t *testing.T) {
		got := kept(t, func(main *bolt.Bucket) error {
			_, err := main.CreateBucket([]byte("known"))
			return err
		})
		for id := range all {
			if got[id] != (id != "lost") {
				t.Errorf("lease %q kept: %v", id, got[id])
			}
		}
	})
	t.Run("no database", func(t *testing.T) {
		if got := kept(t, nil); len(got) != len(all) {
			t.Errorf("kept %v of %d leases", got, len(all))
		}
	})

	t.Run("snapshot", func(t *testing.T) {
		err := onBuilder(t, newRoot(t), newSnapshotter, func(b *builder) error {
			path := filepath.Join(b.root, "metadata_v2.db")
			lost := leases.Lease{ID: "lost"}
			_, err := b.leases.Create(inNamespace, leases.WithID(lost.ID), flat)
			err = errors.Join(err,
				b.leases.AddResource(inNamespace, lost, leases.Resource{ID: "lost", Type: "snapshots/default"}),
				b.snapshot.Prepare(inNamespace, "lost", ""),
				writeRecords(path, func(*bolt.Bucket) error { return nil }),
				endLostLeases(inNamespace, path, b.leases))
			if err != nil {
				return err
			}
			return b.emptied()
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func writeRecords(path string, write func(main *bolt.Bucket) error) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	return errors.Join(db.Update(func(tx *bolt.Tx) error {
		main, err := tx.CreateBucket([]byte("_main"))
		if err != nil {
			return err
		}
		return write(main)
	}), db.Close())
}
