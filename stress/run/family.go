package run

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// family is a set of keys that nothing else is connected with, and what is done to
// them.
type family struct {
	r       *runner
	w       *workload.Workload
	name    string
	history *history.History
	keys    []string
	numbers map[string]int8
	mu      sync.Mutex   // held while a lease is made, or a layer gets its number
	leases  atomic.Int32 // that were made
	users   []users      // of each key
	lapses  [model.MaxLeases]users
	layers  map[string]byte // numbers of layers, by their diff IDs
}

// users counts the calls that make a snapshot of a key, on top of it, or mounts of it; or
// those that end a lease or take a key out of it.
type users struct{ begun, ended atomic.Int64 }

// newFamily makes a family. Where that cannot have the image that it is to have, it is
// nil, which is a violation.
func (r *runner) newFamily(ctx context.Context, w *workload.Workload, name string) *family {
	traits := r.target.Traits()
	f := &family{r: r, w: w, name: name, numbers: map[string]int8{}, layers: map[string]byte{}, history: &history.History{Family: name, Model: &model.Model{
		Keys: w.Family, Handles: w.Group * handlesEach, Leased: traits.Leased, Keeps: traits.Keeps,
	}}}
	for k := range int8(w.Family) {
		key := fmt.Sprintf("%s.%d", name, k)
		if k%4 == 3 { // one that no graph ID can be
			key = fmt.Sprintf("%s:%d", name, k)
		}
		f.add(key)
	}
	if w.Image && !f.pull(ctx) {
		return nil
	}
	f.users = make([]users, len(f.keys))
	return f
}

func (f *family) add(key string) {
	f.numbers[key] = int8(len(f.keys))
	f.keys = append(f.keys, key)
}

// pull makes an image that has the name of the family, and its layer's chain ID a key.
func (f *family) pull(ctx context.Context) bool {
	var chainID string
	var err error
	again(func() bool {
		if f.r.enter(ctx) != nil {
			return false
		}
		defer f.r.leave()
		f.r.pulling.RLock()
		defer f.r.pulling.RUnlock()
		chainID, err = f.r.target.Pull(ctx, f.name)
		return err == nil
	})
	if err != nil {
		f.r.violation(f.name, fmt.Sprintf("an image cannot be pulled: %v", err), nil, "")
		return false
	}
	f.add(chainID)
	f.layers[chainID] = model.ImageLayer // the diff ID of the lowest layer is its chain ID
	f.history.Model.Keys, f.history.Model.Image = len(f.keys), true
	return true
}

// image is the number of the image's layer, if there is one.
func (f *family) image() (k int8, ok bool) {
	return int8(f.w.Family), f.history.Model.Image
}

// key is what number k is called.
func (f *family) key(k int8) string {
	if k == model.None {
		return ""
	}
	return f.keys[k]
}

func (f *family) number(key string) (int8, bool) {
	k, ok := f.numbers[key]
	return k, ok
}

// layer is the number of the layer that consists of those diff IDs.
func (f *family) layer(diffIDs []string) byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := strings.Join(diffIDs, " ")
	if f.layers[id] == 0 {
		f.layers[id] = byte(len(f.layers) + 1)
	}
	return f.layers[id]
}

// use counts a call that uses the key until the function that it returns is called.
func (f *family) use(k int8) (end func()) {
	if k == model.None {
		return func() {}
	}
	return f.users[k].enter()
}

// watch returns what tells whether a use of the key was under way since.
func (f *family) watch(k int8) (used func() bool) { return f.users[k].watch() }

func (u *users) enter() (leave func()) {
	u.begun.Add(1)
	return func() { u.ended.Add(1) }
}

func (u *users) watch() (entered func() bool) {
	ended := u.ended.Load()
	return func() bool { return u.begun.Load() > ended }
}

// end looks at the whole family a last time and lets it go.
func (f *family) end(ctx context.Context, c *client) {
	for k := range f.keys {
		c.stat(ctx, int8(k))
	}
	if _, ok := f.image(); ok {
		again(func() bool { return c.untag(ctx) == nil })
	}
	if f.r.target.Traits().Leased {
		f.endLeases(ctx, c)
	} else {
		f.removeAll(ctx, c)
	}
}

// endLeases ends all leases. What never was in one would stay until the target is
// closed, so all of it gets one before.
func (f *family) endLeases(ctx context.Context, c *client) {
	last := int8(model.MaxLeases - 1)
	again(func() bool {
		if f.r.enter(ctx) != nil {
			return false
		}
		defer f.r.leave()
		return f.createLease(ctx, last)
	})
	for k := range f.keys {
		again(func() bool { return c.addLease(ctx, last, int8(k)) == nil })
	}
	for l := range int8(f.leases.Load()) {
		again(func() bool { return c.endLease(ctx, l, false) == nil })
	}
	again(func() bool { return c.endLease(ctx, last, false) == nil })
}

// again calls f until it succeeds, or a number of times: faults may make it fail.
func again(f func() bool) {
	for range 100 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond) // the disk may be full
	}
}

// removalPatience is how long what was removed may count as a child, since unmounting
// it fails.
const removalPatience = time.Minute

// removeAll removes what stands on nothing until nothing is left.
func (f *family) removeAll(ctx context.Context, c *client) {
	for began := time.Now(); time.Since(began) < removalPatience; time.Sleep(time.Millisecond) {
		left := false
		for k := range int8(f.w.Family) {
			left = !errdefs.IsNotFound(c.remove(ctx, k)) || left
		}
		if !left {
			return
		}
	}
	f.r.violation(f.name, "snapshots cannot be removed", nil, "")
}
