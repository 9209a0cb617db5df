package actors

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"unsafe"
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
	slots atomic.Pointer[[]slot[V]]
	live  int
	tombs int

	queued int // messages for owners of these keys, under mu
}

// slot has the hash of its cell, so that a probe leaves the cells of other keys
// alone. A slot that is filled gets the hash first. Who finds the hash of a later
// cell than the one he found takes the key for absent, which it was in between.
type slot[V any] struct {
	hash atomic.Uint64
	cell atomic.Pointer[cell[V]]
}

// cell is what an idle key costs.
type cell[V any] struct {
	key   string
	value atomic.Pointer[V] // stored by the owner alone
	box   *box[V]           // under the shard's lock; nil while no owner runs
}

// Seat is where what Owners keep of a key may lie. The zero Seat is for one key, once.
// Who loads many lets it be part of what holds the first value, so that a reader finds
// both in one place of the memory, with the key if that is short.
type Seat[V any] struct {
	cell cell[V]
	text [32]byte
}

func (s *Seat[V]) take(key string) *cell[V] {
	if n := len(key); n > 0 && n <= len(s.text) {
		copy(s.text[:], key)
		key = unsafe.String(&s.text[0], n)
	}
	s.cell.key = key
	return &s.cell
}

// newCell returns a cell with its key beside it where it can: with the keys of
// BuildKit that is one line of a cache, with digests two.
func newCell[V any](key string) *cell[V] {
	type long struct {
		cell[V]
		text [80]byte
	}
	switch n := len(key); {
	case n <= len(Seat[V]{}.text):
		return new(Seat[V]).take(key)
	case n <= len(long{}.text):
		c := &long{}
		copy(c.text[:], key)
		c.key = unsafe.String(&c.text[0], n)
		return &c.cell
	}
	return &cell[V]{key: key}
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
		c := slots[i].cell.Load()
		if c == nil {
			return nil
		}
		if slots[i].hash.Load() == h && c.key == key && c != t.tomb {
			return c
		}
		i = (i + 1) & mask
	}
	return nil
}

// insert adds the cell of a key that has none, under the shard's lock.
func (t *table[V]) insert(s *shard[V], h uint64, c *cell[V]) *cell[V] {
	if p := s.slots.Load(); p == nil || 4*(s.live+s.tombs+1) > 3*len(*p) {
		t.rebuild(s, s.live)
	}
	slots := *s.slots.Load()
	mask := uint64(len(slots) - 1)
	i := h & mask
	for {
		at := slots[i].cell.Load()
		if at == t.tomb {
			s.tombs--
			break
		}
		if at == nil {
			break
		}
		i = (i + 1) & mask
	}
	slots[i].hash.Store(h)
	slots[i].cell.Store(c)
	s.live++
	return c
}

// remove drops the cell, under the shard's lock.
func (t *table[V]) remove(s *shard[V], c *cell[V]) {
	slots := *s.slots.Load()
	mask := uint64(len(slots) - 1)
	i := maphash.String(t.seed, c.key) & mask
	for slots[i].cell.Load() != c {
		i = (i + 1) & mask
	}
	slots[i].cell.Store(t.tomb)
	s.live--
	s.tombs++
	if slots[(i+1)&mask].cell.Load() == nil {
		// Nothing is probed for past the end of a run, so the tombs there may go.
		for slots[i].cell.Load() == t.tomb {
			slots[i].cell.Store(nil)
			s.tombs--
			i = (i - 1) & mask
		}
	}
	if len(slots) > minSlots && 8*s.live < len(slots) {
		t.rebuild(s, s.live)
	}
}

// reserve makes room for n keys that are spread over the shards.
func (t *table[V]) reserve(n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		t.rebuild(s, s.live+n/shardCount)
		s.mu.Unlock()
	}
}

// rebuild copies the live cells into an array with room for half as many again as n.
func (t *table[V]) rebuild(s *shard[V], n int) {
	size := minSlots
	for 4*(n+1) > 2*size {
		size *= 2
	}
	fresh := make([]slot[V], size)
	mask := uint64(size - 1)
	if p := s.slots.Load(); p != nil {
		for j := range *p {
			c, h := (*p)[j].cell.Load(), (*p)[j].hash.Load()
			if c == nil || c == t.tomb {
				continue
			}
			i := h & mask
			for fresh[i].cell.Load() != nil {
				i = (i + 1) & mask
			}
			fresh[i].hash.Store(h)
			fresh[i].cell.Store(c)
		}
	}
	s.tombs = 0
	s.slots.Store(&fresh)
}

// each calls f for every cell until f answers false. It takes no lock.
//
// It gathers some cells before it calls f for them: of loads that do not depend on
// each other a processor waits for many at once.
func (t *table[V]) each(f func(*cell[V], *V) bool) {
	var cells [32]*cell[V]
	var values [len(cells)]*V
	n := 0
	flush := func() bool {
		for i, c := range cells[:n] {
			values[i] = c.value.Load()
		}
		for i, c := range cells[:n] {
			if !f(c, values[i]) {
				return false
			}
		}
		n = 0
		return true
	}
	for i := range t.shards {
		p := t.shards[i].slots.Load()
		if p == nil {
			continue
		}
		for j := range *p {
			c := (*p)[j].cell.Load()
			if c == nil || c == t.tomb {
				continue
			}
			cells[n] = c
			if n++; n == len(cells) && !flush() {
				return
			}
		}
	}
	flush()
}
