package engine

import (
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/actors"
)

// owner is what a message works on. The messages of one operation stand beside
// its saga; here are those that several share.
type owner = actors.Owner[state]

// question is embedded in messages to a key's owner.
type question[R any] struct {
	actors.Reply[R]
	e *Engine
}

// done is the answer of messages that have nothing to tell.
type done = struct{}

// publish makes s the state of the key and hands the key to the reaper where
// nothing wants the snapshot any more.
func (e *Engine) publish(o *owner, s state) {
	if s.phase == absent || s.phase == present {
		s.decide()
	}
	if s.void() {
		o.Publish(nil)
		return
	}
	if s.birth != nil {
		if answered := s.birth.answered.Load(); answered != 0 {
			s.event, s.birth = max(s.event, answered), nil
		}
	}
	o.Publish(&s)
	if s.unwanted() {
		e.reaper.consider(o.Key())
	}
}

// pin makes the key a parent of one more snapshot, which keeps it from removal.
type pin struct{ question[*body] }

func (m *pin) Handle(o *owner) {
	s := *o.Value().plain()
	switch {
	case s.own() == nil:
		m.Fail(fmt.Errorf("parent: %w", errNotFound(o.Key())))
		return
	case s.body.kind != snapshots.KindCommitted:
		m.Fail(fmt.Errorf("parent %q is not committed: %w", o.Key(), errdefs.ErrFailedPrecondition))
		return
	}
	s.children++
	m.e.publish(o, s)
	m.Answer(s.body)
}

// unpin undoes one pin. The pinned snapshot is there still, since a pin keeps it.
type unpin struct{ question[done] }

func (m *unpin) Handle(o *owner) {
	s := *o.Value().plain()
	s.children--
	m.e.publish(o, s)
	m.Answer(done{})
}

func (e *Engine) unpin(parent string) {
	if parent != "" {
		e.keys.Owe(parent, &unpin{question[done]{e: e}})
	}
}

// hold counts a mount of the view that body is of.
type hold struct {
	question[done]
	body *body
}

func (m *hold) Handle(o *owner) {
	s := *o.Value().plain()
	if !s.is(m.body) {
		m.Fail(errNotFound(o.Key()))
		return
	}
	s.holds++
	m.e.publish(o, s)
	m.Answer(done{})
}

// unhold undoes one hold.
type unhold struct {
	question[done]
	body *body
}

func (m *unhold) Handle(o *owner) {
	if s := *o.Value().plain(); s.is(m.body) {
		s.holds--
		m.e.publish(o, s)
	}
	m.Answer(done{})
}
