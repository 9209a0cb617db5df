package dockerd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// moby/buildkit#6977, "failed to stat lower snapshot … does not exist": stock dockerd
// removes what has lost its lease from below a snapshot that stands on it.
func TestBuildkit6977LowerSnapshotOutlivesItsLease(t *testing.T) {
	complaint(t, func(b *builder) error {
		err := errors.Join(
			b.commit("record-lower", "lower", "", "x"),
			b.commit("record-upper", "upper", "lower", "y"),
			b.unlease("record-lower"),
			b.lease("work", "work"),
			b.snapshot.Prepare(inNamespace, "work", "upper"))
		if err != nil {
			return err
		}
		for key := "work"; key != ""; {
			info, err := b.snapshot.Stat(inNamespace, key)
			if err != nil {
				return fmt.Errorf("in the chain of what is in use: %w", err)
			}
			key = info.Parent
		}
		if err := b.inside("work", func(dir string) error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) }); err != nil {
			return err
		}
		if err := b.unlease("work", "record-upper"); err != nil {
			return err
		}
		return b.emptied()
	})
}

// moby/buildkit#6882: where a database once was large, stock dockerd writes the list
// of its free pages anew with each transaction.
func TestBuildkit6882FreePagesAreNotWrittenAnew(t *testing.T) {
	requireRoot(t)
	const most = 128 << 10 // bytes; the list has about four times as many
	written := func(t *testing.T, open open) (bytes int64) {
		root := newRoot(t)
		onceLarge(t, filepath.Join(root, "snapshots.db"))
		err := onBuilder(t, root, open, func(b *builder) error {
			if err := b.commit("record", "first", "", "x"); err != nil {
				return err
			}
			before := writtenBytes(t)
			err := b.snapshot.Prepare(inNamespace, "key", "first")
			bytes = writtenBytes(t) - before
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	t.Run(stock, func(t *testing.T) {
		if n := written(t, newStock); n <= most {
			t.Errorf("stock dockerd does not have this fault any more: it wrote %d bytes", n)
		} else {
			t.Logf("stock dockerd: %d bytes written by one Prepare", n)
		}
	})
	t.Run(graphsnap, func(t *testing.T) {
		if n := written(t, newSnapshotter); n > most {
			t.Errorf("%d bytes written by one Prepare, want at most %d", n, most)
		}
	})
}

// onceLarge makes a database of which nearly all pages are free, one by one.
func onceLarge(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	const pages = 1 << 16
	page := make([]byte, 3000)
	err = errors.Join(
		db.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucket([]byte("large"))
			if err != nil {
				return err
			}
			for i := range uint64(pages) {
				if err := bucket.Put(binary.BigEndian.AppendUint64(nil, i), page); err != nil {
					return err
				}
			}
			return nil
		}),
		db.Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("large")) }),
		db.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// writtenBytes is what this process gave to the kernel to write so far.
func writtenBytes(t *testing.T) int64 {
	t.Helper()
	io, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(io)) {
		if n, ok := strings.CutPrefix(line, "wchar: "); ok {
			bytes, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return bytes
		}
	}
	t.Fatal("/proc/self/io has no wchar")
	return 0
}

// containerd/containerd#10745, moby/buildkit#3743: stock dockerd syncs for every
// operation. Many at once share a transaction here, and with it the syncs; how many
// do is for the scheduler to decide, so there are several attempts.
func TestContainerd10745OperationsShareSyncs(t *testing.T) {
	const attempts, clients = 20, 64
	complaint(t, func(b *builder) error {
		path := filepath.Join(b.root, "snapshots.db")
		fewest := uint64(clients)
		for attempt := range attempts {
			before, err := transactions(path)
			if err != nil {
				return err
			}
			begin := make(chan struct{})
			var all errgroup.Group
			for client := range clients {
				all.Go(func() error {
					<-begin
					return b.snapshot.Prepare(inNamespace, fmt.Sprintf("key-%d-%d", attempt, client), "")
				})
			}
			close(begin)
			if err := all.Wait(); err != nil {
				return err
			}
			after, err := transactions(path)
			if err != nil {
				return err
			}
			if fewest = min(fewest, after-before); fewest <= clients/2 {
				return nil
			}
		}
		return fmt.Errorf("%d transactions for %d operations at once", fewest, clients)
	})
}

// transactions is how many a database saw, which its two headers tell in turn: page 0
// and page 1, each with the number of its transaction 48 bytes behind the 16 of a
// page's own header (meta in bbolt's internal/common).
func transactions(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var newest uint64
	for page := range int64(2) {
		var id [8]byte
		if _, err := f.ReadAt(id[:], page*int64(os.Getpagesize())+16+48); err != nil {
			return 0, err
		}
		newest = max(newest, binary.NativeEndian.Uint64(id[:]))
	}
	return newest, nil
}
