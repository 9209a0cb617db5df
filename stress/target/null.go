package target

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

// Null is an engine.Driver that keeps its directories in memory. It counts calls,
// checks what the engine promises to drivers, and lets faults step in before each
// call, such as driver.Create. It outlives the engines that are opened on it, as a disk does.
type Null struct {
	copies bool
	before func(call, id string) error // nil, or may block, fail or panic; of a layer store too

	journal *journal

	mu      sync.Mutex
	parents map[string]string // of directories
	mounted map[string]int
	calls   map[string]uint64
	wrong   []string
}

// NewNull returns a driver without directories. copies is what Copies answers.
func NewNull(copies bool, before func(call, id string) error) *Null {
	return &Null{
		copies: copies, before: before,
		parents: map[string]string{}, mounted: map[string]int{}, calls: map[string]uint64{},
	}
}

// Name implements Driver.
func (d *Null) Name() string { return "null" }

// Describes implements Driver.
func (d *Null) Describes() bool { return false }

// Calls implements Driver.
func (d *Null) Calls() map[string]uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.calls)
}

// Wrong implements Driver.
func (d *Null) Wrong() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	wrong := d.wrong
	d.wrong = nil
	return wrong
}

// Check implements Driver.
func (d *Null) Check(context.Context, string) []string { return nil }

// Directories implements Driver.
func (d *Null) Directories() (map[string]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ids := make(map[string]bool, len(d.parents))
	for id := range d.parents {
		ids[id] = true
	}
	return ids, nil
}

// Mounted implements Driver.
func (d *Null) Mounted() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.mounted)), nil
}

func (d *Null) enter(call, id string) error {
	d.mu.Lock()
	d.calls[call]++
	d.mu.Unlock()
	if d.before != nil {
		return d.before("driver."+call, id)
	}
	return nil
}

func (d *Null) complain(format string, args ...any) {
	if len(d.wrong) < 20 {
		d.wrong = append(d.wrong, fmt.Sprintf(format, args...))
	}
}

// Create implements engine.Driver.
func (d *Null) Create(id, parent string) error {
	if err := d.enter("Create", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.parents[id]; ok {
		d.complain("the driver was asked to create %q, which exists", id)
	}
	if _, ok := d.parents[parent]; parent != "" && !ok {
		d.complain("the driver was asked to create %q on %q, which does not exist", id, parent)
		return fmt.Errorf("parent %q: %w", parent, errdefs.ErrNotFound)
	}
	d.parents[id] = parent
	return d.journal.add("create", id, parent)
}

// Remove implements engine.Driver.
func (d *Null) Remove(id string) error {
	if err := d.enter("Remove", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.removable(id)
	delete(d.parents, id)
	return d.journal.add("remove", id)
}

// removable complains where the directory is mounted.
func (d *Null) removable(id string) {
	if d.mounted[id] > 0 {
		d.complain("the driver was asked to remove %q, which is mounted", id)
	}
}

// add makes a directory on nothing, whatever faults there are.
func (d *Null) add(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.parents[id] = ""
	_ = d.journal.add("create", id, "")
}

// drop deletes the directory, whatever faults there are. Where it may be mounted nobody
// complains.
func (d *Null) drop(id string, mounted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !mounted {
		d.removable(id)
	}
	delete(d.parents, id)
	_ = d.journal.add("remove", id)
}

// standsOn complains where the directory was not created on top of that of parent.
func (d *Null) standsOn(id, parent string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on, ok := d.parents[id]; !ok || on != parent {
		d.complain("the directory %q is to become a layer on %q and stands on %q", id, parent, on)
	}
}

// Exists implements engine.Driver.
func (d *Null) Exists(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.parents[id]
	return ok
}

// Get implements engine.Driver.
func (d *Null) Get(id string) (string, error) {
	if err := d.enter("Get", id); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.parents[id]; !ok {
		// Not a broken promise: somebody mounts what was removed meanwhile.
		return "", fmt.Errorf("directory %q: %w", id, errdefs.ErrNotFound)
	}
	if d.mounted[id]++; d.mounted[id] > 1 {
		d.complain("the driver was asked to mount %q twice", id)
	}
	return "/null/" + id, d.journal.add("mount", id)
}

// Put implements engine.Driver.
func (d *Null) Put(id string) error {
	if err := d.enter("Put", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch d.mounted[id]--; {
	case d.mounted[id] < 0:
		d.complain("the driver was asked to unmount %q, which is not mounted", id)
		fallthrough
	case d.mounted[id] == 0:
		delete(d.mounted, id)
	}
	return d.journal.add("unmount", id)
}

// Describe implements engine.Driver. Get never leaves the mounting to others, so it
// is not called.
func (d *Null) Describe(id string, _ bool) ([]mount.Mount, error) {
	return nil, fmt.Errorf("directory %q: %w", id, errdefs.ErrNotImplemented)
}

// Usage implements engine.Driver.
func (d *Null) Usage(ctx context.Context, id, _ string) (snapshots.Usage, error) {
	if err := d.enter("Usage", id); err != nil {
		return snapshots.Usage{}, err
	}
	return snapshots.Usage{Size: 4096, Inodes: 1}, ctx.Err()
}

// Copies implements engine.Driver.
func (d *Null) Copies() bool { return d.copies }

// Sync implements engine.Driver.
func (d *Null) Sync(id string) error { return d.enter("Sync", id) }

// Survey implements engine.Driver.
func (d *Null) Survey(ids []string) (s engine.Survey, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if _, ok := d.parents[id]; !ok {
			s.Missing = append(s.Missing, id)
		}
		for range d.mounted[id] {
			s.Mounted = append(s.Mounted, id)
		}
	}
	return s, nil
}

// Unmount implements engine.Driver.
func (d *Null) Unmount(id string) error { return d.Put(id) }

// Restore implements engine.Driver.
func (d *Null) Restore(id, parent string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	on, ok := d.parents[id]
	if !ok {
		return false, fmt.Errorf("directory %q: %w", id, errdefs.ErrNotFound)
	}
	d.parents[id] = parent
	return on != parent, d.journal.add("create", id, parent)
}
