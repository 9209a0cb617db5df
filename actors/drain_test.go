package actors

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
)

func refused(t *testing.T, how string, err error, queue string) {
	t.Helper()
	if !errdefs.IsUnavailable(err) || !strings.HasPrefix(err.Error(), "mailbox "+queue+" is closed: ") {
		t.Errorf("%s: %v", how, err)
	}
}

func TestCloseOfIdleOwners(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	o.Seed("key", new(int))
	o.Close()
	o.Close()
	refused(t, "Send", o.Send(t.Context(), "key", answering(0)), `of number "key"`)
	_, err := Ask(t.Context(), o, "absent", answering(0))
	refused(t, "Ask", err, `of number "absent"`)
	_, err = AskOwed(o, "key", answering(0))
	refused(t, "AskOwed", err, `of number "key"`)
	if o.Owe("key", answering(0)) {
		t.Error("owed to owners that have stopped for good")
	}
	if o.Load("key") == nil {
		t.Error("Close took a value away")
	}
}

// What came before Close is handled before Close returns: the messages in the
// mailbox, the senders in the line, and whatever those handlers owe.
func TestCloseWaitsForWhatWasAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, release := occupied(t, 1)
		var j journal[int]
		owing := &work{do: func(*Owner[int], *work) {
			j.note(1)
			if !o.Owe("other", noting(&j, 4)) {
				t.Error("an undo was refused during the drain")
			}
		}}
		if err := o.Send(t.Context(), "key", owing); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		inLine := begin(func() (int, error) { return Ask(t.Context(), o, "key", noting(&j, 2)) })
		leaving := begin(func() (int, error) { return Ask(ctx, o, "key", noting(&j, -1)) })
		last := begin(func() (int, error) { return Ask(t.Context(), o, "key", noting(&j, 3)) })

		first := begin(func() (int, error) { o.Close(); return 0, nil })
		second := begin(func() (int, error) { o.Close(); return 0, nil })
		if first.done() || second.done() {
			t.Error("Close returned while an owner runs")
		}
		refused(t, "Send to a running owner", o.Send(t.Context(), "key", answering(0)), `of number "key"`)
		refused(t, "Send to an idle owner", o.Send(t.Context(), "idle", answering(0)), `of number "idle"`)
		late := begin(func() (int, error) { return AskOwed(o, "idle", noting(&j, 5)) })
		if v, err := late.result(); v != 5 || err != nil {
			t.Error("owed during the drain:", late)
		}
		if !o.Owe("key", noting(&j, 6)) {
			t.Error("owed to a running owner during the drain")
		}
		cancel()
		synctest.Wait()
		if !errors.Is(leaving.err(), context.Canceled) {
			t.Error("left the line during the drain:", leaving)
		}

		release()
		synctest.Wait()
		for i, c := range []*call{inLine, last} {
			if v, err := c.result(); v != i+2 || err != nil {
				t.Error("in the line when Close was called:", c)
			}
		}
		if !first.done() || !second.done() {
			t.Error("Close has not returned")
		}
		if got := j.all(); len(got) != 6 {
			t.Error("handled", got)
		}
		if o.Owe("key", answering(0)) || o.Running() != 0 {
			t.Error("Owe got in after the end")
		}
		if n := o.table.cells(); n != 0 {
			t.Error(n, "keys leave a trace")
		}
	})
}

// Close against senders at full speed: what was accepted is handled by the time
// Close returns, and nobody hangs.
func TestCloseAmongSenders(t *testing.T) {
	for range 200 {
		o := NewOwners[int](Config{Name: "number", Mailbox: 1})
		var accepted, handled atomic.Int64
		m := func() *work {
			return &work{do: func(_ *Owner[int], m *work) { handled.Add(1); m.Answer(1) }}
		}
		var senders, closers sync.WaitGroup
		started := make(chan struct{}, 6)
		for i := range 6 {
			senders.Go(func() {
				key := string(rune('a' + i%3))
				for n := 0; ; n++ {
					if n == 2 {
						started <- struct{}{}
					}
					if i == 5 && o.Owe("d", m()) {
						accepted.Add(1)
					}
					if _, err := Ask(context.Background(), o, key, m()); err != nil {
						if !errdefs.IsUnavailable(err) {
							t.Error(err)
						}
						return
					}
					accepted.Add(1)
					// Asker and owner hand each other the processor; let the others at it.
					runtime.Gosched()
				}
			})
		}
		for range cap(started) {
			<-started
		}
		for range 2 {
			closers.Go(func() {
				o.Close()
				if o.Running() != 0 {
					t.Error("owners run after Close")
				}
			})
		}
		closers.Wait()
		atEnd := handled.Load()
		senders.Wait()
		if handled.Load() != atEnd || accepted.Load() != atEnd {
			t.Fatal(accepted.Load(), "accepted,", atEnd, "handled when Close returned,", handled.Load(), "later")
		}
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		for range 2 {
			if !g.Enter() {
				t.Error("an open gate refuses")
			}
		}
		if g.Closed() || g.inside() != 2 {
			t.Error(g.inside(), "inside an open gate")
		}
		first := begin(func() (int, error) { g.Close(); return 0, nil })
		if g.Enter() || !g.Closed() {
			t.Error("a closed gate admits")
		}
		if !g.enterOwed() || g.inside() != 3 {
			t.Error("refused what somebody inside needs")
		}
		second := begin(func() (int, error) { g.Close(); return 0, nil })
		g.Leave()
		g.Leave()
		synctest.Wait()
		if first.done() || second.done() {
			t.Error("Close returned with one inside")
		}
		g.Leave()
		synctest.Wait()
		if !first.done() || !second.done() {
			t.Error("Close waits at an empty gate")
		}
		if g.Enter() || g.enterOwed() {
			t.Error("admitted after the end")
		}
		g.Close()
	})
	var empty Gate
	empty.Close()
	empty.Close()
	if empty.enterOwed() {
		t.Error("admitted to a gate that was empty when it was closed")
	}
}

func TestGateAmongMany(t *testing.T) {
	for range 40 {
		var g Gate
		var inside atomic.Int64
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() {
				<-start
				for g.Enter() {
					inside.Add(1)
					if g.enterOwed() {
						g.Leave()
					} else {
						t.Error("refused what somebody inside needs")
					}
					inside.Add(-1)
					g.Leave()
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				<-start
				g.Close()
				if n := inside.Load(); n != 0 {
					t.Error(n, "inside after Close")
				}
			})
		}
		close(start)
		wg.Wait()
	}
}
