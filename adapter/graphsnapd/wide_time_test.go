package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestWideTime measures what the wide build of stress/testdata/wide takes here and
// on stock buildkitd of the same version with its own overlayfs snapshotter, by
// turns, from the client's start to its end, with nothing in the cache. It prints
// and judges nothing.
func TestWideTime(t *testing.T) {
	if os.Getenv("GRAPHSNAP_WIDE_TIME") == "" {
		t.Skip("make bench-wide runs this")
	}
	const rounds = 10
	version := ownBuildKit(t)
	root := testRoot(t)
	names := []string{"graphsnapd", "buildkitd"}
	daemons := map[string]*testDaemon{
		"graphsnapd": startDaemon(t, filepath.Join(root, "ours"), "overlay2", "--oci-worker-net", "host", "--oci-worker-gc=false"),
		"buildkitd":  startStock(t, filepath.Join(root, "stock"), version),
	}
	took := map[string][]float64{}
	var ratios []float64
	for round := range rounds + 1 {
		dir := filepath.Join(root, fmt.Sprint("context", round))
		generate := exec.Command(filepath.Join(moduleRoot(t), "stress/testdata/wide/generate"), dir, fmt.Sprint(round))
		if out, err := generate.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", generate.Args, err, out)
		}
		for _, name := range names {
			begin := time.Now()
			daemons[name].mustBuildctl(version, buildArgs(dir, "--output", "type=image,name=wide")...)
			if round > 0 { // the first warms up
				took[name] = append(took[name], time.Since(begin).Seconds())
			}
		}
		slices.Reverse(names)
		if round > 0 {
			ratios = append(ratios, took["graphsnapd"][round-1]/took["buildkitd"][round-1])
		}
	}
	for _, s := range []struct {
		name string
		all  []float64
	}{{"graphsnapd, seconds", took["graphsnapd"]}, {"buildkitd " + version + ", seconds", took["buildkitd"]}, {"ratio, graphsnapd to buildkitd", ratios}} {
		slices.Sort(s.all)
		t.Logf("%s: median %.2f, least %.2f, most %.2f of %d builds", s.name, s.all[len(s.all)/2], s.all[0], s.all[len(s.all)-1], len(s.all))
	}
}
