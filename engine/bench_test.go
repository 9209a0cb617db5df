package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// freeDriver costs nothing, so that what is measured is the engine.
type freeDriver struct{}

func (freeDriver) Create(string, string) error          { return nil }
func (freeDriver) Remove(string) error                  { return nil }
func (freeDriver) Exists(string) bool                   { return false }
func (freeDriver) Get(string) (string, error)           { return "/", nil }
func (freeDriver) Put(string) error                     { return nil }
func (freeDriver) Copies() bool                         { return false }
func (freeDriver) Sync(string) error                    { return nil }
func (freeDriver) Survey([]string) (Survey, error)      { return Survey{}, nil }
func (freeDriver) Unmount(string) error                 { return nil }
func (freeDriver) Restore(string, string) (bool, error) { return false, nil }
func (freeDriver) Describe(string, bool) ([]mount.Mount, error) {
	return nil, nil
}
func (freeDriver) Usage(context.Context, string, string) (snapshots.Usage, error) {
	return snapshots.Usage{}, nil
}

func openFree(b *testing.B) *Engine {
	b.Helper()
	e, err := Open(context.Background(), Config{Driver: freeDriver{}, Root: b.TempDir(), Name: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { e.Close() })
	return e
}

// BenchmarkPair is a durable Prepare and Commit.
func BenchmarkPair(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			e := openFree(b)
			ctx := context.Background()
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			var g sync.WaitGroup
			for range clients {
				g.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						key, name := fmt.Sprintf("active-key-of-25-%08d", i), fmt.Sprintf("committed-of-25--%08d", i)
						if err := e.Prepare(ctx, key, ""); err != nil {
							b.Error(err)
						}
						if err := e.Commit(ctx, name, key); err != nil {
							b.Error(err)
						}
					}
				})
			}
			g.Wait()
			b.StopTimer()
			s := e.db.Stats()
			b.ReportMetric(float64(s.Messages)/float64(s.Transactions), "writes/tx")
		})
	}
}

func BenchmarkStat(b *testing.B) {
	e := openFree(b)
	ctx := context.Background()
	if err := e.Prepare(ctx, "active-key-of-25-00000001", ""); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Stat(ctx, "active-key-of-25-00000001"); err != nil {
			b.Fatal(err)
		}
	}
}
