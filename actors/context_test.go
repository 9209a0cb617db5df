package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestContextEndsTheWaitForRoom(t *testing.T) {
	reason := errors.New("the build was aborted")
	for _, c := range []struct {
		name string
		make func(context.Context) (context.Context, func())
		want []error
	}{
		{"cancelled", func(ctx context.Context) (context.Context, func()) {
			return context.WithCancel(ctx)
		}, []error{context.Canceled}},
		{"deadline", func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, []error{context.DeadlineExceeded}},
		{"cause", func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(reason) }
		}, []error{context.Canceled, reason}},
		{"cause of the class", func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(fmt.Errorf("client gone: %w", context.Canceled)) }
		}, []error{context.Canceled}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o, release := occupied(t, 1)
				if err := o.Send(t.Context(), "key", answering(0)); err != nil {
					t.Fatal(err)
				}
				m := &work{do: func(*Owner[int], *work) { t.Error("a refused message was handled") }}
				ctx, end := c.make(t.Context())
				check := func(how string, s *call, text string) {
					t.Helper()
					if !s.done() || s.err() == nil {
						t.Fatal(how, s)
					}
					for _, want := range c.want {
						if !errors.Is(s.err(), want) {
							t.Errorf("%s: %v is not %v", how, s.err(), want)
						}
					}
					if !strings.HasPrefix(s.err().Error(), text) || strings.Count(s.err().Error(), "\n") > 0 {
						t.Errorf("%s: %q does not begin with %q", how, s.err(), text)
					}
				}
				waiting := begin(func() (int, error) { return Ask(ctx, o, "key", m) })
				if waiting.done() {
					t.Fatal("did not wait for room:", waiting)
				}
				end()
				synctest.Wait()
				check("in the line", waiting, `mailbox of number "key" is full: `)
				late := begin(func() (int, error) { return Ask(ctx, o, "key", m) })
				check("before sending", late, `mailbox of number "key": not sent: `)
				late = begin(func() (int, error) { return Ask(ctx, o, "idle", m) })
				check("before sending", late, `mailbox of number "idle": not sent: `)
				release()
				o.Close()
				if n := o.table.cells(); n != 0 {
					t.Error(n, "keys left a trace")
				}
			})
		})
	}
}

func TestRefusedMessageMayBeAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, release := occupied(t, 1)
		m := publishing(7)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 3 {
			if _, err := Ask(ctx, o, "key", m); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		}
		release()
		if v, err := Ask(t.Context(), o, "key", m); v != 7 || err != nil {
			t.Error(v, err)
		}
		o.Close()
	})
}

func TestAskWaitsForItsAnswerWhateverBecomesOfTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, release := occupied(t, 1)
		ctx, cancel := context.WithCancel(t.Context())
		queued := begin(func() (int, error) { return Ask(ctx, o, "key", publishing(7)) })
		cancel()
		synctest.Wait()
		if queued.done() {
			t.Error("gave up a message that is in the mailbox:", queued)
		}
		release()
		synctest.Wait()
		if v, err := queued.result(); v != 7 || err != nil || *o.Load("key") != 7 {
			t.Error(queued, o.Load("key"))
		}
		o.Close()
	})
}

// A sender whose context ends in the moment in which it gets in was accepted.
func TestContextEndsAsTheSenderGetsIn(t *testing.T) {
	o := NewOwners[int](Config{Name: "number", Mailbox: 1})
	defer o.Close()
	var handled, accepted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				ctx, cancel := context.WithCancel(context.Background())
				go cancel()
				v, err := Ask(ctx, o, "key", &work{do: func(_ *Owner[int], m *work) { handled.Add(1); m.Answer(7) }})
				switch {
				case err == nil && v == 7:
					accepted.Add(1)
				case !errors.Is(err, context.Canceled):
					t.Error(v, err)
				}
			}
		})
	}
	wg.Wait()
	if handled.Load() != accepted.Load() {
		t.Error(handled.Load(), "handled,", accepted.Load(), "answered")
	}
}
