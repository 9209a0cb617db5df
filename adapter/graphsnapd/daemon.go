package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/gofrs/flock"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/grpcerrors"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the codec BuildKit's messages were generated for
	"github.com/moby/buildkit/util/tracing"
	"github.com/moby/buildkit/util/tracing/detect"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// stopPatience bounds the wait for containers of cancelled builds. They are
// killed, not asked; what takes longer hangs in the kernel.
const stopPatience = 10 * time.Second

// daemon is a running BuildKit on one root.
//
// Everything that must be undone at the end is an ending, pushed when it was
// opened and run newest first: the same list serves a start that failed half
// way and an orderly stop.
type daemon struct {
	root    string
	server  *grpc.Server
	stopped context.CancelFunc // tells the controller that the end has begun
	endings []ending
	ballast []byte // of the heap
}

type ending struct {
	what string
	run  func() error
}

func (d *daemon) atEnd(what string, run func() error) {
	d.endings = append(d.endings, ending{what, run})
}

// serve runs a daemon at the addresses of set until ctx ends, then stops it in
// order. The error is nil if that is all that happened.
func serve(ctx context.Context, set *settings) (err error) {
	d, err := openRoot(set)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()

	// The sockets come before the controller: whoever waits for a socket may
	// connect from now on and is served as soon as the controller is there.
	listeners, err := listenAll(set)
	if err != nil {
		return err
	}
	d.atEnd("close sockets", func() error { closeListeners(listeners); return nil })
	if err := d.start(set); err != nil {
		return err
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		bklog.L.Infof("running server on %s://%s", l.Addr().Network(), l.Addr())
		go func() { failed <- d.server.Serve(l) }()
	}
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
		bklog.L.Infof("stopping server: %v", context.Cause(ctx))
		return nil
	}
}

// openRoot takes the root for this process and clears away what a killed
// predecessor left mounted there.
func openRoot(set *settings) (_ *daemon, err error) {
	d := &daemon{root: set.root}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.runEndings())
		}
	}()
	if err := checkDriver(set.driver); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(set.root, 0o711); err != nil {
		return nil, fmt.Errorf("make root: %w", err)
	}
	// Mount points are compared with the kernel's list, which knows no symlinks.
	if set.root, err = filepath.EvalSymlinks(set.root); err != nil {
		return nil, fmt.Errorf("resolve root: %w", err)
	}
	d.root = set.root

	path := filepath.Join(set.root, "graphsnapd.lock")
	lock := flock.New(path)
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock root: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("lock root: %s is held by another graphsnapd; stop it or choose another --root", path)
	}
	// The file stays: removing it would let a third daemon lock a new file of
	// the same name while a second one waits on the old.
	d.atEnd("unlock root", lock.Unlock)

	if set.runtime, err = findRuntime(set.runtime); err != nil {
		return nil, err
	}
	if err := removeContainers(context.Background(), set.root, set.runtime); err != nil {
		return nil, err
	}
	if err := unmountAll(set.root); err != nil {
		return nil, fmt.Errorf("remove mounts of an earlier daemon: %w", err)
	}
	d.atEnd("remove remaining mounts", func() error { return unmountAll(d.root) })
	return d, useTempDir(set.root)
}

// findRuntime returns the path of the OCI runtime: the one asked for, else the
// first of BuildKit's usual ones.
func findRuntime(name string) (string, error) {
	candidates := []string{"buildkit-runc", "runc"}
	if name != "" {
		candidates = []string{name}
	}
	for _, candidate := range candidates {
		if path, err := exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find OCI runtime: no %s in $PATH; install runc or name one with --oci-worker-binary", strings.Join(candidates, " or "))
}

// start brings up everything but the listeners.
func (d *daemon) start(set *settings) error {
	// Modes in snapshots are those the Dockerfile asks for.
	unix.Umask(0)
	d.ballast = newBallast()

	ctx, cancel := context.WithCancel(context.Background())
	d.stopped = cancel

	detect.Recorder = detect.NewTraceRecorder()
	d.atEnd("stop trace recorder", func() error { return detect.Recorder.Shutdown(context.Background()) })
	traces := sdktrace.NewTracerProvider(sdktrace.WithResource(detect.Resource()), sdktrace.WithSyncer(detect.Recorder))

	controller, err := newController(ctx, set, d.atEnd)
	if err != nil {
		return err
	}
	d.atEnd("close controller", controller.Close)

	d.server = grpc.NewServer(
		grpc.StatsHandler(tracing.ServerStatsHandler(
			otelgrpc.WithTracerProvider(traces),
			otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
		)),
		grpc.ChainUnaryInterceptor(logFailure, grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		// Stop then returns only after the last handler has: no build goes on
		// while the databases below it are closed.
		grpc.WaitForHandlers(true),
	)
	healthv1.RegisterHealthServer(d.server, health.NewServer())
	controller.Register(d.server)
	reflection.Register(d.server)
	return nil
}

// stop ends the daemon in order: no new calls, running builds cancelled, their
// mounts gone, then controller, snapshotter and databases. It does not depend
// on clients, which may never hang up.
func (d *daemon) stop() error {
	if d.stopped != nil {
		d.stopped()
	}
	if d.server != nil {
		d.server.Stop()
		ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
		if err := waitNoSteps(ctx, d.root); err != nil {
			bklog.L.WithError(err).Warn("builds did not end in time")
		}
		cancel()
	}
	return d.runEndings()
}

func (d *daemon) runEndings() error {
	var errs []error
	for len(d.endings) > 0 {
		last := len(d.endings) - 1
		end := d.endings[last]
		d.endings = d.endings[:last]
		if err := end.run(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", end.what, err))
		}
	}
	return errors.Join(errs...)
}

func logFailure(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil {
		bklog.G(ctx).Errorf("%s returned error: %v", info.FullMethod, err)
	}
	return resp, err
}

// serveInMemory answers on a listener that only this process can reach.
func (d *daemon) serveInMemory(l net.Listener) {
	go func() {
		// Serve returns when the server is stopped; there is no other way for
		// a listener in memory to fail.
		_ = d.server.Serve(l)
	}()
}
