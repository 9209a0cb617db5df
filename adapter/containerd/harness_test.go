package containerd

// What the tests share: an engine on a real graph driver, reached in this process or
// through containerd's gRPC service, and the check that nothing is left.

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/docker/docker/daemon/graphdriver"
	_ "github.com/docker/docker/daemon/graphdriver/btrfs" // empty without a C compiler
	_ "github.com/docker/docker/daemon/graphdriver/fuse-overlayfs"
	_ "github.com/docker/docker/daemon/graphdriver/overlay2"
	_ "github.com/docker/docker/daemon/graphdriver/vfs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/graphsnap/graphsnap/adapter"
	"github.com/graphsnap/graphsnap/engine"
)

// cannot skips on a developer's machine and fails in CI, where a skipped test
// would look like a passed one.
func cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// workIn makes temporary directories lie where the driver works, and returns the
// directory. For btrfs that is a file system of its own.
func workIn(t *testing.T, driver string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "graph drivers mount, which needs root")
	}
	// Not t.TempDir, whose clean-up would walk into mounts that a failed test left.
	dir, err := os.MkdirTemp("", "graphsnap-containerd-")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the kernel lists mounts
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, point := range mountsBelow(t, dir) {
			if point != filepath.Join(dir, "btrfs") {
				t.Errorf("mounted at the end: %s", point)
			}
			if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				t.Errorf("clean up: unmount %s: %v", point, err)
				return // and do not delete through it
			}
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	tmp := filepath.Join(dir, driver)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	if driver == "btrfs" {
		known, err := os.ReadFile("/proc/filesystems")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(known), "\tbtrfs\n") {
			cannot(t, "this kernel has no btrfs")
		}
		image := filepath.Join(dir, "btrfs.img")
		if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 1<<30)); err != nil {
			t.Fatal(err)
		}
		for _, command := range [][]string{{"mkfs.btrfs", "-q", image}, {"mount", "-o", "loop", image, tmp}} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", command, err, out)
			}
		}
	}
	t.Setenv("TMPDIR", tmp)
	return tmp
}

// mountsBelow lists the mount points below dir, the newest first.
func mountsBelow(t testing.TB, dir string) (points []string) {
	t.Helper()
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, dir+"/"), false
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		points = append([]string{i.Mountpoint}, points...)
	}
	return points
}

// openDriver starts a graph driver with its home below root.
func openDriver(t *testing.T, driver, root string) graphdriver.Driver {
	t.Helper()
	d, err := graphdriver.New(driver, graphdriver.Options{Root: root})
	must(t, err)
	if driver == "btrfs" { // which mounts its home on itself
		t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(root, driver), unix.MNT_DETACH)) })
	}
	return d
}

// opener is open or openRemote.
type opener func(ctx context.Context, gd graphdriver.Driver, root string) (snapshots.Snapshotter, func() error, error)

// openEngine opens an engine with its records in root.
func openEngine(ctx context.Context, gd graphdriver.Driver, root string) (*engine.Engine, error) {
	d, err := adapter.NewDriver(gd, adapter.DriverOpt{OverlayMounts: true})
	if err != nil {
		return nil, err
	}
	return engine.Open(ctx, engine.Config{Driver: d, Root: root, Name: gd.String()})
}

// open opens a snapshotter with its records in root.
func open(ctx context.Context, gd graphdriver.Driver, root string) (_ snapshots.Snapshotter, end func() error, err error) {
	e, err := openEngine(ctx, gd, root)
	if err != nil {
		return nil, nil, err
	}
	return New(e), e.Close, nil
}

// openRemote is open through containerd's service on a socket.
func openRemote(ctx context.Context, gd graphdriver.Driver, root string) (_ snapshots.Snapshotter, end func() error, err error) {
	sn, closeEngine, err := open(ctx, gd, root)
	if err != nil {
		return nil, nil, err
	}
	// Below root the path may be longer than the 107 bytes that a socket's can have.
	dir, err := os.MkdirTemp("/tmp", "graphsnap-")
	if err != nil {
		return nil, nil, errors.Join(err, closeEngine())
	}
	socket := filepath.Join(dir, "sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir), closeEngine())
	}
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		server.Stop()
		return nil, nil, errors.Join(err, <-served, os.RemoveAll(dir), closeEngine())
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), gd.String()), func() error {
		err := conn.Close()
		server.Stop()
		return errors.Join(err, <-served, os.RemoveAll(dir), closeEngine())
	}, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
