package persist

import (
	"reflect"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// The life of a snapshot as dockerd's fields tell it.
func TestDockerdUnderstandsPrepareAndCommit(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("k1", "")))
	s.wantDockerdSees(buckets{"k1": {"parent": ""}})

	s.write(Commit(committed("n1", "k1", ""), "k1"), Put(active("k2", "n1")))
	c := committed("n2", "k2", "n1")
	c.ChainID, c.Measured, c.Size, c.Inodes = digestOf("c"), true, 4096, 3
	s.write(Commit(c, "k2"))
	s.write(Put(Record{Key: digestOf("b"), Kind: Borrowed}), Alias("lease", digestOf("b")))
	s.wantDockerdSees(buckets{
		"n1":          {"committed": "k1"},
		"k1":          {"parent": "", "iscommitted": ""},
		"n2":          {"committed": "k2", "chainid": digestOf("c"), "size": "4096"},
		"k2":          {"parent": "n1", "iscommitted": ""},
		digestOf("b"): {},
		"lease":       {"chainid": digestOf("b")},
	})
	s.wantRecords(committed("n1", "k1", ""), c, Record{Key: digestOf("b"), Kind: Borrowed})

	// As dockerd's Stat reads the parent of a name.
	s.close()
	db, err := bolt.Open(s.path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.View(func(tx *bolt.Tx) error {
		id := tx.Bucket([]byte("n2")).Get([]byte("committed"))
		if got := string(tx.Bucket(id).Get([]byte("parent"))); got != "n1" {
			t.Errorf("parent is %q", got)
		}
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s.open()
	s.write(Delete("n1"), Remove("n2", "k2"), Delete(digestOf("b")), Unalias("lease"))
	s.wantDockerdSees(buckets{})
	if c := s.load(); len(c.records) != 0 || !reflect.DeepEqual(c.removals, map[string]bool{"k2": true}) {
		t.Errorf("left: %+v", c)
	}
	s.write(Removed("k2"))
	if c := s.load(); len(c.removals) != 0 {
		t.Errorf("left: %+v", c)
	}
}

// All that dockerd 28.5.2 writes, read and given back unchanged.
func TestDatabaseOfDockerdOpensAsItIs(t *testing.T) {
	s := newStore(t)
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, digestOf("a"))
		s.put(tx, "k1", "parent", digestOf("a"), "size", "12", "iscommitted", "")
		s.put(tx, "n1", "committed", "k1", "size", "77", "chainid", digestOf("1"))
		s.put(tx, "k2", "parent", "n1", "size", "5")
		s.put(tx, "k3", "iscommitted", "") // committed though it had no bucket
		s.put(tx, "n3", "committed", "k3")
		s.put(tx, "self", "parent", "n1", "iscommitted", "", "committed", "self")
		s.put(tx, "lease", "chainid", digestOf("a"))
		s.put(tx, "gone", "parent", "", "iscommitted", "")
		s.put(tx, "lost", "committed", "nowhere")
		s.put(tx, "empty")
	})
	before := s.dockerdSees()
	want := []Record{
		{Key: digestOf("a"), Kind: Borrowed},
		{Key: "n1", Kind: Committed, GraphID: "k1", Parent: digestOf("a"), ChainID: digestOf("1"), Measured: true, Size: 77, Inodes: -1},
		{Key: "k2", Kind: Active, GraphID: "k2", Parent: "n1"},
		{Key: "n3", Kind: Committed, GraphID: "k3"},
		{Key: "self", Kind: Committed, GraphID: "self", Parent: "n1"},
	}
	s.wantRecords(want...)
	if got := s.load().leftovers; !reflect.DeepEqual(got, map[string]Oddity{
		"lease": Aliased, "gone": Orphan, "lost": Broken, "empty": Empty,
	}) {
		t.Errorf("leftovers: %v", got)
	}
	s.wantDockerdSees(before)

	for i := range want {
		want[i].Labels = map[string]string{"a": "b"}
		s.write(Put(want[i]))
	}
	s.wantRecords(want...)
	s.wantDockerdSees(before)

	for _, r := range want {
		s.write(Delete(r.Key))
	}
	s.wantRecords()
}

func TestDockerdsFieldsWin(t *testing.T) {
	s := newStore(t)
	c := committed("n", "k", "p")
	c.Measured, c.Size, c.Inodes = true, 100, 7
	s.write(Put(active("k", "p")), Commit(c, "k"), Put(active("a", "p")))
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, "k", "parent", "q")
		s.put(tx, "n", "size", "200", "chainid", "c")
		s.put(tx, "a", "parent", "q")
	})
	c.Parent, c.Size, c.Inodes, c.ChainID = "q", 200, -1, "c"
	s.wantRecords(c, active("a", "q"))

	s.dockerd(func(tx *bolt.Tx) { s.put(tx, "n", "size", "many") })
	c.Measured, c.Size, c.Inodes = false, 0, 0
	s.wantRecords(c, active("a", "q"))
}

func TestWhatDockerdCannotSayIsKeptApart(t *testing.T) {
	s := newStore(t)
	view := Record{Key: "v", Kind: View, Parent: "n", Created: 1, Updated: 1, Labels: map[string]string{"l": "1"}}
	own := Record{Key: "w", Kind: View, Parent: "n", GraphID: "gw", Creating: true}
	s.write(Put(view), Put(own))
	s.wantDockerdSees(buckets{})
	s.wantRecords(view, own)
	s.dockerd(func(tx *bolt.Tx) { s.put(tx, "v", "parent", "") })
	if c := s.load(); c.leftovers["v"] != Shadowed || c.records["v"].Kind != Active {
		t.Errorf("a key that dockerd took: %+v", c)
	}
	s.write(Delete("v"), Delete("w"))
	s.wantRecords()
}

// Discard takes what Load tells of and no record besides.
func TestDiscardTakesLeftoversAlone(t *testing.T) {
	s := newStore(t)
	view := Record{Key: "v", Kind: View, Parent: "n", GraphID: "gv", Created: 1, Updated: 1}
	s.write(Put(view), Put(active("a", "")), Put(active("k", "")), Commit(committed("n", "k", ""), "k"))
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, "v", "parent", "")
		s.put(tx, "gone", "parent", "n", "iscommitted", "")
		s.put(tx, "empty", "size", "5")
		s.put(tx, "lease", "chainid", digestOf("a"))
	})
	for _, key := range []string{"v", "gone", "empty", "lease", "a", "n", "absent"} {
		graphID := ""
		if key == "v" || key == "gone" {
			graphID = "g" + key
		}
		s.write(Discard(key, graphID))
	}
	s.wantRecords(Record{Key: "v", Kind: Active, GraphID: "v"}, active("a", ""), committed("n", "k", ""))
	c := s.load()
	if want := (map[string]bool{"gv": true, "ggone": true}); !reflect.DeepEqual(c.removals, want) {
		t.Errorf("removals: %v, want %v", c.removals, want)
	}
	if want := (map[string]Oddity{"lease": Aliased}); !reflect.DeepEqual(c.leftovers, want) {
		t.Errorf("leftovers: %v, want %v", c.leftovers, want)
	}
}

func TestForeignBucketIsLeftAlone(t *testing.T) {
	s := newStore(t)
	s.dockerd(func(tx *bolt.Tx) { s.put(tx, "k", "unheard of", "1") })
	s.write(Put(active("k", "p")))
	s.wantDockerdSees(buckets{"k": {"unheard of": "1"}})
	s.wantRecords(active("k", "p"))
	s.write(Commit(committed("n", "k", "p"), "k"))
	s.wantDockerdSees(buckets{"k": {"unheard of": "1"}})
	s.wantRecords(committed("n", "k", "p"))
	s.write(Delete("n"))
	s.wantDockerdSees(buckets{"k": {"unheard of": "1"}})
}

func TestAliasGivesWayToSnapshot(t *testing.T) {
	s := newStore(t)
	s.write(Alias("a", digestOf("1")), Alias("b", digestOf("1")), Alias("g", digestOf("1")))
	s.write(Alias("a", digestOf("2")))
	s.wantDockerdSees(buckets{"a": {"chainid": digestOf("2")}, "b": {"chainid": digestOf("1")}, "g": {"chainid": digestOf("1")}})
	s.write(Put(active("a", "")), Put(Record{Key: "k", Kind: Active, GraphID: "g"}), Commit(committed("b", "g", ""), "k"))
	s.write(Alias("a", digestOf("3")), Unalias("a"), Unalias("never"))
	s.wantDockerdSees(buckets{"a": {"parent": ""}, "b": {"committed": "g"}, "g": {"parent": "", "iscommitted": ""}})
	s.wantRecords(active("a", ""), committed("b", "g", ""))
}
