package adapter

// Stepping in between graphsnap and what it stands on: a test counts calls, lets
// them fail, and holds one up to say what happens meanwhile.

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/docker/docker/daemon/graphdriver"
)

// watch sees each call before it is made, and Create also when it is done, as
// "Created". Calls of the driver have its method's name; those of the lease manager
// have the namespace behind it.
type watch struct {
	mu    sync.Mutex
	calls map[string]int
	fails map[string]error
	stops map[string]*stop
}

func newWatch() *watch {
	return &watch{calls: map[string]int{}, fails: map[string]error{}, stops: map[string]*stop{}}
}

// stop holds up one call.
type stop struct {
	reached chan struct{}
	goOn    func()
	wait    chan struct{}
}

// stop holds up the next call of that name until goOn, at the latest the end of
// the test.
func (w *watch) stop(t testing.TB, call string) *stop {
	s := &stop{reached: make(chan struct{}), wait: make(chan struct{})}
	s.goOn = sync.OnceFunc(func() { close(s.wait) })
	t.Cleanup(s.goOn)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stops[call] = s
	return s
}

// fail lets all calls of that name fail, until it is called with nil.
func (w *watch) fail(call string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fails[call] = err
}

func (w *watch) count(call string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[call]
}

func (w *watch) enter(call string) error {
	w.mu.Lock()
	w.calls[call]++
	s := w.stops[call]
	delete(w.stops, call)
	w.mu.Unlock()
	if s != nil {
		close(s.reached)
		<-s.wait
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fails[call]
}

type watchedDriver struct {
	graphdriver.Driver
	watch *watch
}

func (d watchedDriver) Create(id, parent string, opts *graphdriver.CreateOpts) error {
	if err := d.watch.enter("Create"); err != nil {
		return err
	}
	if err := d.Driver.Create(id, parent, opts); err != nil {
		return err
	}
	return d.watch.enter("Created")
}

func (d watchedDriver) Remove(id string) error {
	if err := d.watch.enter("Remove"); err != nil {
		return err
	}
	return d.Driver.Remove(id)
}

func (d watchedDriver) Exists(id string) bool {
	_ = d.watch.enter("Exists") // which can only be held up
	return d.Driver.Exists(id)
}

func (d watchedDriver) Get(id, label string) (string, error) {
	if err := d.watch.enter("Get"); err != nil {
		return "", err
	}
	return d.Driver.Get(id, label)
}

// Diff is what every export of a layer begins with. It is also seen as "Diff " and
// the graph ID.
func (d watchedDriver) Diff(id, parent string) (io.ReadCloser, error) {
	if err := errors.Join(d.watch.enter("Diff"), d.watch.enter("Diff "+id)); err != nil {
		return nil, err
	}
	return d.Driver.Diff(id, parent)
}

func (d watchedDriver) ApplyDiff(id, parent string, diff io.Reader) (int64, error) {
	if err := d.watch.enter("ApplyDiff"); err != nil {
		return 0, err
	}
	return d.Driver.ApplyDiff(id, parent, diff)
}

// GetMetadata is what every measurement begins with.
func (d watchedDriver) GetMetadata(id string) (map[string]string, error) {
	if err := d.watch.enter("GetMetadata"); err != nil {
		return nil, err
	}
	return d.Driver.GetMetadata(id)
}

type watchedLeases struct {
	leases.Manager
	watch *watch
}

func (m watchedLeases) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if err := m.watch.enter("AddResource " + namespaceOf(ctx)); err != nil {
		return err
	}
	return m.Manager.AddResource(ctx, l, r)
}

func (m watchedLeases) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	if err := m.watch.enter("List " + namespaceOf(ctx)); err != nil {
		return nil, err
	}
	return m.Manager.List(ctx, filters...)
}

func (m watchedLeases) ListResources(ctx context.Context, l leases.Lease) ([]leases.Resource, error) {
	if err := m.watch.enter("ListResources " + namespaceOf(ctx)); err != nil {
		return nil, err
	}
	return m.Manager.ListResources(ctx, l)
}

func namespaceOf(ctx context.Context) string {
	ns, _ := namespaces.Namespace(ctx)
	return ns
}
