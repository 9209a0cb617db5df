package persist

import (
	"reflect"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// A name that gets another parent gets what else its record says, too.
func TestNameTakesAParentAndLabelsAtOnce(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("k", "p")), Commit(committed("n", "k", "p"), "k"))
	other := committed("n", "k", "q")
	other.Labels = map[string]string{"l": "v"}
	s.write(Put(other))
	s.wantRecords(other)
}

// Where one hidden bucket is an orphan, those that records of our own name are none.
func TestOrphanBesideARecordOfOurOwn(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("g", "")), Commit(committed("n", "g", ""), "g"))
	s.write(Put(active("k", "n")), Commit(committed("g", "k", "n"), "k")) // dockerd's bucket of that name is taken
	s.dockerd(func(tx *bolt.Tx) { s.put(tx, "orphan", "parent", "n", "iscommitted", "") })
	if got, want := s.load().leftovers, (map[string]Oddity{"orphan": Orphan}); !reflect.DeepEqual(got, want) {
		t.Errorf("leftovers: %v, want %v", got, want)
	}
}
