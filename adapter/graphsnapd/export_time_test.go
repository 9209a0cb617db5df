package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestExportTime measures what the export of a small change on a base of 1 GiB, in
// 16384 files, takes here and on stock buildkitd of the same version with its own
// overlayfs snapshotter, by turns. It prints and judges nothing.
func TestExportTime(t *testing.T) {
	if os.Getenv("GRAPHSNAP_EXPORT_TIME") == "" {
		t.Skip("make bench-export runs this")
	}
	const rounds = 15
	version := ownBuildKit(t)
	root := testRoot(t)
	daemons := map[string]*testDaemon{
		"graphsnapd": startDaemon(t, filepath.Join(root, "ours"), "overlay2", "--oci-worker-net", "host", "--oci-worker-gc=false"),
		"buildkitd":  startStock(t, filepath.Join(root, "stock"), version),
	}
	const base = `FROM scratch
COPY bin/ /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /base/0 && head -c 65536 /dev/urandom > /base/0/0 && \
    for i in $(seq 127); do cp /base/0/0 /base/0/$i; done && for i in $(seq 127); do cp -r /base/0 /base/$i; done
`
	export := func(d *testDaemon, dir string) time.Duration {
		// Built before, so that the time is that of the export.
		d.mustBuildctl(version, buildArgs(dir)...)
		begin := time.Now()
		d.mustBuildctl(version, buildArgs(dir, "--output", "type=image,name=changed,compression=uncompressed")...)
		return time.Since(begin)
	}
	took := map[string][]time.Duration{}
	for round := range rounds + 1 {
		dir := writeContext(t, root, "context", base+fmt.Sprintf("RUN echo %d > /change && rm /base/1/%d\n", round, round))
		for name, d := range daemons {
			if d := export(d, dir); round > 0 { // the first exports the base
				took[name] = append(took[name], d)
			}
		}
	}
	medians := map[string]time.Duration{}
	for name, all := range took {
		slices.Sort(all)
		medians[name] = all[len(all)/2]
		t.Logf("%s %s: median %v, fastest %v, slowest %v of %d exports", name, version, medians[name], all[0], all[len(all)-1], len(all))
	}
	t.Logf("ratio of the medians, graphsnapd to buildkitd: %.2f", medians["graphsnapd"].Seconds()/medians["buildkitd"].Seconds())
}
