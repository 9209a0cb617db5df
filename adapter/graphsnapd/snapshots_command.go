package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli"
)

const (
	defaultSnapshotsRoot = "/var/lib/graphsnap/snapshotter"
	defaultSnapshotsAddr = "/run/graphsnap/snapshotter.sock"

	// activated stands for the sockets that systemd hands over.
	activated = "fd://"
)

// snapshotsSettings is what `graphsnapd snapshotter` is told.
type snapshotsSettings struct {
	root      string // absolute
	driver    string
	driverOpt []string
	addrs     []string // paths of sockets, or activated
	gid       int      // owner group of the sockets
	remapIDs  bool
}

const snapshotsDescription = `Serves containerd's snapshots API on a Unix socket. containerd uses it as one of its
   proxy_plugins, buildkitd with --oci-worker-snapshotter or
   --oci-worker-proxy-snapshotter-path. Which snapshots are wanted is their business:
   they go when a client removes them.

   The first SIGTERM or SIGINT ends it in order. What clients have mounted stays
   mounted, and goes on with the next start on the same root.`

func snapshotsFlags() []cli.Flag {
	shared := slices.DeleteFunc(daemonFlags(), func(f cli.Flag) bool {
		return !slices.Contains([]string{"driver", "driver-opt", "debug", "trace", "log-format"}, f.GetName())
	})
	return append(shared,
		cli.StringFlag{Name: "root", Value: defaultSnapshotsRoot, Usage: "`DIR` for all state; one process at a time may use it"},
		cli.StringSliceFlag{Name: "address", Usage: "`PATH` of the socket, or " + activated + " for those that systemd hands over (repeatable; default: " + defaultSnapshotsAddr + ")"},
		cli.StringFlag{Name: "group", Usage: "`GROUP`, by name or number, that may connect to the sockets"},
		cli.BoolFlag{Name: "remap-ids", Usage: "map IDs in mounts for containers with a user namespace; containerd 2.0 or later needs capabilities = [\"remap-ids\"] for the plugin, and else changes the owners of files in a copy"},
	)
}

func snapshotsSettingsFrom(c *cli.Context) (*snapshotsSettings, error) {
	if c.NArg() > 0 {
		return nil, usagef("unexpected argument %q (see graphsnapd snapshotter --help)", c.Args().First())
	}
	str := func(name string) string { return given(c, name).String(name) }
	if err := applyLogFlags(str("log-format"), given(c, "debug").Bool("debug"), given(c, "trace").Bool("trace")); err != nil {
		return nil, err
	}
	set := &snapshotsSettings{
		driver:    str("driver"),
		driverOpt: given(c, "driver-opt").StringSlice("driver-opt"),
		remapIDs:  c.Bool("remap-ids"),
	}
	if err := checkDriver(set.driver); err != nil {
		return nil, usageError{err}
	}
	if err := checkDriverOptions(set.driverOpt); err != nil {
		return nil, err
	}
	root := str("root")
	if root == "" {
		return nil, usagef("--root cannot be empty")
	}
	var err error
	if set.root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("resolve --root %q: %w", root, err)
	}
	if set.gid, err = groupID(str("group")); err != nil {
		return nil, err
	}
	addrs := c.StringSlice("address")
	if len(addrs) == 0 {
		addrs = []string{defaultSnapshotsAddr}
	}
	for _, addr := range addrs {
		path := strings.TrimPrefix(addr, "unix://")
		switch {
		case addr == activated:
		case strings.Contains(path, "://"):
			return nil, usagef("--address %q is neither the path of a socket nor %s", addr, activated)
		case !filepath.IsAbs(path):
			return nil, usagef("--address %q is not an absolute path", addr)
		}
		set.addrs = append(set.addrs, path)
	}
	return set, nil
}
