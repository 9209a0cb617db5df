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

// pagesOf returns for each record the pages that it depends on.
func pagesOf(t *testing.T, path string, records map[string]Record) map[string]map[uint64]bool {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := readPages(strings.NewReader(string(b)), int64(len(b)), false)
	if err != nil || len(r.damage) != r.mild {
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
	for name, closed := range map[string]bool{"closed in order": true, "died": false} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(20, 26)) // one for each, so that a trial that fails repeats
			whole := realistic(t, 700, closed)
			data, err := os.ReadFile(whole)
			if err != nil {
				t.Fatal(err)
			}
			records := examine(t, whole).byKey()
			pages := pagesOf(t, whole, records)
			// Without the meta page of the last transaction the one before it is the last.
			r, _ := readBytes(t, data)
			newest := r.meta.tx % 2
			older := filepath.Join(t.TempDir(), "older.db")
			if err := os.WriteFile(older, withoutPage(data, newest), 0o600); err != nil {
				t.Fatal(err)
			}
			recordsBefore := examine(t, older).byKey()
			pagesBefore := pagesOf(t, older, recordsBefore)
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
				records, pages := records, pages
				if hurt[newest] {
					records, pages = recordsBefore, pagesBefore
				}
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

// withoutPage returns a copy of the file in which the page is empty.
func withoutPage(data []byte, id uint64) []byte {
	data = slices.Clone(data)
	clear(data[int(id)*os.Getpagesize():][:os.Getpagesize()])
	return data
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

// A repair that fails changes nothing, and leaves but the copy of the file.
func TestRepairThatFailsLeavesTheFile(t *testing.T) {
	path := realistic(t, 50, true)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	backup, err := examine(t, path).Repair(context.Background(), Commit(committed("n", "absent", ""), "absent"))
	if !errdefs.IsNotFound(err) || backup == "" || !strings.Contains(err.Error(), path) {
		t.Errorf("%q, %v", backup, err)
	}
	for _, name := range []string{path, backup} {
		if after, err := os.ReadFile(name); err != nil || !slices.Equal(before, after) {
			t.Errorf("%s is not what the file was (%v)", name, err)
		}
	}
	if _, err := os.Stat(path + suffixCopy); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a half-made database is left: %v", err)
	}
	wantClosed(t, filepath.Dir(path))
}

// A repair takes out what cannot be a removal, and leaves those that are.
func TestRepairOfRemovals(t *testing.T) {
	s := newStore(t)
	s.write(Removing("sound"))
	s.dockerd(func(tx *bolt.Tx) {
		s.put(tx, bucketRemoving, "of-another-bucket", "value", strings.Repeat("k", MaxKey+1), "")
	})
	s.close()
	if _, err := examine(t, s.path).Repair(context.Background()); err != nil {
		t.Fatal(err)
	}
	s.open()
	if got := s.load().removals; len(got) != 1 || !got["sound"] {
		t.Errorf("%d removals are left, of which one is sound: %v", len(got), got["sound"])
	}
}

func TestMutationsThatCannotBe(t *testing.T) {
	for _, m := range []Mutation{Remove("", "g"), Remove("k", ""), Discard("", "g"), Discard("", ""), Discard("k", "\x00"), Removing(""), Delete("")} {
		if err := m.check(); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", m, err)
		}
	}
	for _, m := range []Mutation{Remove("k", "g"), Discard("k", "g"), Discard("k", "")} {
		if err := m.check(); err != nil {
			t.Errorf("%+v: %v", m, err)
		}
	}
}
