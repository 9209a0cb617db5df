package persist

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// bucketFields is what one of the ways of passing over them tells.
type bucketFields struct {
	key                                     string
	parent, committed, chainID, size, extra string
	isCommitted                             bool
	shape                                   shape
}

func fieldsBy(t *testing.T, pass func(func(string, top) error) error) (all []bucketFields) {
	t.Helper()
	if err := pass(func(key string, at top) error {
		all = append(all, bucketFields{key, string(at.parent), string(at.committed), string(at.chainID), string(at.size), string(at.extra), at.isCommitted, at.shape})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestScanFindsWhatACursorFinds checks that buckets are read the same without bbolt:
// in an empty database, in one leaf, in a tree of them, and also those that have grown
// too large to lie within a leaf.
func TestScanFindsWhatACursorFinds(t *testing.T) {
	s := newStore(t)
	for _, n := range []int{0, 5, 3000} {
		var m []Mutation
		for i := range n {
			r := active(fmt.Sprintf("%d-of-%d", i, n), "parent")
			if i%7 == 0 {
				r.Labels = map[string]string{"large": strings.Repeat("x", i)}
			}
			m = append(m, Put(r))
			if i%3 == 0 {
				key := r.Key
				r.Key, r.Kind = key+"-name", Committed
				m = append(m, Commit(r, key))
			}
		}
		s.write(m...)
		if err := view(s.bolt, func(tx *bolt.Tx) error {
			return mapped(s.path, func(m mapping) error {
				got := fieldsBy(t, func(each func(string, top) error) error { return scan(tx, m, each) })
				want := fieldsBy(t, func(each func(string, top) error) error { return eachBucket(tx, each) })
				if !reflect.DeepEqual(got, want) || len(got) < n {
					t.Errorf("of %d records a scan finds %d buckets and a cursor %d, or others", n, len(got), len(want))
				}
				// Our own buckets count too, which are three at most.
				if n, err := countBuckets(tx, m); err != nil || n < len(want) || n > len(want)+3 {
					t.Errorf("%d buckets are counted as %d: %v", len(want), n, err)
				}
				return nil
			})
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLoadOfAFileThatWasCutMeanwhile checks that a page that cannot be had any more is
// an error of Load.
func TestLoadOfAFileThatWasCutMeanwhile(t *testing.T) {
	s := newStore(t)
	var m []Mutation
	for i := range 200 {
		m = append(m, Put(active(fmt.Sprint(i), "")))
	}
	s.write(m...)
	whole, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.path, 4*int64(os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	err = s.Load(func(Record) error { return nil }, func(Removal) error { return nil }, nil)
	if !errdefs.IsDataLoss(err) {
		t.Errorf("the error is %v", err)
	}
	if _, err := s.Count(); !errdefs.IsDataLoss(err) {
		t.Errorf("the error of Count is %v", err)
	}
	if err := os.WriteFile(s.path, whole, 0o600); err != nil { // bbolt is to close it
		t.Fatal(err)
	}
}
