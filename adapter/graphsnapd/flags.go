package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/entitlements"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"github.com/urfave/cli"
)

const (
	defaultRoot = "/var/lib/graphsnap"
	defaultAddr = "unix:///run/graphsnap/graphsnapd.sock"
)

// settings is everything the daemon is told, checked and in its final form.
type settings struct {
	root      string // absolute
	driver    string
	driverOpt []string

	addrs []string // empty for a daemon reachable through memory only
	gid   int      // owner group of the sockets
	tls   tlsFiles

	runtime        string // OCI runtime binary; empty until the root is opened: the usual ones
	network        networkSettings
	cgroupParent   string
	apparmor       string
	maxParallelism int
	labels         map[string]string
	platforms      []ocispecs.Platform
	entitlements   []string
	gc             config.GCConfig

	// file is the part of buildkitd.toml that is honoured beside the flags:
	// the sections registry, history and dns.
	file config.Config
}

type tlsFiles struct{ cert, key, ca string }

// daemonFlags are those of the daemon in both forms, served and one build.
func daemonFlags() []cli.Flag {
	return []cli.Flag{
		cli.StringFlag{Name: "root", Value: defaultRoot, Usage: "`DIR` for all state; one daemon at a time may use it"},
		cli.StringFlag{Name: "driver", Value: "overlay2", Usage: "graph `DRIVER` that holds the snapshots: " + strings.Join(knownDrivers, ", ")},
		cli.StringSliceFlag{Name: "driver-opt", Usage: "`KEY=VALUE` option of the graph driver, e.g. overlay2.size=10G (repeatable)"},
		cli.StringFlag{Name: "config", Usage: "buildkitd.toml `FILE`, of which the sections registry, history and dns are read"},
		cli.BoolFlag{Name: "debug", Usage: "log more"},
		cli.BoolFlag{Name: "trace", Usage: "log everything, which slows builds down"},
		cli.StringFlag{Name: "log-format", Value: "text", Usage: "`FORMAT` of the log: text or json"},
		cli.StringSliceFlag{Name: "allow-insecure-entitlement", Usage: "`ENTITLEMENT` that builds may ask for: network.host, security.insecure or device (repeatable)"},
		cli.StringFlag{Name: "oci-worker-binary", Usage: "OCI runtime, by name in $PATH or by path (default: buildkit-runc, else runc)"},
		cli.StringSliceFlag{Name: "oci-worker-labels", Usage: "`KEY=VALUE` label that the worker shows to clients (repeatable)"},
		cli.StringSliceFlag{Name: "oci-worker-platform", Usage: "`PLATFORM` to build for, instead of those found out about this machine (repeatable)"},
		cli.StringFlag{Name: "oci-worker-net", Value: "auto", Usage: "network of build steps: host, cni, bridge, or auto, which is cni where it is configured, else host"},
		cli.StringFlag{Name: "oci-cni-config-path", Value: appdefaults.DefaultCNIConfigPath, Usage: "CNI configuration `FILE`"},
		cli.StringFlag{Name: "oci-cni-binary-dir", Value: appdefaults.DefaultCNIBinDir, Usage: "`DIR` with the CNI plugins"},
		cli.IntFlag{Name: "oci-cni-pool-size", Usage: "how many CNI network namespaces to keep ready"},
		cli.StringFlag{Name: "oci-worker-apparmor-profile", Usage: "AppArmor `PROFILE` for containers"},
		cli.StringFlag{Name: "oci-cgroup-parent", Usage: "`CGROUP` to put containers below"},
		cli.IntFlag{Name: "oci-max-parallelism", Usage: "at most `N` build steps at a time; 0 is no limit"},
		cli.BoolTFlag{Name: "oci-worker-gc", Usage: "remove old cache by itself (default: true)"},
		cli.StringFlag{Name: "oci-worker-gc-keepstorage", Usage: "`RESERVED[,FREE[,MAXIMUM]]` megabytes: cache that collection leaves alone, disk space to keep free, most that cache may take (default: by the size of the disk)"},
	}
}

// addressFlags are those of the served form only.
func addressFlags() []cli.Flag {
	return []cli.Flag{
		cli.StringSliceFlag{Name: "addr", Usage: "`URL` to listen at, unix://PATH or tcp://HOST:PORT (repeatable; default: " + defaultAddr + ")"},
		cli.StringFlag{Name: "group", Usage: "`GROUP`, by name or number, that may connect to the Unix sockets"},
		cli.StringFlag{Name: "tlscert", Usage: "server certificate `FILE` for tcp addresses"},
		cli.StringFlag{Name: "tlskey", Usage: "`FILE` with the key of the server certificate"},
		cli.StringFlag{Name: "tlscacert", Usage: "`FILE` of the CA that must have signed clients' certificates"},
	}
}

// given finds the context in which a flag was set: a daemon flag may stand
// before or after the sub-command.
func given(c *cli.Context, name string) *cli.Context {
	for at := c; at != nil; at = at.Parent() {
		if at.IsSet(name) {
			return at
		}
	}
	return c
}

func settingsFrom(c *cli.Context) (*settings, error) {
	str := func(name string) string { return given(c, name).String(name) }
	list := func(name string) []string { return given(c, name).StringSlice(name) }
	number := func(name string) int { return given(c, name).Int(name) }

	set := &settings{
		driver:         str("driver"),
		driverOpt:      list("driver-opt"),
		tls:            tlsFiles{cert: str("tlscert"), key: str("tlskey"), ca: str("tlscacert")},
		runtime:        str("oci-worker-binary"),
		cgroupParent:   str("oci-cgroup-parent"),
		apparmor:       str("oci-worker-apparmor-profile"),
		maxParallelism: number("oci-max-parallelism"),
		entitlements:   list("allow-insecure-entitlement"),
		network: networkSettings{
			mode:      str("oci-worker-net"),
			cniConfig: str("oci-cni-config-path"),
			cniBin:    str("oci-cni-binary-dir"),
			cniPool:   number("oci-cni-pool-size"),
		},
	}
	if err := applyLogFlags(str("log-format"), given(c, "debug").Bool("debug"), given(c, "trace").Bool("trace")); err != nil {
		return nil, err
	}
	if str("root") == "" {
		return nil, usagef("--root cannot be empty")
	}
	var err error
	if set.root, err = filepath.Abs(str("root")); err != nil {
		return nil, fmt.Errorf("resolve --root %q: %w", str("root"), err)
	}
	if err := checkDriverOptions(set.driverOpt); err != nil {
		return nil, err
	}
	if set.maxParallelism < 0 {
		return nil, usagef("--oci-max-parallelism %d is negative", set.maxParallelism)
	}
	if set.labels, err = labelsFrom(list("oci-worker-labels")); err != nil {
		return nil, err
	}
	for _, p := range list("oci-worker-platform") {
		platform, err := platforms.Parse(p)
		if err != nil {
			return nil, usagef("--oci-worker-platform %q: %v", p, err)
		}
		set.platforms = append(set.platforms, platforms.Normalize(platform))
	}
	for _, e := range set.entitlements {
		if !knownEntitlements[e] {
			return nil, usagef("--allow-insecure-entitlement %q is none of network.host, security.insecure, device", e)
		}
	}
	if set.gid, err = groupID(str("group")); err != nil {
		return nil, err
	}
	if set.gc, err = gcFrom(str("oci-worker-gc-keepstorage")); err != nil {
		return nil, err
	}
	enabled := given(c, "oci-worker-gc").BoolT("oci-worker-gc")
	set.gc.GC = &enabled

	if set.addrs = list("addr"); len(set.addrs) == 0 {
		set.addrs = []string{defaultAddr}
	}
	for _, addr := range set.addrs {
		if _, _, err := splitAddr(addr); err != nil {
			return nil, err
		}
	}
	if file := str("config"); file != "" {
		// A file that was asked for by name must be there; BuildKit's loader
		// takes a missing one for an empty one.
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("read --config: %w", err)
		}
		if set.file, err = config.LoadFile(file); err != nil {
			return nil, fmt.Errorf("read --config %s: %w", file, err)
		}
	}
	return set, nil
}

func checkDriverOptions(options []string) error {
	for _, opt := range options {
		if key, _, ok := strings.Cut(opt, "="); !ok || key == "" {
			return usagef("--driver-opt %q is not KEY=VALUE", opt)
		}
	}
	return nil
}

var knownEntitlements = map[string]bool{
	entitlements.EntitlementNetworkHost.String():      true,
	entitlements.EntitlementSecurityInsecure.String(): true,
	entitlements.EntitlementDevice.String():           true,
}

func applyLogFlags(format string, debug, trace bool) error {
	switch format {
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	case "text":
		logrus.SetFormatter(&logrus.TextFormatter{FullTimestamp: true})
	default:
		return usagef("--log-format %q is neither json nor text", format)
	}
	switch {
	case trace:
		logrus.SetLevel(logrus.TraceLevel)
	case debug:
		logrus.SetLevel(logrus.DebugLevel)
	}
	return nil
}

func labelsFrom(pairs []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return nil, usagef("--oci-worker-labels %q is not KEY=VALUE", pair)
		}
		labels[key] = value
	}
	return labels, nil
}

// groupID resolves a group given by name or number; empty is the group of the
// process.
func groupID(group string) (int, error) {
	if group == "" {
		return os.Getgid(), nil
	}
	if id, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(id), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, usagef("--group %q: %v", group, err)
	}
	return strconv.Atoi(g.Gid)
}

// gcFrom parses "Reserved[,Free[,Maximum]]" in megabytes. A zero value asks for
// BuildKit's defaults, which depend on the size of the disk.
func gcFrom(keep string) (config.GCConfig, error) {
	var gc config.GCConfig
	if keep == "" {
		return gc, nil
	}
	parts := strings.Split(keep, ",")
	if len(parts) > 3 {
		return gc, usagef("--oci-worker-gc-keepstorage %q has more than three parts", keep)
	}
	for i, target := range []*config.DiskSpace{&gc.GCReservedSpace, &gc.GCMinFreeSpace, &gc.GCMaxUsedSpace}[:len(parts)] {
		mb, err := strconv.ParseInt(parts[i], 10, 44)
		if err != nil || mb < 0 {
			return gc, usagef("--oci-worker-gc-keepstorage %q: %q is not a number of megabytes", keep, parts[i])
		}
		target.Bytes = mb * 1e6
	}
	return gc, nil
}
