package engine

// Directories of snapshots that may have lost something are looked into one by one, and
// made whole or given up.

import (
	"errors"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/persist"
)

// mend looks into the directories of the suspects, those of parents before those of
// their children, and makes whole what can be.
func (r *recovery) mend(suspects []string) {
	r.progress.stage("looking into directories", len(suspects))
	creating, open := setOf(r.creating), setOf(suspects)
	for _, key := range suspects {
		var line []string // from key down to its lowest suspect parent
		for k := key; open[k]; k = r.body(k).parent {
			delete(open, k)
			line = append(line, k)
		}
		for i := len(line) - 1; i >= 0; i-- {
			r.mendOne(line[i], creating[line[i]])
			r.progress.step()
		}
	}
}

var errParentLost = errors.New("its parent is lost")

func (r *recovery) mendOne(key string, marked bool) {
	s := r.e.keys.Load(key)
	b := s.body
	if !b.owned() || s.phase != present {
		return
	}
	changed, err := r.restore(b)
	switch {
	case err == nil:
		if changed {
			r.touched = b.graphID
			r.restored++
		}
		if marked {
			r.writes = append(r.writes, persist.Put(b.record(key)))
		}
		return
	case errors.Is(err, errParentLost):
		// It is looked into when the parent is there again.
	case !errdefs.IsNotFound(err):
		log.G(r.ctx).WithError(err).WithField("key", key).WithField("graphID", b.graphID).Error("the directory of a snapshot could not be looked into; there is no such snapshot until the next start")
	case b.kind == snapshots.KindCommitted:
		log.G(r.ctx).WithField("key", key).WithField("graphID", b.graphID).Error("the directory of a committed snapshot is lost, and the snapshot with it; there is no such snapshot any more, nor those on top of it")
	default:
		if err := r.makeAnew(b); err != nil {
			log.G(r.ctx).WithError(err).WithField("key", key).WithField("graphID", b.graphID).Error("the directory of a snapshot is lost and could not be made anew; there is no such snapshot until the next start")
			break
		}
		r.touched = b.graphID
		r.anew++
		if marked {
			r.writes = append(r.writes, persist.Put(b.record(key)))
		}
		return
	}
	s.phase = lost
	r.gone++
	if b.kind == snapshots.KindCommitted && !marked && !r.missing[b.graphID] {
		rec := b.record(key)
		rec.Creating = true
		r.writes = append(r.writes, persist.Put(rec))
	}
}

// restore has the driver make the directory whole, if there is one and it has a
// parent to stand on.
func (r *recovery) restore(b *body) (changed bool, err error) {
	on, err := r.below(b)
	if err != nil {
		return false, err
	}
	if r.missing[b.graphID] {
		return false, errdefs.ErrNotFound
	}
	err = protect("Restore", b.graphID, func() (err error) {
		changed, err = r.e.driver.Restore(b.graphID, on)
		return err
	})
	return changed, err
}

// below returns the graph ID of the parent's directory, "" for none.
func (r *recovery) below(b *body) (string, error) {
	if b.parent == "" {
		return "", nil
	}
	p := r.e.keys.Load(b.parent)
	if p == nil || p.body == nil || p.phase != present {
		return "", errParentLost
	}
	return p.body.graphID, nil
}

// makeAnew makes an empty directory in place of one that is lost, of which parts
// may be left.
func (r *recovery) makeAnew(b *body) error {
	on, err := r.below(b)
	if err != nil {
		return err
	}
	if !r.missing[b.graphID] || r.linked[b.graphID] {
		if err := protect("Remove", b.graphID, func() error { return r.e.driver.Remove(b.graphID) }); err != nil {
			return err
		}
	}
	return protect("Create", b.graphID, func() error { return r.e.driver.Create(b.graphID, on) })
}

// hideChildren makes what stands on a lost snapshot lost too.
func (r *recovery) hideChildren() {
	if r.gone == 0 {
		return
	}
	hidden := map[string]bool{} // whether a key is lost, where that is known
	for _, f := range r.found {
		var line []string
		isLost := false
		for k := f.key; ; {
			known := false
			if isLost, known = hidden[k]; known {
				break
			}
			line = append(line, k)
			hidden[k] = false // ends the walk of parents that go round in a circle
			s := r.e.keys.Load(k)
			if s == nil || s.body == nil {
				break
			}
			if isLost = s.phase == lost; isLost || !s.body.pins() {
				break
			}
			k = s.body.parent
		}
		for _, k := range line {
			hidden[k] = isLost
			if s := r.e.keys.Load(k); isLost && s != nil && s.phase == present {
				s.phase = lost
				r.gone++
			}
		}
	}
}
