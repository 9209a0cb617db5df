package mounts

// What the tests share: a driver that keeps count and checks what the table owes
// to it, and short ways to say what happens at once.

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

// fakeDriver mounts nothing. It records breaches of what Driver promises: one
// call for a graph ID at a time, Get and Put by turns.
type fakeDriver struct {
	// Hooks run within the call and may block, fail or panic.
	onGet, onPut func(id string) error

	mu       sync.Mutex
	busy     map[string]bool
	mounted  map[string]bool
	gets     map[string]int
	puts     map[string]int
	breaches []string
}

func newFake() *fakeDriver {
	return &fakeDriver{
		busy:    make(map[string]bool),
		mounted: make(map[string]bool),
		gets:    make(map[string]int),
		puts:    make(map[string]int),
	}
}

func (d *fakeDriver) Get(id string) (string, error) {
	d.enter(id, "Get", d.gets, false)
	mounted := false
	defer func() { d.exit(id, mounted) }()
	if d.onGet != nil {
		if err := d.onGet(id); err != nil {
			return "", err
		}
	}
	mounted = true
	return "/" + id, nil
}

func (d *fakeDriver) Put(id string) error {
	d.enter(id, "Put", d.puts, true)
	mounted := true
	defer func() { d.exit(id, mounted) }()
	if d.onPut != nil {
		if err := d.onPut(id); err != nil {
			return err
		}
	}
	mounted = false
	return nil
}

func (d *fakeDriver) enter(id, call string, count map[string]int, mounted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[id] {
		d.breaches = append(d.breaches, fmt.Sprintf("%s(%q) beside another call", call, id))
	}
	if d.mounted[id] != mounted {
		d.breaches = append(d.breaches, fmt.Sprintf("%s(%q) where mounted is %v", call, id, !mounted))
	}
	d.busy[id] = true
	count[id]++
}

func (d *fakeDriver) exit(id string, mounted bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.busy[id] = false
	d.mounted[id] = mounted
}

func (d *fakeDriver) isMounted(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mounted[id] && !d.busy[id]
}

func (d *fakeDriver) wantCalls(t *testing.T, id string, gets, puts int) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gets[id] != gets || d.puts[id] != puts {
		t.Fatalf("driver calls for %q: %d Get, %d Put; want %d, %d", id, d.gets[id], d.puts[id], gets, puts)
	}
}

// open starts a table that at the end of the test is closed and must have left
// nothing mounted and the driver unharmed.
func open(t testing.TB, d *fakeDriver, o Options) *Table {
	table := New(d, o)
	t.Cleanup(func() {
		if err := table.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		for id, mounted := range d.mounted {
			if mounted {
				t.Errorf("%q is mounted after Close", id)
			}
		}
		for _, b := range d.breaches {
			t.Error(b)
		}
	})
	return table
}

func mustAcquire(t testing.TB, table *Table, id string, write bool) *Hold {
	t.Helper()
	hold, err := table.Acquire(context.Background(), id, write)
	if err != nil {
		t.Fatal(err)
	}
	if hold.Dir() != "/"+id {
		t.Fatalf("directory %q of %q", hold.Dir(), id)
	}
	return hold
}

func mustRelease(t testing.TB, holds ...*Hold) {
	t.Helper()
	for _, h := range holds {
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
	}
}

// wantHeld compares the whole table.
func wantHeld(t testing.TB, table *Table, want ...Entry) {
	t.Helper()
	got, err := table.Held(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("table is %+v, want %+v", got, want)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("table is %+v, want %+v", got, want)
		}
	}
}

func wantError(t testing.TB, err error, is func(error) bool, class string) {
	t.Helper()
	if !is(err) {
		t.Fatalf("error is %v, want %s", err, class)
	}
}

func wantSealRefused(t testing.TB, table *Table, id string, freed func()) {
	t.Helper()
	err := table.Seal(context.Background(), id, freed)
	wantError(t, err, errdefs.IsFailedPrecondition, "failed precondition")
}

// outcome is that of an Acquire under way.
type outcome struct {
	hold *Hold
	err  error
}

func acquiring(ctx context.Context, table *Table, id string) <-chan outcome {
	c := make(chan outcome, 1)
	go func() {
		hold, err := table.Acquire(ctx, id, false)
		c <- outcome{hold, err}
	}()
	return c
}

// doing runs f beside the test.
func doing(f func() error) <-chan error {
	c := make(chan error, 1)
	go func() { c <- f() }()
	return c
}

// pending fails the test where c has yielded.
func pending[T any](t testing.TB, c <-chan T) {
	t.Helper()
	select {
	case v := <-c:
		t.Fatalf("answered already: %v", v)
	default:
	}
}
