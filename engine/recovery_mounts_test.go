package engine

import (
	"maps"
	"testing"

	"github.com/graphsnap/graphsnap/persist"
)

// P2: mounts of a dead process go, at what is ours alone.
func TestMountsOfADeadProcessGo(t *testing.T) {
	r := newRuins(t, false)
	r.left(persist.Put(r.record(persist.Active, "k", "")), persist.Removing("of-gone"))
	r.put("k", "", "whole")
	r.put("gone", "", "whole")
	r.put("foreign", "", "whole")
	r.driver.kept = map[string]bool{"of-foreign": true}
	r.driver.stale = map[string]int{"of-k": 2, "of-gone": 1, "of-foreign": 1}
	r.reopen()
	r.settled()
	if got := maps.Clone(r.driver.stale); got["of-k"] != 0 || got["of-gone"] != 0 || got["of-foreign"] != 1 {
		t.Errorf("mounts left: %v", got)
	}
	m, err := r.Mounts(t.Context(), "k")
	must(t, err)
	_, release, err := m.Mount()
	must(t, err)
	must(t, release())
	r.finish()
}

// count tells how often the driver was called.
func (d *memoryDriver) count(call string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[call]
}

// A view of a layer of the layer store is mounted at the layer's directory. What a
// dead process left there goes, where a view of that layer is recorded; other layers
// are none of ours.
func TestMountsOfViewedLayersGo(t *testing.T) {
	r := newRuins(t, false)
	r.layers = newMemoryLayers(r.driver)
	// Contents that were the same would make one layer.
	r.layers.contents = map[string]string{"lent": "a", "other": "b", "unviewed": "c"}
	lent, other, unviewed := r.layers.image("lent", ""), r.layers.image("other", ""), r.layers.image("unviewed", "")
	r.left(
		persist.Put(persist.Record{Key: lent.ChainID(), Kind: persist.Borrowed}),
		persist.Put(persist.Record{Key: unviewed.ChainID(), Kind: persist.Borrowed}),
		persist.Put(persist.Record{Key: "view", Kind: persist.View, Parent: lent.ChainID(), Created: 1, Updated: 1}),
	)
	r.driver.stale = map[string]int{lent.GraphID(): 1, other.GraphID(): 1, unviewed.GraphID(): 1}
	r.reopen()
	if got := r.driver.stale; got[lent.GraphID()] != 0 || got[other.GraphID()] != 1 || got[unviewed.GraphID()] != 1 {
		t.Errorf("mounts left: %v", got)
	}
	must(t, r.Close())
	for _, w := range r.driver.wrong {
		t.Error(w)
	}
}
