package persist

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

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
	branches, said := 0, 0
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
		} else if says := fmt.Sprintf("page %d: says that it is page", id); slices.ContainsFunc(got.Damage, func(d string) bool { return strings.HasPrefix(d, says) }) {
			said++
		} else if len(got.Damage) > 0 { // else it is one of an earlier transaction
			t.Errorf("branch page %d: it is not said that its number is wrong: %q", id, got.Damage)
		}
	}
	if said == 0 {
		t.Error("of no page it is said that its number is wrong")
	}
	if branches < 2 {
		t.Errorf("there are %d branch pages, this test needs some", branches)
	}
}

// The same, where the transaction before the last one is of no help: pages that nothing
// leads to are found by themselves.
func TestDamagedBranchPageCostsNothingWithoutTheOtherMetaPage(t *testing.T) {
	whole := realistic(t, 3000, true)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	want := examine(t, whole).byKey()
	r, _, err := readPages(strings.NewReader(string(data)), int64(len(data)), false)
	if err != nil || r.prev == nil {
		t.Fatal(err, r.prev)
	}
	size := int(r.meta.pageSize)
	branches := 0
	for id := range r.meta.pages {
		if flags := binary.NativeEndian.Uint16(data[int(id)*size+8:]); !r.seen.has(id) || flags != flagBranch {
			continue
		}
		branches++
		damaged := slices.Clone(data)
		damaged[int(id)*size] ^= 0x40
		clear(damaged[int(r.prev.tx%2)*size:][:size])
		path := filepath.Join(t.TempDir(), "snapshots.db")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := examine(t, path); !reflect.DeepEqual(got.byKey(), want) {
			t.Errorf("branch page %d: %d records, want %d; %q", id, len(got.Records), len(want), got.Damage)
		}
	}
	if branches < 2 {
		t.Errorf("there are %d branch pages, this test needs some", branches)
	}
}

// A branch page that leads to one leaf twice, and to another one not at all, costs
// nothing either, whichever of the two comes first.
func TestLeafInUseTwiceCostsNothing(t *testing.T) {
	whole := realistic(t, 3000, true)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	want := examine(t, whole).byKey()
	r, _ := readBytes(t, data)
	size := int(r.meta.pageSize)
	leaves := 0
	for id := range r.meta.pages {
		p, err := r.readPage(id)
		if err != nil || p == nil || p.flags != flagBranch || !r.seen.has(id) {
			continue
		}
		for i := range p.count - 1 {
			_, first, _ := p.branchElement(i)
			_, second, _ := p.branchElement(i + 1)
			if q, err := r.readPage(first); err != nil || q.flags != flagLeaf {
				continue
			}
			leaves++
			for at, child := range map[int]uint64{i: second, i + 1: first} {
				damaged := slices.Clone(data)
				binary.NativeEndian.PutUint64(damaged[int(id)*size+pageHeader+at*16+8:], child)
				clear(damaged[int(r.prev.tx%2)*size:][:size])
				path := filepath.Join(t.TempDir(), "snapshots.db")
				if err := os.WriteFile(path, damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				if got := examine(t, path); len(got.Damage) == 0 || !reflect.DeepEqual(got.byKey(), want) {
					t.Errorf("branch page %d, element %d: %d records, want %d; %q", id, at, len(got.Records), len(want), got.Damage)
				}
			}
			if leaves > 5 {
				return
			}
		}
	}
	t.Errorf("there are %d leaves with a neighbour, this test needs some", leaves)
}

// A record whose key was garbled is kept under the key that is there now.
func TestKeyThatDoesNotBelongIsKept(t *testing.T) {
	path := realistic(t, 300, true)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := examine(t, path).Records
	r, _ := readBytes(t, data)
	clear(data[int64(r.prev.tx%2)*r.meta.pageSize:][:r.meta.pageSize])
	for id := uint64(2); id < r.meta.pages; id++ {
		p, err := r.readPage(id)
		if err != nil || p == nil || p.flags != flagLeaf || !r.seen.has(id) || p.count < 3 {
			continue
		}
		_, key, _, _ := p.leafElement(1)
		// Which leaf has which page is bbolt's choice. The bucket of a key that was
		// committed is no record.
		if !slices.ContainsFunc(want, func(rec Record) bool { return rec.Key == string(key) && rec.Kind == Active }) {
			continue
		}
		at := int(id) * int(r.meta.pageSize)
		data[at+bytes.Index(data[at:], key)] = 'z'
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		x := examine(t, path)
		if len(x.Records) != len(want) || !slices.ContainsFunc(x.Records, func(rec Record) bool { return rec.Key == "z"+string(key[1:]) }) {
			t.Errorf("%d records, want %d, one of them under another key; %q", len(x.Records), len(want), x.Damage)
		}
		return
	}
	t.Error("there is no leaf with the keys of records")
}

// Where no list of free pages was written the transaction before the last one leads to
// what it saw.
func TestDamagedRootPageAfterADeath(t *testing.T) {
	whole := realistic(t, 3000, false)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	want := examine(t, whole).byKey()
	r, _, err := readPages(strings.NewReader(string(data)), int64(len(data)), false)
	if err != nil || r.prev == nil || r.free != nil {
		t.Fatal(err, r.prev, len(r.free))
	}
	damaged := slices.Clone(data)
	damaged[int64(r.meta.root)*r.meta.pageSize] ^= 0x40
	path := filepath.Join(t.TempDir(), "snapshots.db")
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	got := examine(t, path).byKey()
	if len(got) < len(want)*9/10 {
		t.Errorf("%d records, want nearly all of %d", len(got), len(want))
	}
	for key, rec := range got {
		if w, ok := want[key]; ok && !reflect.DeepEqual(rec, w) && rec.Kind == w.Kind {
			t.Errorf("%q is %+v, want %+v", key, rec, w)
		}
	}
}

// The list of free pages is compared with the pages that are in use.
func TestDamageOfTheListOfFreePagesIsSaid(t *testing.T) {
	whole := realistic(t, 700, true)
	temporary := t.TempDir()
	t.Setenv("TMPDIR", temporary)
	t.Cleanup(func() {
		if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
			t.Errorf("temporary files are left: %v, %v", left, err)
		}
	})
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := readPages(strings.NewReader(string(data)), int64(len(data)), false)
	if err != nil || len(r.damage) > 0 || len(r.free) < 2 {
		t.Fatalf("%v, %q, %d free pages", err, r.damage, len(r.free))
	}
	list := int(int64(r.meta.freelist)*r.meta.pageSize) + pageHeader
	first := binary.NativeEndian.Uint64(data[list:])
	for _, c := range []struct {
		id   uint64
		says string
	}{
		{1, "lists the free page 1, which cannot be"},
		{r.meta.pages, fmt.Sprintf("lists the free page %d, which cannot be", r.meta.pages)},
		{first, fmt.Sprintf("lists the free page %d, which cannot be", first)}, // twice
		{r.meta.root, fmt.Sprintf("page %d: in use, and listed as free", r.meta.root)},
	} {
		damaged := slices.Clone(data)
		binary.NativeEndian.PutUint64(damaged[list+8:], c.id)
		path := filepath.Join(t.TempDir(), "snapshots.db")
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		x := examine(t, path)
		if !slices.ContainsFunc(x.Damage, func(d string) bool { return strings.HasSuffix(d, c.says) }) {
			t.Errorf("%q is not said: %q", c.says, x.Damage)
		}
		if !reflect.DeepEqual(x.byKey(), examine(t, whole).byKey()) {
			t.Errorf("%q: records are missing", c.says)
		}
	}
}

// What lies where it does not belong is taken where there is nothing else, and fields
// of two versions of a record are not mixed.
func TestDoubtfulContentsFillInOnly(t *testing.T) {
	tree := func(values string, buckets map[string]*bucketTree) *bucketTree {
		b := &bucketTree{values: map[string][]byte{}, buckets: buckets}
		for _, field := range strings.Fields(values) {
			key, value, _ := strings.Cut(field, "=")
			b.values[key] = []byte(value)
		}
		return b
	}
	got := tree("a=1", map[string]*bucketTree{"k": tree("f=1", nil), bucketSnapshots: tree("x=1", nil)})
	got.add(tree("a=2 b=2", map[string]*bucketTree{"k": tree("f=2 g=2", nil), "new": tree("f=2", nil), bucketSnapshots: tree("x=2 y=2", nil)}))
	want := tree("a=1 b=2", map[string]*bucketTree{"k": tree("f=1", nil), "new": tree("f=2", nil), bucketSnapshots: tree("x=1 y=2", nil)})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
