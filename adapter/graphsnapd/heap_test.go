package main

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"runtime/metrics"
	"strconv"
	"testing"
)

func TestBallastDelaysCollections(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	goal := heapGoal()
	ballast := newBallast()
	if got := heapGoal(); got < goal+ballastSize {
		t.Errorf("with ballast the collector starts at %d bytes, without at %d", got, goal)
	}
	runtime.KeepAlive(ballast)
}

func TestBallastLeavesTheEnvironmentItsWill(t *testing.T) {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOGC", "")
			t.Setenv("GOMEMLIMIT", "")
			t.Setenv(name, "100")
			if b := newBallast(); b != nil {
				t.Errorf("%d bytes", len(b))
			}
		})
	}
}

// TestBallastHasNoPages looks at a daemon, where nothing lay before at the ballast's
// place.
func TestBallastHasNoPages(t *testing.T) {
	d := startDaemon(t, testRootFor(t, "overlay2"), "overlay2")
	d.mustBuildctl(ownBuildKit(t), "debug", "workers") // is answered when all is there
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	kib := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status)
	if kib == nil {
		t.Fatalf("no RssAnon in %s", status)
	}
	n, err := strconv.Atoi(string(kib[1]))
	if err != nil {
		t.Fatal(err)
	}
	if n*1024 > ballastSize {
		t.Errorf("%d KiB are resident", n)
	}
}

// heapGoal is the size in bytes at which the collector starts.
func heapGoal() uint64 {
	runtime.GC()
	s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
