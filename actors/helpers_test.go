package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// work is a question whose handler is the function it carries.
type work struct {
	Reply[int]
	do func(*Owner[int], *work)
}

func (m *work) Handle(o *Owner[int]) { m.do(o, m) }

// answering is a question that is answered with n.
func answering(n int) *work {
	return &work{do: func(_ *Owner[int], m *work) { m.Answer(n) }}
}

// publishing is a question that makes n the value of its key.
func publishing(n int) *work {
	return &work{do: func(o *Owner[int], m *work) { o.Publish(&n); m.Answer(n) }}
}

// blocking is a question whose handler is at work until release is called.
func blocking() (m *work, release func()) {
	c := make(chan struct{})
	return &work{do: func(_ *Owner[int], m *work) { <-c; m.Answer(0) }}, func() { close(c) }
}

// journal notes the order in which things happen.
type journal[T any] struct {
	mu    sync.Mutex
	notes []T
}

func (j *journal[T]) note(v T) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notes = append(j.notes, v)
}

func (j *journal[T]) all() []T {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.notes)
}

// noting is a question that is noted when it is handled.
func noting(j *journal[int], n int) *work {
	return &work{do: func(_ *Owner[int], m *work) { j.note(n); m.Answer(n) }}
}

// call is a call in a goroutine of its own.
type call struct{ returned atomic.Pointer[outcome] }

type outcome struct {
	value int
	err   error
}

var errBlocked = errors.New("has not returned")

// begin runs f in a goroutine and returns once it has returned or is blocked.
func begin(f func() (int, error)) *call {
	c := &call{}
	go func() {
		v, err := f()
		c.returned.Store(&outcome{v, err})
	}()
	synctest.Wait()
	return c
}

func (c *call) done() bool { return c.returned.Load() != nil }

// result is what the call returned, errBlocked while it has not.
func (c *call) result() (int, error) {
	if o := c.returned.Load(); o != nil {
		return o.value, o.err
	}
	return -1, errBlocked
}

func (c *call) err() error {
	_, err := c.result()
	return err
}

func (c *call) String() string {
	v, err := c.result()
	return fmt.Sprintf("(%d, %v)", v, err)
}

// occupied returns Owners whose owner of "key" is at work until release is
// called, so that what is sent to it stays in its mailbox of the given size.
func occupied(t *testing.T, mailbox int) (o *Owners[int], release func()) {
	t.Helper()
	o = NewOwners[int](Config{Name: "number", Mailbox: mailbox})
	m, release := blocking()
	if err := o.Send(context.Background(), "key", m); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	return o, release
}

// cells counts the keys that leave a trace, idle or not.
func (t *table[V]) cells() (n int) {
	t.each(func(*cell[V], *V) bool { n++; return true })
	return n
}
