package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// countdown is a context that ends when it was looked at so many times. Every ask
// looks before it is queued, and a handler that writes looks while the message is
// handled, so counting down through an operation ends it at each of these places
// in turn.
type countdown struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int32
}

func cancelAt(n int) *countdown {
	c := &countdown{}
	c.Context, c.cancel = context.WithCancel(context.Background())
	c.left.Store(int32(n))
	return c
}

func (c *countdown) look() {
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
}

func (c *countdown) Err() error            { c.look(); return c.Context.Err() }
func (c *countdown) Done() <-chan struct{} { c.look(); return c.Context.Done() }

// operations are all that change something, on a fresh engine with a committed
// "base" and an active "work" on it.
var operations = map[string]func(context.Context, *harness) error{
	"Prepare":      func(ctx context.Context, h *harness) error { return h.Prepare(ctx, "new", "base") },
	"PrepareEmpty": func(ctx context.Context, h *harness) error { return h.Prepare(ctx, "new", "") },
	"View": func(ctx context.Context, h *harness) error {
		_, err := h.View(ctx, "new", "base")
		return err
	},
	"ViewEmpty": func(ctx context.Context, h *harness) error {
		_, err := h.View(ctx, "new", "")
		return err
	},
	"Commit": func(ctx context.Context, h *harness) error { return h.Commit(ctx, "name", "work") },
	"Update": func(ctx context.Context, h *harness) error {
		_, err := h.Update(ctx, snapshots.Info{Name: "base", Labels: map[string]string{"a": "b"}}, "labels.a")
		return err
	},
	"Usage": func(ctx context.Context, h *harness) error {
		_, err := h.Usage(ctx, "base")
		return err
	},
	"UsageActive": func(ctx context.Context, h *harness) error {
		_, err := h.Usage(ctx, "work")
		return err
	},
	"AddLease": func(ctx context.Context, h *harness) error {
		l := Lease{"ns", "late"}
		err := h.AddLease(ctx, l, "work", func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			h.leases.add(l, "work")
			return nil
		})
		return err
	},
}

func furnished(t *testing.T, opts ...Option) *harness {
	h := open(t, opts...)
	ctx := context.Background()
	must(t, h.Prepare(ctx, "first", ""))
	must(t, h.Commit(ctx, "base", "first"))
	must(t, h.Prepare(ctx, "work", "base"))
	return h
}

func TestCancelledAtEveryLookLeavesNothing(t *testing.T) {
	for name, operate := range operations {
		for bounds, opts := range map[string][]Option{"default": nil, "one": everyBoundOne} {
			t.Run(name+"/"+bounds, func(t *testing.T) {
				for n := 1; ; n++ {
					h := furnished(t, opts...)
					err := operate(cancelAt(n), h)
					if err != nil && !errors.Is(err, context.Canceled) {
						t.Fatalf("cancelled at look %d: %v", n, err)
					}
					h.finish()
					if err == nil {
						if n == 1 {
							t.Fatal("the operation never looks at its context")
						}
						return
					}
					if t.Failed() {
						t.Fatalf("cancelled at look %d", n)
					}
				}
			})
		}
	}
}

// everyBoundOne are the options that bound something.
var everyBoundOne = []Option{
	mailboxesOf1, WithWriteQueue(1), WithBatch(1),
	WithDriverParallelism(1), WithScanParallelism(1), WithRemovalParallelism(1),
}

func mailboxesOf1(o *options) { o.mailbox, o.mountsMailbox = 1, 1 }

// stall keeps the owner of a key busy until it is told to go on.
type stall struct {
	question[done]
	begun, goOn chan struct{}
}

func (m *stall) Handle(*owner) {
	close(m.begun)
	<-m.goOn
	m.Answer(done{})
}

// block stalls the owner of key and returns what lets it go on.
func (h *harness) block(key string) (goOn func()) {
	m := &stall{question[done]{e: h.Engine}, make(chan struct{}), make(chan struct{})}
	h.keys.Owe(key, m)
	<-m.begun
	return func() { close(m.goOn) }
}

// TestCancelledWhileQueued cancels each operation while its message waits in the
// mailbox of an owner that is busy, and again while it waits for room in it.
func TestCancelledWhileQueued(t *testing.T) {
	asks := map[string][]string{ // the owners that each operation asks
		"Prepare": {"base", "new"}, "PrepareEmpty": {"new"}, "View": {"base", "new"}, "ViewEmpty": {"new"},
		"Commit": {"name", "work"}, "Update": {"base"}, "AddLease": {"work"},
	}
	for name, keys := range asks {
		for _, key := range keys {
			for _, full := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/full=%v", name, key, full), func(t *testing.T) {
					h := furnished(t, mailboxesOf1)
					goOn := h.block(key)
					if full {
						must(t, h.keys.Send(context.Background(), key, &unhold{question[done]{e: h.Engine}, &body{}}))
					}
					ctx, cancel := context.WithCancel(context.Background())
					result := make(chan error)
					go func() { result <- operations[name](ctx, h) }()
					eventually(t, "the message waits", func() bool {
						queued, line := h.keys.Waiting(key)
						return full && line == 1 || !full && queued == 1
					})
					cancel()
					if full {
						// It was not queued, so it ends though the owner is busy.
						if err := <-result; !errors.Is(err, context.Canceled) {
							t.Errorf("got %v", err)
						}
						goOn()
					} else {
						goOn()
						if err := <-result; err != nil && !errors.Is(err, context.Canceled) {
							t.Errorf("got %v", err)
						}
					}
				})
			}
		}
	}
}
