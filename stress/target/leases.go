package target

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

// namespace is where the leases of an engine without a lease manager are.
const namespace = "stress"

// memoryLeases is a lease manager in memory. It outlives the engine, as one with a
// database does.
type memoryLeases struct {
	journal *journal

	mu   sync.Mutex
	held map[string]map[string]bool
}

func (m *memoryLeases) create(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[id] != nil {
		return fmt.Errorf("lease %q: %w", id, errdefs.ErrAlreadyExists)
	}
	m.held[id] = map[string]bool{}
	return m.journal.add("create", id)
}

func (m *memoryLeases) add(id, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[id] == nil {
		return fmt.Errorf("lease %q: %w", id, errdefs.ErrNotFound)
	}
	m.held[id][key] = true
	return m.journal.add("add", id, key)
}

func (m *memoryLeases) remove(id, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[id] == nil {
		return fmt.Errorf("lease %q: %w", id, errdefs.ErrNotFound)
	}
	delete(m.held[id], key)
	return m.journal.add("remove", id, key)
}

func (m *memoryLeases) drop(id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, id)
	return m.journal.add("end", id)
}

func (m *memoryLeases) names(id, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[id][key]
}

// List implements engine.Leases.
func (m *memoryLeases) List(_ context.Context, _ engine.Known, each func(engine.Lease, []string)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, set := range m.held {
		keys := make([]string, 0, len(set))
		for k := range set {
			keys = append(keys, k)
		}
		each(engine.Lease{Namespace: namespace, ID: id}, keys)
	}
	return nil
}
