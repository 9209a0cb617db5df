package actors

import (
	"context"
	"sync"
)

// Mailbox is the queue of a lone actor: many goroutines send, one receives.
type Mailbox[M any] struct {
	name string
	wake chan struct{} // holds a token when the receiver has something to look at

	mu     sync.Mutex
	queue  queue[M]
	closed bool // Send refuses
	ended  bool // the receiver was told that nothing follows
}

// NewMailbox returns a mailbox that holds at most bound sent messages, at least
// one. The name appears in errors.
func NewMailbox[M any](name string, bound int) *Mailbox[M] {
	return &Mailbox[M]{
		name:  name,
		wake:  make(chan struct{}, 1),
		queue: queue[M]{bound: max(1, bound)},
	}
}

// Send enqueues m. While the mailbox is full it blocks until there is room or
// ctx ends; senders get in in the order in which they came. On error m was not
// enqueued: the error names the mailbox and wraps the end of ctx and its cause, or
// is ErrUnavailable after Close, which senders that still wait get too.
func (b *Mailbox[M]) Send(ctx context.Context, m M) error {
	if ctx.Err() != nil {
		return errCancelled(ctx, b.name)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return errClosed(b.name)
	}
	w := b.queue.offer(m)
	b.mu.Unlock()
	b.nudge()
	if w == nil {
		return nil
	}
	return w.await(ctx,
		func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.queue.line.leave(w)
		},
		func() string { return b.name })
}

// Owe enqueues m without regard to the bound, also after Close. It is for
// messages whose number is bounded by what the actor accepted before: an undo,
// a release, a result. It answers false, and drops m, once the receiver was told
// that nothing follows.
func (b *Mailbox[M]) Owe(m M) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return false
	}
	b.queue.push(m, true)
	b.nudge()
	return true
}

// Receive blocks until there is a message and appends up to limit of them, at
// least one, to buf, oldest first. It answers false when the mailbox is closed and
// empty.
func (b *Mailbox[M]) Receive(buf []M, limit int) ([]M, bool) {
	limit = max(1, limit)
	for {
		b.mu.Lock()
		got := b.take(&buf, limit)
		if got == 0 && b.closed {
			b.ended = true
			b.mu.Unlock()
			return buf, false
		}
		b.mu.Unlock()
		if got > 0 {
			return buf, true
		}
		<-b.wake
	}
}

// TryReceive is Receive without the wait: it appends what there is.
func (b *Mailbox[M]) TryReceive(buf []M, limit int) []M {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.take(&buf, limit)
	return buf
}

func (b *Mailbox[M]) take(buf *[]M, limit int) (got int) {
	for got < limit {
		m, ok := b.queue.pop()
		if !ok {
			break
		}
		*buf = append(*buf, m)
		got++
	}
	return got
}

// Close refuses further Sends, those that wait for room included. What was
// enqueued before is still received.
func (b *Mailbox[M]) Close() {
	b.mu.Lock()
	b.closed = true
	b.queue.refuseLine(errClosed(b.name))
	b.mu.Unlock()
	b.nudge()
}

// Len is the number of messages waiting, for display.
func (b *Mailbox[M]) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.queue.n
}

func (b *Mailbox[M]) nudge() {
	select {
	case b.wake <- struct{}{}:
	default: // a token is there already
	}
}

// Call sends m to a lone actor and waits for the answer in r, the Reply that m
// embeds. ctx ends the wait for room only: once m was enqueued Call returns with
// its answer and not before, so that the outcome is known.
func Call[M, R any](ctx context.Context, b *Mailbox[M], m M, r *Reply[R]) (R, error) {
	err := r.arm()
	if err == nil {
		err = b.Send(ctx, m)
	}
	if err != nil {
		var none R
		return none, err
	}
	return r.wait()
}

// CallOwed is Call through the entrance of Owe. It answers ErrUnavailable where
// Owe answers false.
func CallOwed[M, R any](b *Mailbox[M], m M, r *Reply[R]) (R, error) {
	err := r.arm()
	if err == nil && !b.Owe(m) {
		err = errClosed(b.name)
	}
	if err != nil {
		var none R
		return none, err
	}
	return r.wait()
}
