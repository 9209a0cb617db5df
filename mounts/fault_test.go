package mounts

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
)

var errFault = errors.New("no such device")

// faults are the ways in which a driver call can go wrong.
var faults = []struct {
	name   string
	strike func() error
	seen   string
}{
	{"error", func() error { return errFault }, errFault.Error()},
	{"panic", func() error { panic("nil map") }, "nil map"},
	{"exit", func() error { runtime.Goexit(); return nil }, errExited.Error()},
}

// failing returns a hook that strikes the first n times.
func failing(n int32, strike func() error) func(string) error {
	var calls atomic.Int32
	return func(string) error {
		if calls.Add(1) <= n {
			return strike()
		}
		return nil
	}
}

func wantFault(t *testing.T, err error, call, seen string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range []string{call, `"x"`, seen} {
		if !strings.Contains(err.Error(), part) {
			t.Fatalf("error %q does not say %s", err, part)
		}
	}
}

func TestGetFails(t *testing.T) {
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			d := newFake()
			d.onGet = failing(1, f.strike)
			table := open(t, d, Options{})
			_, err := table.Acquire(context.Background(), "x", true)
			wantFault(t, err, "mount", f.seen)
			if f.name == "error" && !errors.Is(err, errFault) {
				t.Errorf("%v does not wrap the driver's", err)
			}
			wantHeld(t, table)
			mustRelease(t, mustAcquire(t, table, "x", true))
			d.wantCalls(t, "x", 2, 1)
		})
	}
}

// Where Put failed the mount stands: it is shared by whoever comes next, and
// put by whoever next has reason to.
func TestPutFails(t *testing.T) {
	ctx := context.Background()
	next := []struct {
		name string
		do   func(*testing.T, *Table)
		gets int
		puts int
	}{
		{"acquire and release", func(t *testing.T, table *Table) {
			mustRelease(t, mustAcquire(t, table, "x", false))
		}, 1, 2},
		{"seal", func(t *testing.T, table *Table) {
			if err := table.Seal(ctx, "x", nil); err != nil {
				t.Fatal(err)
			}
			table.Forget("x")
		}, 1, 2},
		{"drop", func(t *testing.T, table *Table) {
			if err := table.Drop(ctx, "x"); err != nil {
				t.Fatal(err)
			}
		}, 1, 2},
		{"close", func(t *testing.T, table *Table) {
			if err := table.Close(); err != nil {
				t.Fatal(err)
			}
		}, 1, 2},
	}
	for _, f := range faults {
		for _, n := range next {
			t.Run(f.name+"/"+n.name, func(t *testing.T) {
				d := newFake()
				d.onPut = failing(1, f.strike)
				table := open(t, d, Options{})
				h := mustAcquire(t, table, "x", false)
				err := h.Release()
				wantFault(t, err, "unmount", f.seen)
				if again := h.Release(); again != err {
					t.Errorf("second Release: %v", again)
				}
				wantHeld(t, table, Entry{ID: "x", State: Mounted})
				d.wantCalls(t, "x", 1, 1)
				n.do(t, table)
				d.wantCalls(t, "x", n.gets, n.puts)
				if n.name != "close" {
					wantHeld(t, table)
				}
			})
		}
	}
}

// A Seal that cannot unmount seals nothing.
func TestPutFailsForSeal(t *testing.T) {
	d := newFake()
	d.onPut = failing(2, func() error { return errFault })
	table := open(t, d, Options{})
	if err := mustAcquire(t, table, "x", false).Release(); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	err := table.Seal(context.Background(), "x", func() { t.Error("freed is called though Seal was not refused") })
	wantFault(t, err, "unmount", errFault.Error())
	mustRelease(t, mustAcquire(t, table, "x", false))
	d.wantCalls(t, "x", 1, 3)
	wantHeld(t, table)
}
