package adapter

// What the database holds beside records, and the directories that it names: they go
// when no lease names them, and whoever else bears the graph ID keeps it.

import (
	"context"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/persist"
)

// A key is ours under a graph ID that is not the key, and dockerd makes another
// snapshot of that key; it commits others under names that it then has no more.
func TestStraysGoWhenNoLeaseNamesThem(t *testing.T) {
	onEachStore(t, func(t *testing.T, s *site) {
		d := s.daemon(t, nil)
		l, ctx := d.lease(t)
		must(t, d.snap.Prepare(ctx, "ours:shadowed", ""))
		d.committed(t, ctx, "sound", "")
		must(t, d.snap.Prepare(ctx, "orphan", "sound"))
		must(t, d.snap.Prepare(ctx, "named", "sound"))
		kept, _ := d.lease(t)
		d.added(t, kept, "named")
		d.close(t)
		if n := len(s.directories(t)); n != 4 {
			t.Fatalf("%d directories", n)
		}
		s.plant(t, func(tx *bolt.Tx) error {
			for _, key := range []string{"orphan", "named"} {
				if err := tx.Bucket([]byte(key)).Put([]byte("iscommitted"), nil); err != nil {
					return err
				}
			}
			b, err := tx.CreateBucket([]byte("ours:shadowed"))
			if err != nil {
				return err
			}
			if err := b.Put([]byte("parent"), nil); err != nil {
				return err
			}
			_, err = tx.CreateBucket([]byte("empty"))
			return err
		})

		d = s.daemon(t, nil)
		must(t, d.lm.DeleteResource(inNamespace(), l, resource("orphan")))
		must(t, d.lm.DeleteResource(inNamespace(), l, resource("named")))
		d.gone(t, "orphan", "named")
		eventually(t, "the orphan's directory to go", func() bool { return !slices.Contains(s.directories(t), "orphan") })
		if !slices.Contains(s.directories(t), "named") {
			t.Error("an orphan that a lease names has no directory")
		}
		d.there(t, "sound", "ours:shadowed")
		d.ended(t, kept, l)
		d.emptied(t)
		d.close(t)
		s.plant(t, func(tx *bolt.Tx) error {
			return tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
				if name[0] != 0 {
					t.Errorf("the bucket %q stays", name)
				}
				return nil
			})
		})
		db, err := persist.Open(context.Background(), s.path("snapshots.db"), persist.Options{})
		must(t, err)
		defer db.Close()
		must(t, db.Load(
			func(r persist.Record) error { t.Errorf("the record %+v stays", r); return nil },
			func(persist.Removal) error { return nil },
			func(l persist.Leftover) { t.Errorf("what stays is no record: %+v", l) },
		))
	})
}
