package persist

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
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

func TestKeyIsUsedAnewAfterCommit(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("k", "p")), Commit(committed("n", "k", "p"), "k"))
	anew := active("k", "n")
	anew.GraphID, anew.Creating = "g2", true
	s.write(Put(anew))
	s.wantDockerdSees(buckets{"n": {"committed": "k"}, "k": {"parent": "p", "iscommitted": ""}})
	s.wantRecords(committed("n", "k", "p"), anew)

	anew.Creating = false
	s.write(Put(anew))
	s.wantRecords(committed("n", "k", "p"), anew)

	// Its commit hides its own graph ID.
	s.write(Commit(committed("n2", "g2", "n"), "k"))
	s.wantDockerdSees(buckets{
		"n": {"committed": "k"}, "k": {"parent": "p", "iscommitted": ""},
		"n2": {"committed": "g2"}, "g2": {"parent": "n", "iscommitted": ""},
	})
	s.wantRecords(committed("n", "k", "p"), committed("n2", "g2", "n"))

	anew.GraphID = "g3"
	s.write(Put(anew), Delete("n"))
	s.wantDockerdSees(buckets{"n2": {"committed": "g2"}, "g2": {"parent": "n", "iscommitted": ""}})
	s.wantRecords(anew, committed("n2", "g2", "n"))
	s.write(Put(anew))
	s.wantRecords(anew, committed("n2", "g2", "n"))
	s.write(Remove("k", "g3"), Delete("n2"))
	s.wantDockerdSees(buckets{})
	s.wantRecords()
}

func TestNameEqualToHiddenBucket(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("x", "")), Commit(committed("n", "x", ""), "x"))
	// The name x is free for every face, its bucket is not.
	s.write(Put(active("y", "n")), Commit(committed("x", "y", "n"), "y"))
	s.wantDockerdSees(buckets{
		"n": {"committed": "x"}, "x": {"parent": "", "iscommitted": ""},
		"y": {"parent": "n", "iscommitted": ""},
	})
	s.wantRecords(committed("n", "x", ""), committed("x", "y", "n"))
	if left := s.load().leftovers; len(left) != 0 {
		t.Errorf("leftovers: %v", left)
	}

	s.write(Delete("n"))
	s.wantDockerdSees(buckets{"y": {"parent": "n", "iscommitted": ""}})
	s.wantRecords(committed("x", "y", "n"))
	s.write(Remove("x", "y"))
	s.wantDockerdSees(buckets{})
	s.wantRecords()
}

func TestGraphIDThatIsNotTheKey(t *testing.T) {
	s := newStore(t)
	extract := active("extract-1 sha256:abc", "p")
	extract.GraphID = "g1"
	s.write(Put(extract))
	s.wantDockerdSees(buckets{})
	s.wantRecords(extract)

	name := committed(digestOf("a"), "g1", "p")
	s.write(Commit(name, extract.Key))
	s.wantDockerdSees(buckets{digestOf("a"): {"committed": "g1"}, "g1": {"parent": "p", "iscommitted": ""}})
	s.wantRecords(name)
	name.Parent = "q"
	s.write(Put(name))
	s.wantDockerdSees(buckets{digestOf("a"): {"committed": "g1"}, "g1": {"parent": "q", "iscommitted": ""}})
	s.wantRecords(name)

	// The bucket of the graph ID is taken by a record.
	other := active("z", "")
	other.GraphID = "g2"
	s.write(Put(active("g2", "")), Put(other))
	s.write(Commit(committed("n2", "g2", ""), "z"))
	s.wantRecords(name, active("g2", ""), committed("n2", "g2", ""))
	s.write(Delete("n2"))
	s.wantRecords(name, active("g2", ""))
}

// A record that is put again, of another graph ID or of another kind, takes all of the
// first with it.
func TestPutReplacesTheWholeRecord(t *testing.T) {
	view := Record{Key: "n", Kind: View, Parent: "p", Created: 1, Updated: 1}
	for _, c := range []struct {
		first, then Record
		want        buckets
	}{
		{committed("n", "g", "p"), committed("n", "g2", "q"), buckets{"n": {"committed": "g2"}, "g2": {"parent": "q", "iscommitted": ""}}},
		{committed("n", "g", "p"), active("n", "q"), buckets{"n": {"parent": "q"}}},
		{active("n", "p"), committed("n", "g", "q"), buckets{"n": {"committed": "g"}, "g": {"parent": "q", "iscommitted": ""}}},
		{committed("n", "g", "p"), view, buckets{}},
		{active("n", "p"), view, buckets{}},
	} {
		s := newStore(t)
		s.write(Put(c.first))
		s.write(Put(c.then))
		s.wantDockerdSees(c.want)
		s.wantRecords(c.then)
		if left := s.load().leftovers; len(left) > 0 {
			t.Errorf("%v after %v leaves %v", c.then.Kind, c.first.Kind, left)
		}
	}
}

// A field that a record has no more is there no more, and a name has the parent that
// its Commit says.
func TestFieldsGoWithTheirValues(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("k", "p")), Commit(committed("n", "k", "q"), "k"))
	s.wantDockerdSees(buckets{"n": {"committed": "k"}, "k": {"parent": "q", "iscommitted": ""}})
	if err := s.bolt.View(func(tx *bolt.Tx) error {
		if at := lookUp(tx, "k"); at.extra != nil {
			t.Errorf("the hidden bucket has %q", at.extra)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	whole := committed("n", "k", "q")
	whole.ChainID, whole.Measured, whole.Size = digestOf("c"), true, 5
	s.write(Put(whole))
	s.wantDockerdSees(buckets{"n": {"committed": "k", "chainid": digestOf("c"), "size": "5"}, "k": {"parent": "q", "iscommitted": ""}})
	s.write(Put(committed("n", "k", "q")))
	s.wantDockerdSees(buckets{"n": {"committed": "k"}, "k": {"parent": "q", "iscommitted": ""}})
	s.wantRecords(committed("n", "k", "q"))
}

// Of two records that bear one graph ID one outranks the other.
func TestOneRecordOutranksTheOther(t *testing.T) {
	name, key, own, older := committed("n", "g", ""), active("k", ""), active("g", ""), active("j", "")
	key.GraphID, older.GraphID, older.Created = "g", "g", key.Created-1
	twin := older
	twin.Key = "k2"
	order := []Record{name, own, older, twin, key}
	for i, r := range order {
		for j, o := range order {
			if got := r.Outranks(&o); got != (i < j) {
				t.Errorf("%q outranks %q: %v", r.Key, o.Key, got)
			}
		}
	}
	// Where neither kind nor age tell, the one whose graph ID is its key does.
	named := committed("g", "g", "")
	named.Created = name.Created + 1
	if !named.Outranks(&name) || name.Outranks(&named) {
		t.Error("of two names the one that is the graph ID is outranked")
	}
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

// dockerd committed a key under a name that was the key of an earlier commit.
func TestNameThatIsHiddenAsWell(t *testing.T) {
	s := newStore(t)
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, "n", "committed", "x")
		s.put(tx, "x", "parent", "p", "iscommitted", "", "committed", "y", "size", "3")
		s.put(tx, "y", "parent", "n", "iscommitted", "")
	})
	n := Record{Key: "n", Kind: Committed, GraphID: "x", Parent: "p"}
	x := Record{Key: "x", Kind: Committed, GraphID: "y", Parent: "n", Measured: true, Size: 3, Inodes: -1}
	s.wantRecords(n, x)
	x.ChainID, x.Size, x.Labels = digestOf("c"), 4, map[string]string{"l": "v"}
	s.write(Put(x)) // as one of ours, with all fields
	s.wantRecords(n, x)
	s.write(Delete("x"))
	s.wantDockerdSees(buckets{"n": {"committed": "x"}, "x": {"parent": "p", "iscommitted": ""}})
	s.wantRecords(n)
	if err := s.bolt.View(func(tx *bolt.Tx) error {
		if at := lookUp(tx, "x"); at.extra != nil {
			t.Errorf("the hidden bucket has %q", at.extra)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestUndecodableRecordDoesNotHideOthers(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("good", "")), Put(active("bad", "good")), Put(Record{Key: "v", Kind: View}), Put(Record{Key: "w", Kind: View}))
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, "bad", fieldOurs, "\xff\xff")
		s.put(tx, bucketSnapshots, "v", "")
		s.put(tx, bucketSnapshots, "u", "\x01\x00")
	})
	c := s.load()
	if want := (map[string]Oddity{"bad": Undecodable, "v": Undecodable, "u": Undecodable}); !reflect.DeepEqual(c.leftovers, want) {
		t.Errorf("leftovers: %v", c.leftovers)
	}
	bad := Record{Key: "bad", Kind: Active, GraphID: "bad", Parent: "good", Creating: true}
	s.wantRecords(active("good", ""), bad, Record{Key: "w", Kind: View})
	s.write(Put(active("bad", "good")), Delete("v"), Delete("u"))
	s.wantRecords(active("good", ""), active("bad", "good"), Record{Key: "w", Kind: View})
}

func TestCommitIsRefused(t *testing.T) {
	s := newStore(t)
	other := active("other", "")
	other.GraphID = "g"
	s.write(Put(active("k", "")), Put(active("taken", "")), Put(other), Put(Record{Key: "v", Kind: View, GraphID: "v"}))
	before := s.dockerdSees()
	for _, c := range []struct {
		m    Mutation
		want error
	}{
		{Commit(committed("n", "absent", ""), "absent"), errdefs.ErrNotFound},
		{Commit(committed("taken", "k", ""), "k"), errdefs.ErrAlreadyExists},
		{Commit(committed("k", "k", ""), "k"), errdefs.ErrAlreadyExists},
		{Commit(committed("v", "g", ""), "other"), errdefs.ErrAlreadyExists},
		{Commit(committed("n", "v", ""), "v"), errdefs.ErrFailedPrecondition},
		{Commit(committed("n", "k", ""), "other"), errdefs.ErrFailedPrecondition},
		{Commit(active("n", ""), "k"), errdefs.ErrInvalidArgument},
	} {
		if err := s.Write(context.Background(), c.m); !errors.Is(err, c.want) {
			t.Errorf("commit %q as %q: got %v, want %v", c.m.key, c.m.record.Key, err, c.want)
		}
	}
	s.wantDockerdSees(before)
}

func TestKeysThatCannotBe(t *testing.T) {
	s := newStore(t)
	long := strings.Repeat("x", MaxKey)
	s.write(Put(active(long, "")), Delete(long), Remove("a", long), Removed(long))
	for _, key := range []string{"", "a\x00", "\x00snapshots", long + "x"} {
		for name, m := range map[string]Mutation{
			"put":       Put(Record{Key: key, Kind: Active, GraphID: "g"}),
			"commit":    Commit(committed("n", "k", ""), key),
			"commit as": Commit(committed(key, "k", ""), "k"),
			"delete":    Delete(key),
			"remove":    Remove("k", key),
			"removed":   Removed(key),
			"alias":     Alias(key, "c"),
			"unalias":   Unalias(key),
			"set":       Set(key, "v"),
		} {
			if err := s.Write(context.Background(), m); !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s %.20q: %v", name, key, err)
			}
		}
		if key == "" {
			continue
		}
		for _, r := range []Record{{Key: "k", Kind: View, Parent: key}, {Key: "k", Kind: View, GraphID: key}} {
			if err := s.Write(context.Background(), Put(r)); !errdefs.IsInvalidArgument(err) {
				t.Errorf("put %.20q: %v", key, err)
			}
		}
	}
	for _, r := range []Record{{Key: "k"}, {Key: "k", Kind: Borrowed + 1}, {Key: "k", Kind: Borrowed}, {Key: "k", Kind: Committed, Measured: true, Size: -1}} {
		if err := s.Write(context.Background(), Put(r)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("put %+v: %v", r, err)
		}
	}
	s.wantRecords()
}

func TestSettings(t *testing.T) {
	s := newStore(t)
	if v, ok := s.Setting("name"); ok {
		t.Errorf("name is %q", v)
	}
	s.write(Set("name", "default"), Set("empty", ""))
	for range 2 {
		for k, want := range map[string]string{"name": "default", "empty": ""} {
			if got, ok := s.Setting(k); !ok || got != want {
				t.Errorf("%s is %q, %v", k, got, ok)
			}
		}
		s.reopen()
	}
	s.close()
	if _, ok := s.Setting("name"); ok {
		t.Error("a setting after Close")
	}
}

// Any sequence of mutations that the engine may make gives back, after reopening,
// the records that a map would hold, and leaves nothing when all are deleted.
func TestRecordsAreThoseOfAModel(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			s := newStore(t)
			model := map[string]Record{}
			graphIDs := 0
			keys := []string{"a", "b", "c", "d", "e/1", digestOf("a"), digestOf("b")}
			pick := func() string { return keys[rnd.IntN(len(keys))] }
			borne := map[string]bool{}
			graphID := func(key string) string {
				if !strings.ContainsAny(key, ":/") && !borne[key] {
					borne[key] = true
					return key
				}
				graphIDs++
				return fmt.Sprint("g", graphIDs)
			}
			for range 60 {
				var message []Mutation
				for range 1 + rnd.IntN(3) {
					key := pick()
					old, exists := model[key]
					switch op := rnd.IntN(10); {
					case exists && op < 2:
						delete(model, key)
						message = append(message, Delete(key))
					case exists && op < 4:
						old.Labels = map[string]string{"n": fmt.Sprint(op)}
						if old.Kind == Committed {
							old.ChainID, old.Measured, old.Size, old.Inodes = digestOf("9"), true, 7, 8
						} else if op == 2 && old.Kind != Borrowed {
							old.Parent = pick()
						}
						model[key] = old
						message = append(message, Put(old))
					case exists && old.Kind == Active:
						name := committed(pick(), old.GraphID, old.Parent)
						if _, taken := model[name.Key]; taken {
							continue
						}
						delete(model, key)
						model[name.Key] = name
						message = append(message, Commit(name, key))
					case exists:
					case isDigest(key) && op == 0:
						model[key] = Record{Key: key, Kind: Borrowed}
						message = append(message, Put(model[key]))
					case op == 1:
						model[key] = Record{Key: key, Kind: View, Parent: pick(), GraphID: graphID(key)}
						message = append(message, Put(model[key]))
					default:
						model[key] = Record{Key: key, Kind: Active, Parent: pick(), GraphID: graphID(key), Creating: op == 2}
						message = append(message, Put(model[key]))
					}
				}
				s.write(message...)
				if rnd.IntN(10) == 0 {
					s.reopen()
				}
				got := s.load()
				if !reflect.DeepEqual(got.records, model) {
					t.Fatalf("after %+v\n got %+v\nwant %+v", message, got.records, model)
				}
				if len(got.leftovers) != 0 {
					t.Fatalf("leftovers after %+v: %v", message, got.leftovers)
				}
			}
			if err := s.bolt.View(func(tx *bolt.Tx) error {
				for err := range tx.Check() {
					t.Error(err)
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			for key := range model {
				s.write(Delete(key))
			}
			s.wantDockerdSees(buckets{})
			s.wantRecords()
		})
	}
}
