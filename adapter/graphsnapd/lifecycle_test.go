package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sleeper is a build that holds a container, and thereby mounts, until killed.
const sleeper = "FROM scratch\nCOPY bin/ /bin/\nRUN --mount=type=cache,target=/cache [\"/bin/busybox\", \"sleep\", \"86400\"]\n"

// startSleeper begins that build and waits until its container runs: the mounts
// are there before the runtime knows of a container.
func startSleeper(t *testing.T, d *testDaemon, root string) <-chan error {
	t.Helper()
	dir := writeContext(t, root, "sleeper", sleeper)
	result := make(chan error, 1)
	go func() {
		_, err := d.buildctl(buildctlVersions[0], buildArgs(dir)...)
		result <- err
	}()
	d.waitFor("a running container", func() bool {
		containers, err := d.containers()
		return err == nil && slices.ContainsFunc(containers, isRunning)
	})
	return result
}

// containers lists the IDs of the bundles that the daemon wrote and not removed.
func (d *testDaemon) containers() ([]string, error) {
	bundles, err := filepath.Glob(filepath.Join(d.root, "runc-"+d.driver, "executor", "*", "config.json"))
	for i, bundle := range bundles {
		bundles[i] = filepath.Base(filepath.Dir(bundle))
	}
	return bundles, err
}

// isRunning tells whether the runtime has the container's process running.
func isRunning(container string) bool {
	out, err := exec.Command("runc", "state", container).Output()
	var state struct{ Status string }
	return err == nil && json.Unmarshal(out, &state) == nil && state.Status == "running"
}

// TestSignalEndsInOrder: the first SIGTERM cancels the builds that run, and the
// daemon ends with success, no mount and no socket (checked by terminate).
func TestSignalEndsInOrder(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			root := testRoot(t)
			d := startDaemon(t, root, driver)
			result := startSleeper(t, d, root)
			d.terminate()
			if err := <-result; err == nil {
				t.Error("a build that was cut off reports success")
			}

			again := startDaemon(t, root, driver)
			dir := writeContext(t, root, "after", "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"true\"]\n")
			again.mustBuildctl(buildctlVersions[0], buildArgs(dir)...)
		})
	}
}

// TestForeignMountStays: a disk that the administrator mounted below the root is
// not the daemon's to unmount, neither at its start nor at its end.
func TestForeignMountStays(t *testing.T) {
	requireRoot(t)
	root := testRoot(t)
	home := filepath.Join(root, "root", "runc-overlay2", "overlay2")
	if err := os.MkdirAll(home, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", home, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	code, stderr := runToEnd(t, graphsnapd("build", writeContext(t, root, "context", "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"true\"]\n"),
		"--root", filepath.Join(root, "root")))
	if code != 0 {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	if points, err := mountsBelow(root); err != nil || len(points) != 1 || points[0] != home {
		t.Errorf("mounts are %q (%v), want the disk at %s and no other", points, err, home)
	}
}

// TestStartAfterKill: a daemon that starts on the root of a killed one removes
// the containers and mounts that were left, and builds.
func TestStartAfterKill(t *testing.T) {
	for _, driver := range []string{"overlay2", "btrfs"} {
		t.Run(driver, func(t *testing.T) {
			root := testRootFor(t, driver)
			d := startDaemon(t, root, driver)
			result := startSleeper(t, d, root)
			d.kill()
			<-result
			containers, err := d.containers()
			if err != nil || len(containers) == 0 {
				t.Fatalf("a killed daemon left %d containers (%v): this test needs one", len(containers), err)
			}
			if points, err := mountsBelow(d.root); err != nil || len(points) == 0 {
				t.Fatalf("a killed daemon left %d mounts (%v): this test needs some", len(points), err)
			}
			again := startDaemon(t, root, driver)
			for _, container := range containers {
				if out, err := exec.Command("runc", "state", container).CombinedOutput(); err == nil {
					t.Errorf("container %s of the killed daemon is still known: %s", container, out)
				}
			}
			dir := writeContext(t, root, "after", "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"true\"]\n")
			again.mustBuildctl(buildctlVersions[0], buildArgs(dir)...)
			again.terminate()
		})
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	root := testRoot(t)
	d := startDaemon(t, root, "overlay2")
	code, stderr := runToEnd(t, graphsnapd("--root", d.root, "--addr", "unix://"+filepath.Join(root, "sock2")))
	if lock := filepath.Join(d.root, "graphsnapd.lock"); code != exitFailure || !strings.Contains(stderr, lock) {
		t.Errorf("second daemon on one root: exit code %d, want %d and an error that names %s:\n%s", code, exitFailure, lock, stderr)
	}
	code, stderr = runToEnd(t, graphsnapd("--root", filepath.Join(root, "root2"), "--addr", "unix://"+d.socket))
	if code != exitFailure || !strings.Contains(stderr, "another daemon answers") {
		t.Errorf("second daemon on one socket: exit code %d, want %d:\n%s", code, exitFailure, stderr)
	}
	d.mustBuildctl(buildctlVersions[0], "debug", "workers")
}

func TestSocketModeAndGroup(t *testing.T) {
	root := testRoot(t)
	const gid = 4242
	second := filepath.Join(root, "second", "sock")
	d := startDaemon(t, root, "overlay2", "--group", "4242", "--addr", "unix://"+second)
	for _, socket := range []string{d.socket, second} {
		info, err := os.Stat(socket)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Type() != fs.ModeSocket || info.Mode().Perm() != 0o660 {
			t.Errorf("mode of %s is %v, want a socket with 0660", socket, info.Mode())
		}
		if got := info.Sys().(*syscall.Stat_t).Gid; got != gid {
			t.Errorf("group of %s is %d, want %d", socket, got, gid)
		}
	}
	d.terminate()
	if _, err := os.Lstat(second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("second socket after the end: %v, want it gone", err)
	}
}

// TestStaleSocket: the socket of a killed daemon is replaced, a file is not.
func TestStaleSocket(t *testing.T) {
	root := testRoot(t)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(root, "sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	startDaemon(t, root, "overlay2").terminate()

	file := filepath.Join(root, "file")
	writeFile(t, file, "precious", 0o644)
	code, stderr := runToEnd(t, graphsnapd("--root", filepath.Join(root, "root"), "--addr", "unix://"+file))
	if code != exitFailure || !strings.Contains(stderr, "is not a socket") || readFile(t, file) != "precious" {
		t.Errorf("listening at a file: exit code %d, want %d and the file kept:\n%s", code, exitFailure, stderr)
	}
}

// TestCannotStart: what cannot work ends with code 1 and one line saying why,
// and leaves nothing mounted or listening.
func TestCannotStart(t *testing.T) {
	requireRoot(t)
	root := testRoot(t)
	socket := filepath.Join(root, "sock")
	file := filepath.Join(root, "file")
	writeFile(t, file, "", 0o644)
	readonly := filepath.Join(root, "readonly")
	if err := os.Mkdir(readonly, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", readonly, "tmpfs", unix.MS_RDONLY, "size=4k"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(readonly, 0); err != nil {
			t.Error(err)
		}
	}()
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"root below a file":     {[]string{"--root", filepath.Join(file, "root")}, "not a directory"},
		"root on read-only":     {[]string{"--root", readonly}, "read-only file system"},
		"unknown driver":        {[]string{"--root", filepath.Join(root, "a"), "--driver", "nope"}, `unknown graph driver "nope": known are overlay2, vfs, btrfs, fuse-overlayfs`},
		"driver kernel lacks":   {[]string{"--root", filepath.Join(root, "b"), "--driver", "btrfs"}, `graph driver "btrfs" does not work in`},
		"unknown driver option": {[]string{"--root", filepath.Join(root, "c"), "--driver-opt", "overlay2.nope=1"}, "unknown option overlay2.nope"},
		"no such runtime":       {[]string{"--root", filepath.Join(root, "d"), "--oci-worker-binary", "no-such-runc"}, "no-such-runc"},
		"no such config":        {[]string{"--root", filepath.Join(root, "e"), "--config", filepath.Join(root, "no.toml")}, "no.toml"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stderr := runToEnd(t, graphsnapd(append(c.args, "--addr", "unix://"+socket)...))
			if last := lastLine(stderr); code != exitFailure || !strings.HasPrefix(last, "graphsnapd: ") || !strings.Contains(last, c.want) {
				t.Errorf("exit code %d, want %d and a line with %q:\n%s", code, exitFailure, c.want, stderr)
			}
			if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("socket: %v, want none", err)
			}
		})
	}
	if points, err := mountsBelow(root); err != nil || len(points) != 1 {
		t.Errorf("mounts after failed starts: %q (%v), want only the test's own", points, err)
	}
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}
