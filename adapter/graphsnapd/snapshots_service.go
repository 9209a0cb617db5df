package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/coreos/go-systemd/v22/activation"
	sddaemon "github.com/coreos/go-systemd/v22/daemon"
	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/graphsnap/graphsnap/adapter"
	"github.com/graphsnap/graphsnap/adapter/containerd"
	"github.com/graphsnap/graphsnap/engine"
)

// serveSnapshots serves containerd's snapshots API at the addresses of set until ctx
// ends, then ends in order. The error is nil if that is all that happened.
func serveSnapshots(ctx context.Context, set *snapshotsSettings) (err error) {
	d := &daemon{}
	defer func() { err = errors.Join(err, d.runEndings()) }()

	e, err := openSnapshots(set, d.atEnd)
	if err != nil {
		return err
	}
	var opts []containerd.Option
	if set.remapIDs {
		opts = append(opts, containerd.WithRemapIDs())
	}
	server := newSnapshotsServer(containerd.New(e, opts...))
	listeners, err := listenSnapshots(set)
	if err != nil {
		return err
	}
	d.atEnd("close sockets", func() error { closeListeners(listeners); return nil })

	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		log.L.Infof("serving snapshots of %s on %s", set.driver, l.Addr())
		go func() { failed <- server.Serve(l) }()
	}
	notify(sddaemon.SdNotifyReady)
	select {
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		log.L.Infof("stopping: %v", context.Cause(ctx))
	}
	notify(sddaemon.SdNotifyStopping)
	stopServer(server)
	return err
}

// stopServer lets calls under way end, and cuts them off where that takes too long.
// It does not depend on clients to hang up.
func stopServer(server *grpc.Server) {
	hurry := time.AfterFunc(stopPatience, server.Stop)
	defer hurry.Stop()
	server.GracefulStop()
}

// notify tells systemd, where it wants to know.
func notify(state string) {
	if _, err := sddaemon.SdNotify(false, state); err != nil {
		log.L.WithError(err).Warnf("systemd could not be told %s", state)
	}
}

// openSnapshots takes the root for this process and opens the engine there. It
// unmounts nothing but what the records name: other mounts below the root may be
// clients'.
func openSnapshots(set *snapshotsSettings, atEnd func(what string, run func() error)) (*engine.Engine, error) {
	if err := os.MkdirAll(set.root, 0o711); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	// Mount points are compared with the kernel's list, which knows no symlinks.
	root, err := filepath.EvalSymlinks(set.root)
	if err != nil {
		return nil, fmt.Errorf("resolve root: %w", err)
	}
	lock := flock.New(filepath.Join(root, "graphsnapd.lock"))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock root: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("lock root: %s is held by another graphsnapd; stop it or choose another --root", lock.Path())
	}
	atEnd("unlock root", lock.Unlock) // the file stays, see openRoot

	unix.Umask(0) // modes in snapshots are those that clients ask for
	state := filepath.Join(root, "snapshotter-"+set.driver)
	if err := os.MkdirAll(state, 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of the driver: %w", err)
	}
	if set.driver == "btrfs" {
		unbind := func() error { return unbindHome(filepath.Join(state, set.driver)) }
		if err := unbind(); err != nil { // after a predecessor that was killed
			return nil, err
		}
		atEnd("unbind the home of btrfs", unbind)
	}
	gd, err := openDriver(set.driver, state, set.driverOpt)
	if err != nil {
		return nil, err
	}
	driver, err := adapter.NewDriver(gd, adapter.DriverOpt{OverlayMounts: set.driver == "overlay2"})
	if err != nil {
		return nil, err
	}
	e, err := engine.Open(context.Background(), engine.Config{Driver: driver, Root: state, Name: set.driver})
	if err != nil {
		return nil, err
	}
	atEnd("close snapshotter", e.Close)
	return e, nil
}

// unbindHome undoes what the driver does when it starts, and leaves for a Cleanup that
// is never called: it mounts its home on itself.
func unbindHome(home string) error {
	for {
		bound, err := boundOnItself(home)
		if err != nil || !bound {
			return err
		}
		if err := unmount([]string{home}); err != nil {
			return err
		}
	}
}

func newSnapshotsServer(sn snapshots.Snapshotter) *grpc.Server {
	server := grpc.NewServer(
		grpc.UnaryInterceptor(guardUnary),
		grpc.StreamInterceptor(guardStream),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		grpc.WaitForHandlers(true),
	)
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(sn))
	healthv1.RegisterHealthServer(server, health.NewServer())
	return server
}

// guardUnary keeps a request that is not what containerd's service expects, such as
// an update of nothing, from ending the process.
func guardUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = judged(info.FullMethod, recover(), err) }()
	return handler(ctx, req)
}

// guardStream does the same, and tells clients the kind of an error, which
// containerd's service leaves out of List.
func guardStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() { err = judged(info.FullMethod, recover(), err) }()
	return handler(srv, ss)
}

func judged(method string, cause any, err error) error {
	if cause != nil {
		log.L.Errorf("%s panicked: %v\n%s", method, cause, debug.Stack())
		return status.Errorf(codes.Internal, "%s: the request is not understood: %v", method, cause)
	}
	if err != nil {
		log.L.WithError(err).Debugf("%s returned an error", method)
		if _, isStatus := status.FromError(err); !isStatus {
			return errgrpc.ToGRPC(err)
		}
	}
	return err
}

// listenSnapshots opens every address or none.
func listenSnapshots(set *snapshotsSettings) (listeners []net.Listener, err error) {
	defer func() {
		if err != nil {
			closeListeners(listeners)
		}
	}()
	for _, addr := range set.addrs {
		if addr == activated {
			inherited, err := activation.Listeners()
			if err != nil {
				return listeners, fmt.Errorf("take the sockets of systemd: %w", err)
			}
			n := len(listeners)
			for _, l := range inherited {
				if l != nil { // something that is no socket
					listeners = append(listeners, l)
				}
			}
			if len(listeners) == n {
				return listeners, fmt.Errorf("--address %s: systemd handed over no sockets: is there a socket unit?", activated)
			}
			continue
		}
		l, err := listenUnix(addr, set.gid)
		if err != nil {
			return listeners, fmt.Errorf("listen at %s: %w", addr, err)
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}
