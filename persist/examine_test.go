package persist

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
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

// pagesOf returns for each record the pages that it depends on.
func pagesOf(t *testing.T, path string, records map[string]Record) map[string]map[uint64]bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := readPages(strings.NewReader(string(b)), int64(len(b)), false)
	if err != nil || len(r.damage) > 0 {
		t.Fatal(err, r.damage)
	}
	at := map[string]map[uint64]bool{} // of a bucket, or "bucket/key"
	var walk func(in string, id uint64, above []uint64)
	walk = func(in string, id uint64, above []uint64) {
		p, err := r.readPage(id)
		if err != nil || p == nil {
			t.Fatal(id, err)
		}
		for i := range r.span(p) {
			above = append(slices.Clone(above), id+i)
		}
		for i := range p.count {
			if p.flags == flagBranch {
				_, child, _ := p.branchElement(i)
				walk(in, child, above)
				continue
			}
			flags, key, value, _ := p.leafElement(i)
			name := in + string(key)
			at[name] = map[uint64]bool{}
			for _, id := range above {
				at[name][id] = true
			}
			if root := uint64(0); flags == flagBucket {
				if root = binary.NativeEndian.Uint64(value); root != 0 {
					walk(name+"/", root, above)
				} else if name[0] == 0 { // what lies in it lies in the same page
					at[name+"/"] = at[name]
				}
			}
		}
	}
	walk("", r.meta.root, nil)
	in := func(bucket, key string) map[uint64]bool {
		if inline := at[bucket+"/"]; inline != nil {
			return inline
		}
		return at[bucket+"/"+key]
	}
	pages := map[string]map[uint64]bool{}
	for key, rec := range records {
		all := map[uint64]bool{0: true, 1: true} // either meta page may be the last
		ids := []map[uint64]bool{at[key]}
		switch {
		case strings.HasPrefix(key, "removal "):
			ids = []map[uint64]bool{in(bucketRemoving, rec.GraphID)}
		case rec.Kind == View:
			ids = []map[uint64]bool{in(bucketSnapshots, key)}
		case rec.Kind == Committed:
			ids = append(ids, at[rec.GraphID])
		}
		for _, set := range ids {
			if len(set) == 0 {
				t.Fatalf("%q is on no page", key)
			}
			for id := range set {
				all[id] = true
			}
		}
		delete(all, 0)
		delete(all, 1)
		pages[key] = all
	}
	return pages
}

// damageTrials is how often each kind of file is damaged.
const damageTrials = 200

// Whatever happens to a file: it is examined to the end, what is on pages that are as
// they were survives the repair, and then there is nothing wrong with it.
func TestHealthyRecordsSurviveDamageAnywhere(t *testing.T) {
	rng := rand.New(rand.NewPCG(20, 26))
	for name, closed := range map[string]bool{"closed in order": true, "died": false} {
		t.Run(name, func(t *testing.T) {
			whole := realistic(t, 700, closed)
			data, err := os.ReadFile(whole)
			if err != nil {
				t.Fatal(err)
			}
			records := examine(t, whole).byKey()
			pages := pagesOf(t, whole, records)
			pageSize := os.Getpagesize()
			seen := 0
			for trial := range damageTrials {
				damaged := slices.Clone(data)
				hurt := map[uint64]bool{}
				what := ""
				switch trial % 4 {
				case 0, 1: // one bit
					bit := rng.IntN(len(damaged) * 8)
					if trial%8 == 0 { // of a header, where it does the most
						bit = rng.IntN(len(damaged)/pageSize)*pageSize*8 + rng.IntN(48*8)
					}
					damaged[bit/8] ^= 1 << (bit % 8)
					hurt[uint64(bit/8/pageSize)] = true
					what = fmt.Sprintf("bit %d of byte %d", bit%8, bit/8)
				case 2: // a sector
					at := rng.IntN(len(damaged)/512) * 512
					for i := range 512 {
						damaged[at+i] = byte(rng.Uint32())
					}
					hurt[uint64(at/pageSize)] = true
					what = fmt.Sprintf("sector at %d", at)
				case 3:
					n := rng.IntN(len(damaged))
					damaged = damaged[:n]
					for id := n / pageSize; id <= len(data)/pageSize; id++ {
						hurt[uint64(id)] = true
					}
					what = fmt.Sprintf("cut at %d", n)
				}
				path := filepath.Join(t.TempDir(), "snapshots.db")
				if err := os.WriteFile(path, damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				x := examine(t, path)
				if len(x.Damage) > 0 {
					seen++
				}
				backup, err := x.Repair(context.Background())
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
				if kept, err := os.ReadFile(backup); err != nil || !slices.Equal(kept, damaged) {
					t.Fatalf("%s: the backup is not the file (%v)", what, err)
				}
				after := examine(t, path)
				if len(after.Damage) > 0 {
					t.Fatalf("%s: damaged after the repair: %q", what, after.Damage)
				}
				got := after.byKey()
				for key, rec := range records {
					if !slices.ContainsFunc(sortedPages(pages[key]), func(id uint64) bool { return hurt[id] }) && !reflect.DeepEqual(got[key], rec) {
						t.Errorf("%s: %q is %+v, want %+v; pages %v; damage %q", what, key, got[key], rec, sortedPages(pages[key]), x.Damage)
						break
					}
				}
				if trial%10 == 0 {
					wantOpens(t, path, len(got))
				}
			}
			if seen < damageTrials/4 {
				t.Errorf("damage was seen in %d of %d files", seen, damageTrials)
			}
		})
	}
}

func sortedPages(m map[uint64]bool) (ids []uint64) {
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

func wantOpens(t *testing.T, path string, n int) {
	t.Helper()
	db, err := Open(context.Background(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found := 0
	if err := db.Load(func(Record) error { found++; return nil }, func(Removal) error { found++; return nil }, nil); err != nil || found != n {
		t.Errorf("Load finds %d records and removals (%v), want %d", found, err, n)
	}
	if err := db.Write(context.Background(), Put(active("new", ""))); err != nil {
		t.Error(err)
	}
}

// A page that leads to others says only where they are. Where the file was closed in
// order all of them are found without it; else but what the last transaction wrote.
func TestDamagedBranchPageCostsNothing(t *testing.T) {
	whole := realistic(t, 3000, true)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	want := examine(t, whole)
	pageSize := os.Getpagesize()
	branches := 0
	for id := 2; id < len(data)/pageSize; id++ {
		if flags := binary.NativeEndian.Uint16(data[id*pageSize+8:]); flags != flagBranch {
			continue
		}
		branches++
		damaged := slices.Clone(data)
		damaged[id*pageSize] ^= 0x40
		path := filepath.Join(t.TempDir(), "snapshots.db")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := examine(t, path); !reflect.DeepEqual(got.byKey(), want.byKey()) {
			t.Errorf("branch page %d: %d records, want %d; %q", id, len(got.Records), len(want.Records), got.Damage)
		}
	}
	if branches < 2 {
		t.Errorf("there are %d branch pages, this test needs some", branches)
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
