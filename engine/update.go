package engine

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/actors"
	"github.com/graphsnap/graphsnap/persist"
)

// Update changes the labels of info.Name and returns what is known of it then.
// Without field paths, or with "labels", its labels become those of info; with
// "labels.x" only x does. A label that is empty or missing in info goes. Update
// returns when the change is durable.
//
// Errors: ErrInvalidArgument for any other path, a label too long or a key that
// cannot be; ErrNotFound; ErrFailedPrecondition for a layer of the layer store that no
// lease names and nothing stands on; ErrUnavailable after Close or where the database is;
// the cause of ctx. After an error nothing has changed, unless the error is
// persist.ErrIndeterminate.
func (e *Engine) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	b, err := e.update(ctx, info, paths)
	if err != nil {
		return snapshots.Info{}, fmt.Errorf("update %q: %w", abridged(info.Name), err)
	}
	return b.info(info.Name), nil
}

func (e *Engine) update(ctx context.Context, info snapshots.Info, paths []string) (*body, error) {
	if err := checkKey("key", info.Name); err != nil {
		return nil, err
	}
	change, err := labelChange(info.Labels, paths)
	if err != nil {
		return nil, err
	}
	if !e.gate.Enter() {
		return nil, errClosed
	}
	defer e.gate.Leave()
	b, err := actors.Ask(ctx, e.keys, info.Name, &update{question: question[*body]{e: e}, ctx: ctx, change: change})
	if err != nil {
		return nil, e.errUnborrowed(info.Name, err)
	}
	return b, nil
}

// change says which labels become what. A label with an empty value goes.
type change struct {
	whole bool // all other labels go
	set   map[string]string
}

func labelChange(wanted map[string]string, paths []string) (change, error) {
	c := change{whole: len(paths) == 0, set: map[string]string{}}
	for _, path := range paths {
		key, one := strings.CutPrefix(path, "labels.")
		switch {
		case path == "labels":
			c.whole = true
		case one && key != "":
			c.set[key] = wanted[key]
		default:
			return change{}, fmt.Errorf("field %q cannot be updated: %w", path, errdefs.ErrInvalidArgument)
		}
	}
	if c.whole {
		c.set = maps.Clone(wanted)
	}
	for k, v := range c.set {
		if err := labels.Validate(k, v); err != nil {
			return change{}, err
		}
	}
	return c, nil
}

func (c change) apply(old map[string]string) map[string]string {
	labels := map[string]string{}
	if !c.whole {
		maps.Copy(labels, old)
	}
	maps.Copy(labels, c.set)
	maps.DeleteFunc(labels, func(_, v string) bool { return v == "" })
	if len(labels) == 0 {
		return nil
	}
	return labels
}

// update changes the labels.
type update struct {
	question[*body]
	ctx    context.Context // of the caller, ends the wait for room in the write queue
	change change
}

func (m *update) Handle(o *owner) {
	s := *o.Value().plain()
	if s.own() == nil {
		m.Fail(errNotFound(o.Key()))
		return
	}
	b := *s.body
	b.labels = m.change.apply(b.labels)
	b.updated = time.Now().UnixNano()
	if err := m.e.db.Write(m.ctx, persist.Put(b.record(o.Key()))); err != nil {
		m.Fail(err)
		return
	}
	s.body = &b
	m.e.publish(o, s)
	m.Answer(&b)
}
