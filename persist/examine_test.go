package persist

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// realistic returns the path of a database with records of each kind on many pages,
// closed in order, or as a process that died left it.
func realistic(t testing.TB, n int, closed bool) string {
	t.Helper()
	s := newStore(t)
	var batch []Mutation
	for i := range n {
		key := fmt.Sprintf("key-%05d", i*7919%n)
		r := active(key, "")
		r.Labels = map[string]string{"of": key}
		switch {
		case i%3 == 0:
			name := committed("name-"+key, key, "")
			name.Labels, name.Measured, name.Size = r.Labels, true, int64(i)
			batch = append(batch, Put(r), Commit(name, key))
		case i%7 == 0:
			batch = append(batch, Put(Record{Key: "view-" + key, Kind: View, Parent: "p", GraphID: "view-" + key, Created: 1, Updated: 2}))
		case i%29 == 0:
			batch = append(batch, Removing(key), Alias("lease-"+key, digestOf("a")))
		default:
			batch = append(batch, Put(r))
		}
		if len(batch) > 50 {
			s.write(batch...)
			batch = nil
		}
	}
	s.write(batch...)
	if closed {
		s.close()
		return s.path
	}
	path := filepath.Join(t.TempDir(), "snapshots.db")
	copyFile(t, s.path, path)
	return path
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func examine(t testing.TB, path string) *Examination {
	t.Helper()
	x, err := Examine(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// byKey is what an examination found, to compare.
func (x *Examination) byKey() map[string]Record {
	m := map[string]Record{}
	for _, r := range x.Records {
		m[r.Key] = r
	}
	for _, id := range x.Removals {
		m["removal "+id] = Record{GraphID: id}
	}
	return m
}

func TestExamineFindsNothingWrongWithWholeDatabases(t *testing.T) {
	for _, closed := range []bool{true, false} {
		path := realistic(t, 2000, closed)
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		x := examine(t, path)
		if len(x.Damage) > 0 || len(x.Records) < 1500 || len(x.Removals) == 0 {
			t.Errorf("closed %v: damage %q, %d records, %d removals", closed, x.Damage, len(x.Records), len(x.Removals))
		}
		if want := map[bool]End{true: InOrder, false: Died}[closed]; x.Ended != want {
			t.Errorf("closed %v: ended %v", closed, x.Ended)
		}
		after, err := os.ReadFile(path)
		if err != nil || !slices.Equal(before, after) {
			t.Errorf("closed %v: the file was changed (%v)", closed, err)
		}
		_, tree, err := readPages(strings.NewReader(string(before)), int64(len(before)), true)
		if err != nil {
			t.Fatal(err)
		}
		wantSameTree(t, path, tree)
	}
}

// wantSameTree compares what was read without bbolt with what bbolt reads.
func wantSameTree(t *testing.T, path string, tree *bucketTree) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	want := newBucketTree()
	if err := db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			sub := newBucketTree()
			want.buckets[string(name)] = sub
			return b.ForEach(func(k, v []byte) error { sub.values[string(k)] = slices.Clone(v); return nil })
		})
	}); err != nil {
		t.Fatal(err)
	}
	if len(tree.buckets) != len(want.buckets) {
		t.Fatalf("%d buckets, want %d", len(tree.buckets), len(want.buckets))
	}
	for name, b := range want.buckets {
		if got := tree.buckets[name]; got == nil || len(got.values) != len(b.values) {
			t.Fatalf("bucket %q: %v", name, got)
		}
		for k, v := range b.values {
			if string(tree.buckets[name].values[k]) != string(v) {
				t.Fatalf("bucket %q, %q: %q, want %q", name, k, tree.buckets[name].values[k], v)
			}
		}
	}
}

func TestRepairTidiesUp(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("a", "")), Put(active("key", "")), Commit(committed("name", "key", "a"), "key"),
		Put(Record{Key: "view", Kind: View, Parent: "name", GraphID: "v"}), Removing("gone"), Alias("lease", digestOf("b")), Set("names", "default"))
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, "a", "size", "17")
		s.put(tx, "empty")
		s.put(tx, "orphan", "parent", "", "iscommitted", "")
		s.put(tx, "broken", "committed", "nowhere")
		s.put(tx, "view", "parent", "a")
		s.put(tx, "half", "parent", "a", fieldOurs, "\x01")
		s.put(tx, bucketSnapshots, "garbled", "\x07")
	})
	s.close()
	x := examine(t, s.path)
	found := map[string]Oddity{}
	for _, l := range x.Leftovers {
		found[l.Key] = l.Oddity
	}
	if want := map[string]Oddity{"lease": Aliased, "empty": Empty, "orphan": Orphan, "broken": Broken, "view": Shadowed, "half": Undecodable, "garbled": Undecodable}; !reflect.DeepEqual(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
	if !slices.Equal(x.Sized, []string{"a"}) {
		t.Errorf("sized: %q", x.Sized)
	}
	backup, err := x.Repair(context.Background(), Delete("view"), Removing("v"))
	if err != nil {
		t.Fatal(err)
	}
	if want := s.path + ".backup-1"; backup != want {
		t.Errorf("the backup is %s, want %s", backup, want)
	}
	y := examine(t, s.path)
	if len(y.Leftovers) != 1 || y.Leftovers[0].Oddity != Aliased || len(y.Sized) > 0 {
		t.Errorf("left: %+v, sized %q", y.Leftovers, y.Sized)
	}
	var keys []string
	for _, r := range y.Records {
		keys = append(keys, r.Key)
		if r.Key == "half" && !r.Creating {
			t.Errorf("what could be read in part is not to be looked into: %+v", r)
		}
	}
	if !slices.Equal(keys, []string{"a", "half", "name"}) || !slices.Equal(y.Removals, []string{"gone", "v"}) || !reflect.DeepEqual(y.Settings, x.Settings) {
		t.Errorf("records %q, removals %q, settings %q", keys, y.Removals, y.Settings)
	}
	if backup, err := y.Repair(context.Background()); err != nil || backup != s.path+".backup-2" {
		t.Errorf("the second backup is %q (%v)", backup, err)
	}
	if _, err := x.Repair(context.Background()); !errdefs.IsUnavailable(err) {
		t.Errorf("a repair of what was changed since: %v", err)
	}
}

// How the last process ended decides what the next one looks into.
func TestRepairKeepsHowTheLastProcessEnded(t *testing.T) {
	path := realistic(t, 50, false)
	x := examine(t, path)
	if _, err := x.Repair(context.Background()); err != nil {
		t.Fatal(err)
	}
	if y := examine(t, path); x.Ended != Died || y.Ended != Died {
		t.Errorf("ended %v, then %v", x.Ended, y.Ended)
	}
}

func TestExamineRefusesWhatIsOpen(t *testing.T) {
	s := newStore(t)
	for name, f := range map[string]func() error{
		"examine": func() error { _, err := Examine(context.Background(), s.path); return err },
		"repair": func() error {
			_, err := (&Examination{Path: s.path}).Repair(context.Background())
			return err
		},
	} {
		if err := f(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), s.path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.close()
	wantClosed(t, filepath.Dir(s.path))
	if _, err := Examine(context.Background(), s.path+".none"); !errdefs.IsNotFound(err) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestExamineOfWhatIsNoDatabase(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "short": "bolt", "zeros": strings.Repeat("\x00", 1<<16), "text": strings.Repeat("nothing ", 1<<13),
	} {
		path := filepath.Join(t.TempDir(), "snapshots.db")
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		x := examine(t, path)
		if len(x.Damage) == 0 || len(x.Records) > 0 {
			t.Errorf("%s: damage %q, records %v", name, x.Damage, x.Records)
		}
		if _, err := x.Repair(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantOpens(t, path, 0)
	}
}

func TestCircles(t *testing.T) {
	parents := map[string]string{"a": "b", "b": "c", "c": "a", "on": "a", "self": "self", "x": "y", "y": "", "z": "y"}
	for range 10 { // in any order
		circles := Circles(func(yield func(string) bool) {
			for k := range parents {
				if !yield(k) {
					return
				}
			}
		}, func(k string) string { return parents[k] })
		var all []string
		for _, c := range circles {
			slices.Sort(c)
			all = append(all, strings.Join(c, " "))
		}
		slices.Sort(all)
		if !slices.Equal(all, []string{"a b c", "self"}) {
			t.Fatalf("%q", all)
		}
	}
}
