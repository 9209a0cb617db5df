package main

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// snapshotService is a running `graphsnapd snapshotter`.
type snapshotService struct {
	t       *testing.T
	root    string // of the service
	socket  string
	driver  string
	command []string
	env     []string // beside the test's
	handed  *os.File // the socket as systemd hands it over, or nil
	cmd     *exec.Cmd
	log     *logBuffer
	ended   chan struct{}
	err     error // of the process; read after ended
}

// startSnapshots serves snapshots below dir until the test ends, and checks the
// orderly end.
func startSnapshots(t *testing.T, dir, driver string, args ...string) *snapshotService {
	t.Helper()
	s := newSnapshots(t, dir, driver)
	s.command = append(s.command, "--address", s.socket)
	s.command = append(s.command, args...)
	s.run()
	return s
}

// newSnapshots is a service below dir that has no address yet.
func newSnapshots(t *testing.T, dir, driver string) *snapshotService {
	t.Helper()
	requireRoot(t)
	s := &snapshotService{t: t, root: filepath.Join(dir, "snapshots"), socket: filepath.Join(dir, "snapshots.sock"), driver: driver, log: &logBuffer{}}
	s.command = []string{"snapshotter", "--root", s.root, "--driver", driver}
	return s
}

// run starts the service and, when the test ends, stops it.
func (s *snapshotService) run() {
	s.t.Helper()
	s.start()
	s.t.Cleanup(func() {
		s.stop()
		if s.t.Failed() {
			s.t.Logf("log of the service:\n%s", s.log)
		}
	})
}

func (s *snapshotService) start() {
	s.t.Helper()
	s.cmd = graphsnapd(s.command...)
	if s.handed != nil {
		s.handOver()
	}
	s.cmd.Env = append(s.cmd.Env, s.env...)
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan struct{})
	s.ended = ended
	go func() {
		s.err = s.cmd.Wait()
		close(ended)
	}()
	s.waitFor("an answer on the socket", func() bool {
		conn, err := net.Dial("unix", s.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	if s.handed != nil { // which answers before the service does
		s.count()
	}
}

// count returns how many snapshots there are. It waits for the service.
func (s *snapshotService) count() (n int) {
	s.t.Helper()
	conn, err := s.connect()
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	client := proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), s.driver)
	s.try("walk", func(ctx context.Context) error {
		n = 0
		return client.Walk(ctx, func(context.Context, snapshots.Info) error {
			n++
			return nil
		})
	})
	return n
}

func (s *snapshotService) connect() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+s.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// keepSocket opens the socket here, as systemd does, so that it is there while the
// service is not, and has the service take it over.
func (s *snapshotService) keepSocket() {
	s.t.Helper()
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { l.Close() })
	if s.handed, err = l.(*net.UnixListener).File(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.handed.Close() })
	s.command = append(s.command, "--address", activated)
}

// handOver has the command take the socket. The shell's process becomes the service,
// whose ID is thereby known before.
func (s *snapshotService) handOver() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd.Path, s.cmd.Args = "/bin/sh", append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`, self}, s.cmd.Args[1:]...)
	s.cmd.Env = append(s.cmd.Env, "LISTEN_FDS=1")
	s.cmd.ExtraFiles = []*os.File{s.handed}
}

func (s *snapshotService) waitFor(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		select {
		case <-s.ended:
			s.t.Fatalf("waiting for %s: the service ended: %v\n%s", what, s.err, s.log)
		default:
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("waiting for %s: not within %v", what, patience)
		}
	}
}

// stop sends SIGTERM, unless the service has ended, and checks that it ended in order.
func (s *snapshotService) stop() {
	s.t.Helper()
	select {
	case <-s.ended:
		return
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Errorf("signal the service: %v", err)
	}
	select {
	case <-s.ended:
	case <-time.After(patience):
		_ = s.cmd.Process.Kill()
		<-s.ended
		s.t.Errorf("the service did not end within %v of SIGTERM", patience)
	}
	if s.err != nil {
		s.t.Errorf("the service ended with %v", s.err)
	}
	points, err := mountsBelow(s.root)
	if err != nil || len(points) > 0 {
		s.t.Errorf("mounts of the service after its end: %q (%v)", points, err)
	}
	checkRaces(s.t, s.log.String())
}

func (s *snapshotService) kill() {
	s.t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		s.t.Fatal(err)
	}
	<-s.ended
}

// dial connects a client, until the test ends.
func (s *snapshotService) dial() (snapshots.Snapshotter, *grpc.ClientConn) {
	s.t.Helper()
	conn, err := s.connect()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), s.driver), conn
}

// left lists what the driver keeps of snapshots.
func (s *snapshotService) left() []string {
	home := filepath.Join(s.root, "snapshotter-"+s.driver, s.driver)
	var names []string
	for _, dir := range []string{"", "l", "dir", "subvolumes"} {
		entries, err := os.ReadDir(filepath.Join(home, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
		for _, e := range entries {
			if dir != "" || !slices.Contains([]string{"l", "dir", "subvolumes", "backingFsBlockDev"}, e.Name()) {
				names = append(names, e.Name())
			}
		}
	}
	return names
}

func (s *snapshotService) checkNothingLeft() {
	s.t.Helper()
	s.waitFor("an empty home of the driver", func() bool { return len(s.left()) == 0 })
}

// try is a call with a deadline, that waits for the service to be there.
func (s *snapshotService) try(what string, call func(ctx context.Context) error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := call(ctx)
		switch {
		case err == nil:
			return
		case !errdefs.IsUnavailable(err) || ctx.Err() != nil:
			s.t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
