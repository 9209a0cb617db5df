package dockerd

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestUpgradeAndDowngrade hands one data-root from stock dockerd to graphsnap and
// back. Each finds all that was built before in its cache, cache mounts included,
// and builds on it.
func TestUpgradeAndDowngrade(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			h := newHost(t, driver)
			baseDir := h.context("base", base, nil)
			road := h.context("road", wholeRoad, map[string]string{"greeting": "hello\n"})
			steps := []string{"FROM base"}
			for i, binary := range []string{stock, graphsnap, stock, graphsnap} {
				d := h.start(binary)
				// All that was built before.
				for _, dir := range []string{baseDir, road, h.context("steps", strings.Join(steps, "\n"), nil)} {
					if i == 0 && dir != baseDir {
						d.build(dir, "-t", name(dir))
						continue
					}
					progress := d.build(dir, "-t", name(dir))
					if i > 0 {
						checkCached(t, progress)
					}
				}
				if got := d.must("run", "--rm", "--network", "none", "road"); got != wholeRoadOutput {
					t.Errorf("%s: the image prints %q, want %q", binary, got, wholeRoadOutput)
				}
				// A step on it, and a line more in the cache mount.
				steps = append(steps, "RUN --mount=type=cache,target=/cache echo "+binary+" >>/cache/lines && cp /cache/lines /lines")
				d.build(h.context("steps", strings.Join(steps, "\n"), nil), "-t", "steps")
				lines := strings.Count(d.must("run", "--rm", "--network", "none", "steps", "cat", "/lines"), "\n")
				if want := 1 + len(steps) - 1; lines != want {
					t.Errorf("%s: the cache mount has %d lines, want %d", binary, lines, want)
				}
				d.stop()
			}
			d := h.start(stock)
			if left := d.prune(); len(left) > 0 {
				t.Errorf("left after stock dockerd pruned: %q", left)
			}
		})
	}
}

// TestUpgradeAfterCrash puts graphsnap where stock dockerd was killed in the middle
// of builds, and each time finds what was finished in the cache, finishes the rest,
// and prunes all that stock dockerd still knew.
func TestUpgradeAfterCrash(t *testing.T) {
	h := newHost(t, "overlay2")
	baseDir := h.context("base", base, nil)
	road := h.context("road", wholeRoad, map[string]string{"greeting": "hello\n"})
	for i := range 3 {
		d := h.start(stock)
		d.build(baseDir, "-t", "base")
		d.build(road, "-t", "road")
		killed := h.context("killed", fmt.Sprintf("FROM road\nRUN echo %[1]d >/before\nRUN sleep 1; echo %[1]d >/after\n", i), nil)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = d.tryBuild(killed, "-t", "killed") // it fails, when the daemon is killed
		}()
		time.Sleep(time.Duration(500*(i+1)) * time.Millisecond)
		d.crash()
		<-ended
		h.killSteps()

		d = h.start(graphsnap)
		checkCached(t, d.build(road, "-t", "road"))
		d.build(killed, "-t", "killed")
		if got, want := d.must("run", "--rm", "--network", "none", "killed", "cat", "/after", "/out/all"), fmt.Sprint(i, "\n", wholeRoadOutput); got != want {
			t.Errorf("the image holds %q, want %q", got, want)
		}
		// Directories that stock dockerd made and did not write down belong to
		// nobody; graphsnap cannot tell them from a container's.
		known := strings.Count(d.must("builder", "du"), "\n")
		left := d.prune()
		t.Logf("%d left of a cache of about %d records: %q", len(left), known, left)
		for _, path := range left {
			if strings.Contains(path, "layerdb") {
				t.Errorf("left after everything was pruned: %s", path)
			}
		}
		d.stop()
	}
	h.unmountLeft(stock)
}

// name is that of an image built from a context.
func name(dir string) string { return dir[strings.LastIndex(dir, "/")+1:] }
