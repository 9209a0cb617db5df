package engine

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/mounts"
)

// Mounts returns how to mount the active snapshot or view key. It mounts nothing
// and does not block.
//
// Errors: ErrNotFound, ErrFailedPrecondition for a committed snapshot,
// ErrUnavailable after Close.
func (e *Engine) Mounts(ctx context.Context, key string) (*Mountable, error) {
	b, err := e.lookup(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("mounts: %w", err)
	}
	if b.kind == snapshots.KindCommitted {
		return nil, fmt.Errorf("mounts of %q: a committed snapshot is mounted through a view: %w", key, errdefs.ErrFailedPrecondition)
	}
	return e.mountable(key, b), nil
}

func (e *Engine) mountable(key string, b *body) *Mountable {
	return &Mountable{e: e, key: key, body: b}
}

// Mountable is how to mount what a key named when Mounts or View returned it. It
// belongs to that directory, not to the key: that of an active snapshot still
// mounts it writable after a Commit gave it a name.
type Mountable struct {
	e    *Engine
	key  string
	body *body
}

// Mount takes a hold, for which the driver mounts the directory where it is not
// mounted yet, and returns a bind of it, read-only for a view, with the function
// that ends the hold. Where the driver leaves the mounting to those who hold the
// directory it returns what they are to mount, and to unmount before they release. A
// removal for want of a lease waits for all holds, Remove deletes the directory when
// the last has ended. Mount blocks while the driver mounts or unmounts the directory.
// Releasing twice releases once.
//
// Errors: ErrNotFound where the snapshot is gone, ErrUnavailable after Close and where
// its removal is in doubt, the driver's.
func (m *Mountable) Mount() (_ []mount.Mount, release func() error, err error) {
	return m.mount(m.body.kind != snapshots.KindView)
}

// mount is Mount with a hold that counts as one of a writer or not.
func (m *Mountable) mount(writer bool) (_ []mount.Mount, release func() error, err error) {
	e := m.e
	if !e.gate.Enter() {
		return nil, nil, fmt.Errorf("mount %q: %w", m.key, errClosed)
	}
	defer e.gate.Leave()

	view := m.body.kind == snapshots.KindView
	if view {
		if _, err := actors.Ask(e.ctx, e.keys, m.key, &hold{question[done]{e: e}, m.body}); err != nil {
			return nil, nil, fmt.Errorf("mount: %w", err)
		}
	}
	taken := false
	defer func() {
		if !taken {
			m.unhold()
		}
	}()
	h, err := e.mounts.Acquire(e.ctx, m.body.graphID, writer)
	if removed := m.body.removal.err(m.key); removed != nil {
		// What was mounted, if anything, is a snapshot that came to bear the same
		// graph ID afterwards, or what the next start may delete. One that is held is
		// not removed.
		if err == nil {
			_ = h.Release()
		}
		return nil, nil, fmt.Errorf("mount: %w", removed)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("mount %q: %w", m.key, err)
	}
	how, err := e.described(h, m.body.graphID, view)
	if err != nil {
		_ = h.Release()
		return nil, nil, fmt.Errorf("mount %q: %w", m.key, err)
	}
	taken = true

	release = sync.OnceValue(func() error {
		defer m.unhold()
		return h.Release()
	})
	return how, release, nil
}

// described returns how to mount what h holds: a bind of what the driver mounted, or
// what the driver leaves to the holders.
func (e *Engine) described(h *mounts.Hold, graphID string, readonly bool) (how []mount.Mount, err error) {
	if h.Dir() == "" {
		err := protect("Describe", graphID, func() (err error) {
			how, err = e.driver.Describe(graphID, readonly)
			return err
		})
		return how, err
	}
	options := []string{"rbind"}
	if readonly {
		options = append(options, "ro")
	}
	return []mount.Mount{{Type: "bind", Source: h.Dir(), Options: options}}, nil
}

// unhold undoes the hold of a view. Holds of directories are counted by the table
// of mounts alone.
func (m *Mountable) unhold() {
	if m.body.kind == snapshots.KindView {
		m.e.keys.Owe(m.key, &unhold{question[done]{e: m.e}, m.body})
	}
}
