package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/peer"
)

// openRows are about Open. Each is measured in a process of its own, which is this
// command again: only there is it known what memory is for.
var openRows = []row{
	openRow("open-100k", 100_000),
	openRow("open-1M", 1_000_000),
}

func openRow(rowName string, n int) row {
	return row{
		name: rowName,
		what: fmt.Sprintf("Open with %d snapshots: 25-byte keys, one parent, no labels, closed in order, warm page cache; for each", n),
		unit: "ns",
		targets: []target{
			{of: "graphsnap", most: 4000},
			{of: "graphsnap", than: "bare scan", most: 1.6},
		},
		open: func(ctx context.Context, s *site) (all []contender, err error) {
			root, err := s.dir()
			if err != nil {
				return nil, err
			}
			n := s.n(n, 1000)
			if err := children(ctx, filepath.Join(root, "snapshots.db"), n); err != nil {
				return nil, err
			}
			for _, who := range []string{"graphsnap", "bare scan"} {
				closing := func() error { return os.RemoveAll(root) }
				if len(all) > 0 {
					closing = nil
				}
				all = append(all, one(who, func(ctx context.Context) (figure, error) {
					var o opened
					self, err := os.Executable()
					if err != nil {
						return figure{}, err
					}
					c := exec.CommandContext(ctx, self, "-open", who, "-dir", root)
					c.Stderr = os.Stderr
					out, err := c.Output()
					if err == nil {
						err = json.Unmarshal(out, &o)
					}
					if err != nil {
						return figure{}, err
					}
					f := figure{value: float64(o.Nanoseconds) / float64(n)}
					if who == "graphsnap" {
						f.extra = map[string]float64{
							"B of heap": float64(o.Heap) / float64(n), "B of anonymous memory": float64(o.Anonymous) / float64(n),
							"goroutines": float64(o.Goroutines),
						}
					}
					return f, nil
				}, closing))
			}
			return all, nil
		},
		judge: func(r *result) {
			ours := r.find("graphsnap")
			for _, t := range []struct {
				what string
				most float64
			}{{"B of heap", 450}, {"B of anonymous memory", 900}} {
				v := verdict{What: t.what + " for each", Ratio: summarize(ours.extra[t.what]), Unit: "B"}
				r.Verdicts = append(r.Verdicts, v.against(target{most: t.most}))
			}
			v := verdict{What: "goroutines", Ratio: summarize(ours.extra["goroutines"])}
			r.Verdicts = append(r.Verdicts, v.against(target{most: 16})) // the engine's own
		},
	}
}

// children writes n active snapshots of one parent, all of which are whole.
func children(ctx context.Context, path string, n int) error {
	db, err := persist.Open(ctx, path, persist.Options{})
	if err != nil {
		return err
	}
	at := time.Now().UnixNano()
	batch := []persist.Mutation{persist.Put(persist.Record{Key: name(1), Kind: persist.Committed, GraphID: key(1), Created: at, Updated: at})}
	for i := int64(2); i <= int64(n); i++ {
		batch = append(batch, persist.Put(persist.Record{Key: key(i), Kind: persist.Active, GraphID: key(i), Parent: name(1), Created: at, Updated: at}))
		if len(batch) == fillBatch || i == int64(n) {
			if err := db.Write(ctx, batch...); err != nil {
				return err
			}
			batch = nil
		}
	}
	return db.Close()
}

// opened is what the other process tells.
type opened struct {
	Nanoseconds int64
	Heap        int64 // bytes after garbage collection
	Anonymous   int64 // bytes
	Goroutines  int
}

// openAndTell is the other process.
func openAndTell(ctx context.Context, who, root string) error {
	before, err := memoryNow()
	if err != nil {
		return err
	}
	var o opened
	began := time.Now()
	switch who {
	case "bare scan":
		if err := bareScan(filepath.Join(root, "snapshots.db")); err != nil {
			return err
		}
		o.Nanoseconds = time.Since(began).Nanoseconds()
	default:
		p, err := peer.Open(ctx, who, peer.Options{Root: root, Existed: func(string) bool { return true }})
		if err != nil {
			return err
		}
		o.Nanoseconds = time.Since(began).Nanoseconds()
		after, err := memoryNow()
		if err != nil {
			return err
		}
		o.Heap, o.Anonymous = after.heap-before.heap, after.anonymous-before.anonymous
		o.Goroutines = runtime.NumGoroutine()
		if err := p.Close(); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(o)
}

// bareScan opens a database with the options of the engine and reads every field of
// every bucket.
func bareScan(path string) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return err
	}
	fields := 0
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { fields++; return nil })
		})
	}); err != nil {
		return err
	}
	return db.Close()
}

type memory struct{ heap, anonymous int64 }

func memoryNow() (m memory, err error) {
	runtime.GC()
	runtime.GC() // what the first found to have a finalizer
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	m.heap = int64(s.HeapAlloc)
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return m, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			return memory{m.heap, kib << 10}, err
		}
	}
	return m, fmt.Errorf("/proc/self/status does not tell RssAnon")
}
