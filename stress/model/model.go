package model

import "fmt"

// Model says how large the family is and what its target does.
type Model struct {
	Keys    int  // at most 127
	Image   bool // the last key is the chain ID of a layer of an image, which is there first
	Handles int
	Leased  bool // snapshots go with their last lease, and not by Remove
	Keeps   bool // what Prepare, View and Mounts handed out is held until Remove
}

// Step returns the states in which the operation may have left the family, none
// where it cannot have ended as it did.
func (m *Model) Step(state string, in Input, out Output) []string {
	if in.Kind == AddLease && (out.Class == Failed || out.Class == NotFound && m.open(state).ended(in.Lease)) {
		// Beside the end of the lease the key counts as one that a lease let go.
		w := m.open(state)
		w.snapshot(in.Key)[atLeased] = 1
		if w.image(in.Key) {
			w.snapshot(in.Key)[atGhosts] = 1 // whoever looked at it meanwhile borrowed it
		}
		return one(w)
	}
	switch out.Class {
	case Failed:
		if in.Kind == Untag {
			return append(m.apply(state, in, Output{}, true), state)
		}
		states := []string{m.haunted(state, in)}
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
		return append([]string{m.haunted(state, in)}, m.apply(state, in, out, true)...)
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
			return is(in.On != None && w.kind(in.On) != 0 && w.kind(in.On) != Committed)
		case Exists:
			if w.kind(in.Key) == 0 {
				return nil
			}
			return []string{m.haunted(state, in)}
		}
		if !w.vanish(in.Key) {
			return nil
		}
		var states []string
		for _, w := range w.pinned(in.On) {
			s := w.snapshot(in.Key)
			s[atKind] = Active
			if in.Kind == View {
				s[atKind] = ViewOf
			}
			s[atParent], s[atLabels], s[atLabels+1] = byte(in.On+1), in.Labels[0], in.Labels[1]
			if in.Kind == View && in.Handle != None {
				w.take(in.Handle, in.Key)
			}
			states = append(states, string(w.b))
		}
		return states
	case Commit:
		switch out.Class {
		case NotFound:
			return absent(in.Key)
		case Precondition:
			return is(w.kind(in.Key) != 0 && w.kind(in.Key) != Active)
		case Exists:
			return is(w.kind(in.On) != 0)
		}
		if !w.vanish(in.On) || w.kind(in.Key) != Active {
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
		if in.Walk && w.image(in.Key) {
			return w.walked(in, out)
		}
		if out.Class == NotFound {
			return absent(in.Key)
		}
		if w.told(in.Key) == out.Snapshot || w.letGo(in.Key) && w.told(in.Key) == out.Snapshot {
			return one(w)
		}
		return nil
	case Update:
		switch out.Class {
		case NotFound:
			return absent(in.Key)
		case Precondition: // nobody borrows it
			if w.letGo(in.Key) && w.lent(in.Key) {
				return one(w)
			}
			return nil
		}
		all := []work{w}
		if again := m.open(state); again.image(in.Key) && (assumed || out.Beside || again.snapshot(in.Key)[atGhosts] != 0) && again.letGo(in.Key) {
			again.borrow(in.Key) // which somebody did
			all = append(all, again)
		}
		var states []string
		for _, w := range all {
			s := w.snapshot(in.Key)
			if s[atKind] == 0 {
				continue
			}
			s[atLabels] = in.Labels[0]
			if in.Whole {
				s[atLabels+1] = in.Labels[1]
			}
			if assumed || w.told(in.Key) == out.Snapshot {
				states = append(states, string(w.b))
			}
		}
		return states
	case Usage:
		if out.Class == NotFound {
			return absent(in.Key)
		}
		return is(w.kind(in.Key) != 0)
	case Mounts:
		switch kind := w.kind(in.Key); out.Class {
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
		if late := m.open(state); late.snapshot(in.Key)[atKind] != 0 && late.letGo(in.Key) {
			all = append(all, late)
		}
		var states []string
		for _, w := range all {
			for _, w := range w.leased(in.Key, out.Beside || assumed) {
				s := w.snapshot(in.Key)
				setLeases(s, leases(s)|1<<in.Lease)
				if out.Lapsed && w.image(in.Key) {
					s[atGhosts] = 1 // it may be borrowed later, when no lease names it any more
				}
				states = append(states, string(w.b))
			}
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
			return is(m.Leased || w.kind(in.Key) != 0 && (w.children(in.Key) || out.Beside || x[atGhosts] != 0))
		}
		if m.Leased || w.kind(in.Key) == 0 || !w.letGoChildren(in.Key) {
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
			return is(w.kind(in.Key) != 0 && w.kind(in.Key) != Committed)
		}
		if w.kind(in.Key) != Committed {
			return nil
		}
		if assumed {
			return is(true)
		}
		if s[atKind] != Committed { // that of the image
			return is(out.Layer == ImageLayer && out.Depth == 1)
		}
		if out.Depth != w.depth(in.Key) || s[atLayer] != 0 && s[atLayer] != out.Layer {
			return nil
		}
		s[atLayer] = out.Layer
		return one(w)
	case Untag:
		if w.b[atImage] == tagged {
			w.b[atImage] = untagged
		}
		return one(w)
	case Restart:
		for k := range int8(m.Keys) {
			if w.snapshot(k)[atKind] != 0 && m.Leased {
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
