package dockerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// patience bounds every wait in these tests; a build of this size takes seconds.
const patience = 3 * time.Minute

// The two daemons, by the name of their binary in bin/.
const (
	stock     = "dockerd-stock"
	graphsnap = "dockerd"
)

func requireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "needs root: dockerd mounts and makes containers")
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

// host is a directory with a containerd in it, on which one dockerd at a time
// runs. What is not below dir is shared with the machine: the kernel, the cgroup
// /docker, and the sockets of shims in /run/containerd/s.
type host struct {
	t      testing.TB
	dir    string
	driver string
	docker string // the client

	crashed bool // a dockerd of this host was killed
}

// newHost starts containerd. At the end of the test it checks that no process
// and no mount is left.
func newHost(t testing.TB, driver string) *host {
	t.Helper()
	requireRoot(t)
	// Not t.TempDir: its name is too long for a socket, and its clean-up would
	// walk into a mount that a failed test left behind.
	dir, err := os.MkdirTemp("", "dockerd-")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, dir: dir, driver: driver}
	t.Cleanup(func() {
		h.killContainers()
		left, err := h.mounts()
		if err != nil {
			t.Error(err)
		}
		for _, point := range left {
			if h.crashed && (point == h.path("data") || strings.Contains(point, "/buildkit-mount")) {
				// dockerd mounts its data-root onto itself and after a crash
				// takes that for somebody else's mount. BuildKit binds what it
				// copies from and to below dockerd's directory for temporary
				// files, which dockerd renames at its next start.
				if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
				continue
			}
			t.Errorf("mount left at the end of the test: %s", point)
			if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				t.Errorf("unmount: %v", err)
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	h.docker, err = exec.LookPath("docker")
	if err != nil {
		t.Fatalf("%v: install Docker's client", err)
	}
	plugins := h.mkdir("config/cli-plugins")
	if err := os.Symlink(buildx(t), filepath.Join(plugins, "docker-buildx")); err != nil {
		t.Fatal(err)
	}
	h.startContainerd()
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) mkdir(name string) string {
	h.t.Helper()
	if err := os.MkdirAll(h.path(name), 0o711); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

func (h *host) write(name, content string) string {
	h.t.Helper()
	h.mkdir(filepath.Dir(name))
	if err := os.WriteFile(h.path(name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

func (h *host) startContainerd() {
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
`, h.path("containerd/root"), h.path("containerd/state"), h.path("containerd.sock"))
	p := start(h.t, exec.Command("containerd", "--log-level", "warn", "--config", h.write("containerd.toml", config)))
	h.t.Cleanup(func() { p.terminate() })
	p.waitFor("containerd's socket", func() bool {
		_, err := os.Stat(h.path("containerd.sock"))
		return err == nil
	})
}

// killContainers ends containers that a failed test left running, with the shims
// that outlive containerd on purpose.
func (h *host) killContainers() {
	shims := map[string]bool{}
	each := func(do func(pid string, stat []string)) {
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, path := range stats {
			content, err := os.ReadFile(path)
			if err != nil {
				continue // it ended
			}
			// The name of the program, in parentheses, may contain anything.
			_, rest, _ := strings.Cut(string(content), ") ")
			do(filepath.Base(filepath.Dir(path)), strings.Fields(rest))
		}
	}
	kill := func(pid string) {
		n, err := strconv.Atoi(pid)
		if err == nil {
			err = unix.Kill(n, unix.SIGKILL)
		}
		h.t.Errorf("process left at the end of the test: %s, killed: %v", pid, err)
	}
	each(func(pid string, _ []string) {
		args, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if bytes.Contains(args, []byte("containerd-shim")) && bytes.Contains(args, []byte(h.path("containerd.sock"))) {
			shims[pid] = true
		}
	})
	each(func(pid string, stat []string) {
		if len(stat) > 1 && shims[stat[1]] {
			kill(pid)
		}
	})
	for pid := range shims {
		kill(pid)
	}
}

// mounts lists what is mounted below the host's directory, what was mounted last
// first.
func (h *host) mounts() ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(h.dir))
	if err != nil {
		return nil, err
	}
	var points []string
	for _, info := range infos {
		if info.Mountpoint != h.dir {
			points = append(points, info.Mountpoint)
		}
	}
	slices.Reverse(points)
	return points, nil
}

// dockerd is a running daemon.
type dockerd struct {
	*host
	*process
	t      testing.TB
	binary string
}

// start runs bin/binary on the host's data until the test ends.
func (h *host) start(binary string, flags ...string) *dockerd {
	h.t.Helper()
	config := h.write("daemon.json", `{"builder": {"gc": {"enabled": false}}, "features": {"buildkit": true}}`)
	cmd := exec.Command(daemonBinary(h.t, binary), append([]string{
		"--config-file", config,
		"--data-root", h.path("data"), "--exec-root", h.path("exec"), "--pidfile", h.path("pid"),
		"--host", "unix://" + h.path("docker.sock"), "--containerd", h.path("containerd.sock"),
		"--storage-driver", h.driver,
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--userland-proxy=false",
	}, flags...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+h.mkdir("tmp"))
	d := &dockerd{host: h, process: start(h.t, cmd), t: h.t, binary: binary}
	h.t.Cleanup(func() { d.stop() })
	d.waitFor("an answer from dockerd", func() bool {
		_, err := d.run("version", "--format", "{{.Server.Version}}")
		return err == nil
	})
	return d
}

// stop ends the daemon in order.
func (d *dockerd) stop() {
	d.t.Helper()
	d.terminate()
}

// crash ends the daemon by kill -9.
func (d *dockerd) crash() {
	d.kill()
	d.crashed = true
}

// client is a command in the environment in which the docker client finds this
// daemon.
func (d *dockerd) client(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+d.path("docker.sock"), "DOCKER_CONFIG="+d.path("config"),
		"DOCKER_BUILDKIT=1", "BUILDX_GIT_INFO=false")
	return cmd
}

// run runs the docker client and returns what it prints to stdout.
func (d *dockerd) run(args ...string) (string, error) { return output(d.client(d.docker, args...)) }

// must is run where it may not fail.
func (d *dockerd) must(args ...string) string {
	d.t.Helper()
	out, err := d.run(args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return out
}

// output runs cmd, at most for as long as patience allows. The error holds what
// it wrote to stderr.
func output(cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The client leaves its plugin, which holds the pipes, to end by itself.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// process is a daemon whose end is watched and whose log is kept.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	log   *logged
	ended chan struct{}
	err   error // read after ended
}

type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, log: &logged{}, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// A daemon must not outlive a test binary that was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("log of %s:\n%s", filepath.Base(cmd.Path), p.log)
		}
	})
	return p
}

// terminate ends the process in order, unless it has ended.
func (p *process) terminate() {
	p.t.Helper()
	select {
	case <-p.ended:
		return
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Errorf("signal %s: %v", p.cmd.Path, err)
	}
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.kill()
		p.t.Errorf("%s did not end within %v of SIGTERM", p.cmd.Path, patience)
	}
	if p.err != nil {
		p.t.Errorf("%s ended with %v", p.cmd.Path, p.err)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// waitFor polls until ok, and fails when the process ends or patience does.
func (p *process) waitFor(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		select {
		case <-p.ended:
			p.t.Fatalf("waiting for %s: %s ended: %v\n%s", what, p.cmd.Path, p.err, p.log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("waiting for %s: not within %v", what, patience)
		}
	}
}
