package main

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	localcache "github.com/moby/buildkit/cache/remotecache/local"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/util/tracing/detect"
	"github.com/moby/buildkit/worker"
	bolt "go.etcd.io/bbolt"
)

// newController puts the solver, the frontends and the build history around a
// worker. ctx ends when the daemon begins to stop; the history then no longer
// waits for builds that nobody listens to.
//
// The controller closes what it is given, the worker included. The databases
// are handed to atEnd as well, for the case that a later step of the start
// fails; closing one of them twice does nothing.
func newController(ctx context.Context, set *settings, atEnd func(what string, close func() error)) (*control.Controller, error) {
	w, err := newWorker(ctx, set, atEnd)
	if err != nil {
		return nil, err
	}
	workers := &worker.Controller{}
	if err := workers.Add(w); err != nil {
		return nil, fmt.Errorf("register worker: %w", err)
	}
	sessions, err := session.NewManager()
	if err != nil {
		return nil, fmt.Errorf("set up client sessions: %w", err)
	}
	gatewayFrontend, err := gateway.NewGatewayFrontend(workers.Infos(), nil)
	if err != nil {
		return nil, fmt.Errorf("set up gateway frontend: %w", err)
	}
	keys, err := bboltcachestorage.NewStore(filepath.Join(set.root, "cache.db"))
	if err != nil {
		return nil, fmt.Errorf("open cache keys: %w", err)
	}
	atEnd("close cache keys", keys.Close)
	history, err := bolt.Open(filepath.Join(set.root, "history.db"), 0o600, nil)
	if err != nil {
		return nil, fmt.Errorf("open build history: %w", err)
	}
	atEnd("close build history", history.Close)

	hosts := resolver.NewRegistryConfig(set.file.Registries)
	controller, err := control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build),
			"gateway.v0":    gatewayFrontend,
		},
		CacheManager: solver.NewCacheManager(ctx, "local", keys, worker.NewCacheResultStorage(workers)),
		CacheStore:   keys,
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"local":    localcache.ResolveCacheImporterFunc(sessions),
			"registry": registrycache.ResolveCacheImporterFunc(sessions, w.ContentStore(), hosts),
		},
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"inline":   inlinecache.ResolveCacheExporterFunc(),
			"local":    localcache.ResolveCacheExporterFunc(sessions),
			"registry": registrycache.ResolveCacheExporterFunc(sessions, hosts),
		},
		Entitlements:   set.entitlements,
		TraceCollector: detect.Recorder,
		HistoryDB:      history,
		HistoryConfig:  set.file.History,
		LeaseManager:   w.LeaseManager(),
		ContentStore:   w.ContentStore(),
		GarbageCollect: w.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
	if err != nil {
		return nil, fmt.Errorf("set up controller: %w", err)
	}
	return controller, nil
}
