// graphsnapd is a BuildKit daemon whose snapshots live in one of Docker's
// graph drivers, kept by the graphsnap engine.
//
// It puts together BuildKit's own controller, solver, frontends, runc executor
// and exporters; what differs from buildkitd is the snapshotter and the lease
// manager under them (snapshotter.go). Flags carry buildkitd's names where
// they mean the same.
//
//	graphsnapd --root /var/lib/graphsnap --driver overlay2   # the daemon
//	graphsnapd build . -o type=oci,dest=image.tar            # one build, then the end
//
// The second form runs the same daemon inside the process that asks for the
// build, reachable through memory only, and ends it in order afterwards.
//
// A third command reads what a stopped daemon, or a stopped dockerd, has on disk, and
// tells what does not fit (check.go; the kinds of finding are in adapter/check.go):
//
//	graphsnapd check --root /var/lib/graphsnap --driver overlay2 [--repair] [--format json]
//	graphsnapd check --dockerd-root /var/lib/docker
//
// A fourth serves containerd's snapshots API to a containerd or buildkitd that is not
// ours (snapshots_command.go and snapshots_service.go), and builds nothing. It has a
// root of its own, which holds graphsnapd.lock and snapshotter-<driver>/ with the
// driver's home and snapshots.db:
//
//	graphsnapd snapshotter --address /run/graphsnap/snapshotter.sock --group containerd
//
// # Files below the root
//
//	graphsnapd.lock     held with flock(2) while a daemon runs on this root
//	cache.db            the solver's cache keys
//	history.db          the build history
//	tmp/                temporary files and mounts, emptied at start
//	runc-<driver>/      everything that belongs to one graph driver:
//	    <driver>/           the driver's own directories
//	    snapshots.db        the engine's records
//	    snapshots.db.backup-N  what it was before a repair
//	    containerdmeta.db   content and leases
//	    metadata_v2.db      the cache records
//	    content/            blobs
//	    executor/           bundles of running containers
//
// All mounts that a build makes are below the root. That is what lets the
// daemon promise that none is left when it has ended, and remove those of a
// predecessor that was killed.
package main
