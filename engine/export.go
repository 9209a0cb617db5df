package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// EnsureLayer makes the committed snapshot key, and all that it stands on, layers
// of the layer store, and returns that of key. Layers of a chain are computed at
// the same time, bounded by WithScanParallelism; callers that want the same
// snapshot share the work, which ends when no caller's ctx is left. What was
// registered before a failure need not be computed again.
//
// It waits while a mount is held that the snapshot could be written through.
//
// Errors: ErrNotFound, ErrFailedPrecondition for what is not committed or where
// there is no layer store, ErrUnavailable after Close or where the database is,
// those of the driver and the layer store, the cause of ctx.
func (e *Engine) EnsureLayer(ctx context.Context, key string) (Layer, error) {
	l, err := e.ensureLayer(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("make a layer of %q: %w", abridged(key), err)
	}
	return l, nil
}

func (e *Engine) ensureLayer(ctx context.Context, key string) (Layer, error) {
	b, err := e.lookup(ctx, key)
	switch {
	case err != nil:
		return nil, err
	case b.layer != nil:
		return b.layer, nil
	case e.layers == nil:
		return nil, fmt.Errorf("there is no layer store: %w", errdefs.ErrFailedPrecondition)
	case b.kind != snapshots.KindCommitted:
		return nil, fmt.Errorf("it is not committed: %w", errdefs.ErrFailedPrecondition)
	}
	l, _, err := e.exporting.Do(ctx, b.serial, func(ctx context.Context) (Layer, error) {
		return e.export(ctx, key)
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return l, err
}

// export is the saga: pin the snapshot, compute its layer while that of the parent
// is ensured, make the intent to register durable, register, tell the owner.
func (e *Engine) export(ctx context.Context, key string) (layer Layer, err error) {
	if !e.gate.Enter() {
		return nil, errClosed
	}
	defer e.gate.Leave()
	ctx, cancel := e.untilClose(ctx)
	defer cancel(nil)

	b, err := actors.Ask(ctx, e.keys, key, &pin{question[*body]{e: e}})
	if err != nil {
		return nil, err
	}
	defer e.unpin(key)
	if b.layer != nil {
		return b.layer, nil
	}
	work, err := os.MkdirTemp(e.workDir(), "layer-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)

	x := &exportee{graphID: b.graphID, tarSplit: filepath.Join(work, "tar-split")}
	if b.parent != "" {
		p := e.keys.Load(b.parent).visible()
		if p == nil {
			return nil, fmt.Errorf("parent: %w", errNotFound(b.parent))
		}
		x.parent = p.graphID
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		x.sum, err = e.checksum(gctx, x.graphID, x.parent, x.tarSplit)
		return err
	})
	if b.parent != "" {
		g.Go(func() (err error) {
			x.on, err = e.EnsureLayer(gctx, b.parent)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}

	if _, err := actors.Ask(ctx, e.keys, key, &exporting{question[done]{e: e}, ctx, x.chainID()}); err != nil {
		return nil, err
	}
	var l Layer
	defer func() { // whatever came of it, the owner learns
		published, told := actors.AskOwed(e.keys, key, &exported{question[Layer]{e: e}, l})
		if told == nil && l != nil && published != l {
			// Work that its callers had left came to an end all the same.
			_ = e.releaseLayer(l)
			layer = published
		}
	}()
	l, err = e.register(ctx, x)
	return l, err
}

// exportee is a directory on its way to become a layer.
type exportee struct {
	graphID  string
	parent   string // graph ID of the directory that it is built on, "" for none
	sum      Checksum
	tarSplit string // the file
	on       Layer  // that of the parent, nil for none
}

func (x *exportee) parentChainID() string {
	if x.on == nil {
		return ""
	}
	return x.on.ChainID()
}

func (x *exportee) chainID() string {
	if on := x.parentChainID(); on != "" {
		return digest.FromString(on + " " + x.sum.DiffID).String()
	}
	return x.sum.DiffID
}

// register makes a layer of a directory, or of a copy where that is built on
// another directory than that of the parent's layer. Such a parent has the same
// contents as a layer that was there before. Its directory goes with its record,
// while the layer store keeps a layer of an image, and what that stands on, for
// longer: a directory that is built on one of ours must not be part of it.
func (e *Engine) register(ctx context.Context, x *exportee) (Layer, error) {
	if x.on == nil || x.on.GraphID() == x.parent {
		return e.registerDirectory(x.graphID, x)
	}
	l, err := e.layers.Get(x.chainID())
	if err == nil || !errdefs.IsNotFound(err) {
		return l, err
	}
	id := e.takeGraphID("")
	// Durable before there is anything: until the copy is that of a layer it is to
	// be deleted. What Open does about it leaves a layer alone that is needed.
	if err := e.db.Write(ctx, persist.Removing(id)); err != nil {
		if !errors.Is(err, persist.ErrIndeterminate) {
			e.graphIDs.Free(id)
		}
		return nil, err
	}
	defer func() {
		if err == nil && l.GraphID() == id {
			e.forgetDirectory(id)
		} else if err := e.deleteDirectory(id); err != nil {
			log.G(ctx).WithError(err).WithField("graphID", id).Warn("the copy of a directory could not be deleted yet")
			e.reaper.retry(id)
		}
	}()
	err = e.driverSlot(ctx, "Create", id, func() error { return e.driver.Create(id, x.on.GraphID()) })
	if err != nil {
		return nil, err
	}
	if err = e.scans.Acquire(ctx, 1); err != nil {
		return nil, context.Cause(ctx)
	}
	err = protect("Copy of the layer store", x.graphID, func() error {
		return e.layers.Copy(ctx, x.graphID, x.parent, id, x.on.GraphID())
	})
	e.scans.Release(1)
	if err != nil {
		return nil, err
	}
	l, err = e.registerDirectory(id, x)
	return l, err
}

func (e *Engine) registerDirectory(graphID string, x *exportee) (l Layer, err error) {
	err = protect("Register of the layer store", graphID, func() (err error) {
		l, err = e.layers.Register(graphID, x.parentChainID(), x.sum, x.tarSplit)
		return err
	})
	return l, err
}

// checksum computes a layer when nobody can write to it any more. BuildKit commits
// what a process that is about to end has mounted.
func (e *Engine) checksum(ctx context.Context, graphID, parent, tarSplit string) (sum Checksum, err error) {
	for {
		epoch, err := e.awaitWriters(ctx, graphID)
		if err != nil {
			return sum, err
		}
		// Not while it waits: who holds the mount may need a scan to end.
		if err := e.scans.Acquire(ctx, 1); err != nil {
			return sum, context.Cause(ctx)
		}
		err = protect("Checksum of the layer store", graphID, func() (err error) {
			sum, err = e.layers.Checksum(ctx, graphID, parent, tarSplit)
			return err
		})
		e.scans.Release(1)
		if err != nil {
			return sum, err
		}
		n, now, err := e.mounts.Writers(ctx, graphID)
		if err != nil || n == 0 && now == epoch {
			return sum, err
		}
	}
}

// awaitWriters returns when no mount is held that graphID could be written through.
// It looks again and again, since that happens rarely and does not last.
func (e *Engine) awaitWriters(ctx context.Context, graphID string) (epoch uint64, err error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		n, epoch, err := e.mounts.Writers(ctx, graphID)
		if err != nil || n == 0 {
			return epoch, err
		}
		if !sleep(ctx, pause) {
			return 0, context.Cause(ctx)
		}
	}
}

// workDir holds what is of no use to another process. Open empties it.
func (e *Engine) workDir() string { return filepath.Join(e.root, "tar-split") }

func (e *Engine) emptyWorkDir() error {
	return errors.Join(os.RemoveAll(e.workDir()), os.MkdirAll(e.workDir(), 0o700))
}

// exporting makes durable which layer the directory is about to become. If the
// process dies in between, Open asks the layer store what came of it.
type exporting struct {
	question[done]
	ctx     context.Context // of the caller, ends the wait for room in the write queue
	chainID string
}

func (m *exporting) Handle(o *owner) {
	s := *o.Value().plain()
	switch {
	case s.own() == nil:
		m.Fail(errNotFound(o.Key()))
		return
	case s.body.layer != nil:
		m.Answer(done{}) // registered already, by work that its callers had left
		return
	}
	b := *s.body
	b.chainID = m.chainID
	if err := m.e.db.Write(m.ctx, persist.Put(b.record(o.Key()))); err != nil {
		m.Fail(err)
		return
	}
	s.body = &b // so that whatever else is recorded of it says so too
	m.e.publish(o, s)
	m.Answer(done{})
}

// exported publishes the layer, with its reference, or takes the intent back where
// there is none. It answers the layer that the snapshot is then, which may have been
// there already, with a reference of its own. The snapshot is there: the saga pins
// it.
type exported struct {
	question[Layer]
	layer Layer
}

func (m *exported) Handle(o *owner) {
	s := *o.Value().plain()
	if s.body.layer != nil {
		m.Answer(s.body.layer)
		return
	}
	b := *s.body
	b.layer = m.layer
	chainID := ""
	if m.layer != nil {
		chainID = m.layer.ChainID()
	}
	if b.chainID != chainID {
		// Nothing came of the intent; or something did, after work that its callers
		// had left took the intent back.
		b.chainID = chainID
		m.e.db.Later(persist.Put(b.record(o.Key())))
	}
	s.body = &b
	m.e.publish(o, s)
	m.Answer(b.layer)
}
