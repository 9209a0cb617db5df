package persist

// A Record and its encoding. The encoding is used in two places: whole, for a
// record in a bucket of our own, and in part, for what dockerd's fields beside it
// do not say. It is versioned and rejects what it does not understand.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Kind says what sort of snapshot a record describes.
type Kind uint8

const (
	_         Kind = iota
	Active         // writable, made by Prepare
	View           // read-only on its parent
	Committed      // a name, immutable
	Borrowed       // a layer of the layer store, its key is the chain ID
)

func (k Kind) String() string {
	switch k {
	case Active:
		return "active"
	case View:
		return "view"
	case Committed:
		return "committed"
	case Borrowed:
		return "borrowed"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Record is what is persisted of one snapshot.
type Record struct {
	Key     string // the key or the name it is known by
	Parent  string // key of the parent, "" for none
	GraphID string // "" where it has no directory of its own
	ChainID string // of the layer made of a committed snapshot, "" for none
	Kind    Kind

	// Creating is an intent: the directory may be missing or half made.
	Creating bool

	// Measured says that Size (bytes) and Inodes are its usage. They are kept of
	// committed records only, since those of others change. Inodes is -1 where
	// dockerd measured, which counts no inodes.
	Measured     bool
	Size, Inodes int64

	// Created and Updated are Unix nanoseconds, 0 in records that dockerd wrote.
	Created, Updated int64

	// Labels must not be changed once the record was handed to Write or Later.
	Labels map[string]string
}

// Removal is an intent: the directory of GraphID is to be deleted and no record
// names it any more.
type Removal struct{ GraphID string }

// The encoding is a version byte, a byte of flags, and in this order what the
// flags announce. Integers are varints, strings are preceded by their length.
const encodingVersion = 1

// part is a set of flags: it says what an encoding holds.
type part byte

const (
	partCreating part = 1 << iota
	partUsage
	partTimes
	partLabels
	partKind
	partParent
	partGraphID
	partChainID

	// partWhole asks for what dockerd's fields would say, were there any.
	partWhole = partKind | partParent | partGraphID | partChainID
)

// encode appends r to buf: what dockerd has no field for, and of the parts in
// also those that are not empty.
func (r *Record) encode(buf []byte, also part) []byte {
	has := also & partKind
	if r.Creating {
		has |= partCreating
	}
	if r.Kind == Committed && r.Measured {
		has |= partUsage
	}
	if r.Created != 0 || r.Updated != 0 {
		has |= partTimes
	}
	if len(r.Labels) > 0 {
		has |= partLabels
	}
	if r.Parent != "" {
		has |= also & partParent
	}
	if r.GraphID != "" {
		has |= also & partGraphID
	}
	if r.ChainID != "" {
		has |= also & partChainID
	}

	buf = append(buf, encodingVersion, byte(has))
	if has&partUsage != 0 {
		buf = binary.AppendVarint(buf, r.Size)
		buf = binary.AppendVarint(buf, r.Inodes)
	}
	if has&partTimes != 0 {
		buf = binary.AppendVarint(buf, r.Created)
		buf = binary.AppendVarint(buf, r.Updated-r.Created)
	}
	if has&partLabels != 0 {
		buf = binary.AppendUvarint(buf, uint64(len(r.Labels)))
		if len(r.Labels) == 1 {
			for k, v := range r.Labels {
				buf = appendString(appendString(buf, k), v)
			}
		} else { // sorted, so that equal records are equal bytes
			for _, k := range slices.Sorted(maps.Keys(r.Labels)) {
				buf = appendString(appendString(buf, k), r.Labels[k])
			}
		}
	}
	if has&partKind != 0 {
		buf = append(buf, byte(r.Kind))
	}
	if has&partParent != 0 {
		buf = appendString(buf, r.Parent)
	}
	if has&partGraphID != 0 {
		buf = appendString(buf, r.GraphID)
	}
	if has&partChainID != 0 {
		buf = appendString(buf, r.ChainID)
	}
	return buf
}

func appendString(buf []byte, s string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(s))), s...)
}

// decode sets the fields of r that b holds and leaves the others. On error r is
// half set.
func (r *Record) decode(b []byte) error {
	if len(b) < 2 {
		return errors.New("record is cut off")
	}
	if b[0] != encodingVersion {
		return fmt.Errorf("record has version %d, this program knows %d", b[0], encodingVersion)
	}
	has := part(b[1])
	d := decoder{rest: b[2:]}

	r.Creating = has&partCreating != 0
	if has&partUsage != 0 {
		r.Measured = true
		r.Size = d.varint()
		r.Inodes = d.varint()
	}
	if has&partTimes != 0 {
		r.Created = d.varint()
		r.Updated = r.Created + d.varint()
	}
	if has&partLabels != 0 {
		n := d.uvarint()
		// A label takes two bytes at least: a count that was garbled must not
		// decide how much memory is asked for.
		if n > uint64(len(d.rest)/2) {
			return fmt.Errorf("record claims %d labels in %d bytes", n, len(d.rest))
		}
		r.Labels = make(map[string]string, n)
		for range n {
			k := d.string()
			r.Labels[k] = d.string()
		}
	}
	if has&partKind != 0 {
		r.Kind = Kind(d.byte())
		if r.Kind < Active || r.Kind > Borrowed {
			return fmt.Errorf("record has unknown %v", r.Kind)
		}
	}
	if has&partParent != 0 {
		r.Parent = d.string()
	}
	if has&partGraphID != 0 {
		r.GraphID = d.string()
	}
	if has&partChainID != 0 {
		r.ChainID = d.string()
	}
	switch {
	case d.short:
		return errors.New("record is cut off")
	case len(d.rest) > 0:
		return fmt.Errorf("record is followed by %d bytes", len(d.rest))
	}
	return nil
}

// decoder takes values off rest. After short was set they are all zero.
type decoder struct {
	rest  []byte
	short bool
}

func (d *decoder) fail() {
	d.rest, d.short = nil, true
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.rest)) {
		d.fail()
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}
