package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestMailboxKeepsOrderAndBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewMailbox[int]("table", 3)
		var senders []*call
		for i := range 6 {
			senders = append(senders, begin(func() (int, error) { return 0, b.Send(t.Context(), i) }))
			if senders[i].done() != (i < 3) {
				t.Error("sender", i, "with room for 3:", senders[i])
			}
		}
		if !b.Owe(6) || b.Len() != 4 {
			t.Error("what is owed found no room:", b.Len())
		}
		got, ok := b.Receive(nil, 2)
		if !ok || !slices.Equal(got, []int{0, 1}) {
			t.Error("received", got, ok)
		}
		synctest.Wait()
		if !senders[3].done() || !senders[4].done() || senders[5].done() {
			t.Error("two were taken:", senders[3:])
		}
		got, ok = b.Receive(got[:0], 100)
		if !ok || !slices.Equal(got, []int{2, 6, 3, 4, 5}) {
			t.Error("received", got, ok)
		}
		if got := b.TryReceive(nil, 1); got != nil {
			t.Error("received", got, "of an empty mailbox")
		}
		if b.TryReceive([]int{9}, 0); b.Len() != 0 {
			t.Error(b.Len())
		}
	})
}

func TestReceiveSleepsUntilThereIsSomething(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewMailbox[int]("table", 0)
		for round, wake := range []func(){
			func() { _ = b.Send(t.Context(), 7) },
			func() { b.Owe(7) },
		} {
			r := begin(func() (int, error) {
				got, ok := b.Receive(nil, 0)
				if len(got) != 1 || !ok {
					return 0, fmt.Errorf("%v %v", got, ok)
				}
				return got[0], nil
			})
			if r.done() {
				t.Fatal("received from an empty mailbox:", r)
			}
			wake()
			synctest.Wait()
			if v, err := r.result(); v != 7 || err != nil {
				t.Error("round", round, r)
			}
		}
		r := begin(func() (int, error) {
			if got, ok := b.Receive(nil, 1); ok || got != nil {
				return 0, fmt.Errorf("%v %v", got, ok)
			}
			return 0, nil
		})
		b.Close()
		synctest.Wait()
		if !r.done() || r.err() != nil {
			t.Error("closed under the receiver:", r)
		}
	})
}

func TestMailboxClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewMailbox[int]("table", 1)
		_ = b.Send(t.Context(), 1)
		var waiting []*call
		for range 3 {
			waiting = append(waiting, begin(func() (int, error) { return 0, b.Send(t.Context(), -1) }))
		}
		b.Close()
		b.Close()
		synctest.Wait()
		for _, w := range waiting {
			refused(t, "waiting for room", w.err(), "table")
		}
		refused(t, "sent after Close", b.Send(t.Context(), -1), "table")
		if !b.Owe(2) {
			t.Error("what is owed was refused before the receiver was told of the end")
		}
		if got, ok := b.Receive(nil, 10); !ok || !slices.Equal(got, []int{1, 2}) {
			t.Error("received", got, ok)
		}
		if !b.Owe(3) {
			t.Error("what is owed was refused before the receiver was told of the end")
		}
		if got, ok := b.Receive(nil, 10); !ok || !slices.Equal(got, []int{3}) {
			t.Error("received", got, ok)
		}
		for range 2 {
			if got, ok := b.Receive(nil, 10); ok || got != nil {
				t.Error("received", got, ok, "after the end")
			}
		}
		if b.Owe(4) || b.Len() != 0 {
			t.Error("accepted what nobody will receive")
		}
	})
}

func TestMailboxContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewMailbox[*work]("table", 1)
		ctx, cancel := context.WithCancel(t.Context())
		enqueued, waiting := answering(1), answering(2)
		first := begin(func() (int, error) { return Call(ctx, b, enqueued, &enqueued.Reply) })
		second := begin(func() (int, error) { return Call(ctx, b, waiting, &waiting.Reply) })
		cancel()
		synctest.Wait()
		if err := second.err(); !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "mailbox table is full: ") {
			t.Error("in the line:", second)
		}
		err := b.Send(ctx, answering(3))
		if !errors.Is(err, context.Canceled) || !strings.HasPrefix(err.Error(), "mailbox table: not sent: ") {
			t.Error("before sending:", err)
		}
		if first.done() {
			t.Error("gave up a message that is in the mailbox:", first)
		}
		// The refused one is asked again, by the other entrance.
		again := begin(func() (int, error) { return CallOwed(b, waiting, &waiting.Reply) })
		got, _ := b.Receive(nil, 10)
		if !slices.Equal(got, []*work{enqueued, waiting}) {
			t.Error("received", got)
		}
		enqueued.Answer(1)
		waiting.Answer(2)
		synctest.Wait()
		for i, c := range []*call{first, again} {
			if v, err := c.result(); v != i+1 || err != nil {
				t.Error("answered", c)
			}
		}
		b.Close()
		b.Receive(nil, 1)
		m := answering(0)
		_, err = CallOwed(b, m, &m.Reply)
		refused(t, "owed after the end", err, "table")
		_, err = Call(t.Context(), b, m, &m.Reply)
		refused(t, "called after the end", err, "table")
	})
}

// Senders of all kinds against one receiver and a Close: every message that was
// accepted is received once.
func TestMailboxAmongMany(t *testing.T) {
	for range 20 {
		b := NewMailbox[int64]("table", 2)
		var accepted, received, sum atomic.Int64
		var senders sync.WaitGroup
		for i := range 6 {
			senders.Go(func() {
				for n := range int64(300) {
					ctx, cancel := context.WithCancel(context.Background())
					if i == 0 {
						go cancel()
					}
					if (i == 1 && b.Owe(n)) || (i != 1 && b.Send(ctx, n) == nil) {
						accepted.Add(1)
						sum.Add(n)
					}
					cancel()
					if i == 2 && n == 250 {
						b.Close()
					}
				}
			})
		}
		var buf []int64
		for more := true; more; {
			buf, more = b.Receive(buf[:0], 3)
			received.Add(int64(len(buf)))
			for _, n := range buf {
				sum.Add(-n)
			}
		}
		senders.Wait()
		if accepted.Load() != received.Load() || sum.Load() != 0 {
			t.Fatal(accepted.Load(), "accepted,", received.Load(), "received, sums differ by", sum.Load())
		}
	}
}
