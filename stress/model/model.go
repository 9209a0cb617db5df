package model

import (
	"fmt"
	"strings"
)

// Model says how large the family is and what its target does.
type Model struct {
	Keys    int // at most 127
	Handles int
	Leased  bool // snapshots go with their last lease, and not by Remove
	Keeps   bool // what Prepare, View and Mounts handed out is held until Remove
}

// A state is a string, so that it is immutable and compares fast: two bytes of
// leases that ended, then for each key and each handle its fields.
const (
	header = 2
	width  = 9
	wide   = 2

	atKind   = 0
	atParent = 1 // plus one, 0 for none
	atLeased = 2 // a lease ended that named it, or its creation failed and is undone
	atLeases = 3 // two bytes
	atLabels = 5 // two bytes
	atLayer  = 8 // that it was said to be
	atGhosts = 7 // a snapshot on top of it was removed, and may count still

	atTarget = 0 // key plus one of what the handle belongs to, 0 when that is gone
	atHolds  = 1
)

// MaxLeases is how many leases a family may have.
const MaxLeases = 16

// Initial is the state without snapshots.
func (m *Model) Initial() string { return string(make([]byte, header+m.Keys*width+m.Handles*wide)) }

// work is a state that is being changed.
type work struct {
	m *Model
	b []byte
}

func (m *Model) open(s string) work { return work{m, []byte(s)} }

func (w work) snapshot(k int8) []byte { return w.b[header+int(k)*width:][:width] }
func (w work) handle(h int8) []byte   { return w.b[header+w.m.Keys*width+int(h)*wide:][:wide] }
func (w work) ended(l int8) bool      { return w.b[l/8]&(1<<(l%8)) != 0 }
func (w work) present(k int8) bool    { return w.snapshot(k)[atKind] != 0 }

func leases(s []byte) uint16 { return uint16(s[atLeases]) | uint16(s[atLeases+1])<<8 }

func setLeases(s []byte, l uint16) { s[atLeases], s[atLeases+1] = byte(l), byte(l>>8) }

// held tells whether a handle of the snapshot is mounted.
func (w work) held(k int8) bool {
	for h := range int8(w.m.Handles) {
		if x := w.handle(h); x[atTarget] == byte(k)+1 && x[atHolds] > 0 {
			return true
		}
	}
	return false
}

// drop makes the snapshot absent. The leases stay: they name the key.
func (w work) drop(k int8) {
	s := w.snapshot(k)
	s[atKind], s[atParent], s[atLabels], s[atLabels+1], s[atGhosts], s[atLayer] = 0, 0, 0, 0, 0, 0
	if !w.m.Leased {
		s[atLeased] = 0
	}
	for h := range int8(w.m.Handles) {
		if x := w.handle(h); x[atTarget] == byte(k)+1 {
			x[atTarget], x[atHolds] = 0, 0
		}
	}
}

// vanish makes the snapshot, and before it its children, go for want of a lease,
// and answers whether that may have happened. Where it may not, w is spoilt.
func (w work) vanish(k int8) bool {
	s := w.snapshot(k)
	if s[atKind] == 0 {
		return true
	}
	if s[atLeased] == 0 || leases(s) != 0 || w.m.Leased && w.held(k) {
		return false
	}
	if !w.vanishChildren(k) {
		return false
	}
	w.drop(k)
	return true
}

func (w work) vanishChildren(k int8) bool {
	for c := range int8(w.m.Keys) {
		if x := w.snapshot(c); x[atKind] != 0 && x[atParent] == byte(k)+1 && !w.vanish(c) {
			return false
		}
	}
	return true
}

// depth is how many snapshots the one stands on, itself included.
func (w work) depth(k int8) (n byte) {
	for ; k != None; k = int8(w.snapshot(k)[atParent]) - 1 {
		n++
	}
	return n
}

func (w work) children(k int8) bool {
	for c := range int8(w.m.Keys) {
		if x := w.snapshot(c); x[atKind] != 0 && x[atParent] == byte(k)+1 {
			return true
		}
	}
	return false
}

func (w work) endLease(k, l int8) {
	s := w.snapshot(k)
	if all := leases(s); all&(1<<l) != 0 {
		setLeases(s, all&^(1<<l))
		s[atLeased] = 1
	}
}

// Step returns the states in which the operation may have left the family, none
// where it cannot have ended as it did.
func (m *Model) Step(state string, in Input, out Output) []string {
	if in.Kind == AddLease && (out.Class == Failed || out.Class == NotFound && m.open(state).ended(in.Lease)) {
		// Beside the end of the lease the key counts as one that a lease let go.
		w := m.open(state)
		w.snapshot(in.Key)[atLeased] = 1
		return one(w)
	}
	switch out.Class {
	case Failed:
		states := []string{state}
		if m.Keeps && (in.Kind == Prepare || in.Kind == View) {
			// Where it cannot be mounted it is removed again, and is there until then.
			in.Handle = None
			for _, made := range m.apply(state, in, Output{}, true) {
				w := m.open(made)
				w.snapshot(in.Key)[atLeased] = 1
				states = append(states, string(w.b))
			}
		}
		return states
	case Unknown:
		out.Class = OK
		return append([]string{state}, m.apply(state, in, out, true)...)
	}
	return m.apply(state, in, out, false)
}

func one(w work) []string { return []string{string(w.b)} }

// apply is Step for an operation whose outcome is known, or assumed: then what it
// answered is not compared.
func (m *Model) apply(state string, in Input, out Output, assumed bool) []string {
	w := m.open(state)
	is := func(ok bool) []string {
		if ok {
			return []string{state}
		}
		return nil
	}
	absent := func(k int8) []string { // k is found to be absent
		if !w.vanish(k) {
			return nil
		}
		return one(w)
	}
	switch in.Kind {
	case Prepare, View:
		switch out.Class {
		case NotFound:
			var states []string
			if in.On != None {
				states = absent(in.On)
			}
			if m.Keeps {
				// It was made, and removed before it could be mounted.
				in.Handle = None
				states = append(states, m.apply(state, in, Output{}, true)...)
			}
			return states
		case Precondition:
			return is(in.On != None && w.present(in.On) && w.snapshot(in.On)[atKind] != Committed)
		case Exists:
			return is(w.present(in.Key))
		}
		if in.On != None && w.snapshot(in.On)[atKind] != Committed {
			return nil
		}
		if !w.vanish(in.Key) || in.On != None && !w.present(in.On) {
			return nil
		}
		s := w.snapshot(in.Key)
		s[atKind] = Active
		if in.Kind == View {
			s[atKind] = ViewOf
		}
		s[atParent], s[atLabels], s[atLabels+1] = byte(in.On+1), in.Labels[0], in.Labels[1]
		if in.Kind == View && in.Handle != None {
			w.take(in.Handle, in.Key)
		}
		return one(w)
	case Commit:
		switch out.Class {
		case NotFound:
			return absent(in.Key)
		case Precondition:
			return is(w.present(in.Key) && w.snapshot(in.Key)[atKind] != Active)
		case Exists:
			return is(w.present(in.On))
		}
		if !w.vanish(in.On) || w.snapshot(in.Key)[atKind] != Active {
			return nil
		}
		from, to := w.snapshot(in.Key), w.snapshot(in.On)
		to[atKind], to[atParent], to[atLabels] = Committed, from[atParent], in.Labels[0]
		if to[atLabels+1] = from[atLabels+1]; in.Labels[1] != 0 {
			to[atLabels+1] = in.Labels[1]
		}
		for h := range int8(m.Handles) {
			if x := w.handle(h); x[atTarget] == byte(in.Key)+1 {
				x[atTarget] = byte(in.On) + 1
			}
		}
		w.drop(in.Key)
		return one(w)
	case Stat:
		if out.Class == NotFound {
			return absent(in.Key)
		}
		return is(w.told(in.Key) == out.Snapshot)
	case Update:
		if out.Class == NotFound {
			return absent(in.Key)
		}
		s := w.snapshot(in.Key)
		if s[atKind] == 0 {
			return nil
		}
		s[atLabels] = in.Labels[0]
		if in.Whole {
			s[atLabels+1] = in.Labels[1]
		}
		if !assumed && w.told(in.Key) != out.Snapshot {
			return nil
		}
		return one(w)
	case Usage:
		if out.Class == NotFound {
			return absent(in.Key)
		}
		return is(w.present(in.Key))
	case Mounts:
		switch kind := w.snapshot(in.Key)[atKind]; out.Class {
		case NotFound:
			return absent(in.Key)
		case Precondition:
			return is(kind == Committed)
		default:
			if kind != Active && kind != ViewOf {
				return nil
			}
		}
		w.take(in.Handle, in.Key)
		return one(w)
	case Mount:
		h := w.handle(in.Handle)
		if m.Keeps && h[atTarget] == 0 {
			return is(out.Class == OK) // the mounts were handed out before
		}
		if out.Class == NotFound {
			if h[atTarget] == 0 {
				return []string{state}
			}
			return absent(int8(h[atTarget] - 1))
		}
		if h[atTarget] == 0 {
			return nil
		}
		if view := w.snapshot(int8(h[atTarget] - 1))[atKind] == ViewOf; !assumed && view == out.Writable {
			return nil
		}
		h[atHolds]++
		return one(w)
	case Release:
		if h := w.handle(in.Handle); h[atHolds] > 0 {
			h[atHolds]--
		}
		return one(w)
	case AddLease:
		if out.Class != OK || w.ended(in.Lease) {
			return nil
		}
		// It revokes a removal that was about to begin, or comes too late for that.
		all := []work{w}
		if gone := m.open(state); gone.present(in.Key) && gone.vanish(in.Key) {
			all = append(all, gone)
		}
		var states []string
		for _, w := range all {
			s := w.snapshot(in.Key)
			setLeases(s, leases(s)|1<<in.Lease)
			states = append(states, string(w.b))
		}
		return states
	case RemoveLease:
		if out.Class == NotFound {
			return is(w.ended(in.Lease))
		}
		if w.ended(in.Lease) && !assumed {
			return nil
		}
		w.endLease(in.Key, in.Lease)
		return one(w)
	case EndLease:
		w.b[in.Lease/8] |= 1 << (in.Lease % 8)
		for k := range int8(m.Keys) {
			w.endLease(k, in.Lease)
		}
		return one(w)
	case Remove:
		x := w.snapshot(in.Key)
		switch out.Class {
		case NotFound:
			return absent(in.Key)
		case Precondition:
			// A snapshot that is being made counts, whatever becomes of it, and one that
			// is removed until its last mount has ended.
			return is(m.Leased || w.present(in.Key) && (w.children(in.Key) || out.Beside || x[atGhosts] != 0))
		}
		if m.Leased || !w.present(in.Key) || !w.vanishChildren(in.Key) {
			return nil
		}
		if p := int8(x[atParent]) - 1; p != None && out.Beside {
			w.snapshot(p)[atGhosts] = 1
		}
		w.drop(in.Key)
		return one(w)
	case EnsureLayer:
		s := w.snapshot(in.Key)
		switch out.Class {
		case NotFound:
			return absent(in.Key)
		case Precondition:
			return is(w.present(in.Key) && s[atKind] != Committed)
		}
		if s[atKind] != Committed {
			return nil
		}
		if assumed {
			return is(true)
		}
		if out.Depth != w.depth(in.Key) || s[atLayer] != 0 && s[atLayer] != out.Layer {
			return nil
		}
		s[atLayer] = out.Layer
		return one(w)
	case Restart:
		for k := range int8(m.Keys) {
			if w.present(k) && m.Leased {
				w.snapshot(k)[atLeased] = 1
			}
		}
		for h := range int8(m.Handles) {
			x := w.handle(h)
			x[atTarget], x[atHolds] = 0, 0
		}
		return one(w)
	}
	panic(fmt.Sprintf("operation %d", in.Kind))
}

// take makes the handle belong to what k names. It is not mounted.
func (w work) take(h, k int8) {
	x := w.handle(h)
	x[atTarget], x[atHolds] = byte(k)+1, 0
}

func (w work) told(k int8) Snapshot {
	s := w.snapshot(k)
	if s[atKind] == 0 {
		return Snapshot{}
	}
	return Snapshot{Kind: s[atKind], Parent: int8(s[atParent]) - 1, Labels: [2]byte{s[atLabels], s[atLabels+1]}}
}

// DescribeState writes a state on one line.
func (m *Model) DescribeState(state string) string {
	w := m.open(state)
	var parts []string
	for k := range int8(m.Keys) {
		s := w.snapshot(k)
		if s[atKind] == 0 && leases(s) == 0 {
			continue
		}
		t := w.told(k)
		p := fmt.Sprintf("k%d %s on %s labels %d %d leases %b", k, [...]string{"absent", "active", "view", "committed"}[s[atKind]], key(t.Parent), t.Labels[0], t.Labels[1], leases(s))
		if w.held(k) {
			p += " held"
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, "; ")
}
