package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/peer"
)

// key is 25 characters as BuildKit's keys are, and as random: each lies on a page
// of its own in a large database. Names are the keys of negative numbers.
func key(i int64) string {
	return fmt.Sprintf("%016x%09x", uint64(i)*0x9e3779b97f4a7c15, uint64(i)&(1<<36-1))
}

func name(i int64) string { return key(-i) }

// number is the opposite of key, for those that are not names.
func number(k string) (int64, bool) {
	if len(k) != 25 {
		return 0, false
	}
	i, err := strconv.ParseInt(k[16:], 16, 64)
	return i, err == nil && key(i) == k
}

// below says which graph IDs the null driver has where pairs up to n were made by
// an earlier process. Numbers begin with 1.
func below(n int64) func(string) bool {
	return func(id string) bool {
		i, ok := number(id)
		return ok && i <= n
	}
}

// pairs has clients make n durable Prepare and Commit pairs, of the numbers behind
// from, and returns the time of each.
func pairs(ctx context.Context, s peer.Pairs, clients, n int, from int64) (figure, error) {
	before, err := writtenSoFar(s.Database())
	if err != nil {
		return figure{}, err
	}
	took, err := together(clients, n, func(i int64) error {
		k := key(from + i)
		if err := s.Prepare(ctx, k, ""); err != nil {
			return err
		}
		return s.Commit(ctx, name(from+i), k)
	})
	if err != nil {
		return figure{}, err
	}
	after, err := writtenSoFar(s.Database())
	return figure{float64(took.Nanoseconds()) / float64(n), after.since(before, n)}, err
}

// together has so many clients do what is to be done n times, and returns how long
// all of it took. The numbers begin with 1.
func together(clients, n int, do func(i int64) error) (time.Duration, error) {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var ready, done sync.WaitGroup
	ready.Add(clients)
	begin := make(chan struct{})
	for range clients {
		done.Go(func() {
			ready.Done()
			<-begin
			for i := next.Add(1); i <= int64(n) && failed.Load() == nil; i = next.Add(1) {
				if err := do(i); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	ready.Wait()
	began := time.Now()
	close(begin)
	done.Wait()
	took := time.Since(began)
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return took, nil
}

// fill is a database made beforehand: n committed snapshots without parents, or
// with labels on the base snapshot.
type fill struct {
	n      int
	labels func(i int64) map[string]string
}

const fillBatch = 20_000

// dockerd writes them as dockerd does.
func (f fill) dockerd(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	for from := 0; from < f.n; from += fillBatch {
		if err := db.Update(func(tx *bolt.Tx) error {
			for i := int64(from + 1); i <= int64(min(f.n, from+fillBatch)); i++ {
				if err := put(tx, key(i), "parent", "", "iscommitted", ""); err != nil {
					return err
				}
				if err := put(tx, name(i), "committed", key(i), "size", "4096"); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			_ = db.Close()
			return err
		}
	}
	if err := db.Sync(); err != nil {
		return err
	}
	return db.Close()
}

func put(tx *bolt.Tx, bucket string, fields ...string) error {
	b, err := tx.CreateBucket([]byte(bucket))
	if err != nil {
		return err
	}
	for i := 0; i < len(fields); i += 2 {
		if err := b.Put([]byte(fields[i]), []byte(fields[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// graphsnap writes them as graphsnap does.
func (f fill) graphsnap(ctx context.Context, path string) error {
	db, err := persist.Open(ctx, path, persist.Options{})
	if err != nil {
		return err
	}
	at := time.Now().UnixNano()
	var batch []persist.Mutation
	for i := int64(1); i <= int64(f.n); i++ {
		r := persist.Record{Key: name(i), Kind: persist.Committed, GraphID: key(i), Created: at, Updated: at, Measured: true, Size: 4096, Inodes: 1}
		if f.labels != nil {
			r.Labels = f.labels(i)
		}
		if batch = append(batch, persist.Put(r)); len(batch) == fillBatch || i == int64(f.n) {
			if err := db.Write(ctx, batch...); err != nil {
				return err
			}
			batch = nil
		}
	}
	return db.Close()
}

// containerd writes them as containerd's snapshotters do.
func (f fill) containerd(ctx context.Context, path string) error {
	ms, err := storage.NewMetaStore(path)
	if err != nil {
		return err
	}
	for from := 0; from < f.n; from += fillBatch {
		if err := ms.WithTransaction(ctx, true, func(ctx context.Context) error {
			for i := int64(from + 1); i <= int64(min(f.n, from+fillBatch)); i++ {
				var opts []snapshots.Opt
				if f.labels != nil {
					opts = append(opts, snapshots.WithLabels(f.labels(i)))
				}
				if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key(i), "", opts...); err != nil {
					return err
				}
				if _, err := storage.CommitActive(ctx, key(i), name(i), snapshots.Usage{Size: 4096, Inodes: 1}, opts...); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return ms.Close()
}

// filled opens the snapshotter on a copy of the database at from.
func filled(ctx context.Context, s *site, who, from string, n int) (peer.Snapshotter, error) {
	root, err := s.dir()
	if err != nil {
		return nil, err
	}
	to := filepath.Join(root, "snapshots.db")
	if who == "containerd" || who == "metastore" {
		to = filepath.Join(root, "metadata.db")
	}
	if err := copyFile(from, to); err != nil {
		return nil, err
	}
	return peer.Open(ctx, who, peer.Options{Root: root, Existed: below(int64(n))})
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return out.Close()
}
