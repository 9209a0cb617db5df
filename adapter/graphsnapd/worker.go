package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/executor/runcexecutor"
	containerdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/util/winlayers"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker/base"
	wlabel "github.com/moby/buildkit/worker/label"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/adapter"
)

// namespace is where BuildKit keeps its content and leases.
const namespace = "buildkit"

// workerRoot is the directory of everything that belongs to one graph driver.
func workerRoot(root, driver string) string { return filepath.Join(root, "runc-"+driver) }

// newWorker builds BuildKit's worker on the snapshotter. What it opens and the
// worker does not close itself is handed to atEnd, in the order of opening.
func newWorker(ctx context.Context, set *settings, atEnd func(what string, close func() error)) (*base.Worker, error) {
	root := workerRoot(set.root, set.driver)
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make worker directory: %w", err)
	}
	driver, err := openDriver(set.driver, root, set.driverOpt)
	if err != nil {
		return nil, err
	}

	// Content and leases only: snapshots are the engine's own, collected when
	// their last lease goes, so containerd's database knows of none.
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return nil, fmt.Errorf("open content store: %w", err)
	}
	boltdb, err := bolt.Open(filepath.Join(root, "containerdmeta.db"), 0o600, nil)
	if err != nil {
		return nil, fmt.Errorf("open content and lease database: %w", err)
	}
	atEnd("close content and lease database", boltdb.Close)
	mdb := ctdmetadata.NewDB(boltdb, blobs, map[string]snapshots.Snapshotter{})
	if err := mdb.Init(ctx); err != nil {
		return nil, fmt.Errorf("prepare content and lease database: %w", err)
	}
	store := containerdsnapshot.NewContentStore(mdb.ContentStore(), namespace)

	commits := newLeaseCommits(mdb)
	atEnd("finish changes of leases", commits.Close)
	snap, leaseManager, err := newSnapshotter(driver, root, commits)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter: %w", err)
	}
	atEnd("close snapshotter", snap.Close)

	records, err := metadata.NewStore(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return nil, fmt.Errorf("open cache records: %w", err)
	}
	atEnd("close cache records", records.Close)
	// Only disk space is at stake.
	if err := endLostLeases(ctx, records, leaseManager); err != nil {
		bklog.L.WithError(err).Warn("leases of records that the build cache lost are not all ended")
	}

	networks, networkMode, err := networkProviders(set.root, set.network)
	if err != nil {
		return nil, err
	}
	usage, err := resources.NewMonitor()
	if err != nil {
		return nil, fmt.Errorf("start resource monitor: %w", err)
	}
	executor, err := runcexecutor.New(runcexecutor.Opt{
		Root:                filepath.Join(root, "executor"),
		CommandCandidates:   []string{set.runtime},
		ProcessMode:         oci.ProcessSandbox,
		IdentityMapping:     snap.IdentityMapping(),
		DNS:                 dnsFrom(set.file.DNS),
		ApparmorProfile:     set.apparmor,
		DefaultCgroupParent: set.cgroupParent,
		ResourceMonitor:     usage,
	}, networks)
	if err != nil {
		return nil, fmt.Errorf("set up executor: %w", err)
	}

	id, err := base.ID(root)
	if err != nil {
		return nil, fmt.Errorf("read or make worker ID: %w", err)
	}
	opt := base.WorkerOpt{
		ID:               id,
		Root:             root,
		Labels:           workerLabels(set, snap.Name(), networkMode),
		Platforms:        set.platforms,
		GCPolicy:         gcPolicy(set.gc, set.root),
		BuildkitVersion:  client.BuildkitVersion{Package: version.Package, Version: version.Version, Revision: version.Revision},
		NetworkProviders: networks,
		Executor:         executor,
		Snapshotter:      snap,
		ContentStore:     store,
		Applier:          winlayers.NewFileSystemApplierWithWindows(store, apply.NewFileSystemApplier(store)),
		Differ:           winlayers.NewWalkingDiffWithWindows(store, walking.NewWalkingDiff(store)),
		RegistryHosts:    resolver.NewRegistryConfig(set.file.Registries),
		IdentityMapping:  snap.IdentityMapping(),
		LeaseManager:     leaseManager,
		GarbageCollect:   mdb.GarbageCollect,
		MetadataStore:    records,
		MountPoolRoot:    filepath.Join(root, "cachemounts"),
		ResourceMonitor:  usage,
	}
	if len(opt.Platforms) == 0 {
		opt.Platforms = archutil.SupportedPlatforms(true)
	}
	if set.maxParallelism > 0 {
		opt.ParallelismSem = semaphore.NewWeighted(int64(set.maxParallelism))
	}
	w, err := base.NewWorker(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("set up worker: %w", err)
	}
	return w, nil
}

// endLostLeases ends the leases of records that a crash took.
func endLostLeases(ctx context.Context, store *metadata.Store, lm leases.Manager) error {
	records, err := store.All()
	if err != nil {
		return fmt.Errorf("read cache records: %w", err)
	}
	known := make(map[string]bool, len(records))
	for _, r := range records {
		known[r.ID()] = true
	}
	return adapter.EndLostLeases(ctx, lm, known)
}

func workerLabels(set *settings, snapshotter, networkMode string) map[string]string {
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "unknown"
	}
	labels := map[string]string{
		wlabel.Executor:       "oci",
		wlabel.Snapshotter:    snapshotter,
		wlabel.Hostname:       hostname,
		wlabel.Network:        networkMode,
		wlabel.OCIProcessMode: oci.ProcessSandbox.String(),
		wlabel.SELinuxEnabled: strconv.FormatBool(false),
		"graphsnap.driver":    set.driver,
	}
	if set.apparmor != "" {
		labels[wlabel.ApparmorProfile] = set.apparmor
	}
	maps.Copy(labels, set.labels)
	return labels
}

// gcPolicy turns the limits into BuildKit's rules: first what is cheap to make
// again, then what has long not been used, then the rest. None when switched off.
func gcPolicy(gc config.GCConfig, root string) []client.PruneInfo {
	if gc.GC != nil && !*gc.GC {
		return nil
	}
	// Without the disk's size, limits given in percent count as none.
	size, _ := disk.GetDiskStat(root)
	var policy []client.PruneInfo
	for _, rule := range config.DefaultGCPolicy(gc, size) {
		policy = append(policy, client.PruneInfo{
			Filter:        rule.Filters,
			All:           rule.All,
			KeepDuration:  rule.KeepDuration.Duration,
			ReservedSpace: rule.ReservedSpace.AsBytes(size),
			MaxUsedSpace:  rule.MaxUsedSpace.AsBytes(size),
			MinFreeSpace:  rule.MinFreeSpace.AsBytes(size),
		})
	}
	return policy
}

func dnsFrom(dns *config.DNSConfig) *oci.DNSConfig {
	if dns == nil {
		return nil
	}
	return &oci.DNSConfig{Nameservers: dns.Nameservers, Options: dns.Options, SearchDomains: dns.SearchDomains}
}
