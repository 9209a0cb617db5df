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
