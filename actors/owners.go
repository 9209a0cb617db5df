package actors

import (
	"context"
	"fmt"
	"sync"
)

// Config configures Owners.
type Config struct {
	// Name of what the keys name, for errors.
	Name string
	// Mailbox bounds the messages waiting for one owner, at least one.
	Mailbox int
	// Panicked is told of a panic in a handler, on the owner's goroutine, before
	// the message is failed. It must not panic itself.
	Panicked func(key string, cause any, stack []byte)
}

// Owners keeps one owner per key: the goroutine that alone changes the key's
// value. It runs while there are messages for the key and stops, under the lock
// that senders take, when there are none. A key without value and without
// messages leaves no trace.
//
// Who asks an idle owner is that goroutine himself for as long as his message takes.
// All he would do is to start another one and wait for it, and two changes of
// goroutines cost more than most messages do.
//
// A panic in a handler is caught: its message is failed, Config.Panicked is told
// the stack, and the owner goes on with the next message from the value it last
// published.
type Owners[V any] struct {
	config Config
	table  *table[V]
	boxes  sync.Pool
	gate   Gate // inside it are the owners that run
}

// NewOwners returns Owners without keys.
func NewOwners[V any](c Config) *Owners[V] {
	o := &Owners[V]{config: c, table: newTable[V]()}
	o.boxes.New = func() any { return newBox(o, max(1, c.Mailbox)) }
	return o
}

// Load returns the value published for key, nil for none. It takes no lock and
// waits for nobody.
func (o *Owners[V]) Load(key string) *V {
	s, h := o.table.locate(key)
	if c := o.table.find(s, h, key); c != nil {
		return c.value.Load()
	}
	return nil
}

// Find is Load that returns its own copy of key as well, "" where there is no value,
// for those who keep many that are the same.
func (o *Owners[V]) Find(key string) (string, *V) {
	s, h := o.table.locate(key)
	if c := o.table.find(s, h, key); c != nil {
		if v := c.value.Load(); v != nil {
			return c.key, v
		}
	}
	return "", nil
}

// Range calls f for the keys that have a value until f answers false. It takes
// no lock, so f may do as it likes. A key that has a value throughout is passed
// exactly once; each value was the published one at some moment of the call.
func (o *Owners[V]) Range(f func(key string, v *V) bool) {
	o.table.each(func(c *cell[V], v *V) bool { return v == nil || f(c.key, v) })
}

// Seed publishes the first value of key. It is for loading, before any message
// is sent.
func (o *Owners[V]) Seed(key string, v *V) { o.seed(nil, key, v) }

// Reserve makes room for n keys that are about to be seeded.
func (o *Owners[V]) Reserve(n int) { o.table.reserve(n) }

// SeedAt is Seed that keeps what it does at the seat. It returns its own copy of key.
func (o *Owners[V]) SeedAt(at *Seat[V], key string, v *V) string { return o.seed(at, key, v) }

func (o *Owners[V]) seed(at *Seat[V], key string, v *V) string {
	s, h := o.table.locate(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := o.table.find(s, h, key)
	if c == nil {
		if at != nil {
			c = at.take(key)
		} else {
			c = newCell[V](key)
		}
		o.table.insert(s, h, c)
	}
	c.value.Store(v)
	return c.key
}

// Send enqueues m for the owner of key and starts the owner where it is idle. It
// blocks while the owner's mailbox is full, until ctx ends; senders get in in the
// order in which they came. On error m was not enqueued: the error names the queue
// and wraps the end of ctx and its cause, or is ErrUnavailable after Close.
// Senders that wait while Close is called came before it, and get in.
func (o *Owners[V]) Send(ctx context.Context, key string, m Message[V]) error {
	return o.send(ctx, key, m, false)
}

// send is Send. Where asked is set the caller waits for the answer anyway, and m may
// be handled before send returns.
func (o *Owners[V]) send(ctx context.Context, key string, m Message[V], asked bool) error {
	name := func() string { return o.mailboxName(key) }
	if ctx.Err() != nil {
		return errCancelled(ctx, name())
	}
	s, b, idle := o.enter(key, false)
	if b == nil {
		return errClosed(name())
	}
	if idle && asked {
		s.mu.Unlock()
		b.serve(m)
		return nil
	}
	w := b.queue.offer(m)
	if w == nil {
		s.queued++
	}
	s.mu.Unlock()
	if idle {
		go b.loop()
	}
	if w == nil {
		return nil
	}
	return w.await(ctx, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return b.queue.line.leave(w)
	}, name)
}

// Owe enqueues m without regard to the bound, also after Close: for the undo,
// the release and the result of what was accepted before, whose number that
// bounds. It answers false, and drops m, when all owners have stopped for good:
// after Close that is as soon as none has anything to do, so who may owe a
// message is to be done before Close is called.
func (o *Owners[V]) Owe(key string, m Message[V]) bool { return o.owe(key, m, false) }

// Tell is Owe for a caller who may be kept for as long as an idle owner takes to handle
// m. An owner must not call it: it would do the work of another one.
func (o *Owners[V]) Tell(key string, m Message[V]) bool { return o.owe(key, m, true) }

// owe is Owe, as send is Send.
func (o *Owners[V]) owe(key string, m Message[V], asked bool) bool {
	s, b, idle := o.enter(key, true)
	if b == nil {
		return false
	}
	if idle && asked {
		s.mu.Unlock()
		b.serve(m)
		return true
	}
	b.queue.push(m, true)
	s.queued++
	s.mu.Unlock()
	if idle {
		go b.loop()
	}
	return true
}

// enter returns the box of key with its shard locked, or nil where the message is
// refused. The owner takes the same lock before it looks into the box, so it finds
// what the caller puts there. Where no owner runs the answer is idle, and the caller
// is to run the box.
func (o *Owners[V]) enter(key string, owed bool) (s *shard[V], b *box[V], idle bool) {
	s, h := o.table.locate(key)
	s.mu.Lock()
	c := o.table.find(s, h, key)
	if c != nil && c.box != nil {
		if !owed && o.gate.Closed() {
			s.mu.Unlock()
			return nil, nil, false
		}
		return s, c.box, false
	}
	in := false
	if owed {
		in = o.gate.enterOwed()
	} else {
		in = o.gate.Enter()
	}
	if !in {
		s.mu.Unlock()
		return nil, nil, false
	}
	if c == nil {
		c = o.table.insert(s, h, newCell[V](key))
	}
	b = o.boxes.Get().(*box[V])
	b.shard, b.cell = s, c
	c.box = b
	return s, b, true
}

func (o *Owners[V]) mailboxName(key string) string {
	return fmt.Sprintf("of %s %q", o.config.Name, key)
}

// Close refuses further Sends and waits until every message that was accepted
// has been handled and every owner has stopped. Closing twice is fine: both wait.
// A handler must not call it.
func (o *Owners[V]) Close() { o.gate.Close() }

// Running is the number of owners at work, for display and tests.
func (o *Owners[V]) Running() int { return o.gate.inside() }

// Queued is the number of messages that wait for owners, without those of senders
// that wait for room, for display. It takes the lock of one shard after the other.
func (o *Owners[V]) Queued() (n int) {
	for i := range o.table.shards {
		s := &o.table.shards[i]
		s.mu.Lock()
		n += s.queued
		s.mu.Unlock()
	}
	return n
}

// Ask sends q to the owner of key and waits for the answer. ctx ends the wait
// for room only: once q was enqueued Ask returns with its answer and not before,
// so that the outcome is known.
func Ask[V, R any](ctx context.Context, o *Owners[V], key string, q Question[V, R]) (R, error) {
	r := q.slot()
	err := r.arm()
	if err == nil {
		err = o.send(ctx, key, q, true)
	}
	if err != nil {
		var none R
		return none, err
	}
	return r.wait()
}

// AskOwed is Ask through the entrance of Owe. It answers ErrUnavailable where
// Owe answers false.
func AskOwed[V, R any](o *Owners[V], key string, q Question[V, R]) (R, error) {
	r := q.slot()
	err := r.arm()
	if err == nil && !o.owe(key, q, true) {
		err = errClosed(o.mailboxName(key))
	}
	if err != nil {
		var none R
		return none, err
	}
	return r.wait()
}
