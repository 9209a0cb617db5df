package faces

import (
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

// shelves are where graph drivers keep their directories, below their homes.
var shelves = map[string]string{"overlay2": "", "vfs": "dir", "btrfs": "subvolumes"}

// Disk is one of Docker's graph drivers as a target.Driver. It counts calls.
type Disk struct {
	engine.Driver
	name      string
	home      string
	describes bool

	mu      sync.Mutex
	mounted map[string]int // what Get mounted
	calls   map[string]uint64
	wrong   []string
}

// NewDisk starts the graph driver name with its home below root. Where the driver does
// not work there the error is the driver's. overlayMounts is as in adapter.DriverOpt.
func NewDisk(name, root string, overlayMounts bool) (*Disk, error) {
	root, err := filepath.EvalSymlinks(root) // as the kernel lists mounts
	if err != nil {
		return nil, err
	}
	gd, err := graphdriver.New(name, graphdriver.Options{Root: root})
	if err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", name, root, err)
	}
	driver, err := adapter.NewDriver(gd, adapter.DriverOpt{OverlayMounts: overlayMounts})
	if err != nil {
		return nil, err
	}
	return &Disk{
		Driver: driver, name: name, home: filepath.Join(root, name), describes: overlayMounts,
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
func (d *Disk) Name() string { return d.name }

// Describes implements target.Driver.
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

// Directories implements target.Driver.
func (d *Disk) Directories() (map[string]bool, error) {
	entries, err := os.ReadDir(filepath.Join(d.home, shelves[d.name]))
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // the first Create makes it
		return nil, err
	}
	ids := make(map[string]bool, len(entries))
	for _, e := range entries {
		if d.name != "overlay2" || e.Name() != "l" {
			ids[e.Name()] = true
		}
	}
	return ids, nil
}

// Mounted implements target.Driver. It asks the kernel too.
func (d *Disk) Mounted() ([]string, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(d.home))
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := maps.Clone(d.mounted)
	for _, i := range infos {
		if id, ok := strings.CutSuffix(i.Mountpoint, "/merged"); ok {
			ids[filepath.Base(id)]++
		}
	}
	return slices.Collect(maps.Keys(ids)), nil
}
