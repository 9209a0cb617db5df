package actors

import (
	"fmt"
	"runtime/debug"

	"github.com/containerd/errdefs"
)

// Message is what an owner is sent. Handle runs on the owner's goroutine and has
// answered when it returns: what it left unanswered is failed, so that an asker
// never hangs. Fail answers with an error; messages get it from the Reply that
// they embed.
type Message[V any] interface {
	Handle(*Owner[V])
	Fail(error)
}

// Question is a Message with an answer of type R: one that embeds Reply[R].
type Question[V, R any] interface {
	Message[V]
	slot() *Reply[R]
}

// Owner is what a handler sees of the key it works on. It is valid only within
// Handle.
type Owner[V any] cell[V]

// Key is the key that is owned.
func (o *Owner[V]) Key() string { return o.key }

// Value is the value last published, nil for none.
func (o *Owner[V]) Value() *V { return o.value.Load() }

// Publish makes v what everybody reads for the key from now on; nil takes the
// key away. v must not be changed afterwards.
func (o *Owner[V]) Publish(v *V) { o.value.Store(v) }

var errUnanswered = fmt.Errorf("the owner left the message unanswered: %w", errdefs.ErrInternal)

// box is what a running owner has beyond its cell: its queue, under the lock of
// the cell's shard, and what its goroutine needs. Boxes are pooled. One goes back
// with an empty queue, hence without a line, and when the cell no longer leads to
// it; a sender that was in the line looks only at its own waiter.
//
// Who puts a box into a cell runs the owner, or starts the goroutine that does, and
// nobody else does until the box is out of the cell again.
type box[V any] struct {
	owners *Owners[V]
	loop   func() // run, so that starting it allocates nothing
	queue  queue[Message[V]]

	shard *shard[V]
	cell  *cell[V]
}

func newBox[V any](o *Owners[V], bound int) *box[V] {
	b := &box[V]{owners: o, queue: queue[Message[V]]{bound: bound}}
	b.loop = b.run
	return b
}

// run is the owner's goroutine. It ends, under the lock that senders take, when
// there is nothing to handle.
func (b *box[V]) run() {
	idle := false
	defer func() {
		if !idle {
			// A handler called runtime.Goexit, as a test that fails in one does.
			// The messages behind it are handled all the same.
			go b.loop()
		}
	}()
	for {
		b.shard.mu.Lock()
		before := b.queue.n
		m, ok := b.queue.pop() // which may let a sender in
		b.shard.queued += b.queue.n - before
		if !ok {
			break
		}
		b.shard.mu.Unlock()
		b.handle(m)
	}
	idle = true
	b.stop()
}

// serve is the owner on the goroutine of an asker, who found it idle: it handles m.
// What was enqueued meanwhile gets a goroutine, since the asker is not to wait for
// that.
func (b *box[V]) serve(m Message[V]) {
	idle := false
	defer func() {
		if !idle {
			go b.loop() // also where a handler called runtime.Goexit, as in run
		}
	}()
	b.handle(m)
	b.shard.mu.Lock()
	if idle = b.queue.n == 0; idle {
		b.stop()
	} else {
		b.shard.mu.Unlock()
	}
}

// stop ends the owner, whose queue is empty, and unlocks its shard.
func (b *box[V]) stop() {
	o, s, c := b.owners, b.shard, b.cell
	c.box = nil
	if c.value.Load() == nil {
		o.table.remove(s, c)
	}
	s.mu.Unlock()
	b.shard, b.cell = nil, nil
	o.boxes.Put(b)
	o.gate.Leave()
}

func (b *box[V]) handle(m Message[V]) {
	defer func() {
		cause := recover()
		if cause == nil {
			m.Fail(errUnanswered)
			return
		}
		config, key := &b.owners.config, b.cell.key
		if config.Panicked != nil {
			config.Panicked(key, cause, debug.Stack())
		}
		m.Fail(fmt.Errorf("owner of %s %q panicked handling %T: %v: %w", config.Name, key, m, cause, errdefs.ErrInternal))
	}()
	m.Handle((*Owner[V])(b.cell))
}
