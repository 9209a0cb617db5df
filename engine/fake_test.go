package engine

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// Thousands of injected faults are logged otherwise.
	_ = log.SetLevel("panic")
	goleak.VerifyTestMain(m)
}

// memoryDriver keeps its directories in a map. It checks the promises the engine
// makes to drivers and lets a test step in before every call.
type memoryDriver struct {
	copies bool
	leaves bool                        // the mounting to those who hold a directory
	before func(call, id string) error // may be nil; may block, fail or panic

	mu      sync.Mutex
	dirs    map[string]string // id to parent
	mounted map[string]int
	doomed  map[string]bool // their removal failed, so nothing needs their parents
	calls   map[string]int
	kept    map[string]bool   // directories that are none of the engine's business
	broken  map[string]string // directories of which something is missing: "parts" or "content"
	links   map[string]bool   // what a directory has elsewhere, be it there or not
	stale   map[string]int    // mounts of a dead process
	wrong   []string
}

func newMemoryDriver() *memoryDriver {
	return &memoryDriver{dirs: map[string]string{}, mounted: map[string]int{}, doomed: map[string]bool{}, calls: map[string]int{},
		broken: map[string]string{}, links: map[string]bool{}, stale: map[string]int{}}
}

func (d *memoryDriver) enter(call, id string) error {
	d.mu.Lock()
	d.calls[call]++
	before := d.before
	d.mu.Unlock()
	if before != nil {
		return before(call, id)
	}
	return nil
}

func (d *memoryDriver) complain(format string, args ...any) {
	d.wrong = append(d.wrong, fmt.Sprintf(format, args...))
}

func (d *memoryDriver) Create(id, parent string) error {
	if err := d.enter("Create", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.dirs[id]; ok {
		d.complain("Create of %q, which exists", id)
	}
	if _, ok := d.dirs[parent]; parent != "" && !ok {
		return fmt.Errorf("parent %q: %w", parent, errdefs.ErrNotFound)
	}
	if d.links[id] {
		d.complain("Create of %q, of which a link is left", id)
	}
	d.dirs[id] = parent
	d.links[id] = true
	return nil
}

func (d *memoryDriver) Survey(ids []string) (s Survey, err error) {
	if err := d.enter("Survey", ""); err != nil {
		return s, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, id := range ids {
		if _, ok := d.dirs[id]; !ok {
			s.Missing = append(s.Missing, id)
			if d.links[id] {
				s.Linked = append(s.Linked, id)
			}
		}
		for range d.stale[id] {
			s.Mounted = append(s.Mounted, id)
		}
	}
	return s, nil
}

func (d *memoryDriver) Unmount(id string) error {
	if err := d.enter("Unmount", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stale[id]--; d.stale[id] < 0 {
		d.complain("Unmount of %q, which is not mounted", id)
	}
	return nil
}

func (d *memoryDriver) Restore(id, parent string) (bool, error) {
	if err := d.enter("Restore", id); err != nil {
		return false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	on, ok := d.dirs[id]
	if !ok || d.broken[id] == "content" {
		return false, errdefs.ErrNotFound
	}
	if _, ok := d.dirs[parent]; parent != "" && (!ok || d.broken[parent] != "") {
		d.complain("Restore of %q on %q, which is not whole", id, parent)
	}
	changed := d.broken[id] == "parts" || on != parent || !d.links[id]
	delete(d.broken, id)
	d.dirs[id], d.links[id] = parent, true
	return changed, nil
}

func (d *memoryDriver) Remove(id string) error {
	d.mu.Lock()
	d.doomed[id] = true
	d.mu.Unlock()
	if err := d.enter("Remove", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for child, parent := range d.dirs {
		if parent == id && !d.doomed[child] {
			d.complain("Remove of %q, the parent of %q", id, child)
		}
	}
	if d.mounted[id] > 0 {
		d.complain("Remove of %q, which is mounted", id)
	}
	if d.stale[id] > 0 {
		d.complain("Remove of %q, at which a dead process has a mount", id)
	}
	delete(d.dirs, id)
	delete(d.links, id)
	delete(d.broken, id)
	delete(d.doomed, id)
	return nil
}

func (d *memoryDriver) Exists(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.dirs[id]
	return ok || id == "l"
}

func (d *memoryDriver) Get(id string) (string, error) {
	if err := d.enter("Get", id); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.dirs[id]; !ok {
		return "", fmt.Errorf("directory %q: %w", id, errdefs.ErrNotFound)
	}
	if d.broken[id] != "" || d.stale[id] > 0 {
		d.complain("Get of %q, which is not whole", id)
	}
	if d.leaves {
		return "", nil
	}
	if d.mounted[id]++; d.mounted[id] > 1 {
		d.complain("Get of %q, which is mounted", id)
	}
	return "/memory/" + id, nil
}

func (d *memoryDriver) Describe(id string, readonly bool) ([]mount.Mount, error) {
	if err := d.enter("Describe", id); err != nil {
		return nil, err
	}
	return []mount.Mount{{Type: "memory", Source: id}}, nil
}

func (d *memoryDriver) Put(id string) error {
	if err := d.enter("Put", id); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mounted[id]--; d.mounted[id] < 0 {
		d.complain("Put of %q, which is not mounted", id)
	}
	return nil
}

func (d *memoryDriver) Usage(ctx context.Context, id, parent string) (snapshots.Usage, error) {
	if err := d.enter("Usage", id); err != nil {
		return snapshots.Usage{}, err
	}
	if ctx.Err() != nil {
		return snapshots.Usage{}, ctx.Err()
	}
	return snapshots.Usage{Size: 4096, Inodes: 1}, nil
}

func (d *memoryDriver) Copies() bool         { return d.copies }
func (d *memoryDriver) Sync(id string) error { return d.enter("Sync", id) }

// memoryLeases is a lease manager that the engine only lists.
type memoryLeases struct {
	mu   sync.Mutex
	held map[Lease]map[string]bool
	fail error
}

func newMemoryLeases() *memoryLeases { return &memoryLeases{held: map[Lease]map[string]bool{}} }

func (m *memoryLeases) List(_ context.Context, _ Known, each func(Lease, []string)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for l, set := range m.held {
		var keys []string
		for k := range set {
			keys = append(keys, k)
		}
		each(l, keys)
	}
	return nil
}

func (m *memoryLeases) add(l Lease, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held[l] == nil {
		m.held[l] = map[string]bool{}
	}
	m.held[l][key] = true
}

func (m *memoryLeases) drop(l Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, l)
}

func (m *memoryLeases) names(l Lease, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[l][key]
}

// harness is an engine on memory, with the checks that every test ends with.
type harness struct {
	*Engine
	t      *testing.T
	driver *memoryDriver
	leases *memoryLeases
	layers *memoryLayers // nil: there is no layer store
	root   string
	opts   []Option
}

// open opens an engine. With GRAPHSNAP_BOUNDS=1 in the environment everything that
// can be bounded is bounded at 1, unless the test says otherwise.
func open(t *testing.T, opts ...Option) *harness {
	t.Helper()
	if os.Getenv("GRAPHSNAP_BOUNDS") == "1" {
		opts = append(slices.Clone(everyBoundOne), opts...)
	}
	h := &harness{t: t, driver: newMemoryDriver(), leases: newMemoryLeases(), root: t.TempDir(), opts: opts}
	h.reopen()
	t.Cleanup(h.finish)
	return h
}

func (h *harness) reopen() {
	h.t.Helper()
	c := Config{Driver: h.driver, Root: h.root, Name: "test"}
	if h.leases != nil {
		c.Leases = h.leases
	}
	if h.layers != nil {
		c.Layers = h.layers
	}
	e, err := Open(context.Background(), c, h.opts...)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Engine = e
}

// finish closes the engine and checks that memory, disk and database agreed.
func (h *harness) finish() {
	h.t.Helper()
	h.checkTables()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
	h.checkFiles()
	h.checkDatabase()
	for _, w := range h.driver.wrong {
		h.t.Error(w)
	}
	for id, n := range h.driver.mounted {
		if n != 0 {
			h.t.Errorf("%q is mounted after Close", id)
		}
	}
}

// checkFiles finds files below the root that are open still. A lock goes with its
// file.
func (h *harness) checkFiles() {
	h.t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, h.root) {
			h.t.Errorf("%s is open after Close", target)
		}
	}
}

func (h *harness) lease(l Lease, key string) {
	h.t.Helper()
	err := h.AddLease(context.Background(), l, key, func() error { h.leases.add(l, key); return nil })
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *harness) endLease(l Lease) {
	h.leases.drop(l)
	h.EndLease(l)
}

// eventually polls until ok answers true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

func (h *harness) absent(key string) bool {
	_, err := h.Stat(context.Background(), key)
	return errdefs.IsNotFound(err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// keep makes a directory none of the engine's business.
func (d *memoryDriver) keep(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kept == nil {
		d.kept = map[string]bool{}
	}
	d.kept[id] = true
}

// calm ends what before did.
func (d *memoryDriver) calm() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.before = nil
}
