package engine

import "testing"

// TestACommitThatEndsAmidAHandlerIsNotHalfSeen ends a Commit after the owner of its
// name looked at its state: the snapshot is there, and the owner has none of it in
// hand.
func TestACommitThatEndsAmidAHandlerIsNotHalfSeen(t *testing.T) {
	f := &flip{body: &body{}}
	published := &state{phase: reserved, flip: f}
	s := *published.plain()
	f.done.Store(true)
	if published.visible() != f.body {
		t.Error("the name is not there for others")
	}
	if b := s.own(); b != nil {
		t.Error("the name is there for its owner, who has no body of it")
	}
	if s = *published.plain(); s.own() != f.body || s.body != f.body {
		t.Error("the name is not there for its owner when it looks again")
	}
}
