package dockerd

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// moby/moby#45939, docker/cli#4656: what dockerd was making when it was killed
// stays in overlay2/ and is removed by no prune, and what it had mounted stays
// mounted.
func TestMoby45939KillsLeaveNothing(t *testing.T) {
	t.Run(stock, func(t *testing.T) {
		left := killedDuringBuilds(t, stock)
		if len(left) == 0 {
			t.Error("stock dockerd leaves nothing any more")
		}
		t.Logf("stock dockerd leaves %d: %q", len(left), left)
	})
	t.Run(graphsnap, func(t *testing.T) {
		if left := killedDuringBuilds(t, graphsnap); len(left) > 0 {
			t.Errorf("left after everything was pruned: %q", left)
		}
	})
}

// parallelBuilds is how many builds are under way when a daemon is killed.
const parallelBuilds = 4

// killedDuringBuilds kills a daemon twelve times in the middle of builds, and
// returns what is left when a last one has pruned everything.
func killedDuringBuilds(t *testing.T, binary string) []string {
	h := newHost(t, "overlay2")
	baseDir := h.context("base", base, nil)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 12 {
		d := h.start(binary)
		d.build(baseDir, "-t", "base")
		done := make(chan struct{})
		for j := range parallelBuilds {
			dir := h.context(fmt.Sprintf("killed-%d-%d", i, j), fmt.Sprintf(`FROM base AS one
RUN echo %[1]d >/one && rm /bin/vi
RUN sleep 0.2; seq 1 %[1]d >/two
FROM base
COPY busybox /copied
RUN --mount=type=cache,target=/cache echo %[1]d >>/cache/lines; sleep 0.1
COPY --from=one /one /two /
RUN cat /one /two
`, 10*i+j), nil)
			go func() {
				// It fails, when the daemon is killed.
				_, _ = d.tryBuild(dir, "-t", fmt.Sprint("killed-", i, "-", j))
				done <- struct{}{}
			}()
		}
		time.Sleep(100*time.Millisecond + time.Duration(random.Int64N(int64(2500*time.Millisecond))))
		d.crash()
		for range parallelBuilds {
			<-done
		}
		h.killSteps()
	}
	d := h.start(binary)
	checkWorks(d)
	left := d.prune()
	d.stop()
	h.unmountLeft(binary)
	return left
}

// checkWorks checks that what survived the crashes can be built on.
func checkWorks(d *dockerd) {
	d.t.Helper()
	d.build(d.context("base", base, nil), "-t", "base")
	d.build(d.context("works", "FROM base\nRUN --mount=type=cache,target=/cache cat /cache/lines >/lines; true\n", nil), "-t", "works")
	d.must("run", "--rm", "--network", "none", "works", "cat", "/lines")
}

// killSteps ends the RUN steps of builds whose dockerd was killed. No dockerd does
// that: they run in containers that only their runtime knows. Each directory of
// BuildKit's executor is named after one.
func (h *host) killSteps() {
	h.t.Helper()
	bundles, err := filepath.Glob(h.path("data/buildkit/executor/*/config.json"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, config := range bundles {
		id := filepath.Base(filepath.Dir(config))
		if out, err := exec.Command("runc", "delete", "--force", id).CombinedOutput(); err != nil {
			h.t.Errorf("runc delete %s: %v: %s", id, err, out)
		}
	}
}

// unmountLeft unmounts what a killed dockerd leaves mounted whatever its
// snapshotter does: BuildKit's executor binds the root of each step to a place of
// its own, and never looks there again. Of stock dockerd it unmounts the rest too.
func (h *host) unmountLeft(binary string) {
	h.t.Helper()
	points, err := h.mounts()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, point := range points {
		if point != h.path("data") && (binary == stock || strings.HasPrefix(point, h.path("data/buildkit/executor")+"/")) {
			if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
				h.t.Error(err)
			}
		}
	}
}
