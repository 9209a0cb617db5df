package dockerd

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// base is a base image of the machine's static busybox.
const base = `FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
`

// context makes a build context of a Dockerfile, busybox, and files by name.
func (h *host) context(name, dockerfile string, files map[string]string) string {
	h.t.Helper()
	dir := filepath.Join("context", name)
	path, err := exec.LookPath("busybox")
	if err != nil {
		h.t.Fatalf("%v: install busybox-static", err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(filepath.Join(dir, "Dockerfile"), dockerfile)
	if err := os.Chmod(h.write(filepath.Join(dir, "busybox"), string(binary)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	for file, content := range files {
		h.write(filepath.Join(dir, file), content)
	}
	return h.path(dir)
}

// tryBuild runs `docker build` without network and returns its progress.
func (d *dockerd) tryBuild(dir string, args ...string) (progress string, err error) {
	// The progress goes to stderr, so the shell makes it stdout.
	args = append([]string{"build", "--progress", "plain", "--network", "none"}, args...)
	cmd := d.client("sh", append([]string{"-c", `exec "$@" 2>&1`, "sh", d.docker}, append(args, dir)...)...)
	progress, err = output(cmd)
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, progress)
	}
	return progress, err
}

func (d *dockerd) build(dir string, args ...string) (progress string) {
	d.t.Helper()
	progress, err := d.tryBuild(dir, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return progress
}

var (
	step   = regexp.MustCompile(`(?m)^#\d+ \[[^]]* ?\d+/\d+\] (RUN|COPY)`)
	cached = regexp.MustCompile(`(?m)^#\d+ CACHED$`)
)

// checkCached checks that every step came from the cache.
func checkCached(t testing.TB, progress string) {
	t.Helper()
	steps := step.FindAllString(progress, -1)
	slices.Sort(steps)
	n := len(slices.Compact(steps))
	if hits := len(cached.FindAllString(progress, -1)); n == 0 || hits < n {
		t.Errorf("%d of %d steps came from the cache:\n%s", hits, n, progress)
	}
}

// buildctl runs BuildKit's own client, which knows nothing of dockerd, through
// dockerd's /grpc: on a socket from which each connection goes on as dockerd's
// client would begin one.
func (d *dockerd) buildctl(args ...string) (string, error) {
	listener, err := net.Listen("unix", filepath.Join(d.mkdir("grpc"), fmt.Sprint(time.Now().UnixNano())))
	if err != nil {
		return "", err
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				if err := d.upgrade(conn); err != nil {
					d.t.Errorf("/grpc: %v", err)
				}
			}()
		}
	}()
	return output(exec.Command(buildctl(d.t), append([]string{"--addr", "unix://" + listener.Addr().String()}, args...)...))
}

// upgrade joins conn with a connection to dockerd that speaks HTTP/2 from now on.
func (d *dockerd) upgrade(conn net.Conn) error {
	defer conn.Close()
	server, err := net.Dial("unix", d.path("docker.sock"))
	if err != nil {
		return err
	}
	defer server.Close()
	if _, err := io.WriteString(server, "POST /grpc HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"); err != nil {
		return err
	}
	r := bufio.NewReader(server)
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("dockerd answers %s", answer.Status)
	}
	ended := make(chan struct{}, 2)
	go func() { _, _ = io.Copy(conn, r); ended <- struct{}{} }()
	go func() { _, _ = io.Copy(server, conn); ended <- struct{}{} }()
	<-ended
	return nil
}

// buildctlArgs are the arguments of `buildctl build` for a context.
func buildctlArgs(dir string, more ...string) []string {
	return append([]string{
		"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
	}, more...)
}

// left lists what images and the build cache hold on disk: directories of the
// graph driver, overlay2's links to them, layers, and mounts of any of these.
func (h *host) left() []string {
	h.t.Helper()
	home := filepath.Join("data", h.driver)
	layers := filepath.Join("data", "image", h.driver, "layerdb")
	dirs := []string{filepath.Join(layers, "sha256"), filepath.Join(layers, "mounts")}
	if !h.crashed {
		// A layer store that is killed while it registers leaves a file of a
		// few bytes there, whoever asked it to.
		dirs = append(dirs, filepath.Join(layers, "tmp"))
	}
	switch h.driver {
	case "overlay2":
		dirs = append(dirs, home, filepath.Join(home, "l"))
	case "vfs":
		dirs = append(dirs, filepath.Join(home, "dir"))
	case "btrfs":
		dirs = append(dirs, filepath.Join(home, "subvolumes"))
	default:
		h.t.Fatalf("where does %s keep its directories?", h.driver)
	}
	var left []string
	for _, dir := range dirs {
		entries, err := os.ReadDir(h.path(dir))
		if err != nil && !os.IsNotExist(err) {
			h.t.Fatal(err)
		}
		for _, e := range entries {
			// What the driver keeps of itself.
			if dir == home && (e.Name() == "l" || e.Name() == "backingFsBlockDev") {
				continue
			}
			left = append(left, filepath.Join(dir, e.Name()))
		}
	}
	points, err := h.mounts()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, point := range points {
		if strings.HasPrefix(point, h.path(home)+"/") || strings.HasPrefix(point, h.path("tmp")+"/") {
			left = append(left, "mount "+point)
		}
	}
	return left
}

// prune removes containers, images and the build cache, as its user would, and
// returns what is left for good. Once is not enough: a build's last references
// are let go a moment after its client has its answer, and prune passes over
// records in use. graphsnap keeps what an earlier daemon made for half a minute
// after its start.
func (d *dockerd) prune() (left []string) {
	d.t.Helper()
	if ids := strings.Fields(d.must("ps", "-aq")); len(ids) > 0 {
		d.must(append([]string{"rm", "-f"}, ids...)...)
	}
	wait := 5 * time.Second
	if d.binary == graphsnap {
		wait = time.Minute
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(200 * time.Millisecond) {
		d.must("builder", "prune", "-af")
		d.must("image", "prune", "-af")
		left = d.left()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// checkNothingLeft prunes and checks that this leaves nothing.
func (d *dockerd) checkNothingLeft() {
	d.t.Helper()
	if left := d.prune(); len(left) > 0 {
		d.t.Errorf("%d left after everything was pruned: %q\ndockerd knows of:\n%s", len(left), left, d.must("system", "df", "-v"))
	}
}
