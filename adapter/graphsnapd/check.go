package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/urfave/cli"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/adapter"
)

// checkSettings is what `graphsnapd check` is told.
type checkSettings struct {
	root    string // of graphsnapd; "" where dockerd's is checked
	dockerd string // data root
	driver  string
	format  string // text or json
	repair  bool
}

func checkFlags() []cli.Flag {
	return append(slices.DeleteFunc(daemonFlags(), func(f cli.Flag) bool {
		return !slices.Contains([]string{"root", "driver", "driver-opt"}, f.GetName())
	}),
		cli.StringFlag{Name: "dockerd-root", Usage: "check the builder of the dockerd whose data root `DIR` is, such as /var/lib/docker, with its layer store"},
		cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT` of the report: text, a line for each finding, or json"},
		cli.BoolFlag{Name: "repair", Usage: "mend what can be mended in the database, after copying it to snapshots.db.backup-N beside it, and tell what is left"},
	)
}

const checkDescription = `Compares what a daemon that is stopped has on disk: its records of snapshots, the
   graph driver's directories, mounts, leases, and dockerd's layer store. Without
   --repair nothing is changed. The graph driver is not started, so its options are
   accepted and make no difference.

   Ends with code 0 if all is consistent but for notes; with --repair, also if the next
   start of the daemon mends the rest; with 1 if not, or if the daemon runs.`

func checkSettingsFrom(c *cli.Context) (*checkSettings, error) {
	str := func(name string) string { return given(c, name).String(name) }
	set := &checkSettings{driver: str("driver"), dockerd: c.String("dockerd-root"), format: c.String("format"), repair: c.Bool("repair")}
	switch {
	case c.NArg() > 0:
		return nil, usagef("unexpected argument %q (see graphsnapd check --help)", c.Args().First())
	case set.format != "text" && set.format != "json":
		return nil, usagef("--format %q is neither text nor json", set.format)
	case c.IsSet("dockerd-root") && given(c, "root").IsSet("root"):
		return nil, usagef("--root and --dockerd-root cannot both be given")
	case c.IsSet("dockerd-root") && set.dockerd == "":
		return nil, usagef("--dockerd-root cannot be empty")
	case !slices.Contains(knownDrivers, set.driver):
		return nil, usageError{checkDriver(set.driver)}
	}
	if err := checkDriverOptions(given(c, "driver-opt").StringSlice("driver-opt")); err != nil {
		return nil, err
	}
	if set.dockerd != "" {
		return set, nil
	}
	if set.root = str("root"); set.root == "" {
		return nil, usagef("--root cannot be empty")
	}
	return set, nil
}

// checkResult is the report as JSON.
type checkResult struct {
	Database   string            `json:"database"`
	Snapshots  int               `json:"snapshots"`
	Consistent bool              `json:"consistent"`
	Backup     string            `json:"backup,omitempty"`   // with --repair, where something was mended
	Repaired   []adapter.Finding `json:"repaired,omitempty"` // that are not among the findings any more
	Findings   []adapter.Finding `json:"findings"`           // after the repair: what it left
}

// runCheck writes the report to w. The error says that something is wrong, or that
// it could not be found out.
func runCheck(ctx context.Context, set *checkSettings, w io.Writer) error {
	opt, done, err := openForCheck(set)
	if err != nil {
		return err
	}
	defer done()
	report, err := adapter.Check(ctx, opt)
	if err != nil {
		return err
	}
	result := checkResult{Database: opt.Database}
	if set.repair && report.Repairable() {
		if result.Backup, err = report.Repair(ctx); err != nil {
			return err
		}
		before := report
		if report, err = adapter.Check(ctx, opt); err != nil {
			return err
		}
		for _, f := range before.Findings {
			if f.Remedy == adapter.RemedyRepair && !slices.ContainsFunc(report.Findings, f.Same) {
				result.Repaired = append(result.Repaired, f)
			}
		}
	}
	result.Snapshots, result.Consistent = report.Snapshots, report.Consistent()
	if result.Findings = report.Findings; result.Findings == nil {
		result.Findings = []adapter.Finding{}
	}
	if err := result.write(w, set); err != nil {
		return err
	}
	wrong := 0
	for _, f := range result.Findings {
		if !f.Note && !(set.repair && f.Remedy == adapter.RemedyStart) {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("check %s: %d inconsistencies", opt.Database, wrong)
	}
	return nil
}

func (r *checkResult) write(w io.Writer, set *checkSettings) error {
	if set.format == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	var b strings.Builder
	if r.Backup != "" {
		fmt.Fprintf(&b, "backup: %s\n", r.Backup)
	}
	for _, f := range r.Repaired {
		fmt.Fprintf(&b, "repaired: %v\n", f)
	}
	prefix := ""
	if set.repair {
		prefix = "left: "
	}
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s%v\n", prefix, f)
	}
	if r.Consistent {
		fmt.Fprintf(&b, "consistent: %d snapshots\n", r.Snapshots)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// openForCheck finds the files of a daemon, makes sure that it does not run, and keeps
// it from starting until done is called.
func openForCheck(set *checkSettings) (opt adapter.CheckOpt, done func(), err error) {
	root, unlock := set.dockerd, func() {}
	if set.dockerd != "" {
		// dockerd has nothing to lock but the database itself.
		builder := filepath.Join(root, "buildkit")
		opt = adapter.CheckOpt{
			Database: filepath.Join(builder, "snapshots.db"),
			Home:     filepath.Join(root, set.driver),
			LayerDB:  filepath.Join(root, "image", set.driver, "layerdb"),
		}
	} else {
		root = workerRoot(set.root, set.driver)
		opt = adapter.CheckOpt{Database: filepath.Join(root, "snapshots.db"), Home: filepath.Join(root, set.driver)}
		if unlock, err = lockRoot(set.root); err != nil {
			return opt, nil, err
		}
	}
	opt.Driver, opt.Namespace = set.driver, namespace
	manager, closeLeases := openLeases(filepath.Join(filepath.Dir(opt.Database), "containerdmeta.db"))
	opt.Leases = manager
	return opt, func() { closeLeases(); unlock() }, nil
}

// lockRoot locks the root against a daemon, as long as there ever was one.
func lockRoot(root string) (unlock func(), err error) {
	path := filepath.Join(root, "graphsnapd.lock")
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock root: %s is held by a running graphsnapd; stop it first", path)
		}
		return nil, fmt.Errorf("lock root: %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// openLeases opens containerd's database, of leases, for reading. Where that does not
// work, listing them is what fails.
func openLeases(path string) (m leases.Manager, done func()) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil { // of a page that is not what it should be
			m, done = unlistable{err: fmt.Errorf("open %s: panic: %v", path, p)}, func() {}
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: 100 * time.Millisecond})
	if err != nil {
		return unlistable{err: fmt.Errorf("open %s: %w", path, err)}, func() {}
	}
	return ctdmetadata.NewLeaseManager(ctdmetadata.NewDB(db, nil, nil)), func() { _ = db.Close() }
}

// unlistable is a lease manager that cannot be opened.
type unlistable struct {
	leases.Manager
	err error
}

func (u unlistable) List(context.Context, ...string) ([]leases.Lease, error) { return nil, u.err }
