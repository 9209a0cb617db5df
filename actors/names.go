package actors

import (
	"hash/maphash"
	"sync"
)

// Names is a set of names of which each is in use at most once at a time.
type Names struct {
	seed   maphash.Seed
	shards [shardCount]struct {
		mu    sync.Mutex
		taken map[string]struct{}
	}
}

// NewNames returns an empty set.
func NewNames() *Names { return &Names{seed: maphash.MakeSeed()} }

// Reserve makes room for so many names, where there are none yet.
func (n *Names) Reserve(names int) {
	for i := range n.shards {
		s := &n.shards[i]
		s.mu.Lock()
		if len(s.taken) == 0 {
			s.taken = make(map[string]struct{}, names/shardCount)
		}
		s.mu.Unlock()
	}
}

// Take puts name into use. It answers false where it is in use already.
func (n *Names) Take(name string) bool {
	s := &n.shards[maphash.String(n.seed, name)>>(64-shardBits)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.taken[name]; ok {
		return false
	}
	if s.taken == nil {
		s.taken = make(map[string]struct{})
	}
	s.taken[name] = struct{}{}
	return true
}

// Free ends the use of name. Freeing a name that is not in use does nothing.
func (n *Names) Free(name string) {
	s := &n.shards[maphash.String(n.seed, name)>>(64-shardBits)]
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, name)
}
