package mounts

// What depends on the order of events, run in bubbles of testing/synctest: Wait
// returns when everybody waits for somebody else, and a deadlock is fatal.

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/actors"
)

// gate holds driver calls until it is opened; one value sent lets one pass.
type gate chan error

func (g gate) pass(string) error { return <-g }

// bubble runs f with a table whose Gets and Puts wait at gates.
func bubble(t *testing.T, o Options, f func(t *testing.T, table *Table, d *fakeDriver, get, put gate)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		get, put := make(gate), make(gate)
		d := newFake()
		d.onGet, d.onPut = get.pass, put.pass
		table := open(t, d, o)
		t.Cleanup(func() { close(get); close(put) }) // before Close of the table
		f(t, table, d, get, put)
	})
}

func wantCancelled(t *testing.T, c <-chan outcome) {
	t.Helper()
	o := <-c
	wantError(t, o.err, func(err error) bool { return errors.Is(err, context.Canceled) }, "context canceled")
}

func TestAcquireCancelledWhileGetRuns(t *testing.T) {
	t.Run("nobody else", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			ctx, cancel := context.WithCancel(t.Context())
			a := acquiring(ctx, table, "x")
			synctest.Wait()
			wantHeld(t, table, Entry{ID: "x", State: Mounting, Waiting: 1})
			cancel()
			wantCancelled(t, a) // though Get runs
			get <- nil
			put <- nil
			synctest.Wait()
			d.wantCalls(t, "x", 1, 1)
			wantHeld(t, table)
		})
	})
	t.Run("another waits", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			ctx, cancel := context.WithCancel(t.Context())
			a := acquiring(ctx, table, "x")
			b := acquiring(t.Context(), table, "x")
			synctest.Wait()
			cancel()
			wantCancelled(t, a)
			pending(t, b)
			get <- nil
			o := <-b
			if o.err != nil {
				t.Fatal(o.err)
			}
			wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})
			d.wantCalls(t, "x", 1, 0)
		})
	})
	t.Run("another comes", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			ctx, cancel := context.WithCancel(t.Context())
			a := acquiring(ctx, table, "x")
			synctest.Wait()
			cancel()
			wantCancelled(t, a)
			b := acquiring(t.Context(), table, "x")
			synctest.Wait()
			get <- nil
			if o := <-b; o.err != nil {
				t.Fatal(o.err)
			}
			d.wantCalls(t, "x", 1, 0)
		})
	})
	t.Run("unmount fails", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			ctx, cancel := context.WithCancel(t.Context())
			a := acquiring(ctx, table, "x")
			synctest.Wait()
			cancel()
			wantCancelled(t, a)
			get <- nil
			put <- errFault
			synctest.Wait()
			wantHeld(t, table, Entry{ID: "x", State: Mounted})
		})
	})
}

func TestAcquireCancelledInLineForMailbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake()
		table := open(t, d, Options{Mailbox: 1})
		// A freed that blocks breaks its promise; here it holds the goroutine up.
		busy := make(chan struct{})
		h := mustAcquire(t, table, "x", false)
		wantSealRefused(t, table, "x", func() { <-busy })
		released := doing(h.Release)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		var all []<-chan outcome
		for i := range 4 { // one has room
			all = append(all, acquiring(ctx, table, fmt.Sprint(i)))
		}
		synctest.Wait()
		if n := table.Queued(); n != 1 {
			t.Errorf("%d messages wait in a mailbox that holds 1", n)
		}
		cancel()
		synctest.Wait()
		close(busy)
		for _, a := range all {
			wantCancelled(t, a)
		}
		if err := <-released; err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		wantHeld(t, table)
		if d.isMounted("0") {
			t.Error("mounted for nobody")
		}
	})
}

// The end of a context may overtake the message it belongs to, which by then is
// no longer in line, so that Send does not see it.
func TestWithdrawOvertakesItsMessage(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	a := &acquire{id: "x", hold: &Hold{}}
	table.mailbox.Owe(&withdraw{parked: a, cause: context.Canceled})
	_, err := actors.Call[message](context.Background(), table.mailbox, a, &a.Reply)
	wantError(t, err, func(err error) bool { return errors.Is(err, context.Canceled) }, "context canceled")
	s := &seal{id: "x"}
	table.mailbox.Owe(&withdraw{parked: s, cause: context.Canceled})
	_, err = actors.Call[message](context.Background(), table.mailbox, s, &s.Reply)
	wantError(t, err, func(err error) bool { return errors.Is(err, context.Canceled) }, "context canceled")
	wantHeld(t, table)
	d.wantCalls(t, "x", 0, 0)
}

// The end of a context may also come after the answer, and then is none of the Seal that
// waits in its place by now.
func TestWithdrawAfterTheAnswer(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		h := acquiring(t.Context(), table, "x")
		get <- nil
		released := doing((<-h).hold.Release)
		synctest.Wait()
		s := &seal{id: "x"}
		first := doing(func() error {
			_, err := actors.Call[message](t.Context(), table.mailbox, s, &s.Reply)
			return err
		})
		synctest.Wait()
		put <- errFault
		if err := errors.Join(<-released, <-first); !errors.Is(err, errFault) {
			t.Fatal(err)
		}
		second := doing(func() error { return table.Seal(t.Context(), "x", nil) })
		synctest.Wait()
		table.mailbox.Owe(&withdraw{parked: s, cause: context.Canceled})
		synctest.Wait()
		pending(t, second)
		put <- nil
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

// All who wait for one Get share its failure; who comes later does not.
func TestGetFailsForItsRound(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		var round []<-chan outcome
		for range 3 {
			round = append(round, acquiring(t.Context(), table, "x"))
		}
		synctest.Wait()
		get <- errFault
		for _, a := range round {
			if o := <-a; !errors.Is(o.err, errFault) {
				t.Errorf("error is %v", o.err)
			}
		}
		wantHeld(t, table)
		next := acquiring(t.Context(), table, "x")
		get <- nil
		if o := <-next; o.err != nil {
			t.Error(o.err)
		}
		d.wantCalls(t, "x", 2, 0)
	})
}

func TestAcquireWhilePutRuns(t *testing.T) {
	for _, c := range []struct {
		name       string
		put        error
		gets, puts int
	}{
		{"which succeeds", nil, 2, 1}, // mounted again
		{"which fails", errFault, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
				a := acquiring(t.Context(), table, "x")
				get <- nil
				released := doing((<-a).hold.Release)
				synctest.Wait()
				b := acquiring(t.Context(), table, "x")
				synctest.Wait()
				wantHeld(t, table, Entry{ID: "x", State: Unmounting, Waiting: 1})
				pending(t, released)
				put <- c.put
				if err := <-released; !errors.Is(err, c.put) {
					t.Errorf("Release: %v", err)
				}
				if c.gets == 2 {
					get <- nil
				}
				o := <-b
				if o.err != nil {
					t.Fatal(o.err)
				}
				d.wantCalls(t, "x", c.gets, c.puts)
				wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})
			})
		})
	}
}

// A driver call that waits for its turn is not made once nobody wants it.
func TestCallWithdrawnBeforeItsTurn(t *testing.T) {
	t.Run("put", func(t *testing.T) {
		turns := semaphore.NewWeighted(1)
		bubble(t, Options{Parallelism: turns}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			a := acquiring(t.Context(), table, "x")
			get <- nil
			hold := (<-a).hold
			if err := turns.Acquire(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			released := doing(hold.Release)
			synctest.Wait()
			pending(t, released)
			b := <-acquiring(t.Context(), table, "x") // without a turn
			if b.err != nil {
				t.Fatal(b.err)
			}
			if err := <-released; err != nil {
				t.Fatal(err)
			}
			turns.Release(1)
			synctest.Wait()
			d.wantCalls(t, "x", 1, 0)
			wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})
		})
	})
	t.Run("get", func(t *testing.T) {
		turns := semaphore.NewWeighted(1)
		bubble(t, Options{Parallelism: turns}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			if err := turns.Acquire(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			a := acquiring(ctx, table, "x")
			synctest.Wait()
			cancel()
			wantCancelled(t, a)
			wantHeld(t, table)
			// It has left the line too: Close, which waits for it, needs no turn.
			if err := table.Close(); err != nil {
				t.Fatal(err)
			}
			turns.Release(1)
			d.wantCalls(t, "x", 0, 0)
			if !turns.TryAcquire(1) {
				t.Error("the turn of the withdrawn call is lost")
			}
			turns.Release(1)
		})
	})
}

// One turn for driver calls and room for one message still let everybody through.
func TestOneTurnOneMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake()
		table := open(t, d, Options{Mailbox: 1, Parallelism: semaphore.NewWeighted(1)})
		var all []<-chan error
		for i := range 200 {
			id := fmt.Sprint(i % 7)
			all = append(all, doing(func() error {
				h, err := table.Acquire(context.Background(), id, i%2 == 0)
				if err != nil {
					return err
				}
				if i%3 == 0 {
					return table.Drop(context.Background(), id)
				}
				return h.Release()
			}))
		}
		for _, c := range all {
			if err := <-c; err != nil {
				t.Error(err)
			}
		}
		wantHeld(t, table)
	})
}

func TestCloseDrains(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		ctx := t.Context()
		h := acquiring(ctx, table, "held")
		u := acquiring(ctx, table, "unmounting")
		get <- nil
		get <- nil
		held, releasing := (<-h).hold, (<-u).hold
		if err := table.Seal(ctx, "sealed", nil); err != nil {
			t.Fatal(err)
		}
		released := doing(releasing.Release)
		synctest.Wait()
		sealing := doing(func() error { return table.Seal(ctx, "unmounting", nil) })
		synctest.Wait()
		refused := []<-chan outcome{
			acquiring(ctx, table, "mounting"),
			acquiring(ctx, table, "sealed"),
			acquiring(ctx, table, "unmounting"),
		}
		synctest.Wait()
		wantSealRefused(t, table, "held", func() { t.Error("freed is called by Close") })

		closed := doing(table.Close)
		synctest.Wait()
		for _, a := range refused {
			wantError(t, (<-a).err, errdefs.IsUnavailable, "unavailable")
		}
		wantError(t, <-sealing, errdefs.IsUnavailable, "unavailable")
		wantError(t, (<-acquiring(ctx, table, "held")).err, errdefs.IsUnavailable, "unavailable")
		wantError(t, table.Seal(ctx, "held", nil), errdefs.IsUnavailable, "unavailable")
		if err := held.Release(); err != nil {
			t.Error(err)
		}
		pending(t, closed)
		pending(t, released)
		get <- nil
		for range 3 {
			pending(t, closed)
			put <- nil
			synctest.Wait()
		}
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if err := <-released; err != nil {
			t.Error(err)
		}
		d.wantCalls(t, "mounting", 1, 1)
	})
}
