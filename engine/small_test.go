package engine

import (
	"context"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/go-digest"

	"github.com/graphsnap/graphsnap/persist"
)

func TestMeansOfNothingAreNothing(t *testing.T) {
	var none, some Stats
	some.Database = persist.Stats{Transactions: 2, Messages: 6, Committing: 4 * time.Second}
	if none.MeanBatch(none) != 0 || some.MeanBatch(some) != 0 || some.MeanBatch(none) != 3 {
		t.Error("mean batches:", none.MeanBatch(none), some.MeanBatch(some), some.MeanBatch(none))
	}
	if none.MeanCommit(none) != 0 || some.MeanCommit(some) != 0 || some.MeanCommit(none) != 2*time.Second {
		t.Error("mean commits:", none.MeanCommit(none), some.MeanCommit(some), some.MeanCommit(none))
	}
}

func TestTimesThatAreNotKnownAreZero(t *testing.T) {
	if !when(0).IsZero() || when(5).UnixNano() != 5 {
		t.Error(when(0), when(5))
	}
}

func TestNamesThatEveryDriverBears(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "Z": true, "0": true, "a_b.c-d": true, strings.Repeat("a", 128): true,
		"": false, "_a": false, ".a": false, "-a": false, "..": false, "a:b": false, "a/b": false, "a b": false, "ä": false,
		strings.Repeat("a", 129): false,
	} {
		if got := plainName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func TestLabelsThatAreNotNamedStay(t *testing.T) {
	old := map[string]string{"a": "1", "b": "2"}
	for _, c := range []struct {
		wanted map[string]string
		paths  []string
		want   map[string]string
	}{
		{map[string]string{"a": "3"}, nil, map[string]string{"a": "3"}},
		{map[string]string{"a": "3"}, []string{"labels"}, map[string]string{"a": "3"}},
		{map[string]string{"a": "3", "c": "4"}, []string{"labels.a"}, map[string]string{"a": "3", "b": "2"}},
		{map[string]string{}, []string{"labels.a"}, map[string]string{"b": "2"}},
		{nil, nil, nil},
	} {
		change, err := labelChange(c.wanted, c.paths)
		must(t, err)
		if got := change.apply(old); !maps.Equal(got, c.want) {
			t.Errorf("%v of %v: %v, want %v", c.paths, c.wanted, got, c.want)
		}
	}
}

// A usage is loaded where it is that of a committed snapshot, with its inodes.
func TestUsageThatIsLoaded(t *testing.T) {
	for _, c := range []struct {
		r    persist.Record
		want snapshots.Usage
	}{
		{persist.Record{Kind: persist.Committed, Measured: true, Size: 5, Inodes: 2}, snapshots.Usage{Size: 5, Inodes: 2}},
		{persist.Record{Kind: persist.Committed, Measured: true, Size: 5, Inodes: -1}, snapshots.Usage{}},
		{persist.Record{Kind: persist.Committed, Size: 5, Inodes: 2}, snapshots.Usage{}},
		{persist.Record{Kind: persist.Active, Measured: true, Size: 5, Inodes: 2}, snapshots.Usage{}},
	} {
		if b := fromRecord(c.r).body; b.usage != c.want || b.measured != (c.want != snapshots.Usage{}) {
			t.Errorf("%+v: measured %v, %+v", c.r, b.measured, b.usage)
		}
	}
}

// A chain ID is made of that of the layer below and of the contents.
func TestChainIDOfALayer(t *testing.T) {
	low, high := digest.FromString("low").String(), digest.FromString("high").String()
	first := exportee{sum: Checksum{DiffID: low}}
	second := exportee{sum: Checksum{DiffID: high}, on: &memoryLayer{chainID: low}}
	if got := first.chainID(); got != low {
		t.Errorf("on nothing: %s, want %s", got, low)
	}
	if got, want := second.chainID(), digest.FromString(low+" "+high).String(); got != want {
		t.Errorf("on another: %s, want %s", got, want)
	}
}

// A name that a lease bears is in the census before anything of that name is there.
func TestCensusTellsSnapshotsFromNames(t *testing.T) {
	ctx := context.Background()
	h := open(t, WithGrace(time.Hour))
	l := Lease{"ns", "l"}
	h.lease(l, "there")
	h.lease(l, "named")
	must(t, h.Prepare(ctx, "there", ""))
	all, _, err := h.Census(ctx)
	must(t, err)
	found := map[string]Resident{}
	for _, r := range all {
		found[r.Key] = r
	}
	if r := found["there"]; !r.Present || !r.Owned || r.GraphID != "there" || r.Kind != snapshots.KindActive {
		t.Errorf("what is there: %+v", r)
	}
	if r, ok := found["named"]; !ok || r.Present || r.GraphID != "" || len(r.Leases) != 1 {
		t.Errorf("what is named: %+v", r)
	}
}
