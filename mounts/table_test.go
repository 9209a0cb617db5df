package mounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/actors"
)

func TestP6HoldersShareOneMount(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	a := mustAcquire(t, table, "x", false)
	b := mustAcquire(t, table, "x", true)
	c := mustAcquire(t, table, "y", false)
	d.wantCalls(t, "x", 1, 0)
	wantHeld(t, table,
		Entry{ID: "x", State: Mounted, Holders: 2, Writers: 1},
		Entry{ID: "y", State: Mounted, Holders: 1})
	mustRelease(t, a)
	d.wantCalls(t, "x", 1, 0)
	mustRelease(t, b, c)
	d.wantCalls(t, "x", 1, 1)
	wantHeld(t, table) // what is idle has no entry
}

func TestP7ReleaseTwiceReleasesOnce(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	kept := mustAcquire(t, table, "x", false)
	twice := mustAcquire(t, table, "x", false)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := twice.Release(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})
	d.wantCalls(t, "x", 1, 0)
	mustRelease(t, kept, kept)
	d.wantCalls(t, "x", 1, 1)
}

// A hold that was released must not end one of a later mount of its graph ID.
func TestP7ReleaseTwiceAcrossMounts(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	old := mustAcquire(t, table, "x", true)
	mustRelease(t, old)
	now := mustAcquire(t, table, "x", true)
	mustRelease(t, old)
	wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1, Writers: 1})
	mustRelease(t, now)
}

func TestDropEndsEveryHold(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	a, b := mustAcquire(t, table, "x", false), mustAcquire(t, table, "x", true)
	for range 2 { // of an ID without holds it does nothing
		if err := table.Drop(context.Background(), "x"); err != nil {
			t.Fatal(err)
		}
		d.wantCalls(t, "x", 1, 1)
		wantHeld(t, table)
	}
	now := mustAcquire(t, table, "x", false)
	mustRelease(t, a, b)
	wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})
	mustRelease(t, now)
	d.wantCalls(t, "x", 2, 2)
}

// Two equal answers with no writers mean that nobody wrote, also where the
// entry went and came in between.
func TestWritersEpoch(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	ask := func(wantN int) uint64 {
		t.Helper()
		n, epoch, err := table.Writers(context.Background(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if n != wantN {
			t.Fatalf("%d writers, want %d", n, wantN)
		}
		return epoch
	}
	reader := func() {
		mustRelease(t, mustAcquire(t, table, "x", false))
	}
	writer := func() {
		h := mustAcquire(t, table, "x", true)
		ask(1)
		mustRelease(t, h)
	}
	held := mustAcquire(t, table, "x", true)
	end := func() { mustRelease(t, held) }
	dropAll := func() {
		if err := table.Drop(context.Background(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	begin := func() {
		t.Cleanup(func(h *Hold) func() { return func() { mustRelease(t, h) } }(mustAcquire(t, table, "x", true)))
	}
	for _, step := range []struct {
		name    string
		do      func()
		n       int
		changes bool
	}{
		{"nothing beside a writer", func() {}, 1, false},
		{"the writer ends", end, 0, true},
		{"nothing", func() {}, 0, false},
		{"a reader", reader, 0, false},
		{"a writer", writer, 0, true},
		{"a writer begins, to be dropped", begin, 1, true},
		{"it is dropped", dropAll, 0, true},
		{"a writer again", writer, 0, true},
		{"a writer begins", begin, 1, true},
		{"a reader beside it", reader, 1, false},
	} {
		n, _, err := table.Writers(context.Background(), "x")
		if err != nil {
			t.Fatal(err)
		}
		before := ask(n)
		step.do()
		if changed := ask(step.n) != before; changed != step.changes {
			t.Errorf("%s: epoch changed: %v", step.name, changed)
		}
	}
	// A writer of another graph ID leaves the epoch alone, but for one in 4096.
	before, same := ask(1), 0
	for i := range 8 {
		mustRelease(t, mustAcquire(t, table, fmt.Sprint(i), true))
		if now := ask(1); now == before {
			same++
		} else {
			before = now
		}
	}
	if same == 0 {
		t.Error("writers of 8 other graph IDs each changed the epoch")
	}
}

func TestCloseEndsHolds(t *testing.T) {
	var logged bytes.Buffer
	out := log.L.Logger.Out
	log.L.Logger.SetOutput(&logged)
	t.Cleanup(func() { log.L.Logger.SetOutput(out) })

	d := newFake()
	table := open(t, d, Options{})
	a := mustAcquire(t, table, "x", true)
	b := mustAcquire(t, table, "y", false)
	if err := table.Seal(context.Background(), "z", nil); err != nil {
		t.Fatal(err)
	}
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(func() {
			if err := table.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	closers.Wait()
	d.wantCalls(t, "x", 1, 1)
	d.wantCalls(t, "y", 1, 1)
	if !strings.Contains(logged.String(), "2 holds on 2 graph IDs") {
		t.Errorf("log: %s", &logged)
	}
	mustRelease(t, a, b, a)
	table.Unseal("z")
	table.Forget("z")

	ctx := context.Background()
	_, err := table.Acquire(ctx, "x", false)
	wantError(t, err, errdefs.IsUnavailable, "unavailable")
	wantError(t, table.Seal(ctx, "x", nil), errdefs.IsUnavailable, "unavailable")
	wantError(t, table.Drop(ctx, "x"), errdefs.IsUnavailable, "unavailable")
	_, _, err = table.Writers(ctx, "x")
	wantError(t, err, errdefs.IsUnavailable, "unavailable")
	_, err = table.Held(ctx)
	wantError(t, err, errdefs.IsUnavailable, "unavailable")
}

func TestCloseReportsWhatStaysMounted(t *testing.T) {
	d := newFake()
	stuck := errors.New("device busy")
	d.onPut = func(id string) error {
		if id == "x" {
			return stuck
		}
		return nil
	}
	table := New(d, Options{})
	mustAcquire(t, table, "x", false)
	mustAcquire(t, table, "y", false)
	for range 2 {
		err := table.Close()
		if !errors.Is(err, stuck) || !strings.Contains(err.Error(), `"x"`) || strings.Contains(err.Error(), `"y"`) {
			t.Errorf("Close: %v", err)
		}
	}
	d.wantCalls(t, "x", 1, 1)
	d.wantCalls(t, "y", 1, 1)
}

// A panic in the goroutine itself fails the caller and nobody else.
func TestPanicInHandlerFailsItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake()
		table := open(t, d, Options{})
		wantPanic := func(err error) {
			t.Helper()
			if err == nil || !strings.Contains(err.Error(), "panic") {
				t.Fatalf("error is %v, want a panic's", err)
			}
		}
		// An acquire and a release without a hold have nothing to work on.
		broken := func() error {
			m := &acquire{id: "x"}
			_, err := actors.Call[message](context.Background(), table.mailbox, m, &m.Reply)
			return err
		}
		wantPanic(broken()) // when the driver has mounted
		synctest.Wait()
		d.wantCalls(t, "x", 1, 1)
		wantHeld(t, table)

		h := mustAcquire(t, table, "x", false)
		wantPanic(broken()) // at once
		wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})

		m := &release{}
		_, err := actors.CallOwed[message](table.mailbox, m, &m.Reply)
		wantPanic(err)
		mustRelease(t, h)
		wantHeld(t, table)

		// A mount that a failed Put left is not left for longer.
		d.onPut = failing(1, func() error { return errFault })
		if err := mustAcquire(t, table, "x", false).Release(); !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		wantPanic(broken())
		synctest.Wait()
		wantHeld(t, table)
	})
}

// inside is a message that does something in the goroutine of the table.
type inside func(*actor)

func (do inside) withdraw(a *actor, _ error) { do(a) }
func (do inside) fail(*actor, error)         {}

// Whoever waits for a message that panicked is told, also by one that was parked, and
// nothing of it stays.
func TestPanicFailsThoseWhoWait(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		panicked := errors.New("panicked")
		a := acquiring(t.Context(), table, "x")
		get <- nil
		h := (<-a).hold
		released := doing(h.Release)
		synctest.Wait()
		m := &seal{id: "x"}
		sealed := doing(func() error {
			_, err := actors.Call[message](t.Context(), table.mailbox, m, &m.Reply)
			return err
		})
		synctest.Wait()
		table.mailbox.Owe(&withdraw{parked: inside(func(a *actor) { m.fail(a, panicked) })})
		if err := <-sealed; !errors.Is(err, panicked) {
			t.Errorf("Seal: %v", err)
		}
		again := doing(func() error { return table.Seal(t.Context(), "x", nil) })
		synctest.Wait()
		pending(t, again) // not refused: no removal is under way
		table.mailbox.Owe(&withdraw{parked: inside(func(a *actor) { (&returned{call: a.entries["x"].call}).fail(a, panicked) })})
		if err := <-released; !errors.Is(err, panicked) {
			t.Errorf("Release: %v", err)
		}
		if err := <-again; !errors.Is(err, panicked) {
			t.Errorf("Seal: %v", err)
		}
		put <- nil
		synctest.Wait()
		wantHeld(t, table)

		// One that cannot even be failed ends nothing.
		table.mailbox.Owe(&returned{})
		wantHeld(t, table)
	})
}

// A panic in freed is logged, and all that the message led to takes effect.
func TestPanicInFreed(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		a := acquiring(t.Context(), table, "x")
		get <- nil
		h := (<-a).hold
		wantSealRefused(t, table, "x", func() { panic("freed") })
		released := doing(h.Release)
		synctest.Wait()
		sealed := doing(func() error { return table.Seal(t.Context(), "x", nil) })
		synctest.Wait()
		put <- nil
		if err := <-released; err != nil {
			t.Error(err)
		}
		if err := <-sealed; err != nil {
			t.Error(err)
		}
		wantHeld(t, table, Entry{ID: "x", State: Sealed})
	})
}
