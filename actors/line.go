package actors

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// line is the senders that wait for room in a queue, in the order in which they
// came. It has no lock: the one around its queue is held for every call. It is
// linked so that a thousand senders whose contexts end together leave it in a
// thousand steps.
type line[M any] struct{ first, last *waiter[M] }

// waiter is a sender in the line. Whoever takes it out of the line, under the
// lock, decides its outcome.
type waiter[M any] struct {
	m          M
	prev, next *waiter[M]
	out        bool          // no longer in the line
	decided    chan struct{} // closed once err is set
	err        error
}

func (l *line[M]) join(m M) *waiter[M] {
	w := &waiter[M]{m: m, prev: l.last, decided: make(chan struct{})}
	if l.last == nil {
		l.first = w
	} else {
		l.last.next = w
	}
	l.last = w
	return w
}

// leave takes w out of the line. False means that w was out already: then the
// queue may serve another key by now, and is not looked at.
func (l *line[M]) leave(w *waiter[M]) bool {
	if w.out {
		return false
	}
	if w.prev == nil {
		l.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.out, w.prev, w.next = true, nil, nil
	return true
}

// decide takes w out of the line and tells its sender the outcome.
func (l *line[M]) decide(w *waiter[M], err error) {
	l.leave(w)
	w.err = err
	close(w.decided)
}

// await blocks a sender in the line until it is decided or ctx ends, with leave
// called under the lock of the queue. Where both happen at once the decision
// counts, since the receiver may have the message already.
func (w *waiter[M]) await(ctx context.Context, leave func() bool, name func() string) error {
	select {
	case <-w.decided:
		return w.err
	case <-ctx.Done():
	}
	if leave() {
		return fmt.Errorf("mailbox %s is full: %w", name(), ended(ctx))
	}
	<-w.decided
	return w.err
}

func errClosed(name string) error {
	return fmt.Errorf("mailbox %s is closed: %w", name, errdefs.ErrUnavailable)
}

func errCancelled(ctx context.Context, name string) error {
	return fmt.Errorf("mailbox %s: not sent: %w", name, ended(ctx))
}

// ended is why ctx ended. A cause of the caller's own must not hide that it was
// cancelled or ran out of time, which is what callers look for.
func ended(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if errors.Is(cause, err) {
		return cause
	}
	return fmt.Errorf("%w: %w", err, cause)
}
