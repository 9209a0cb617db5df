package model

// The last key of a family with an image is the chain ID of a layer that the layer store
// has, as long as the image is tagged and for as long as something else needs it. Then it
// is a committed snapshot, though no lease names it: to Stat, as a parent, and to whoever
// would take the key. The engine borrows it only where a lease names it or a snapshot
// stands on it: holds a reference, has a record and, with that, labels. Where it lets go
// again these are gone, and the layer goes unless somebody else has it.
//
// As a snapshot that nothing wants, so a layer that the image let go of is there until
// an operation can only be explained by its absence. It does not come back.

// What the image has to do with its layer.
const (
	atImage = 2 // in the header

	gone     = 0 // the layer store does not have the layer
	tagged   = 1
	untagged = 2 // it has it for as long as others need it
)

// borrowed is the kind of the snapshot that the layer is when the engine borrows it.
const borrowed = Committed + 1

// ImageLayer is the layer that the layer of the image is said to be.
const ImageLayer = 1

// IsImage tells whether the key is the chain ID of the image's layer.
func (m *Model) IsImage(k int8) bool { return m.Image && int(k) == m.Keys-1 }

func (w work) image(k int8) bool { return w.m.IsImage(k) }

// lent tells whether the key is that of a layer and not of a snapshot.
func (w work) lent(k int8) bool {
	return w.image(k) && w.b[atImage] != gone && w.snapshot(k)[atKind] == 0
}

// kind is that of the snapshot that callers see, 0 for none.
func (w work) kind(k int8) byte {
	kind := w.snapshot(k)[atKind]
	if kind == borrowed || w.lent(k) {
		return Committed
	}
	return kind
}

// unlend makes a layer that nobody borrows go, and answers whether that may have
// happened.
func (w work) unlend(k int8) bool {
	if !w.lent(k) {
		return true
	}
	if w.b[atImage] == tagged {
		return false
	}
	w.b[atImage] = gone
	return true
}

// borrow makes a snapshot of a layer that nobody borrows.
func (w work) borrow(k int8) {
	if w.lent(k) {
		s := w.snapshot(k)
		s[atKind], s[atLeased] = borrowed, 1
	}
}

// pinned returns the states in which the key is that of a committed snapshot, which
// gets a child, none where it cannot be. A layer that was let go of before is borrowed
// anew.
func (w work) pinned(k int8) []work {
	switch {
	case k == None:
		return []work{w}
	case w.kind(k) != Committed:
		return nil
	case !w.image(k) || w.snapshot(k)[atKind] == Committed:
		return []work{w}
	}
	all := []work{w}
	if again := w.m.open(string(w.b)); again.told(k).Labels != [2]byte{} && again.letGo(k) {
		all = append(all, again)
	}
	for _, w := range all {
		w.borrow(k)
	}
	return all
}

// leased returns the states in which the key may be when a lease has come to name it:
// a layer is borrowed. unheld says that that may have failed.
func (w work) leased(k int8, unheld bool) []work {
	if !w.lent(k) {
		return []work{w}
	}
	var all []work
	if unheld {
		all = append(all, w.m.open(string(w.b)))
	}
	if absent := w.m.open(string(w.b)); absent.unlend(k) {
		all = append(all, absent)
	}
	w.borrow(k)
	return append(all, w)
}

// walked is Step for a walk that looked for the image's layer: it passes what is
// borrowed.
func (w work) walked(in Input, out Output) []string {
	switch {
	case out.Class == NotFound:
		if !w.letGo(in.Key) {
			return nil
		}
	case w.lent(in.Key) && !out.Beside && w.snapshot(in.Key)[atGhosts] == 0:
		return nil
	case w.told(in.Key) != out.Snapshot:
		if !w.letGo(in.Key) || !out.Beside && w.snapshot(in.Key)[atGhosts] == 0 || w.told(in.Key) != out.Snapshot {
			return nil
		}
	}
	return one(w)
}

// haunted is the state after a creation that came to nothing. Meanwhile a layer that it
// was to stand on was borrowed, and it may be for a while.
func (m *Model) haunted(state string, in Input) string {
	w := m.open(state)
	if in.Kind != Prepare && in.Kind != View || in.On == None || !w.image(in.On) {
		return state
	}
	w.snapshot(in.On)[atGhosts] = 1
	return string(w.b)
}
