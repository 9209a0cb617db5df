package main

import (
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/util/leaseutil"

	"github.com/graphsnap/graphsnap/adapter"
	"github.com/graphsnap/graphsnap/engine"
)

// startGrace is how long snapshots that no lease names are kept after a start.
// This daemon migrates nothing, so all leases are there before the snapshotter
// opens, and later ones are made through its own lease manager.
const startGrace = 5 * time.Second

// newSnapshotter puts the engine between BuildKit and the graph driver. The
// lease manager it returns is the one BuildKit must use: it tells the engine
// which snapshots are still wanted.
func newSnapshotter(driver graphdriver.Driver, root string, prev leases.Manager) (snapshot.Snapshotter, *leaseutil.Manager, error) {
	opt := adapter.Opt{
		GraphDriver: driver,
		Root:        root,
		Engine:      []engine.Option{engine.WithGrace(startGrace)},
	}
	if driver.String() == "overlay2" {
		// BuildKit tells by the name whether merges can be made of hard links on top
		// of their base, and by the mounts whether a difference can be read from the
		// upper directory. What leases held under the name before still counts.
		opt.Name, opt.OverlayMounts = "overlayfs", true
	}
	return adapter.NewSnapshotter(opt, prev, namespace)
}
