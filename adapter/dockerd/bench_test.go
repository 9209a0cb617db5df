package dockerd

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// BenchmarkWideBuild measures the wall time of `docker build` of the wide build
// of stress/testdata/wide, from the client's start to its end, the image's export
// included. The daemons take turns, which one begins too, and each build is on a
// new data-root, so that neither cache nor an earlier run's files play a part.
//
// What a snapshotter can save of it is bounded: of the 6,000 syncs of this build,
// 4,300 are of BuildKit's records and of containerd's leases, 420 the graph driver's
// and 300 the layer store's. Those of snapshots.db are 970 with stock dockerd's
// snapshotter and 640 with graphsnap.
func BenchmarkWideBuild(b *testing.B) {
	times := map[string][]time.Duration{}
	for i := range b.N {
		order := []string{stock, graphsnap}
		if i%2 == 1 {
			slices.Reverse(order)
		}
		for _, binary := range order {
			times[binary] = append(times[binary], wideBuild(b, binary, fmt.Sprint(i)))
			b.Logf("%-13s %.2fs", binary, times[binary][i].Seconds())
		}
	}
	was, is := median(times[stock]), median(times[graphsnap])
	b.Logf("medians of %d: %s %.2fs, %s %.2fs; ratio %.2f", b.N, stock, was, graphsnap, is, is/was)
	b.ReportMetric(0, "ns/op") // the sum of all means nothing
	b.ReportMetric(was, "stock-s")
	b.ReportMetric(is, "graphsnap-s")
	b.ReportMetric(is/was, "ratio")
}

// median is in seconds.
func median(d []time.Duration) float64 {
	d = slices.Sorted(slices.Values(d))
	n := len(d)
	return (d[(n-1)/2] + d[n/2]).Seconds() / 2
}

func wideBuild(b *testing.B, binary, salt string) (took time.Duration) {
	// A host's clean-up comes with the end of its test or benchmark.
	b.Helper()
	h := newHost(b, "overlay2")
	dir := h.path("context/wide")
	if _, err := output(exec.Command(filepath.Join(topDir(b), "stress/testdata/wide/generate"), dir, salt)); err != nil {
		b.Fatal(err)
	}
	d := h.start(binary)
	begin := time.Now()
	d.build(dir, "-t", "wide")
	took = time.Since(begin)
	d.stop()
	return took
}
