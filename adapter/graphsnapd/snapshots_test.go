package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestSnapshotsSurviveRestart: what a client has mounted, and what it was told to
// mount, works across a stop, a start, a kill and a start; where the driver itself had
// mounted that, when the client has asked again.
func TestSnapshotsSurviveRestart(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs", "btrfs", "fuse-overlayfs"} {
		t.Run(driver, func(t *testing.T) {
			dir := testRootFor(t, driver)
			s := startSnapshots(t, dir, driver)
			client, _ := s.dial()
			ctx := context.Background()
			_, err := client.Prepare(ctx, "work", "")
			s.try("prepare", func(context.Context) error { return err })
			s.try("commit", func(ctx context.Context) error { return client.Commit(ctx, "base", "work") })
			mounts, err := client.Prepare(ctx, "held", "base")
			s.try("prepare", func(context.Context) error { return err })
			later, err := client.Prepare(ctx, "later", "base")
			s.try("prepare", func(context.Context) error { return err })

			target := filepath.Join(dir, "client")
			if err := errors.Join(os.Mkdir(target, 0o755), mount.All(mounts, target)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
			for i, end := range []func(){s.stop, s.kill} {
				name := strconv.Itoa(i)
				if err := os.WriteFile(filepath.Join(target, name), []byte("before"), 0o644); err != nil {
					t.Fatal(err)
				}
				end()
				if err := os.WriteFile(filepath.Join(target, name+"-meanwhile"), nil, 0o644); err != nil {
					t.Errorf("a client's mount while the service is away: %v", err)
				}
				s.start()
				if got, err := os.ReadFile(filepath.Join(target, name)); err != nil || string(got) != "before" {
					t.Errorf("a client's mount after the service came back: %q, %v", got, err)
				}
				s.try("mounts", func(ctx context.Context) error {
					again, err := client.Mounts(ctx, "held")
					if err == nil && fmt.Sprint(again) != fmt.Sprint(mounts) {
						t.Errorf("mounts are %v, and were %v before", again, mounts)
					}
					return err
				})
			}
			if driver == "fuse-overlayfs" { // which mounts again when somebody asks
				s.try("mounts", func(ctx context.Context) (err error) {
					later, err = client.Mounts(ctx, "later")
					return err
				})
			}
			if err := mount.WithTempMount(ctx, later, func(string) error { return nil }); err != nil {
				t.Errorf("mounts that were told before are of no use: %v", err)
			}
			if err := unix.Unmount(target, 0); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"later", "held", "base"} {
				s.try("remove "+key, func(ctx context.Context) error { return client.Remove(ctx, key) })
			}
			s.checkNothingLeft()
		})
	}
}

// hold makes the test binary a client that prepares a snapshot from the socket that the
// variable names, mounts it in a mount namespace of its own, writes a file there, says
// so, and then waits for its end.
const hold = "GRAPHSNAPD_TEST_HOLD"

func init() {
	socket := os.Getenv(hold)
	if socket == "" {
		return
	}
	s := &snapshotService{socket: socket}
	conn, err := s.connect()
	if err == nil {
		var mounts []mount.Mount
		mounts, err = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "").Prepare(context.Background(), "key", "")
		if err == nil {
			err = mount.All(mounts, "/mnt")
		}
	}
	if err == nil {
		err = os.WriteFile("/mnt/file", []byte("left"), 0o644)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("holding")
	select {}
}

// TestSnapshotsOfDeadClient: a client that is killed with mounts leaves snapshots that
// others can go on with.
func TestSnapshotsOfDeadClient(t *testing.T) {
	s := startSnapshots(t, testRoot(t), "overlay2")
	dying := exec.Command("/proc/self/exe")
	dying.Env = []string{hold + "=" + s.socket}
	dying.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	said, err := dying.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dying.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(said).ReadString('\n'); err != nil || line != "holding\n" {
		t.Errorf("the client says %q (%v)", line, err)
	}
	if err := dying.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dying.Wait()

	other, _ := s.dial()
	var mounts []mount.Mount
	s.try("mounts", func(ctx context.Context) (err error) {
		mounts, err = other.Mounts(ctx, "key")
		return err
	})
	err = mount.WithTempMount(context.Background(), mounts, func(dir string) error {
		got, err := os.ReadFile(filepath.Join(dir, "file"))
		if string(got) != "left" {
			t.Errorf("another client reads %q", got)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	s.try("remove", func(ctx context.Context) error { return other.Remove(ctx, "key") })
	s.checkNothingLeft()
}

// TestSnapshotsNonsense: requests and bytes that make no sense get errors, and the
// service goes on.
func TestSnapshotsNonsense(t *testing.T) {
	s := startSnapshots(t, testRoot(t), "overlay2")
	client, conn := s.dial()
	api := snapshotsapi.NewSnapshotsClient(conn)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()

	_, err := api.Update(ctx, &snapshotsapi.UpdateSnapshotRequest{}) // containerd's service panics
	if status.Code(err) != codes.Internal {
		t.Errorf("update of nothing: %v", err)
	}
	for what, c := range map[string]struct {
		err  error
		want func(error) bool
	}{
		"empty key":      {second(client.Prepare(ctx, "", "")), errdefs.IsInvalidArgument},
		"endless key":    {second(client.Prepare(ctx, strings.Repeat("k", 1<<20), "")), errdefs.IsInvalidArgument},
		"own parent":     {second(client.Prepare(ctx, "key", "key")), errdefs.IsNotFound},
		"filter":         {client.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }, "=="), errdefs.IsInvalidArgument},
		"field":          {second(client.Update(ctx, snapshots.Info{Name: "key"}, "kind")), errdefs.IsInvalidArgument},
		"unknown key":    {client.Remove(ctx, "../../etc"), errdefs.IsNotFound},
		"unknown method": {conn.Invoke(ctx, "/containerd.services.snapshots.v1.Snapshots/Format", &snapshotsapi.CleanupRequest{}, &snapshotsapi.CleanupRequest{}), errdefs.IsNotImplemented},
	} {
		if !c.want(proxied(c.err)) {
			t.Errorf("%s: %v", what, c.err)
		}
	}
	raw, err := net.Dial("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, _ = raw.Write([]byte("GET / HTTP/1.1\r\nHost: nobody\r\n\r\n\x00\xff\xff\xff\xff"))
	_, _ = io.Copy(io.Discard, raw) // until the service hangs up
	s.try("prepare", func(ctx context.Context) error { return second(client.Prepare(ctx, "key", "")) })
	s.try("remove", func(ctx context.Context) error { return client.Remove(ctx, "key") })
}

func second[T any](_ T, err error) error { return err }

// proxied gives an error of a bare call the kind that the proxy gives it.
func proxied(err error) error {
	if status.Code(err) == codes.Unimplemented {
		return errdefs.ErrNotImplemented
	}
	return err
}

// TestSnapshotsThousandConnections: each is served.
func TestSnapshotsThousandConnections(t *testing.T) {
	s := startSnapshots(t, testRoot(t), "overlay2")
	const connections = 1000
	clients := make([]snapshots.Snapshotter, connections)
	for i := range clients {
		clients[i], _ = s.dial()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	var g sync.WaitGroup
	for i, client := range clients {
		g.Go(func() {
			key := fmt.Sprintf("key-%d", i)
			if _, err := client.Prepare(ctx, key, ""); err != nil {
				t.Errorf("%s: %v", key, err)
				return
			}
			if err := client.Remove(ctx, key); err != nil {
				t.Errorf("%s: %v", key, err)
			}
		})
	}
	g.Wait()
	s.checkNothingLeft()
}

// TestSnapshotsSocket: who may connect, and who may serve.
func TestSnapshotsSocket(t *testing.T) {
	requireRoot(t)
	dir := testRoot(t)
	// The socket's own mode is to decide, not the directories that it lies in.
	open, err := os.MkdirTemp("/tmp", "graphsnapd-open-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(open)
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	const group = 4242
	reachable := filepath.Join(open, "sock")
	s := startSnapshots(t, dir, "overlay2", "--group", strconv.Itoa(group), "--address", reachable)
	st, err := os.Stat(reachable)
	if err != nil {
		t.Fatal(err)
	}
	if mode := st.Mode().Perm(); mode != 0o660 {
		t.Errorf("the socket has mode %o", mode)
	}
	for _, who := range []struct {
		uid, gid uint32
		want     error
	}{{0, 0, nil}, {4243, group, nil}, {4243, 4243, unix.EACCES}} {
		if err := connectAs(reachable, who.uid, who.gid); !errors.Is(err, who.want) {
			t.Errorf("user %d of group %d connects: %v, want %v", who.uid, who.gid, err, who.want)
		}
	}

	code, stderr := runToEnd(t, graphsnapd("snapshotter", "--root", filepath.Join(dir, "other"), "--address", s.socket))
	if code != exitFailure || !strings.Contains(stderr, "another daemon answers") {
		t.Errorf("second service on one socket: exit code %d:\n%s", code, stderr)
	}
	code, stderr = runToEnd(t, graphsnapd("snapshotter", "--root", s.root, "--address", filepath.Join(dir, "other.sock")))
	if code != exitFailure || !strings.Contains(stderr, "graphsnapd.lock") {
		t.Errorf("second service on one root: exit code %d:\n%s", code, stderr)
	}
	for _, args := range [][]string{{"--address", "tcp://:1"}, {"--address", "relative"}, {"--driver", "zfs"}, {"--root", ""}, {"word"}, {"--group", "no such group"}} {
		if code, stderr := runToEnd(t, graphsnapd(append([]string{"snapshotter"}, args...)...)); code != exitUsage {
			t.Errorf("%q: exit code %d, want %d:\n%s", args, code, exitUsage, stderr)
		}
	}
	if code, stderr := runToEnd(t, graphsnapd("snapshotter", "--root", filepath.Join(dir, "other"), "--address", activated)); code != exitFailure || !strings.Contains(stderr, "no sockets") {
		t.Errorf("activation without sockets: exit code %d:\n%s", code, stderr)
	}
	client, _ := s.dial()
	s.try("walk", func(ctx context.Context) error {
		return client.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
	})
}

// connect makes the test binary a client that only connects, to the socket that the
// variable names, and ends with the error number.
const connect = "GRAPHSNAPD_TEST_CONNECT"

func init() {
	socket := os.Getenv(connect)
	if socket == "" {
		return
	}
	_, err := net.Dial("unix", socket)
	var errno unix.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	os.Exit(int(errno))
}

// connectAs connects to a socket as another user of another group.
func connectAs(socket string, uid, gid uint32) error {
	cmd := exec.Command("/proc/self/exe")
	cmd.Dir, cmd.Env = "/", []string{connect + "=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	err := cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code > 0 {
		return unix.Errno(code)
	}
	return err
}

// TestSnapshotsUnderSystemd: the service takes the socket that it is handed, says when
// it is ready and when it stops, and leaves the socket for its successor.
func TestSnapshotsUnderSystemd(t *testing.T) {
	requireRoot(t)
	dir := testRoot(t)
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 1024)
		if err := told.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		n, err := told.Read(buf)
		if err != nil || string(buf[:n]) != want {
			t.Fatalf("systemd is told %q (%v), want %q", buf[:n], err, want)
		}
	}
	s := newSnapshots(t, dir, "vfs")
	s.env = []string{"NOTIFY_SOCKET=" + told.LocalAddr().String()}
	s.keepSocket()
	client, _ := s.dial()
	for range 2 {
		s.start()
		hears("READY=1")
		s.try("prepare", func(ctx context.Context) error { return second(client.Prepare(ctx, "key", "")) })
		s.try("remove", func(ctx context.Context) error { return client.Remove(ctx, "key") })
		s.stop()
		hears("STOPPING=1")
		if _, err := os.Lstat(s.socket); err != nil {
			t.Errorf("the socket of systemd: %v", err)
		}
	}
}

// TestSnapshotsFromSystemdSocketActivate: systemd's own tool opens the socket and starts
// the service when the first client connects.
func TestSnapshotsFromSystemdSocketActivate(t *testing.T) {
	requireRoot(t)
	dir := testRoot(t)
	s := newSnapshots(t, dir, "vfs")
	s.command = append(s.command, "--address", activated)
	s.ended = make(chan struct{})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd = exec.Command("systemd-socket-activate", append([]string{"--listen", s.socket, "-E", reexec, "-E", "TMPDIR", "-E", "PATH", self}, s.command...)...)
	s.cmd.Env = append(os.Environ(), reexec+"=1")
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.stop() // it became the service
		if t.Failed() {
			t.Logf("log of the service:\n%s", s.log)
		}
	})
	s.waitFor("the socket", func() bool { return second(os.Lstat(s.socket)) == nil })
	client, _ := s.dial()
	s.try("prepare", func(ctx context.Context) error { return second(client.Prepare(ctx, "key", "")) })
	s.try("remove", func(ctx context.Context) error { return client.Remove(ctx, "key") })
}
