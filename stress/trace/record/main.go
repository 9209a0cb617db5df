// Command record serves containerd's snapshots API on a socket, with graphsnap behind
// it, until it is told to end, and writes what clients did as a trace. A stock
// buildkitd uses it with --oci-worker-proxy-snapshotter-path; make record-trace does
// all of that.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/moby/sys/reexec"
	"google.golang.org/grpc"

	"github.com/graphsnap/graphsnap/adapter/containerd"
	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/faces"
	"github.com/graphsnap/graphsnap/stress/trace"
)

func main() {
	if reexec.Init() { // overlay2 mounts in a process of its own where paths are long
		return
	}
	root := flag.String("root", "", "`directory` for the snapshots, which is there")
	driver := flag.String("driver", "overlay2", "graph `driver`")
	address := flag.String("address", "", "`path` of the socket")
	out := flag.String("o", "", "`file` for the trace")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := record(ctx, *driver, *root, *address, *out); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func record(ctx context.Context, driver, root, address, out string) (err error) {
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	disk, err := faces.NewDisk(driver, root, driver == "overlay2")
	if err != nil {
		return err
	}
	e, err := engine.Open(ctx, engine.Config{Driver: disk, Root: root, Name: driver})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	l, err := net.Listen("unix", address)
	if err != nil {
		return err
	}
	r := trace.NewRecorder(containerd.New(e))
	server := grpc.NewServer()
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(r))
	defer context.AfterFunc(ctx, server.GracefulStop)()
	if err := server.Serve(l); err != nil {
		return err
	}
	return trace.Write(file, r.Events())
}
