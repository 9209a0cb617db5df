package adapter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/engine"
)

// driver makes a graph driver what the engine needs.
type driver struct {
	graphdriver.Driver
	idmap user.IdentityMapping // the driver's
	// links is the directory in which an overlay driver keeps a short symbolic
	// link to every directory, "" for drivers that have none. It lies in the
	// driver's home.
	links string
	// removals makes them durable. knownHome is the driver's home, where links is ""
	// and it was seen.
	removals  sharedSync
	knownHome atomic.Value
	// describer is nil where the driver mounts everything itself.
	describer *describer
}

// DriverOpt says how NewDriver uses a graph driver.
type DriverOpt struct {
	// IdentityMapping is the driver's.
	IdentityMapping user.IdentityMapping
	// OverlayMounts leaves it to those who hold a snapshot to mount it, which makes
	// BuildKit's and containerd's fast paths for overlays work, see
	// Opt.OverlayMounts.
	OverlayMounts bool
}

// NewDriver makes d what an engine stands on. An engine, and what shares d with it,
// may call it at once.
//
// Errors: those of the file system.
func NewDriver(d graphdriver.Driver, o DriverOpt) (engine.Driver, error) {
	w, err := newDriver(d, o)
	if err != nil {
		return nil, fmt.Errorf("use graph driver %s: %w", d, err)
	}
	return w, nil
}

func newDriver(d graphdriver.Driver, o DriverOpt) (w *driver, err error) {
	w = &driver{Driver: d, idmap: o.IdentityMapping}
	switch d.String() {
	case "overlay2", "fuse-overlayfs":
		// The driver does not tell where its home is, but the directory of links
		// lies in it and is described as if it were a graph ID.
		const links = "l"
		m, err := d.GetMetadata(links)
		if err != nil {
			return nil, fmt.Errorf("locate its home: %w", err)
		}
		w.links = filepath.Dir(m["UpperDir"])
	}
	if o.OverlayMounts {
		w.describer, err = newDescriber(w)
	}
	return w, err
}

// Get mounts nothing where the mount of id can be described.
func (d *driver) Get(id string) (string, error) {
	described, err := d.describes(id)
	if err != nil || described {
		return "", err
	}
	switch deep, err := d.isDeep(id); {
	case err != nil:
		return "", err
	case deep:
		return d.mountDeep(id)
	}
	return d.Driver.Get(id, "")
}

// Put is not called where Get mounted nothing.
func (d *driver) Put(id string) error {
	switch deep, err := d.isDeep(id); {
	case err != nil:
		return err
	case deep:
		return d.Unmount(id)
	}
	return d.Driver.Put(id)
}

// Usage measures what lies in the directory itself, where the driver keeps that
// apart, else what differs from the parent.
func (d *driver) Usage(ctx context.Context, id, parent string) (snapshots.Usage, error) {
	m, err := d.Driver.GetMetadata(id)
	if err != nil {
		return snapshots.Usage{}, err
	}
	var u fs.Usage
	if upper := m["UpperDir"]; upper != "" {
		u, err = fs.DiskUsage(ctx, upper)
	} else {
		u, err = d.difference(ctx, id, parent)
	}
	return snapshots.Usage{Size: u.Size, Inodes: u.Inodes}, err
}

func (d *driver) difference(ctx context.Context, id, parent string) (u fs.Usage, err error) {
	dir, err := d.Get(id)
	if err != nil {
		return u, err
	}
	defer d.Put(id)
	if parent == "" {
		return fs.DiskUsage(ctx, dir)
	}
	below, err := d.Get(parent)
	if err != nil {
		return u, err
	}
	defer d.Put(parent)
	return fs.DiffUsage(ctx, below, dir)
}

// Copies answers false for the drivers that are known to make a directory at one
// stroke or to leave it recognisably unfinished.
func (d *driver) Copies() bool {
	switch d.String() {
	case "overlay2", "fuse-overlayfs", "btrfs", "zfs":
		return false
	}
	return true
}

// Sync writes out the file system that the directory lies on.
func (d *driver) Sync(id string) error {
	m, err := d.Driver.GetMetadata(id)
	if err != nil {
		return err
	}
	dir := m["UpperDir"]
	if dir == "" {
		if dir, err = d.Get(id); err != nil {
			return err
		}
		defer d.Put(id)
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync the file system of %s: %w", dir, err)
	}
	return nil
}
