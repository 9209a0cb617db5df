package persist

import (
	"bytes"
	"maps"
	"math"
	"reflect"
	"strings"
	"testing"
)

var sampleRecords = []Record{
	{Kind: Active},
	{Kind: Active, Creating: true, Parent: "p", GraphID: "g"},
	{Kind: View, Parent: "p", Created: 1, Updated: 2},
	{Kind: View, Created: 5, Updated: 3},
	{Kind: View, Created: math.MinInt64, Updated: math.MaxInt64},
	{Kind: Committed, GraphID: "g", Measured: true},
	{Kind: Committed, GraphID: "g", ChainID: "sha256:c", Measured: true, Size: math.MaxInt64, Inodes: -1},
	{Kind: Committed, GraphID: strings.Repeat("g", 300), Labels: map[string]string{"": ""}},
	{Kind: Borrowed, Labels: map[string]string{"a": "1", "b": strings.Repeat("x", 5000), "c\x00": "\xff"}},
}

func TestRecordRoundTrip(t *testing.T) {
	for _, want := range sampleRecords {
		b := want.encode(nil, partWhole)
		var got Record
		if err := got.decode(b); err != nil {
			t.Errorf("%+v: %v", want, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
		for n := range b {
			var r Record
			if err := r.decode(b[:n]); err == nil {
				t.Errorf("%+v: the first %d of %d bytes were accepted as %+v", want, n, len(b), r)
			}
		}
		if err := new(Record).decode(append(b, 0)); err == nil {
			t.Errorf("%+v: a byte too many was accepted", want)
		}
	}
}

func TestRecordPartsLeaveTheOthers(t *testing.T) {
	b := (&Record{Kind: Active, Parent: "p", GraphID: "g", ChainID: "c", Creating: true, Created: 7}).encode(nil, 0)
	got := Record{Kind: Committed, Parent: "q", GraphID: "h", ChainID: "d"}
	if err := got.decode(b); err != nil {
		t.Fatal(err)
	}
	want := Record{Kind: Committed, Parent: "q", GraphID: "h", ChainID: "d", Creating: true, Created: 7}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestRecordOfAnotherVersionIsRefused(t *testing.T) {
	b := (&Record{Kind: Active}).encode(nil, partWhole)
	b[0]++
	if err := new(Record).decode(b); err == nil || !strings.Contains(err.Error(), "version") {
		t.Errorf("got %v", err)
	}
}

func TestLabelCountDoesNotDecideMemory(t *testing.T) {
	b := []byte{encodingVersion, byte(partLabels), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 1, 'a', 1, 'b'}
	if err := new(Record).decode(b); err == nil {
		t.Error("accepted")
	}
}

func FuzzDecodeRecord(f *testing.F) {
	for _, r := range sampleRecords {
		f.Add(r.encode(nil, partWhole))
		f.Add(r.encode(nil, 0))
	}
	f.Add([]byte{})
	f.Add([]byte{encodingVersion, 0xff, 0x80})
	f.Fuzz(func(t *testing.T, b []byte) {
		var first, second Record
		if first.decode(b) != nil {
			return
		}
		if first.Measured && first.Kind != Committed {
			return // not written: usage is kept of committed records only
		}
		again := first.encode(nil, partWhole)
		if first.Kind == 0 {
			return // a part without a kind does not stand alone
		}
		if err := second.decode(again); err != nil {
			t.Fatalf("%+v does not decode again: %v", first, err)
		}
		if len(first.Labels) == 0 {
			first.Labels = nil
		}
		if !reflect.DeepEqual(first, second) {
			t.Fatalf("%+v became %+v", first, second)
		}
	})
}

// Equal records are equal bytes.
func TestEncodingIsOfOneKind(t *testing.T) {
	r := Record{Key: "k", Kind: View, Labels: map[string]string{}}
	for i := range 50 {
		r.Labels[string(rune('a'+i))] = "v"
	}
	first := r.encode(nil, partWhole)
	for range 10 {
		r.Labels = maps.Clone(r.Labels)
		if !bytes.Equal(r.encode(nil, partWhole), first) {
			t.Fatal("the same record is encoded in two ways")
		}
	}
}
