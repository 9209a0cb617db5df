package persist

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// benchKey is random as BuildKit's keys are, so that each dirties a page of its own.
func benchKey(i int64) string { return fmt.Sprintf("%016x%09x", uint64(i)*0x9e3779b97f4a7c15, i) }

func benchRecord(key string) Record {
	return Record{Key: key, Kind: Active, GraphID: key, Parent: benchKey(1), Creating: true, Created: 1700000000000000000, Updated: 1700000000000000000}
}

func benchWriters(b *testing.B, writers int, pair func(key, name string) error) {
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				if err := pair(benchKey(i), benchKey(-i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkPair makes an active record durable and then its commit.
func BenchmarkPair(b *testing.B) {
	for _, writers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint("graphsnap/", writers), func(b *testing.B) {
			s := newStore(b)
			ctx := context.Background()
			benchWriters(b, writers, func(key, name string) error {
				r := benchRecord(key)
				if err := s.Write(ctx, Put(r)); err != nil {
					return err
				}
				r.Key, r.Kind, r.Creating = name, Committed, false
				return s.Write(ctx, Commit(r, key))
			})
			b.StopTimer()
			st := s.Stats()
			b.ReportMetric(float64(st.Messages)/float64(st.Transactions), "messages/tx")
			s.close()
		})
		b.Run(fmt.Sprint("bare/", writers), func(b *testing.B) {
			l := newBareLoop(b)
			benchWriters(b, writers, func(key, name string) error {
				r := benchRecord(key)
				extra := r.encode(nil, 0)
				if err := l.do(func(tx *bolt.Tx) error {
					k, err := tx.CreateBucketIfNotExists([]byte(key))
					if err != nil {
						return err
					}
					if err := k.Put([]byte("parent"), []byte(r.Parent)); err != nil {
						return err
					}
					return k.Put([]byte("graphsnap"), extra)
				}); err != nil {
					return err
				}
				return l.do(func(tx *bolt.Tx) error {
					k := tx.Bucket([]byte(key))
					if err := k.Put([]byte("iscommitted"), []byte{}); err != nil {
						return err
					}
					if err := k.Delete([]byte("graphsnap")); err != nil {
						return err
					}
					n, err := tx.CreateBucketIfNotExists([]byte(name))
					if err != nil {
						return err
					}
					if err := n.Put([]byte("committed"), []byte(key)); err != nil {
						return err
					}
					return n.Put([]byte("graphsnap"), extra)
				})
			})
			b.StopTimer()
			b.ReportMetric(float64(2*b.N)/float64(l.transactions.Load()), "messages/tx")
			l.close()
		})
	}
}

// bareLoop is the least that shares fsyncs: take what is queued, one transaction,
// answer.
type bareLoop struct {
	b            *testing.B
	db           *bolt.DB
	calls        chan bareCall
	done         chan struct{}
	transactions atomic.Int64
}

type bareCall struct {
	apply func(*bolt.Tx) error
	err   chan error
}

func newBareLoop(b *testing.B) *bareLoop {
	db, err := bolt.Open(filepath.Join(b.TempDir(), "bare.db"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	l := &bareLoop{b: b, db: db, calls: make(chan bareCall, 1024), done: make(chan struct{})}
	go l.run()
	return l
}

func (l *bareLoop) run() {
	defer close(l.done)
	var batch []bareCall
	for c := range l.calls {
		batch = append(batch[:0], c)
		for more := true; more && len(batch) < 1024; {
			select {
			case c := <-l.calls:
				batch = append(batch, c)
			default:
				more = false
			}
		}
		err := l.db.Update(func(tx *bolt.Tx) error {
			for _, c := range batch {
				if err := c.apply(tx); err != nil {
					return err
				}
			}
			return nil
		})
		l.transactions.Add(1)
		for _, c := range batch {
			c.err <- err
		}
	}
}

func (l *bareLoop) do(apply func(*bolt.Tx) error) error {
	err := make(chan error, 1)
	l.calls <- bareCall{apply, err}
	return <-err
}

func (l *bareLoop) close() {
	close(l.calls)
	<-l.done
	if err := l.db.Close(); err != nil {
		l.b.Fatal(err)
	}
}

// BenchmarkOpen opens and loads a million records, half of them committed, after
// Close and after a crash. The result is in nanoseconds per record. With -short
// there are few.
func BenchmarkOpen(b *testing.B) {
	records := int64(1_000_000)
	if testing.Short() {
		records = 10_000
	}
	s := newStore(b)
	ctx := context.Background()
	for i := int64(0); i < records; {
		var m []Mutation
		for ; len(m) < 20000 && i < records; i++ {
			r := benchRecord(benchKey(i))
			r.Creating = false
			m = append(m, Put(r))
			if i%2 == 0 {
				r.Key, r.Kind, r.Measured, r.Size = benchKey(-i-1), Committed, true, 12345
				m = append(m, Commit(r, r.GraphID))
			}
		}
		if err := s.Write(ctx, m...); err != nil {
			b.Fatal(err)
		}
	}
	for _, how := range []string{"closed", "crashed"} {
		b.Run(how, func(b *testing.B) {
			if how == "closed" {
				s.close()
			} else {
				s.open()
				s.write(Set("a", "b"))
				if err := s.bolt.Close(); err != nil { // without the list of free pages
					b.Fatal(err)
				}
			}
			for b.Loop() {
				began := time.Now()
				db, err := Open(ctx, s.path, Options{})
				if err != nil {
					b.Fatal(err)
				}
				opened := time.Since(began)
				n := int64(0)
				if err := db.Load(func(Record) error { n++; return nil }, nil, nil); err != nil || n != records {
					b.Fatal(n, err)
				}
				loaded := time.Since(began) - opened
				b.StopTimer()
				if err := db.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				b.ReportMetric(float64(opened.Nanoseconds())/float64(records), "open-ns/record")
				b.ReportMetric(float64(loaded.Nanoseconds())/float64(records), "load-ns/record")
			}
		})
	}
}

// BenchmarkOpenAfterKill tells what it costs to write the file anew (ending.go).
func BenchmarkOpenAfterKill(b *testing.B) {
	n := 200_000
	if testing.Short() {
		n = 2000
	}
	s := &store{t: b, path: filepath.Join(b.TempDir(), "snapshots.db")}
	s.openIn("run")
	for i := 0; i < n; i += 1000 {
		var all []Mutation
		for j := i; j < i+1000; j++ {
			all = append(all, Put(active(digestOf("a")[7:50]+fmt.Sprint(j), "")))
		}
		s.write(all...)
	}
	died := s.died("run")
	dead := died.path
	left, err := os.ReadFile(dead)
	if err != nil {
		b.Fatal(err)
	}
	died.close()
	s.close()
	for boot, name := range map[string]string{"run": "copied", "another": "as it is"} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(left)))
			for b.Loop() {
				b.StopTimer()
				if err := os.WriteFile(dead, left, 0o600); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				db, err := Open(context.Background(), dead, Options{Boot: boot})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := db.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
