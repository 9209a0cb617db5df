package actors

import "sync"

// Handover is how work that no caller waits for reaches the goroutine that does
// it: a set with at most one entry per key. Putting never blocks and the set is
// never full, since a key is in it once however often it is put.
type Handover struct {
	ready chan struct{}

	mu   sync.Mutex
	keys map[string]struct{}
}

// NewHandover returns an empty one.
func NewHandover() *Handover {
	return &Handover{ready: make(chan struct{}, 1), keys: make(map[string]struct{})}
}

// Put adds key. Putting a key that was not taken yet does nothing.
func (h *Handover) Put(key string) {
	h.mu.Lock()
	h.keys[key] = struct{}{}
	h.mu.Unlock()
	select {
	case h.ready <- struct{}{}:
	default: // a token is there already
	}
}

// Ready yields when there may be keys to take.
func (h *Handover) Ready() <-chan struct{} { return h.ready }

// Take empties the set into a slice, in no order.
func (h *Handover) Take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := make([]string, 0, len(h.keys))
	for k := range h.keys {
		keys = append(keys, k)
	}
	// A large round must not leave its buckets behind for good.
	h.keys = make(map[string]struct{})
	return keys
}

// Len is the number of keys waiting, for display.
func (h *Handover) Len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.keys)
}
