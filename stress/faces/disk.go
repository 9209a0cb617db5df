package faces

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/sys/mountinfo"

	"github.com/graphsnap/graphsnap/adapter"
	"github.com/graphsnap/graphsnap/engine"
)

// home is the directory of one of Docker's graph drivers. It is the target.Disk of a
// driver whose calls nobody counts.
type home struct{ driver, path string }

// newHome is the home that the driver has below root.
func newHome(driver, root string) (home, error) {
	root, err := filepath.EvalSymlinks(root) // as the kernel lists mounts
	return home{driver, filepath.Join(root, driver)}, err
}

// shelves are where graph drivers keep their directories, below their homes.
var shelves = map[string]string{"overlay2": "", "vfs": "dir", "btrfs": "subvolumes"}

// probes begin the names of what overlay2 makes in its home while it starts, to see what
// the kernel can do (daemon/graphdriver/overlayutils, overlay2/check.go). A process that
// is killed amid that leaves it, mounted perhaps, and no other looks for it.
var probes = []string{"check-overlayfs-support", "opaque-bug-check", "metacopy-check", "userxattr-check", "fsutils-dummy"}

func isProbe(name string) bool {
	return slices.ContainsFunc(probes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// Directories implements target.Disk.
func (h home) Directories() (map[string]bool, error) {
	entries, err := os.ReadDir(filepath.Join(h.path, shelves[h.driver]))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the first Create makes it
		return nil, err
	}
	ids := make(map[string]bool, len(entries))
	for _, e := range entries {
		if h.driver != "overlay2" || e.Name() != "l" && !isProbe(e.Name()) {
			ids[e.Name()] = true
		}
	}
	return ids, nil
}

// Mounted implements target.Disk. It asks the kernel.
func (h home) Mounted() ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(h.path))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, i := range infos {
		if dir, ok := strings.CutSuffix(i.Mountpoint, "/merged"); ok && !isProbe(filepath.Base(dir)) {
			ids = append(ids, filepath.Base(dir))
		}
	}
	return ids, nil
}

// Describes implements target.Disk: what stands on nothing is not mounted by overlay2,
// and nothing is by others.
func (h home) Describes() bool { return true }

// Disk is one of Docker's graph drivers as a target.Driver. It counts calls.
type Disk struct {
	engine.Driver
	home
	describes bool

	mu      sync.Mutex
	mounted map[string]int // what Get mounted
	calls   map[string]uint64
	wrong   []string
}

// NewDisk starts the graph driver name with its home below root. Where the driver does
// not work there the error is the driver's. overlayMounts is as in adapter.DriverOpt.
func NewDisk(name, root string, overlayMounts bool) (*Disk, error) {
	at, err := newHome(name, root)
	if err != nil {
		return nil, err
	}
	gd, err := graphdriver.New(name, graphdriver.Options{Root: filepath.Dir(at.path)})
	if err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", name, root, err)
	}
	driver, err := adapter.NewDriver(gd, adapter.DriverOpt{OverlayMounts: overlayMounts})
	if err != nil {
		return nil, err
	}
	return &Disk{
		Driver: driver, home: at, describes: overlayMounts,
		mounted: map[string]int{}, calls: map[string]uint64{},
	}, nil
}

func (d *Disk) count(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls[call]++
}

// Create implements engine.Driver.
func (d *Disk) Create(id, parent string) error {
	d.count("Create")
	return d.Driver.Create(id, parent)
}

// Remove implements engine.Driver.
func (d *Disk) Remove(id string) error {
	d.count("Remove")
	d.mu.Lock()
	if d.mounted[id] > 0 {
		d.wrong = append(d.wrong, fmt.Sprintf("the driver was asked to remove %q, which is mounted", id))
	}
	d.mu.Unlock()
	return d.Driver.Remove(id)
}

// Get implements engine.Driver.
func (d *Disk) Get(id string) (string, error) {
	d.count("Get")
	dir, err := d.Driver.Get(id)
	if err == nil && dir != "" {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.mounted[id]++
	}
	return dir, err
}

// Put implements engine.Driver.
func (d *Disk) Put(id string) error {
	d.count("Put")
	err := d.Driver.Put(id)
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.mounted[id]--; d.mounted[id] <= 0 {
			delete(d.mounted, id)
		}
	}
	return err
}

// Name implements target.Driver.
func (d *Disk) Name() string { return d.driver }

// Describes implements target.Disk.
func (d *Disk) Describes() bool { return d.describes }

// Calls implements target.Driver.
func (d *Disk) Calls() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.calls)
}

// Wrong implements target.Driver.
func (d *Disk) Wrong() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	wrong := d.wrong
	d.wrong = nil
	return wrong
}

// Mounted implements target.Disk. It asks the kernel too.
func (d *Disk) Mounted() ([]string, error) {
	found, err := d.home.Mounted()
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := maps.Clone(d.mounted)
	for _, id := range found {
		ids[id]++
	}
	return slices.Collect(maps.Keys(ids)), nil
}

// Check implements target.Driver.
func (d *Disk) Check(ctx context.Context, database string) []string {
	report, err := adapter.Check(ctx, adapter.CheckOpt{Database: database, Driver: d.driver, Home: d.path})
	return findings(report, err)
}

// findings are those that say that something is wrong. A snapshot that never was in a
// lease stays until its process ends, what a Close cut short is no mistake, and probes
// are the driver's.
func findings(r *adapter.CheckReport, err error) (wrong []string) {
	if err != nil {
		return []string{err.Error()}
	}
	for _, f := range r.Findings {
		if !f.Note && f.Kind != "snapshot-unleased" && f.Kind != "removing" && !isProbe(f.GraphID) {
			wrong = append(wrong, f.String())
		}
	}
	return wrong
}
