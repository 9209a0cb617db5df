package model

import (
	"fmt"
	"strings"
)

// Kind says what an operation does.
type Kind uint8

// The operations of a snapshotter with leases.
const (
	Prepare Kind = iota
	View
	Commit
	Stat
	Update
	Usage
	Mounts  // answers a handle, which belongs to what the key names now
	Mount   // of a handle
	Release // of a mount of a handle
	AddLease
	RemoveLease
	EndLease
	Remove
	Restart // all processes begin anew, with nothing mounted
	EnsureLayer
	Untag // the image lets go of its layer
)

var kinds = [...]string{"Prepare", "View", "Commit", "Stat", "Update", "Usage", "Mounts", "Mount", "Release", "AddLease", "RemoveLease", "EndLease", "Remove", "Restart", "EnsureLayer", "Untag"}

func (k Kind) String() string { return kinds[k] }

// Class is how an operation ended.
type Class uint8

// The classes of errors that tell something about the state, and those that do
// not.
const (
	OK Class = iota
	NotFound
	Exists
	Precondition
	Failed  // by a fault or a cancelled context: nothing has changed
	Unknown // it may have happened
)

var classes = [...]string{"", "not found", "already exists", "failed precondition", "fault", "outcome unknown"}

func (c Class) String() string { return classes[c] }

// None is the absent key, parent, lease or handle.
const None = -1

// Input is what was asked. Keys, leases and handles are numbers within the family.
type Input struct {
	Kind   Kind
	Key    int8
	On     int8 // the parent, or for Commit the name
	Lease  int8
	Handle int8
	Walk   bool    // Stat is a walk that looks for the key
	Whole  bool    // Update replaces all labels, otherwise the first alone
	Labels [2]byte // values, 0 for none; containerd lets a commit inherit the second
}

// Output is what was answered.
type Output struct {
	Class    Class
	Snapshot Snapshot // of Stat and Update
	Writable bool     // of Mount
	Layer    byte     // of EnsureLayer, not 0
	Depth    byte     // of EnsureLayer: the layers that it consists of
	// Beside tells of Remove, Update and a walk that a call was under way at some moment
	// of it that makes a snapshot of the key, on top of it, mounts of it, or a lease name
	// it; or that one that failed may go on. It tells of AddLease that a fault may have kept the layer
	// from being borrowed.
	Beside bool
	// Lapsed tells of AddLease that at some moment of it the lease was being ended, or the
	// key taken out of it. What names the key then goes before what borrows the layer.
	Lapsed bool
}

// Snapshot is what Stat tells.
type Snapshot struct {
	Kind   byte // 0 absent, else one of Active, ViewOf, Committed
	Parent int8
	Labels [2]byte
}

// Kinds of snapshots.
const (
	Active byte = 1 + iota
	ViewOf
	Committed
)

func key(n int8) string {
	if n == None {
		return `""`
	}
	return fmt.Sprintf("k%d", n)
}

// Describe writes an operation on one line.
func Describe(in Input, out Output) string {
	var b strings.Builder
	name := in.Kind.String()
	if in.Walk {
		name = "Walk"
	}
	fmt.Fprintf(&b, "%s(", name)
	switch in.Kind {
	case Prepare, View:
		fmt.Fprintf(&b, "%s on %s", key(in.Key), key(in.On))
	case Commit:
		fmt.Fprintf(&b, "%s as %s", key(in.Key), key(in.On))
	case Update:
		fmt.Fprintf(&b, "%s", key(in.Key))
	case Mounts:
		fmt.Fprintf(&b, "%s → h%d", key(in.Key), in.Handle)
	case Mount, Release:
		fmt.Fprintf(&b, "h%d", in.Handle)
	case AddLease, RemoveLease:
		fmt.Fprintf(&b, "l%d, %s", in.Lease, key(in.Key))
	case EndLease:
		fmt.Fprintf(&b, "l%d", in.Lease)
	case Stat, Usage, Remove, EnsureLayer, Untag:
		b.WriteString(key(in.Key))
	}
	switch in.Kind {
	case Prepare, View, Commit, Update:
		fmt.Fprintf(&b, ", labels %d %d", in.Labels[0], in.Labels[1])
		if in.Kind == Update && in.Whole {
			b.WriteString(", all")
		}
	}
	b.WriteString(")")
	if out.Class != OK {
		fmt.Fprintf(&b, ": %v", out.Class)
		return b.String()
	}
	switch in.Kind {
	case Stat, Update:
		fmt.Fprintf(&b, ": %s on %s, labels %d %d", [...]string{"absent", "active", "view", "committed"}[out.Snapshot.Kind],
			key(out.Snapshot.Parent), out.Snapshot.Labels[0], out.Snapshot.Labels[1])
	case EnsureLayer:
		fmt.Fprintf(&b, ": layer %d of %d", out.Layer, out.Depth)
	case Mount:
		if out.Writable {
			b.WriteString(": writable")
		} else {
			b.WriteString(": read-only")
		}
	}
	return b.String()
}
