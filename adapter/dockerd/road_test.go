package dockerd

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// wholeRoad has stages that build side by side, a cache mount, a secret that must
// not stay, a deletion, and a COPY from each stage.
const wholeRoad = `FROM base AS left
RUN seq 1 1000 >/numbers && rm /bin/vi
RUN --mount=type=cache,target=/cache echo one >>/cache/lines && cp /cache/lines /lines

FROM base AS right
COPY greeting /greeting
RUN --mount=type=bind,from=left,source=/numbers,target=/bound wc -l </bound >/count

FROM base
COPY --from=left /numbers /lines /out/
COPY --from=right /greeting /count /out/
RUN cat /out/greeting /out/count /out/lines >/out/all && rm /out/numbers
CMD ["cat", "/out/all"]
`

const wholeRoadOutput = "hello\n1000\none\n"

// TestWholeRoad goes the way of dockerd's users, from an empty data-root to one
// that is empty again.
func TestWholeRoad(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs", "btrfs"} {
		t.Run(driver, func(t *testing.T) {
			h := newHost(t, driver)
			if driver == "btrfs" {
				h.mountBtrfs()
			}
			d := h.start(graphsnap)
			if got := strings.TrimSpace(d.must("version", "--format", "{{.Server.Version}}")); got != "28.5.2" {
				t.Errorf("version %q, want 28.5.2", got)
			}
			if got := strings.TrimSpace(d.must("info", "--format", "{{.Driver}}")); got != driver {
				t.Errorf("driver %q, want %q", got, driver)
			}

			// An image is built, and another one on it.
			d.build(h.context("base", base, nil), "-t", "base")
			road := h.context("road", wholeRoad, map[string]string{"greeting": "hello\n"})
			d.build(road, "-t", "road")
			if got := d.must("run", "--rm", "--network", "none", "road"); got != wholeRoadOutput {
				t.Errorf("the image prints %q, want %q", got, wholeRoadOutput)
			}
			checkCached(t, d.build(road, "-t", "road"))

			// Its stages go through other exporters, with BuildKit's own client.
			local := h.path("local")
			if _, err := d.buildctl(buildctlArgs(road, "--opt", "force-network-mode=none", "--output", "type=local,dest="+local)...); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(local, "out", "all")); err != nil || string(got) != wholeRoadOutput {
				t.Errorf("local output: /out/all is %q, %v, want %q", got, err, wholeRoadOutput)
			}
			if _, err := os.Lstat(filepath.Join(local, "bin", "vi")); err != nil {
				t.Errorf("local output: what another stage deleted is gone: %v", err)
			}

			// The cache is used from a second daemon on.
			d.stop()
			d = h.start(graphsnap)
			checkCached(t, d.build(road, "-t", "road"))

			// The image goes out and comes in again, and is built on.
			tar := h.path("road.tar")
			d.must("save", "-o", tar, "road")
			saved := diffIDs(d, "road")
			d.checkNothingLeft()
			d.must("load", "-i", tar)
			if got := diffIDs(d, "road"); got != saved {
				t.Errorf("diff IDs %s after save and load, before %s", got, saved)
			}
			d.build(h.context("on", "FROM road\nRUN echo more >>/out/all\n", nil), "-t", "on")
			if got := d.must("run", "--rm", "--network", "none", "on"); got != wholeRoadOutput+"more\n" {
				t.Errorf("the image built on one loaded prints %q, want %q", got, wholeRoadOutput+"more\n")
			}

			// A build that fails, one that writes no image, and a container of
			// which an image is made.
			if _, err := d.tryBuild(h.context("fails", "FROM road\nRUN false\n", nil)); err == nil {
				t.Error("a build whose RUN fails does not fail")
			}
			d.build(h.context("untagged", "FROM road\nRUN echo untagged >/untagged\n", nil))
			d.must("run", "--network", "none", "--name", "made", "on", "sh", "-c", "echo made >/made")
			d.must("commit", "made", "made")
			d.build(h.context("committed", "FROM made\nRUN grep made /made\n", nil), "-t", "committed")

			checkUsage(d)
			d.checkNothingLeft()
			d.stop()
			if left := h.left(); len(left) > 0 {
				t.Errorf("left after dockerd ended: %q", left)
			}
		})
	}
}

// mountBtrfs makes data a file system for the btrfs driver, in a file.
func (h *host) mountBtrfs() {
	h.t.Helper()
	requireRoot(h.t)
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		h.t.Fatal(err)
	}
	if !strings.Contains(string(known), "\tbtrfs\n") {
		cannot(h.t, "this kernel has no btrfs")
	}
	image, data := h.write("btrfs.img", ""), h.mkdir("data")
	if err := os.Truncate(image, 1<<30); err != nil {
		h.t.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, data}} {
		if _, err := output(exec.Command(args[0], args[1:]...)); err != nil {
			h.t.Fatal(err)
		}
	}
	h.t.Cleanup(func() {
		if err := unix.Unmount(data, 0); err != nil {
			h.t.Errorf("unmount btrfs: %v", err)
		}
	})
}

// diffIDs are those of an image's layers.
func diffIDs(d *dockerd, image string) string {
	d.t.Helper()
	return strings.TrimSpace(d.must("image", "inspect", "--format", "{{json .RootFS.Layers}}", image))
}

// checkUsage checks that `docker system df` knows the sizes of images and of the
// build cache.
func checkUsage(d *dockerd) {
	d.t.Helper()
	d.must("system", "df", "-v")
	for _, line := range strings.Split(strings.TrimSpace(d.must("system", "df", "--format", "{{json .}}")), "\n") {
		var usage struct{ Type, TotalCount, Size string }
		if err := json.Unmarshal([]byte(line), &usage); err != nil {
			d.t.Fatal(err)
		}
		switch usage.Type {
		case "Images", "Build Cache":
			if usage.TotalCount == "0" || usage.Size == "0B" {
				d.t.Errorf("system df: %s: %s of size %s", usage.Type, usage.TotalCount, usage.Size)
			}
		}
	}
}

// moby/moby#45939: a build without cache makes the layers once more that an image
// has already. Registration of the second ones answers the first ones. Stock
// dockerd then forgets the second ones' directories.
func TestMoby45939TwoBuildsWithIdenticalLayers(t *testing.T) {
	for _, binary := range []string{stock, graphsnap} {
		t.Run(binary, func(t *testing.T) {
			h := newHost(t, "overlay2")
			d := h.start(binary)
			dir := h.context("layers", "FROM scratch\nCOPY busybox /busybox\nCOPY file /file\n", map[string]string{"file": "x"})
			d.build(dir, "-t", "one")
			d.build(dir, "-t", "two", "--no-cache")
			if one, two := diffIDs(d, "one"), diffIDs(d, "two"); one != two {
				t.Fatalf("the layers are not identical: %s and %s", one, two)
			}
			left := d.prune()
			switch {
			case binary == graphsnap && len(left) > 0:
				t.Errorf("left after everything was pruned: %q", left)
			case binary == stock && len(left) == 0:
				t.Error("stock dockerd leaves nothing any more")
			case binary == stock:
				t.Logf("stock dockerd leaves %d: %q", len(left), left)
			}
		})
	}
}
