package actors

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// Reply is the slot for the answer to one message. It is embedded in the
// message, so a slot is never used for a second question: an answer that comes
// too late, or twice, finds its own slot taken and changes nothing.
//
// The zero Reply is ready to be told. Ask and Call arm it for a waiting asker.
// A message that was refused may be asked again, one that was answered may not.
type Reply[R any] struct {
	taken atomic.Bool
	armed bool // somebody waits; set before the message is enqueued
	value R
	err   error

	// What the asker sleeps on. A WaitGroup lives in the message and needs no
	// making, while a channel would be an allocation, or would come from a pool
	// and have to be known empty before it serves a stranger.
	answered sync.WaitGroup
}

var errAskedAgain = fmt.Errorf("the message was answered before and cannot be asked again: %w", errdefs.ErrInternal)

// Answer gives the answer. The first of Answer and Fail counts, later ones are
// ignored. It never blocks.
func (r *Reply[R]) Answer(v R) { r.settle(v, nil) }

// Fail answers with an error. The first of Answer and Fail counts.
func (r *Reply[R]) Fail(err error) {
	var none R
	r.settle(none, err)
}

func (r *Reply[R]) settle(v R, err error) {
	if r.taken.Load() || !r.taken.CompareAndSwap(false, true) {
		return
	}
	r.value, r.err = v, err
	if r.armed {
		r.answered.Done()
	}
}

func (r *Reply[R]) slot() *Reply[R] { return r }

// arm prepares the slot for wait, before the message is enqueued. A refused
// message stays armed, which costs nothing and is right for the next attempt.
func (r *Reply[R]) arm() error {
	if r.taken.Load() {
		return errAskedAgain // its wait would find the answer to the first question
	}
	if !r.armed {
		r.armed = true
		r.answered.Add(1)
	}
	return nil
}

func (r *Reply[R]) wait() (R, error) {
	r.answered.Wait()
	return r.value, r.err
}
