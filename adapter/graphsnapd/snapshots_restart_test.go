package main

// Builds of a client of the service while either side is started anew.

import (
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// connectPatience is how long BuildKit's connection to a snapshotter may take to come
// about before its calls fail: a second, which gRPC varies by a fifth, until the first
// has come about (cmd/buildkitd/main_oci_worker.go of v0.34.2 leaves it to gRPC's
// backoff). A service that is back sooner fails no call.
const connectPatience = 800 * time.Millisecond

// restart is something that is done while builds run.
type restart struct {
	what string
	do   func()
	// spares tells that no build fails for it, if it takes less than connectPatience.
	spares bool
}

// buildBesideRestarts runs 50 builds at once with snapshots of s, does the restarts one
// after the other, each when so many more snapshots have been made, and builds again
// what failed meanwhile. It tells how many builds that were.
func buildBesideRestarts(t *testing.T, s *snapshotService, dir string, restarts []restart, build func(context, dest string) error) {
	t.Helper()
	const (
		builds = 50
		apart  = 20 // snapshots
	)
	contexts := parallelContexts(t, dir)
	before := s.count()
	deadline := time.Now().Add(5 * time.Minute)
	var (
		running   sync.WaitGroup
		underWay  atomic.Int32
		restarted atomic.Int32
		failed    = make([]sync.Map, len(restarts)+1) // the builds, by how many restarts had begun
	)
	underWay.Store(builds)
	for i := range builds {
		running.Go(func() {
			defer underWay.Add(-1)
			dest := filepath.Join(dir, fmt.Sprint("out", i))
			for {
				err := build(contexts[i%len(contexts)], dest)
				if err == nil {
					break
				}
				n := restarted.Load()
				failed[n].LoadOrStore(i, err)
				if n == 0 || time.Now().After(deadline) {
					t.Errorf("build %d: %v", i, err)
					return
				}
				time.Sleep(100 * time.Millisecond)
			}
			checkParallel(t, i, i%len(contexts), dest)
		})
	}
	type outcome struct {
		underWay int32
		took     time.Duration
	}
	outcomes := make([]outcome, len(restarts))
	for i, r := range restarts {
		s.waitFor("snapshots", func() bool { return s.count() >= before+(i+1)*apart })
		restarted.Add(1)
		begin := time.Now()
		outcomes[i].underWay = underWay.Load()
		r.do()
		outcomes[i].took = time.Since(begin)
	}
	running.Wait()
	for i, r := range restarts {
		again, example := 0, any(nil)
		failed[i+1].Range(func(_, err any) bool {
			again++
			example = err
			return true
		})
		o := outcomes[i]
		t.Logf("%-29s took %4d ms: of %d builds under way %d had to be built again", r.what, o.took.Milliseconds(), o.underWay, again)
		if o.underWay == 0 {
			t.Errorf("%s: started anew when all was built", r.what)
		}
		if r.spares && again > 0 && o.took < connectPatience {
			t.Errorf("%s: %d builds failed, want none, e.g. %v", r.what, again, example)
		}
	}
}
