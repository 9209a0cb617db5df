package engine

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/persist"
)

// Usage returns the bytes and inodes that key takes beyond its parent. That of a
// committed snapshot is measured once and remembered; that of an active one is
// measured by every call, since it may be written to; a view of a parent takes
// nothing. Measuring reads the whole directory. It blocks while
// WithScanParallelism others are at it, is shared by callers that want the same
// committed snapshot, and ends when no caller's ctx is left.
//
// What is measured of a committed snapshot while a mount is still held that can
// be written through is not remembered.
//
// Errors: ErrNotFound, ErrInvalidArgument for a key that cannot be,
// ErrUnavailable after Close, the driver's, the cause of ctx.
func (e *Engine) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	b, err := e.lookup(ctx, key)
	if err != nil {
		return snapshots.Usage{}, fmt.Errorf("usage: %w", err)
	}
	switch {
	case b.measured:
		return b.usage, nil
	case b.borrows:
		return snapshots.Usage{}, nil
	}
	var u snapshots.Usage
	if b.kind == snapshots.KindCommitted {
		u, _, err = e.measuring.Do(ctx, b.serial, func(ctx context.Context) (snapshots.Usage, error) {
			return e.measure(ctx, key, b)
		})
	} else {
		u, err = e.measure(ctx, key, b)
	}
	if err != nil {
		if !e.closed.Load() && !e.keys.Load(key).is(b) {
			err = errNotFound(key) // and what failed was reading a directory that was being deleted
		}
		return snapshots.Usage{}, fmt.Errorf("usage of %q: %w", key, err)
	}
	return u, nil
}

// measure has the driver measure b and, where that will be true for good, tells
// the owner.
func (e *Engine) measure(ctx context.Context, key string, b *body) (snapshots.Usage, error) {
	if !e.gate.Enter() {
		return snapshots.Usage{}, errClosed
	}
	defer e.gate.Leave()
	ctx, cancel := e.untilClose(ctx)
	defer cancel(nil)

	var parent string
	if b.parent != "" {
		p := e.keys.Load(b.parent).visible()
		if p == nil {
			return snapshots.Usage{}, fmt.Errorf("parent: %w", errNotFound(b.parent))
		}
		parent = p.graphID
	}
	if err := e.scans.Acquire(ctx, 1); err != nil {
		return snapshots.Usage{}, context.Cause(ctx)
	}
	defer e.scans.Release(1)

	writers, epoch, err := e.mounts.Writers(ctx, b.graphID)
	if err != nil {
		return snapshots.Usage{}, err
	}
	var u snapshots.Usage
	err = protect("Usage", b.graphID, func() (err error) {
		u, err = e.driver.Usage(ctx, b.graphID, parent)
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return snapshots.Usage{}, err
	}
	if b.kind == snapshots.KindCommitted && writers == 0 {
		n, now, err := e.mounts.Writers(ctx, b.graphID)
		if err == nil && n == 0 && now == epoch {
			e.keys.Owe(key, &measured{question[done]{e: e}, b, u})
		}
	}
	return u, nil
}

// measured is the result of a measurement that will be true for good.
type measured struct {
	question[done]
	body  *body
	usage snapshots.Usage
}

func (m *measured) Handle(o *owner) {
	s := *o.Value().plain()
	if own := s.own(); own != nil && own.serial == m.body.serial && !own.measured {
		b := *s.body
		b.measured, b.usage = true, m.usage
		m.e.db.Later(persist.Put(b.record(o.Key())))
		s.body = &b
		m.e.publish(o, s)
	}
	m.Answer(done{})
}
