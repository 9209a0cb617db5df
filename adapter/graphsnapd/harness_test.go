package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// reexec turns the test binary into graphsnapd, so that the daemon under test
// is compiled with the same module file and the same race detector.
const reexec = "GRAPHSNAPD_TEST_REEXEC"

// patience bounds every wait in these tests.
const patience = 60 * time.Second

// buildctlVersions are the stock clients that must be able to drive the daemon.
var buildctlVersions = []string{"v0.25.2", "v0.34.2"}

func TestMain(m *testing.M) {
	if os.Getenv(reexec) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "needs root: graph drivers mount and runc makes containers")
	}
}

// cannot skips on a developer's machine and fails in CI, where a skipped test
// would look like a passed one.
func cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// graphsnapd is a command that runs this binary as the daemon.
func graphsnapd(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = "graphsnapd"
	// Races are judged by checkRaces, not by the exit code.
	cmd.Env = append(os.Environ(), reexec+"=1", "GORACE=exitcode=0")
	// A daemon must not outlive a test binary that was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// runToEnd returns the exit code and what was written to stderr.
func runToEnd(t *testing.T, cmd *exec.Cmd) (int, string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %v: %v", cmd.Args, err)
	}
	checkRaces(t, stderr.String())
	return cmd.ProcessState.ExitCode(), stderr.String()
}

// testDaemon is a running graphsnapd process.
type testDaemon struct {
	t      *testing.T
	root   string
	socket string
	driver string
	cmd    *exec.Cmd
	log    *logBuffer
	ended  chan struct{}
	err    error // of the process; read after ended
}

// logBuffer collects what the daemon writes, readable at any time.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// testRoot is a directory for a daemon. It is not t.TempDir's, whose clean-up
// would walk into a mount that a failed test left behind.
func testRoot(t *testing.T) string {
	t.Helper()
	root, err := os.MkdirTemp("", "graphsnapd-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		points, err := mountsBelow(root)
		if err == nil {
			err = unmount(points)
		}
		if err != nil {
			t.Errorf("clean up: %v", err)
			return
		}
		if err := os.RemoveAll(root); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return root
}

// testRootFor is a testRoot on which the graph driver can work.
func testRootFor(t *testing.T, driver string) string {
	t.Helper()
	requireRoot(t)
	root := testRoot(t)
	kernel := func(filesystem string) {
		known, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(known), "\t"+filesystem+"\n") {
			cannot(t, "this kernel has no "+filesystem)
		}
	}
	run := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	switch driver {
	case "fuse-overlayfs":
		kernel("fuse")
	case "btrfs":
		kernel("btrfs")
		image := filepath.Join(root, "btrfs.img")
		writeFile(t, image, "", 0o600)
		if err := os.Truncate(image, 512<<20); err != nil {
			t.Fatal(err)
		}
		run("mkfs.btrfs", "-q", image)
		root = filepath.Join(root, "btrfs")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		run("mount", "-o", "loop", image, root)
	}
	return root
}

// startDaemon runs graphsnapd until the test ends and checks the orderly end.
func startDaemon(t *testing.T, root, driver string, args ...string) *testDaemon {
	t.Helper()
	requireRoot(t)
	d := &testDaemon{
		t: t, root: filepath.Join(root, "root"), socket: filepath.Join(root, "sock"), driver: driver,
		log: &logBuffer{}, ended: make(chan struct{}),
	}
	d.cmd = graphsnapd(append([]string{"--root", d.root, "--driver", driver, "--addr", "unix://" + d.socket}, args...)...)
	d.start(d.terminate)
	return d
}

// start runs the command until the test ends, which calls end, and returns when it
// answers on its socket.
func (d *testDaemon) start(end func()) {
	d.t.Helper()
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatalf("start %s: %v", d.cmd, err)
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.ended)
	}()
	d.t.Cleanup(func() {
		end()
		if d.t.Failed() {
			d.t.Logf("log of %s:\n%s", d.cmd, d.log)
		}
	})
	d.waitFor("an answer on the socket", func() bool {
		conn, err := net.Dial("unix", d.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// waitFor polls until ok, failing when the daemon ends or patience runs out.
func (d *testDaemon) waitFor(what string, ok func() bool) {
	d.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-d.ended:
			d.t.Fatalf("waiting for %s: the daemon ended: %v\n%s", what, d.err, d.log)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("waiting for %s: not within %v", what, patience)
		}
	}
}

// terminate sends SIGTERM, unless the daemon has ended, and checks that it
// ended in order and left neither mounts nor a socket.
func (d *testDaemon) terminate() {
	d.t.Helper()
	select {
	case <-d.ended:
		return
	default:
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Errorf("signal daemon: %v", err)
	}
	select {
	case <-d.ended:
	case <-time.After(patience):
		_ = d.cmd.Process.Kill()
		<-d.ended
		d.t.Errorf("daemon did not end within %v of SIGTERM", patience)
	}
	if d.err != nil {
		d.t.Errorf("daemon ended with %v", d.err)
	}
	d.checkMounts()
	if _, err := os.Lstat(d.socket); !errors.Is(err, os.ErrNotExist) {
		d.t.Errorf("socket after the end: %v, want it gone", err)
	}
	checkRaces(d.t, d.log.String())
}

// kill ends the daemon as a power cut would, as far as it can tell.
func (d *testDaemon) kill() {
	d.t.Helper()
	if err := d.cmd.Process.Kill(); err != nil {
		d.t.Fatalf("kill daemon: %v", err)
	}
	<-d.ended
}

// checkMounts checks that nothing is mounted beside the given mount points.
func (d *testDaemon) checkMounts(beside ...string) {
	d.t.Helper()
	points, err := mountsBelow(d.root)
	if err != nil {
		d.t.Error(err)
	}
	points = slices.DeleteFunc(points, func(point string) bool { return slices.Contains(beside, point) })
	if len(points) > 0 {
		d.t.Errorf("%d mounts left, e.g. %s", len(points), points[0])
	}
}

// home is the graph driver's directory. The btrfs driver has it mounted on itself
// while it runs.
func (d *testDaemon) home() string { return filepath.Join(d.root, "runc-"+d.driver, d.driver) }

// driverEntries lists what the graph driver keeps: its snapshots, and for
// overlay drivers the short links to them.
func (d *testDaemon) driverEntries() (names []string) {
	d.t.Helper()
	// Directories of overlay drivers, vfs and btrfs; a device node for quotas.
	own := []string{"l", "dir", "subvolumes", "backingFsBlockDev"}
	for _, dir := range []string{"", "l", "dir", "subvolumes"} {
		entries, err := os.ReadDir(filepath.Join(d.home(), dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			d.t.Fatal(err)
		}
		for _, e := range entries {
			if dir != "" || !slices.Contains(own, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

// pruneAll prunes until the driver's directory is empty, as long as it gets emptier. Once
// is not enough: a build's last references are let go a moment after its client has its
// answer, and prune passes over records in use.
func (d *testDaemon) pruneAll(version string) {
	d.t.Helper()
	fewest, deadline := math.MaxInt, time.Time{}
	for {
		d.mustBuildctl(version, "prune", "--all")
		left := d.driverEntries()
		if len(left) == 0 {
			break
		}
		if len(left) < fewest {
			fewest, deadline = len(left), time.Now().Add(patience)
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("left in the driver's directory %v after prune --all: %q\nwhile BuildKit knows of:\n%s",
				patience, left, d.mustBuildctl(version, "du", "-v"))
		}
	}
	d.checkMounts(d.home())
}

// buildctl runs a stock client against the daemon and returns its stdout.
func (d *testDaemon) buildctl(version string, args ...string) (string, error) {
	cmd := exec.Command(buildctlBinary(d.t, version), append([]string{"--addr", "unix://" + d.socket}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("buildctl %s %s: %w\n%s", version, strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

func (d *testDaemon) mustBuildctl(version string, args ...string) string {
	d.t.Helper()
	out, err := d.buildctl(version, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// buildArgs are the arguments of `buildctl build` for a context directory.
func buildArgs(dir string, more ...string) []string {
	return append([]string{
		"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
	}, more...)
}
