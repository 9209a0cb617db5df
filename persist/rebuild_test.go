package persist

import (
	"context"
	"slices"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// A repair that is asked for nothing takes what is no record, all of it, and what is
// there is told by key whichever bucket it lies in.
func TestRepairTakesAllThatIsShadowedOrSized(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("a", "")), Put(active("c", "")), Put(Record{Key: "b", Kind: View, Parent: "a", GraphID: "b"}),
		Put(Record{Key: "shadowed", Kind: View, Parent: "a", GraphID: "v"}))
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, "a", "size", "17")
		s.put(tx, "c", "size", "17")
		s.put(tx, "shadowed", "parent", "a")
	})
	s.close()
	if _, err := examine(t, s.path).Repair(context.Background()); err != nil {
		t.Fatal(err)
	}
	x := examine(t, s.path)
	var keys []string
	for _, r := range x.Records {
		keys = append(keys, r.Key)
	}
	if want := []string{"a", "b", "c", "shadowed"}; !slices.Equal(keys, want) || len(x.Leftovers) > 0 || len(x.Sized) > 0 {
		t.Errorf("records %q, want %q; left: %+v, sized %q", keys, want, x.Leftovers, x.Sized)
	}
}
