package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/daemon/graphdriver"

	// Each driver announces itself to graphdriver when it is imported. The
	// btrfs package is an empty one where there is no C compiler.
	_ "github.com/docker/docker/daemon/graphdriver/btrfs"
	_ "github.com/docker/docker/daemon/graphdriver/fuse-overlayfs"
	_ "github.com/docker/docker/daemon/graphdriver/overlay2"
	_ "github.com/docker/docker/daemon/graphdriver/vfs"
)

var knownDrivers = []string{"overlay2", "vfs", "btrfs", "fuse-overlayfs"}

// checkDriver refuses a name before anything is made on disk for it.
func checkDriver(name string) error {
	if !slices.Contains(knownDrivers, name) {
		return fmt.Errorf("unknown graph driver %q: known are %s", name, strings.Join(knownDrivers, ", "))
	}
	return nil
}

// openDriver starts the named graph driver with its home at root/name.
//
// The driver's Cleanup is never called: overlay2's unmounts whatever lies below
// the home by path, and the engine already accounts for every mount it made.
func openDriver(name, root string, options []string) (graphdriver.Driver, error) {
	driver, err := graphdriver.New(name, graphdriver.Options{Root: root, DriverOptions: options})
	if graphdriver.IsDriverNotSupported(err) {
		return nil, fmt.Errorf("graph driver %q does not work in %s on this machine: %w", name, filepath.Join(root, name), err)
	}
	if err != nil {
		return nil, fmt.Errorf("start graph driver %q in %s: %w", name, filepath.Join(root, name), err)
	}
	return driver, nil
}
