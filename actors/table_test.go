package actors

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"
)

// keysOfOneShard returns n keys that share a shard, so that a small test fills,
// rebuilds and empties one array over and over.
func keysOfOneShard[V any](t *table[V], n int) (keys []string, s *shard[V]) {
	s = &t.shards[0]
	for i := 0; len(keys) < n; i++ {
		key := fmt.Sprint("key", i)
		if in, _ := t.locate(key); in == s {
			keys = append(keys, key)
		}
	}
	return keys, s
}

// check compares the counters of a shard with its array and verifies what readers
// rely on: every cell can be reached, and a quarter of the slots ends a probe.
func (t *table[V]) check(s *shard[V]) error {
	p := s.slots.Load()
	if p == nil {
		return nil
	}
	live, tombs := 0, 0
	for i := range *p {
		switch c := (*p)[i].cell.Load(); {
		case c == nil:
		case c == t.tomb:
			tombs++
		default:
			live++
			if _, h := t.locate(c.key); t.find(s, h, c.key) != c {
				return fmt.Errorf("%q is in the array and not found", c.key)
			}
		}
	}
	if live != s.live || tombs != s.tombs {
		return fmt.Errorf("%d live and %d tombs, counted as %d and %d", live, tombs, s.live, s.tombs)
	}
	if n := len(*p); 4*(live+tombs) > 3*n || n > minSlots && 8*live < n {
		return fmt.Errorf("%d live and %d tombs in %d slots", live, tombs, n)
	}
	return nil
}

func TestTableAgainstMap(t *testing.T) {
	for seed := range uint64(3) {
		r := rand.New(rand.NewPCG(seed, 0))
		tab := newTable[int]()
		keys, s := keysOfOneShard(tab, 200)
		model := map[string]*cell[int]{}
		for step := range 4000 {
			// Between tides, so that the array grows and shrinks.
			key := keys[r.IntN(len(keys))]
			rising := step/500%2 == 0
			_, h := tab.locate(key)
			c := tab.find(s, h, key)
			if c != model[key] {
				t.Fatal(seed, step, key, "found", c, "want", model[key])
			}
			switch {
			case c == nil && (rising || r.IntN(8) == 0):
				model[key] = tab.insert(s, h, newCell[int](key))
			case c != nil && (!rising || r.IntN(8) == 0):
				tab.remove(s, c)
				delete(model, key)
			}
			if err := tab.check(s); err != nil {
				t.Fatal(seed, step, err)
			}
		}
		if tab.cells() != len(model) {
			t.Fatal(seed, tab.cells(), "cells, want", len(model))
		}
		for _, c := range model {
			tab.remove(s, c)
		}
		if n := len(*s.slots.Load()); n != minSlots || s.live != 0 || s.tombs != 0 {
			t.Fatal(seed, "empty:", n, "slots,", s.live, "live,", s.tombs, "tombs")
		}
	}
}

// What there is room for is seeded without a copy, and what was there before stays.
func TestReserve(t *testing.T) {
	o := NewOwners[int](Config{Name: "thing"})
	one := 1
	o.Seed("before", &one)
	o.Reserve(10_000)
	var was [shardCount]*[]slot[int]
	for i := range o.table.shards {
		was[i] = o.table.shards[i].slots.Load()
	}
	for i := range 10_000 {
		o.Seed(fmt.Sprint(i), &one)
	}
	for i := range was {
		if o.table.shards[i].slots.Load() != was[i] {
			t.Fatalf("shard %d was copied", i)
		}
	}
	for _, key := range []string{"before", "0", "9999"} {
		if o.Load(key) != &one {
			t.Errorf("%q has no value", key)
		}
	}
}

// Removal is cheap: while an eighth of the slots is full the array stays.
func TestTableRemovesWithoutCopying(t *testing.T) {
	tab := newTable[int]()
	keys, s := keysOfOneShard(tab, 100)
	var cells []*cell[int]
	for _, key := range keys {
		_, h := tab.locate(key)
		cells = append(cells, tab.insert(s, h, newCell[int](key)))
	}
	was := s.slots.Load()
	for _, c := range cells[len(*was)/8:] {
		if tab.remove(s, c); s.slots.Load() != was {
			t.Fatalf("copied with %d live in %d slots", s.live, len(*was))
		}
	}
}

// Beside writers, who make the array grow, shrink and fill with tombs, a key that
// is there throughout is always found and passed exactly once.
func TestTableReadersBesideWriters(t *testing.T) {
	tab := newTable[int]()
	keys, s := keysOfOneShard(tab, 108)
	stay, come := keys[:8], keys[8:]
	cells := map[string]*cell[int]{}
	// Some of those that come are there first, so that those that stay sit behind
	// slots that will be vacated.
	present := make([]*cell[int], len(come))
	for i, key := range come[:len(come)/2] {
		_, h := tab.locate(key)
		present[i] = tab.insert(s, h, newCell[int](key))
	}
	for _, key := range stay {
		_, h := tab.locate(key)
		cells[key] = tab.insert(s, h, newCell[int](key))
	}

	var stop atomic.Bool
	var writer, readers sync.WaitGroup
	rebuilt := 0
	writer.Go(func() {
		for step := 0; !stop.Load(); step++ {
			i := rand.IntN(len(come))
			rising := step/300%2 == 0 // tides, so that the array grows and shrinks
			_, h := tab.locate(come[i])
			was := s.slots.Load()
			s.mu.Lock()
			switch c := present[i]; {
			case c == nil && (rising || step%8 == 0):
				present[i] = tab.insert(s, h, newCell[int](come[i]))
			case c != nil && (!rising || step%8 == 0):
				tab.remove(s, c)
				present[i] = nil
			}
			s.mu.Unlock()
			if s.slots.Load() != was {
				rebuilt++
			}
		}
	})
	readers.Go(func() {
		for range 20_000 {
			for _, key := range stay {
				_, h := tab.locate(key)
				if c := tab.find(s, h, key); c != cells[key] {
					t.Error(key, "is there, and was not found")
					return
				}
			}
			key := come[rand.IntN(len(come))]
			_, h := tab.locate(key)
			if c := tab.find(s, h, key); c != nil && c.key != key {
				t.Error("looked for", key, "found", c.key)
				return
			}
		}
	})
	readers.Go(func() {
		seen := map[string]int{}
		for range 10_000 {
			clear(seen)
			tab.each(func(c *cell[int], _ *int) bool { seen[c.key]++; return true })
			for _, key := range stay {
				if seen[key] != 1 {
					t.Error(key, "is there, and was passed", seen[key], "times")
					return
				}
			}
		}
	})
	readers.Wait()
	stop.Store(true)
	writer.Wait()
	if rebuilt < 10 {
		t.Error("the array was replaced", rebuilt, "times only")
	}
	if err := tab.check(s); err != nil {
		t.Error(err)
	}
}

// The same through the owners, with values that change.
func TestLoadAndRangeBesideOwners(t *testing.T) {
	o := NewOwners[int](Config{Name: "number", Mailbox: 4})
	keys, s := keysOfOneShard(o.table, 108)
	stay, come := keys[:8], keys[8:]
	for _, key := range stay {
		o.Seed(key, new(int))
	}
	var stop atomic.Bool
	var writers, readers sync.WaitGroup
	writers.Go(func() {
		for n := range 6_000 {
			if _, err := Ask(t.Context(), o, stay[n%len(stay)], publishing(n)); err != nil {
				t.Error(err)
			}
		}
	})
	rebuilt := 0
	writers.Go(func() {
		for range 40 {
			was := s.slots.Load()
			for _, key := range come {
				if _, err := Ask(t.Context(), o, key, publishing(1)); err != nil {
					t.Error(err)
				}
			}
			if s.slots.Load() != was {
				rebuilt++
			}
			for _, key := range come {
				_, _ = AskOwed(o, key, &work{do: func(o *Owner[int], m *work) { o.Publish(nil) }})
			}
		}
	})
	for range 2 {
		readers.Go(func() {
			for !stop.Load() {
				for _, key := range stay {
					if o.Load(key) == nil {
						t.Error(key, "has a value, and was not found")
						return
					}
				}
				seen := map[string]int{}
				o.Range(func(key string, _ *int) bool { seen[key]++; return true })
				for _, key := range stay {
					if seen[key] != 1 {
						t.Error(key, "has a value, and was passed", seen[key], "times")
						return
					}
				}
				runtime.Gosched() // on one processor the owners need it
			}
		})
	}
	writers.Wait()
	stop.Store(true)
	readers.Wait()
	o.Close()
	if rebuilt < 10 {
		t.Error("the array was replaced", rebuilt, "times only")
	}
	for i := range o.table.shards {
		if err := o.table.check(&o.table.shards[i]); err != nil {
			t.Error(err)
		}
	}
}

// A probe ends even where a reader finds no free slot all the way round.
func TestProbeEndsInAFullArray(t *testing.T) {
	tab := newTable[int]()
	keys, s := keysOfOneShard(tab, 5)
	slots := make([]slot[int], 4)
	for i := range slots {
		_, h := tab.locate(keys[i])
		slots[i].hash.Store(h)
		slots[i].cell.Store(newCell[int](keys[i]))
	}
	s.slots.Store(&slots)
	_, h := tab.locate(keys[4])
	if c := tab.find(s, h, keys[4]); c != nil {
		t.Error("found", c.key)
	}
	for i := range slots {
		_, h := tab.locate(keys[i])
		if c := tab.find(s, h, keys[i]); c != slots[i].cell.Load() {
			t.Error(keys[i], "is there, and was not found")
		}
	}
}

func TestLoadAllocatesNothing(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	for i := range 1000 {
		o.Seed(fmt.Sprint("key", i), new(int))
	}
	key, absent := "key500", "key5000"
	if n := testing.AllocsPerRun(100, func() { o.Load(key); o.Load(absent) }); n != 0 {
		t.Error(n, "allocations")
	}
}

// TestFind checks that the key that is returned is the one that is kept, wherever a
// key of its length is kept, and not the one that was asked for.
func TestFind(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	defer o.Close()
	for _, n := range []int{1, 32, 33, 80, 81} {
		asked := strings.Repeat("k", n)
		o.Seed(asked, new(int))
		key, v := o.Find(asked)
		if key != asked || v != o.Load(asked) {
			t.Errorf("Find returns %q, %p of a key of %d bytes", key, v, n)
		}
		if again, _ := o.Find(strings.Clone(asked)); unsafe.StringData(again) != unsafe.StringData(key) {
			t.Error("Find returns another copy than before of a key of", n, "bytes")
		}
	}
	if key, v := o.Find("nobody"); key != "" || v != nil {
		t.Errorf("Find of an absent key returns %q, %v", key, v)
	}
}

// Whatever its length, a key is what it was.
func TestKeysOfAnyLengthLieBesideTheirCells(t *testing.T) {
	for n := range 200 {
		key := strings.Repeat("k", n)
		if got := new(Seat[int]).take(key).key; got != key {
			t.Errorf("seated is %q, want %q", got, key)
		}
		if got := newCell[int](key).key; got != key {
			t.Errorf("kept is %q, want %q", got, key)
		}
	}
}
