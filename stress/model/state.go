package model

import (
	"fmt"
	"strings"
)

// A state is a string, so that it is immutable and compares fast: two bytes of
// leases that ended, one of the image, then for each key and each handle its fields.
const (
	header = 3
	width  = 9
	wide   = 2

	atKind   = 0
	atParent = 1 // plus one, 0 for none
	atLeased = 2 // a lease ended that named it, or its creation failed and is undone
	atLeases = 3 // two bytes
	atLabels = 5 // two bytes
	atLayer  = 8 // that it was said to be
	atGhosts = 7 // a snapshot on top of it was removed, or never came to be, and may count still

	atTarget = 0 // key plus one of what the handle belongs to, 0 when that is gone
	atHolds  = 1
)

// MaxLeases is how many leases a family may have.
const MaxLeases = 16

// Initial is the state without snapshots, in which the image has its layer.
func (m *Model) Initial() string {
	b := make([]byte, header+m.Keys*width+m.Handles*wide)
	if m.Image {
		b[atImage] = tagged
	}
	return string(b)
}

// work is a state that is being changed.
type work struct {
	m *Model
	b []byte
}

func (m *Model) open(s string) work { return work{m, []byte(s)} }

func (w work) snapshot(k int8) []byte { return w.b[header+int(k)*width:][:width] }
func (w work) handle(h int8) []byte   { return w.b[header+w.m.Keys*width+int(h)*wide:][:wide] }
func (w work) ended(l int8) bool      { return w.b[l/8]&(1<<(l%8)) != 0 }

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
	s[atKind], s[atParent], s[atLabels], s[atLabels+1], s[atLayer] = 0, 0, 0, 0, 0
	if !w.image(k) { // another borrowing of it may be under way
		s[atGhosts] = 0
	}
	if !w.m.Leased {
		s[atLeased] = 0
	}
	for h := range int8(w.m.Handles) {
		if x := w.handle(h); x[atTarget] == byte(k)+1 {
			x[atTarget], x[atHolds] = 0, 0
		}
	}
}

// vanish makes the key absent: the snapshot goes, and with it the layer that the key
// may be of. It answers whether that may have happened. Where it may not, w is spoilt.
func (w work) vanish(k int8) bool { return w.letGo(k) && w.unlend(k) }

// letGo makes the snapshot, and before it its children, go for want of a lease, and
// answers as vanish does.
func (w work) letGo(k int8) bool {
	s := w.snapshot(k)
	if s[atKind] == 0 {
		return true
	}
	if s[atLeased] == 0 || leases(s) != 0 || w.m.Leased && w.held(k) {
		return false
	}
	if !w.letGoChildren(k) {
		return false
	}
	w.drop(k)
	return true
}

func (w work) letGoChildren(k int8) bool {
	for c := range int8(w.m.Keys) {
		if x := w.snapshot(c); x[atKind] != 0 && x[atParent] == byte(k)+1 && !w.letGo(c) {
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

// take makes the handle belong to what k names. It is not mounted.
func (w work) take(h, k int8) {
	x := w.handle(h)
	x[atTarget], x[atHolds] = byte(k)+1, 0
}

func (w work) told(k int8) Snapshot {
	s, kind := w.snapshot(k), w.kind(k)
	if kind == 0 {
		return Snapshot{}
	}
	return Snapshot{Kind: kind, Parent: int8(s[atParent]) - 1, Labels: [2]byte{s[atLabels], s[atLabels+1]}}
}

// DescribeState writes a state on one line.
func (m *Model) DescribeState(state string) string {
	w := m.open(state)
	var parts []string
	if m.Image {
		parts = append(parts, [...]string{"no image", "image", "image without a tag"}[w.b[atImage]])
	}
	for k := range int8(m.Keys) {
		s := w.snapshot(k)
		if s[atKind] == 0 && leases(s) == 0 {
			continue
		}
		t := w.told(k)
		p := fmt.Sprintf("k%d %s on %s labels %d %d leases %b", k, [...]string{"absent", "active", "view", "committed", "borrowed"}[s[atKind]], key(t.Parent), t.Labels[0], t.Labels[1], leases(s))
		if w.held(k) {
			p += " held"
		}
		parts = append(parts, p)
	}
	return strings.Join(parts, "; ")
}
