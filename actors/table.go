package actors

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// table maps keys to cells. Reading takes no lock: a reader loads the array of
// its shard and probes it. Writers hold the shard's lock.
//
// A cell never moves within an array, and an array that was replaced by a larger
// or smaller one is left as it is. So a reader that still probes an old array
// misses only what changed since it loaded it, and what it then reports was true
// at that moment; and a pass over one array meets each cell at most once.
type table[V any] struct {
	seed   maphash.Seed
	tomb   *cell[V] // marks a slot that was vacated inside a run of full ones
	shards [shardCount]shard[V]
}

const (
	shardBits  = 7
	shardCount = 1 << shardBits
	minSlots   = 4
)

type shard[V any] struct {
	mu    sync.Mutex // guards writes to slots, and the box of every cell
	slots atomic.Pointer[[]atomic.Pointer[cell[V]]]
	live  int
	tombs int

	queued int // messages for owners of these keys, under mu
}

// cell is what an idle key costs.
type cell[V any] struct {
	key   string
	hash  uint64
	value atomic.Pointer[V] // stored by the owner alone
	box   *box[V]           // under the shard's lock; nil while no owner runs
}

func newTable[V any]() *table[V] {
	return &table[V]{seed: maphash.MakeSeed(), tomb: new(cell[V])}
}

func (t *table[V]) locate(key string) (*shard[V], uint64) {
	h := maphash.String(t.seed, key)
	return &t.shards[h>>(64-shardBits)], h
}

// find needs no lock.
func (t *table[V]) find(s *shard[V], h uint64, key string) *cell[V] {
	p := s.slots.Load()
	if p == nil {
		return nil
	}
	slots := *p
	mask := uint64(len(slots) - 1)
	i := h & mask
	// Writers that fill the slots ahead of a reader and empty those behind it
	// could lead it round and round. One round sees every cell that stays.
	for range slots {
		c := slots[i].Load()
		if c == nil {
			return nil
		}
		if c.hash == h && c != t.tomb && c.key == key {
			return c
		}
		i = (i + 1) & mask
	}
	return nil
}

// insert adds a cell for a key that has none, under the shard's lock.
func (t *table[V]) insert(s *shard[V], h uint64, key string) *cell[V] {
	if p := s.slots.Load(); p == nil || 4*(s.live+s.tombs+1) > 3*len(*p) {
		t.rebuild(s)
	}
	slots := *s.slots.Load()
	mask := uint64(len(slots) - 1)
	i := h & mask
	for {
		c := slots[i].Load()
		if c == t.tomb {
			s.tombs--
			break
		}
		if c == nil {
			break
		}
		i = (i + 1) & mask
	}
	c := &cell[V]{key: key, hash: h}
	slots[i].Store(c)
	s.live++
	return c
}

// remove drops the cell, under the shard's lock.
func (t *table[V]) remove(s *shard[V], c *cell[V]) {
	slots := *s.slots.Load()
	mask := uint64(len(slots) - 1)
	i := c.hash & mask
	for slots[i].Load() != c {
		i = (i + 1) & mask
	}
	slots[i].Store(t.tomb)
	s.live--
	s.tombs++
	if slots[(i+1)&mask].Load() == nil {
		// Nothing is probed for past the end of a run, so the tombs there may go.
		for slots[i].Load() == t.tomb {
			slots[i].Store(nil)
			s.tombs--
			i = (i - 1) & mask
		}
	}
	if len(slots) > minSlots && 8*s.live < len(slots) {
		t.rebuild(s)
	}
}

// rebuild copies the live cells into an array with room for half as many again.
func (t *table[V]) rebuild(s *shard[V]) {
	size := minSlots
	for 4*(s.live+1) > 2*size {
		size *= 2
	}
	fresh := make([]atomic.Pointer[cell[V]], size)
	mask := uint64(size - 1)
	if p := s.slots.Load(); p != nil {
		for j := range *p {
			c := (*p)[j].Load()
			if c == nil || c == t.tomb {
				continue
			}
			i := c.hash & mask
			for fresh[i].Load() != nil {
				i = (i + 1) & mask
			}
			fresh[i].Store(c)
		}
	}
	s.tombs = 0
	s.slots.Store(&fresh)
}

// each calls f for every cell until f answers false. It takes no lock.
func (t *table[V]) each(f func(*cell[V]) bool) {
	for i := range t.shards {
		p := t.shards[i].slots.Load()
		if p == nil {
			continue
		}
		for j := range *p {
			if c := (*p)[j].Load(); c != nil && c != t.tomb && !f(c) {
				return
			}
		}
	}
}
