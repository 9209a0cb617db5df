package actors

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
)

func TestAskPublishLoad(t *testing.T) {
	o := NewOwners[int](Config{Name: "number", Mailbox: 1})
	if o.Load("key") != nil {
		t.Error("a key has a value before anything was published")
	}
	if v, err := Ask(t.Context(), o, "key", publishing(7)); v != 7 || err != nil {
		t.Fatal(v, err)
	}
	// What was published before the answer is there after it.
	if v := o.Load("key"); v == nil || *v != 7 {
		t.Error("published 7, loaded", v)
	}
	o.Seed("seeded", new(int))
	seen := map[string]int{}
	o.Range(func(key string, v *int) bool { seen[key] = *v; return true })
	if len(seen) != 2 || seen["key"] != 7 {
		t.Error("ranged over", seen)
	}
	n := 0
	o.Range(func(string, *int) bool { n++; return false })
	if n != 1 {
		t.Error("Range went on after false")
	}
	_, err := Ask(t.Context(), o, "without value", &work{do: func(*Owner[int], *work) {
		o.Range(func(key string, v *int) bool {
			if v == nil {
				t.Error("passed", key, "without a value")
			}
			return true
		})
	}})
	if !errdefs.IsInternal(err) {
		t.Error(err)
	}
	m := &work{do: func(o *Owner[int], m *work) {
		if o.Key() != "key" || *o.Value() != 7 {
			t.Error("owner of", o.Key(), "with", *o.Value())
		}
		o.Publish(nil)
		if o.Value() != nil {
			t.Error("took the value away, and it is there")
		}
		m.Answer(0)
	}}
	if _, err := Ask(t.Context(), o, "key", m); err != nil {
		t.Fatal(err)
	}
	if o.Load("key") != nil {
		t.Error("loaded a value that was taken away")
	}
	o.Close()
}

func TestMessagesAreHandledInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// With room for 8 of 500 most of them pass through the line.
		o, release := occupied(t, 8)
		var j journal[int]
		sent := begin(func() (int, error) {
			for i := range 500 {
				if err := o.Send(t.Context(), "key", noting(&j, i)); err != nil {
					return i, err
				}
			}
			return 500, nil
		})
		release()
		synctest.Wait()
		if n, err := sent.result(); n != 500 || err != nil {
			t.Error("sent", n, err)
		}
		o.Close()
		if got := j.all(); len(got) != 500 || !slices.IsSorted(got) {
			t.Error("handled", got)
		}
	})
}

func TestMailboxOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, release := occupied(t, 1)
		var j journal[int]
		send := func(n int) *call {
			return begin(func() (int, error) { return 0, o.Send(t.Context(), "key", noting(&j, n)) })
		}
		if first := send(1); !first.done() || first.err() != nil {
			t.Error("no room for one:", first)
		}
		second := send(2)
		if second.done() {
			t.Error("room for two:", second)
		}
		if !o.Owe("key", noting(&j, 3)) {
			t.Error("what is owed was refused")
		}
		if !o.Owe("key", noting(&j, 4)) {
			t.Error("what is owed was refused")
		}
		if queued, line := o.Waiting("key"); queued != 3 || line != 1 || o.Queued() != 3 {
			t.Error(queued, "wait in the mailbox,", line, "in the line,", o.Queued(), "in all mailboxes")
		}
		release()
		synctest.Wait()
		if queued, line := o.Waiting("key"); queued != 0 || line != 0 || o.Queued() != 0 {
			t.Error(queued, "wait in the mailbox,", line, "in the line of an idle key,", o.Queued(), "in all mailboxes")
		}
		if !second.done() || second.err() != nil {
			t.Error("there was room, and still:", second)
		}
		// The second sent got in when the first was taken, behind what was owed.
		if got := j.all(); !slices.Equal(got, []int{1, 3, 4, 2}) {
			t.Error("handled", got)
		}
		o.Close()
	})
}

func TestOwedMessagesTakeNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, release := occupied(t, 1)
		for range 100 {
			o.Owe("key", answering(0))
		}
		if s := begin(func() (int, error) { return 0, o.Send(t.Context(), "key", answering(0)) }); !s.done() {
			t.Error("what is owed counts against the bound")
		}
		release()
		o.Close()
	})
}

func TestLineIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const room, n = 2, 60
		o, release := occupied(t, room)
		var j journal[int]
		senders, cancels := make([]*call, n), make([]func(), n)
		for i := range n {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cancels[i] = cancel
			senders[i] = begin(func() (int, error) { return 0, o.Send(ctx, "key", noting(&j, i)) })
		}
		// Leave from the head, the tail, the middle, and from beside one who left.
		left := []int{room, n - 1, n - 2, 30, 31, 29, 7}
		for _, i := range left {
			cancels[i]()
		}
		synctest.Wait()
		var want []int
		for i, s := range senders {
			switch {
			case slices.Contains(left, i):
				if !errors.Is(s.err(), context.Canceled) {
					t.Error(i, "left the line, and Send answered", s)
				}
				continue
			case s.done() != (i < room):
				t.Error(i, "with room for", room, "is", s)
			}
			want = append(want, i)
		}
		release()
		synctest.Wait()
		for _, i := range want {
			if s := senders[i]; !s.done() || s.err() != nil {
				t.Error(i, "did not get in:", s)
			}
		}
		if got := j.all(); !slices.Equal(got, want) {
			t.Errorf("handled %v, want %v", got, want)
		}
		o.Close()
	})
}

func TestIdleKeysCostNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := runtime.NumGoroutine()
		o := NewOwners[int](Config{Name: "number", Mailbox: 1})
		var askers sync.WaitGroup
		for a := range 10 {
			askers.Go(func() {
				for i := range 1000 {
					if _, err := Ask(t.Context(), o, fmt.Sprint(a, "/", i), publishing(i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		askers.Wait()
		synctest.Wait()
		// A goroutine that has ended is counted for an instant yet.
		for i := 0; runtime.NumGoroutine() > before && i < 1_000_000; i++ {
			runtime.Gosched()
		}
		if after := runtime.NumGoroutine(); after > before || o.Running() != 0 {
			t.Errorf("%d goroutines before, %d after, %d owners run", before, after, o.Running())
		}
		if n := o.table.cells(); n != 10_000 {
			t.Error(n, "keys")
		}
		for i := range o.table.shards {
			for j := range *o.table.shards[i].slots.Load() {
				if c := (*o.table.shards[i].slots.Load())[j].cell.Load(); c != nil && c.box != nil {
					t.Fatal("an idle key keeps its mailbox")
				}
			}
		}
	})
}

func TestRefusedKeyLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := NewOwners[int](Config{Name: "number", Mailbox: 1})
		if _, err := Ask(t.Context(), o, "kept", publishing(1)); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for i := range 1000 {
			key := fmt.Sprint("absent", i)
			o.Load(key)
			refusal := fmt.Errorf("no %s: %w", key, errdefs.ErrNotFound)
			_, err := Ask(t.Context(), o, key, &work{do: func(_ *Owner[int], m *work) { m.Fail(refusal) }})
			if !errdefs.IsNotFound(err) {
				t.Fatal(err)
			}
			_, _ = Ask(ctx, o, key, answering(0))
			_, _ = Ask(t.Context(), o, key, &work{do: func(*Owner[int], *work) { panic(key) }})
			_, _ = Ask(t.Context(), o, key, publishing(1))
			_, _ = Ask(t.Context(), o, key, &work{do: func(o *Owner[int], m *work) { o.Publish(nil) }})
		}
		synctest.Wait()
		if n := o.table.cells(); n != 1 {
			t.Error(n, "keys leave a trace")
		}
		o.Close()
		for i := range 1000 {
			key := fmt.Sprint("absent", i)
			_ = o.Send(t.Context(), key, answering(0))
			o.Owe(key, answering(0))
		}
		if n := o.table.cells(); n != 1 {
			t.Error(n, "keys leave a trace after Close")
		}
	})
}

// Every accepted message is handled once, by one goroutine at a time, whatever
// owners start and stop meanwhile.
func TestOneOwnerAtATime(t *testing.T) {
	o := NewOwners[int](Config{Name: "number", Mailbox: 2})
	keys := []string{"a", "b", "c", "d", "e"}
	guarded := make([]int, len(keys)) // the race detector watches who adds
	var accepted [5]atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 3000 {
				k := rand.IntN(len(keys))
				ctx, cancel := context.WithCancel(context.Background())
				switch rand.IntN(4) {
				case 0:
					go cancel()
				case 1:
					if o.Owe(keys[k], &count{at: &guarded[k]}) {
						accepted[k].Add(1)
					}
				}
				if _, err := Ask(ctx, o, keys[k], &count{at: &guarded[k]}); err == nil {
					accepted[k].Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	o.Close()
	for k := range keys {
		if int64(guarded[k]) != accepted[k].Load() {
			t.Error(keys[k], "handled", guarded[k], "accepted", accepted[k].Load())
		}
	}
	values := 0
	o.Range(func(string, *int) bool { values++; return true })
	if n := o.table.cells(); n != values {
		t.Error(n, "keys leave a trace,", values, "have a value")
	}
}

// count adds to a plain variable. It publishes a value, and takes it away where
// there is one, so that keys come and go.
type count struct {
	Reply[struct{}]
	at *int
}

func (m *count) Handle(o *Owner[int]) {
	*m.at++
	if o.Value() == nil {
		o.Publish(new(int))
	} else {
		o.Publish(nil)
	}
	m.Answer(struct{}{})
}

// Who asks an idle owner is the owner meanwhile, and what comes behind his message is
// not for him to handle.
func TestAskerOfAnIdleOwnerHandlesHisMessageAlone(t *testing.T) {
	o := NewOwners[int](Config{Name: "number", Mailbox: 4})
	defer o.Close()
	told := func(f func()) *work {
		return &work{do: func(_ *Owner[int], m *work) { f(); m.Answer(0) }}
	}
	here := goroutine()
	for name, call := range map[string]func(m *work){
		"Ask":     func(m *work) { _, _ = Ask(t.Context(), o, "key", m) },
		"AskOwed": func(m *work) { _, _ = AskOwed(o, "key", m) },
		"Tell":    func(m *work) { o.Tell("key", m) },
		"Send":    func(m *work) { _ = o.Send(t.Context(), "key", m) },
		"Owe":     func(m *work) { o.Owe("key", m) },
	} {
		behind, second := make(chan struct{}), ""
		first := ""
		entered, enqueued := make(chan struct{}), make(chan struct{})
		go func() {
			<-entered
			o.Owe("key", told(func() { second = goroutine(); close(behind) }))
			close(enqueued)
		}()
		done := make(chan struct{})
		call(told(func() {
			first = goroutine()
			close(entered)
			<-enqueued
			close(done)
		}))
		<-done
		<-behind
		inline := name != "Send" && name != "Owe"
		if (first == here) != inline || second == here {
			t.Errorf("%s on goroutine %s: handled on %s, what came behind on %s", name, here, first, second)
		}
		for o.Running() > 0 {
			runtime.Gosched()
		}
	}
}

// goroutine names the one that calls it.
func goroutine() string {
	b := make([]byte, 64)
	b, _, _ = bytes.Cut(b[:runtime.Stack(b, false)], []byte(" ["))
	return string(b)
}
