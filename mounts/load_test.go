package mounts

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"
)

// Ten thousand acquires at once, some given up, some released twice, beside
// removals that seal. The fake driver sees to Get and Put going by turns; here a
// directory that is held must be mounted, one that is sealed must not be.
func TestLoadOf10000(t *testing.T) {
	const (
		acquires = 10_000
		ids      = 1024
	)
	before := runtime.NumGoroutine()
	d := newFake()
	fail := func(string) error {
		runtime.Gosched()
		if rand.N(20) == 0 {
			return errFault
		}
		return nil
	}
	d.onGet, d.onPut = fail, fail
	table := New(d, Options{Mailbox: 16, Parallelism: semaphore.NewWeighted(8)})
	var (
		all     sync.WaitGroup
		holders [ids]atomic.Int32
		granted atomic.Int32
		sealed  atomic.Int32
		freed   atomic.Int32
		refused atomic.Int32
	)
	// Half of the load is on a few graph IDs, which are hardly ever free; the rest
	// is spread, so that holds end and seals succeed while others come.
	pick := func() int { return rand.N([]int{8, ids}[rand.N(2)]) }
	seal := func() {
		n := pick()
		id := fmt.Sprint(n)
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(100*time.Millisecond))
		defer cancel()
		err := table.Seal(ctx, id, func() { freed.Add(1) })
		switch {
		case errdefs.IsFailedPrecondition(err):
			refused.Add(1)
			return
		case err != nil:
			return
		}
		sealed.Add(1)
		runtime.Gosched()
		if d.isMounted(id) || holders[n].Load() > 0 {
			t.Errorf("%q is sealed and mounted", id)
		}
		if rand.N(2) == 0 {
			table.Unseal(id)
		} else {
			table.Forget(id)
		}
	}
	for i := range acquires {
		if i%10 == 0 {
			all.Go(seal)
		}
		all.Go(func() {
			n := pick()
			id := fmt.Sprint(n)
			ctx := context.Background()
			if rand.N(4) == 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, rand.N(20*time.Millisecond))
				defer cancel()
			}
			h, err := table.Acquire(ctx, id, rand.N(2) == 0)
			if err != nil {
				return
			}
			granted.Add(1)
			holders[n].Add(1)
			for range rand.N(4) {
				if !d.isMounted(id) {
					t.Errorf("%q is held and not mounted", id)
				}
				runtime.Gosched()
			}
			holders[n].Add(-1)
			if rand.N(8) == 0 {
				go h.Release()
			}
			h.Release() // may fail: some Puts do
		})
	}
	all.Wait()
	d.onPut = nil // what a failed Put left is put now
	entries, err := table.Held(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.State != Mounted && e.State != Unmounting || e.Holders+e.Writers+e.Waiting > 0 {
			t.Errorf("left: %+v", e)
		}
		if err := table.Drop(context.Background(), e.ID); err != nil {
			t.Error(err)
		}
	}
	wantHeld(t, table)
	if err := table.Close(); err != nil {
		t.Error(err)
	}
	for _, b := range d.breaches {
		t.Error(b)
	}
	gets, puts := 0, 0
	for i := range ids {
		id := fmt.Sprint(i)
		if d.mounted[id] {
			t.Errorf("%q is mounted", id)
		}
		gets += d.gets[id]
		puts += d.puts[id]
	}
	t.Logf("%d holds over %d Gets and %d Puts; %d sealed, %d refused of which %d were told", granted.Load(), gets, puts, sealed.Load(), refused.Load(), freed.Load())
	if granted.Load() == 0 || sealed.Load() == 0 || refused.Load() == 0 || freed.Load() == 0 || freed.Load() > refused.Load() {
		t.Error("the load missed what it is for")
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines more than before", runtime.NumGoroutine()-before)
		}
	}
}

func BenchmarkAcquireRelease(b *testing.B) {
	run := func(b *testing.B, table *Table, id func() string) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			mine := id()
			for pb.Next() {
				h, err := table.Acquire(ctx, mine, false)
				if err != nil {
					b.Fatal(err)
				}
				if err := h.Release(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("shared", func(b *testing.B) {
		table := open(b, newFake(), Options{})
		mustAcquire(b, table, "x", false) // so that none is the last
		run(b, table, func() string { return "x" })
	})
	b.Run("distinct", func(b *testing.B) {
		var n atomic.Int32
		run(b, open(b, newFake(), Options{}), func() string { return fmt.Sprint(n.Add(1)) })
	})
}

// Views64 is what 64 build steps on one base cost: 64 holds taken at once, then
// released at once, over one mount.
func BenchmarkViews64(b *testing.B) {
	d := newFake()
	table := open(b, d, Options{})
	b.ReportAllocs()
	for b.Loop() {
		var (
			all   sync.WaitGroup
			holds [64]*Hold
		)
		for i := range holds {
			all.Go(func() { holds[i] = mustAcquire(b, table, "base", false) })
		}
		all.Wait()
		for _, h := range holds {
			all.Go(func() { mustRelease(b, h) })
		}
		all.Wait()
	}
	b.ReportMetric(float64(d.gets["base"])/float64(b.N), "mounts/op")
}
