package persist

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// readBytes reads the pages of a file and what is on them.
func readBytes(t *testing.T, data []byte) (*pageReader, *bucketTree) {
	t.Helper()
	r, tree, err := readPages(strings.NewReader(string(data)), int64(len(data)), true)
	if err != nil {
		t.Fatal(err)
	}
	return r, tree
}

// A page that is neither in use nor free costs room and nothing else.
func TestLostPageIsNoReasonToRefuse(t *testing.T) {
	path := realistic(t, 700, true)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := readBytes(t, data)
	count := data[int64(r.meta.freelist)*r.meta.pageSize+10:]
	binary.NativeEndian.PutUint16(count, binary.NativeEndian.Uint16(count)-1)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if x := examine(t, path); len(x.Damage) != 1 || !strings.HasPrefix(x.Damage[0], "1 pages are neither") {
		t.Errorf("damage: %q", x.Damage)
	}
	s := &store{t: t, path: path}
	s.open()
	s.close()
}

func TestMetaPagesThatDisagree(t *testing.T) {
	path := realistic(t, 50, true)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := readBytes(t, data)
	second := data[r.meta.pageSize+pageHeader:][:metaSize]
	binary.NativeEndian.PutUint32(second[8:], uint32(2*r.meta.pageSize))
	sum := fnv.New64a()
	_, _ = sum.Write(second[:metaSize-8])
	binary.NativeEndian.PutUint64(second[metaSize-8:], sum.Sum64())
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), path, Options{}); !errdefs.IsDataLoss(err) || !strings.Contains(err.Error(), "do not agree") {
		t.Errorf("Open: %v", err)
	}
}

// Damage beyond what is put into words is counted, also where contents are looked for
// elsewhere, and one page leaves one gap, however many elements it claims to have: each
// gap is looked for in all of the file.
func TestDamageIsCounted(t *testing.T) {
	data, err := os.ReadFile(realistic(t, 50, false))
	if err != nil {
		t.Fatal(err)
	}
	r, _ := readBytes(t, data)
	const elements = 1<<16 - 1
	for id := uint64(2); id < r.meta.pages; id++ {
		header := data[int64(id)*r.meta.pageSize:]
		if r.seen.has(id) && binary.NativeEndian.Uint16(header[8:]) == flagLeaf {
			binary.NativeEndian.PutUint16(header[10:], elements) // so none of them is within the page
			break
		}
	}
	r, _ = readBytes(t, data)
	if n := len(r.damage); n != maxDamage+1 || !strings.HasSuffix(r.damage[n-1], " more") || len(r.gaps) != 1 {
		t.Errorf("%d of damage, %d gaps", n, len(r.gaps))
	}
}

// What the last transaction changed in two places is looked for in the one before.
func TestTwoGapsAreFilled(t *testing.T) {
	s := &store{t: t, path: realistic(t, 700, true)}
	s.open()
	defer s.close()
	keys := []string{"key-00219", "key-00043"} // as realistic made them
	var same []Mutation
	for _, key := range keys {
		r := active(key, "")
		r.Labels = map[string]string{"of": key}
		same = append(same, Put(r))
	}
	s.write(same...)
	data, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	r, whole := readBytes(t, data)
	damaged := 0
	for id := uint64(2); id < r.meta.pages; id++ {
		p, err := r.readPage(id)
		if err != nil || p == nil || p.flags != flagLeaf || !r.seen.has(id) {
			continue
		}
		for i := range p.count {
			if _, key, _, ok := p.leafElement(i); ok && slices.Contains(keys, string(key)) {
				binary.NativeEndian.PutUint16(data[int64(id)*r.meta.pageSize+8:], 0)
				damaged++
				break
			}
		}
	}
	if damaged != len(keys) {
		t.Fatalf("%d pages were damaged", damaged)
	}
	r, tree := readBytes(t, data)
	if len(r.gaps) != len(keys) || !reflect.DeepEqual(tree, whole) {
		t.Errorf("%d gaps, %d buckets of %d", len(r.gaps), len(tree.buckets), len(whole.buckets))
	}
}

// What is beside a gap has no field of the transaction before.
func TestVersionsOfARecordAreNotMixed(t *testing.T) {
	s := newStore(t)
	n := committed("n", "k", "")
	n.Measured, n.Size = true, 5
	s.write(Put(n))
	s.write(Put(committed("n", "k", "")))
	data, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	r, whole := readBytes(t, data)
	p, err := r.readPage(r.meta.root)
	if err != nil || p == nil || p.flags != flagLeaf {
		t.Fatal("the root is no leaf", err)
	}
	for i := range p.count {
		if _, key, _, _ := p.leafElement(i); string(key) == "k" {
			element := int64(p.id)*r.meta.pageSize + pageHeader + int64(i)*16
			binary.NativeEndian.PutUint32(data[element+4:], 1<<30)
		}
	}
	r, tree := readBytes(t, data)
	if len(r.gaps) != 1 || !reflect.DeepEqual(tree, whole) {
		t.Errorf("%d gaps, n is %q, k is %v", len(r.gaps), tree.buckets["n"].values, tree.buckets["k"])
	}
}
