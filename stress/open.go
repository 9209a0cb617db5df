package main

import (
	"context"
	"encoding/json"

	"github.com/graphsnap/graphsnap/stress/faces"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/process"
	"github.com/graphsnap/graphsnap/stress/target"
)

// place is a target to be opened.
type place struct {
	Target  string
	Driver  string
	Root    string
	Outlive bool              // what is in memory elsewhere outlives the process
	Options map[string]string // of the engine
}

// processName is that of a process with a target.
const processName = "graphsnap-stress-target"

func init() {
	process.Register(processName, func(ctx context.Context, settings string, f *faults.Injector) (target.Target, error) {
		var p place
		if err := json.Unmarshal([]byte(settings), &p); err != nil {
			return nil, err
		}
		return p.open(ctx, f)
	})
}

// targets are what can be driven, and drivers what it can stand on. The last three are
// peers: the snapshotter inside dockerd 28.5.2, containerd's overlay snapshotter, and
// the database of that one alone.
var (
	targets = []string{"engine", "buildkit", "containerd", "moby", "overlayfs", "metastore"}
	drivers = []string{"null", "vfs", "overlay2", "btrfs"}
)

// real tells whether the driver and the layer store are such as are not in memory of
// the harness's own, so that crash points are needed to inject faults.
func real(target, driver string) bool {
	return driver != "null" || target != "engine" && target != "containerd"
}

func (p place) open(ctx context.Context, f *faults.Injector) (target.Target, error) {
	if real := real(p.Target, p.Driver); f.Hooked(real) {
		f.Hook(real)
	}
	options := tuned(p.Options)
	switch p.Target {
	case "buildkit":
		return faces.OpenBuildKit(ctx, p.Driver, p.Root, options...)
	case "moby":
		return faces.OpenMoby(ctx, p.Driver, p.Root)
	case "overlayfs":
		return faces.OpenStock(ctx, "containerd", p.Root)
	case "metastore":
		return faces.OpenStock(ctx, "metastore", p.Root)
	}
	var driver target.Driver = target.NewNull(false, f.Memory)
	if p.Driver != "null" {
		// As graphsnapd has it: containerd mounts overlays itself.
		disk, err := faces.NewDisk(p.Driver, p.Root, p.Target == "containerd" && p.Driver == "overlay2")
		if err != nil {
			return nil, err
		}
		driver = disk
	}
	switch {
	case p.Target == "containerd":
		return faces.OpenContainerd(ctx, driver, p.Root, p.Outlive, options...)
	case p.Outlive:
		return target.OpenPersistent(ctx, driver, p.Root, options...)
	}
	return target.OpenEngine(ctx, driver, p.Root, options...)
}

// apart opens the target in a process of its own.
func (p place) apart(ctx context.Context, f *faults.Injector, seed uint64) (target.Target, error) {
	p.Outlive = true
	settings, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return process.Open(ctx, processName, string(settings), f, seed)
}
