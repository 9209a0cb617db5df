package engine

import (
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// dispose lets go of what a snapshot stood on whose removal is durable: the layer
// that it was, which takes the directory along if it has the same, or the
// directory.
func (e *Engine) dispose(b *body) {
	var released error
	if b.layer != nil {
		released = e.releaseLayer(b.layer)
	}
	switch {
	case !b.owned():
	case released == nil && b.layer != nil && b.layer.GraphID() == b.graphID:
		e.forgetDirectory(b.graphID)
	default:
		// Also where a layer took leave of the layer store without its directory.
		if err := e.deleteDirectory(b.graphID); err != nil {
			log.G(e.ctx).WithError(err).WithField("graphID", b.graphID).Warn("the directory of a removed snapshot could not be deleted yet")
			e.reaper.retry(b.graphID)
		}
	}
}

// deleteDirectory has the driver delete a directory of which the removal is
// durable, and frees its graph ID.
//
// A directory that became a layer's before the process died is the layer store's
// to delete, as soon as nobody has a reference. The one that the dead process had
// is taken again for that.
func (e *Engine) deleteDirectory(graphID string) error {
	if e.layers != nil {
		if l := e.layers.Find(graphID); l != nil {
			l, err := e.layers.Get(l.ChainID())
			if err == nil {
				err = e.releaseLayer(l)
			}
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			e.forgetDirectory(graphID)
			return nil
		}
	}
	if err := protect("Remove", graphID, func() error { return e.driver.Remove(graphID) }); err != nil {
		return err
	}
	e.forgetDirectory(graphID)
	return nil
}

// forgetDirectory ends a removal.
func (e *Engine) forgetDirectory(graphID string) {
	// In this order: whoever takes the graph ID anew writes its record after the
	// end of the removal was queued.
	e.db.Later(persist.Removed(graphID))
	if e.layers != nil && e.layers.Find(graphID) != nil {
		// It is that of a layer still, and may be mounted by who views that.
		e.mounts.Unseal(graphID)
	} else {
		e.mounts.Forget(graphID)
	}
	e.graphIDs.Free(graphID)
}
