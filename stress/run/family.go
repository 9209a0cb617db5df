package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// handlesEach is how many handles a client has.
const handlesEach = 2

// Labels that operations set: the second is inherited by a commit.
var labelNames = [2]string{"stress", "containerd.io/snapshot/stress"}

// family is a set of keys that nothing else is connected with, and what is done to
// them.
type family struct {
	r       *runner
	w       *workload.Workload
	name    string
	history *history.History
	keys    []string
	numbers map[string]int8
	mu      sync.Mutex      // held while a lease is made, or a layer gets its number
	leases  atomic.Int32    // that were made
	users   []users         // of each key
	layers  map[string]byte // numbers of layers, by their diff IDs
}

// users counts the calls that make a snapshot of a key, on top of it, or mounts of it.
type users struct{ begun, ended atomic.Int64 }

// use counts a call that uses the key until the function that it returns is called.
func (f *family) use(k int8) (end func()) {
	if k == model.None {
		return func() {}
	}
	f.users[k].begun.Add(1)
	return func() { f.users[k].ended.Add(1) }
}

// watch returns what tells whether a use of the key was under way since.
func (f *family) watch(k int8) (used func() bool) {
	ended := f.users[k].ended.Load()
	return func() bool { return f.users[k].begun.Load() > ended }
}

func (r *runner) newFamily(w *workload.Workload, name string) *family {
	traits := r.target.Traits()
	f := &family{r: r, w: w, name: name, numbers: map[string]int8{}, layers: map[string]byte{}, history: &history.History{Family: name, Model: &model.Model{
		Keys: w.Family, Handles: w.Group * handlesEach, Leased: traits.Leased, Keeps: traits.Keeps,
	}}}
	f.users = make([]users, w.Family)
	for k := range int8(w.Family) {
		key := fmt.Sprintf("%s.%d", name, k)
		if k%4 == 3 { // one that no graph ID can be
			key = fmt.Sprintf("%s:%d", name, k)
		}
		f.keys = append(f.keys, key)
		f.numbers[key] = k
	}
	return f
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

func (f *family) lease(l int8) string { return fmt.Sprintf("%s-l%d", f.name, l) }

// newLease answers false where there were enough.
func (f *family) newLease(ctx context.Context) (int8, bool) {
	// In this order: who waits for a mutex keeps the clock of a replay from going on.
	if f.r.enter(ctx) != nil {
		return 0, false
	}
	defer f.r.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	l := int8(f.leases.Load())
	if l == model.MaxLeases-1 { // one is kept for the end
		return 0, false
	}
	if !f.createLease(ctx, l) {
		return 0, false
	}
	f.leases.Store(int32(l) + 1) // not before: another client may end it
	return l, true
}

func (f *family) createLease(ctx context.Context, l int8) bool {
	err := f.r.target.CreateLease(ctx, f.lease(l))
	return err == nil || errdefs.IsAlreadyExists(err) // which it did before the target died
}

// someLease is one that there is, or was.
func (f *family) someLease(c *workload.Chooser) int8 {
	if n := f.leases.Load(); n > 0 {
		return int8(c.IntN(int(n)))
	}
	return model.None
}

// handle is what Mounts or View returned to a client.
type handle struct {
	number   int8
	round    uint64 // of the target: a restart ends all handles
	m        target.Mountable
	releases []func() error
	last     func() error
}

// client does one thing after another to a family.
type client struct {
	*family
	*workload.Chooser
	number  int
	handles [handlesEach]*handle
}

func (f *family) newClient(number int, c *workload.Chooser) *client {
	cl := &client{family: f, Chooser: c, number: number}
	for i := range cl.handles {
		cl.handles[i] = &handle{number: int8(number%f.w.Group*handlesEach + i)}
	}
	return cl
}

// call is one call of the target: it is measured and recorded. do returns how it
// ended.
func (c *client) call(ctx context.Context, in model.Input, do func(context.Context) (model.Output, error)) (model.Output, error) {
	if c.r.enter(ctx) != nil {
		return model.Output{Class: model.Failed}, context.Canceled
	}
	defer c.r.leave()
	ctx, cancel := c.r.hurry(ctx, c.Chooser)
	defer cancel()
	switch in.Kind {
	case model.Prepare, model.View:
		defer c.use(in.On)()
		defer c.use(in.Key)()
	case model.Mounts:
		defer c.use(in.Key)()
	}
	end := c.r.recorder.Begin(c.number, strings.ToLower(in.Kind.String()))
	began := c.r.clock.Now()
	out, err := do(ctx)
	over := c.r.clock.Now()
	out.Class = c.classify(in, err)
	end(out.Class.String(), out.Class == model.Failed || out.Class == model.Unknown)
	if c.r.config.Check {
		o := history.Operation{Client: c.number % c.w.Group, Input: in, Output: out, Call: began, Return: over}
		if out.Class == model.Unknown {
			o.Client += 2 * c.w.Group // it may go on beside the client's next
			c.history.Suspend(o)
		} else {
			c.history.Add(o)
		}
	}
	return out, err
}

// classify maps an error. One that nothing explains is a violation itself.
func (c *client) classify(in model.Input, err error) model.Class {
	fails := c.r.config.Faults.Database.Any() || c.r.config.Fill != nil // the database
	if fails && errdefs.IsUnavailable(err) && !errors.Is(err, persist.ErrNoRoom) {
		c.r.refused()
	}
	switch {
	case err == nil:
		return model.OK
	case in.Kind == model.EnsureLayer && errors.Is(err, context.DeadlineExceeded):
		return model.Failed // it waited for a mount
	case errors.Is(err, persist.ErrIndeterminate) && fails:
		return model.Unknown
	case errors.Is(err, target.ErrDied) && c.r.config.Kill > 0:
		return model.Unknown
	case c.r.config.Fill != nil && strings.Contains(err.Error(), syscall.ENOSPC.Error()):
		return model.Failed // some of what is below hands on the text alone
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, faults.ErrInjected), errdefs.IsInternal(err):
		if !c.r.config.Faults.Any() {
			break
		}
		return model.Failed
	case errdefs.IsNotFound(err):
		return model.NotFound
	case errdefs.IsAlreadyExists(err):
		return model.Exists
	case errdefs.IsFailedPrecondition(err):
		return model.Precondition
	case errdefs.IsUnavailable(err), errdefs.IsAborted(err):
		if c.r.config.Faults.Any() || c.r.config.Rough {
			return model.Failed
		}
	}
	c.r.violation(c.name, fmt.Sprintf("%s: %v", model.Describe(in, model.Output{}), err), nil, "")
	return model.Failed
}

func (c *client) labels() [2]byte { return [2]byte{byte(c.IntN(200)), byte(c.IntN(3))} }

func named(set [2]byte) map[string]string {
	m := map[string]string{}
	for i, v := range set {
		if v != 0 {
			m[labelNames[i]] = fmt.Sprint(v)
		}
	}
	return m
}

// told is what a Stat or Update answered.
func (c *client) told(info snapshots.Info) (model.Snapshot, error) {
	s := model.Snapshot{Parent: model.None}
	switch info.Kind {
	case snapshots.KindActive:
		s.Kind = model.Active
	case snapshots.KindView:
		s.Kind = model.ViewOf
	case snapshots.KindCommitted:
		s.Kind = model.Committed
	}
	if info.Parent != "" {
		k, ok := c.family.number(info.Parent)
		if !ok {
			return s, fmt.Errorf("%q has the parent %q", info.Name, info.Parent)
		}
		s.Parent = k
	}
	for i, name := range labelNames {
		fmt.Sscan(info.Labels[name], &s.Labels[i])
	}
	return s, nil
}

// lend puts a key that is about to be made into a lease, at times. What BuildKit
// does in two calls the face does in one where the context names a lease; here it is
// two operations, so that each of them happens at one instant.
func (c *client) lend(ctx context.Context, k int8) {
	if !c.r.target.Traits().Leased || !c.Chance(c.w.Leased) {
		return
	}
	if c.leases.Load() == 0 || c.Chance(0.1) {
		c.newLease(ctx)
	}
	if l := c.someLease(c.Chooser); l != model.None {
		c.addLease(ctx, l, k)
	}
}

func (c *client) addLease(ctx context.Context, l, k int8) error {
	in := model.Input{Kind: model.AddLease, Key: k, On: model.None, Lease: l, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		return o, c.r.target.AddLease(ctx, c.lease(l), c.key(k))
	})
	return err
}

// step does one operation of the workload.
func (c *client) step(ctx context.Context) {
	in := model.Input{On: model.None, Lease: model.None, Handle: model.None}
	name := c.Operation()
	if !c.r.target.Traits().Leased {
		switch name {
		case "add-lease":
			return
		case "remove-lease", "end-lease", "expire":
			name = "remove" // what makes snapshots go
		}
	}
	switch name {
	case "prepare", "view":
		if in.Kind = model.Prepare; name == "view" {
			in.Kind = model.View
		}
		in.Key = c.Key()
		in.On = c.Parent(in.Key)
		c.lend(ctx, in.Key)
		in.Labels = c.labels()
		if h := c.free(); name == "view" && h != nil {
			in.Handle = h.number
		}
	case "commit":
		in.Kind, in.Key = model.Commit, c.Key()
		in.On = c.Name(in.Key)
		c.lend(ctx, in.On)
		in.Labels = c.labels()
	case "stat":
		in.Kind, in.Key = model.Stat, c.Key()
	case "update":
		in.Kind, in.Key, in.Whole = model.Update, c.Key(), c.Chance(0.3)
		in.Labels = c.labels()
	case "usage":
		in.Kind, in.Key = model.Usage, c.Key()
	case "walk":
		// All of them would be many operations at once, which are slow to check.
		c.walk(ctx, c.Key(), c.Key(), c.Key())
		return
	case "mounts":
		h := c.free()
		if h == nil {
			return
		}
		in.Kind, in.Key, in.Handle = model.Mounts, c.Key(), h.number
	case "mount":
		in.Kind, in.Handle = model.Mount, c.handles[c.IntN(handlesEach)].number
	case "release":
		in.Kind, in.Handle = model.Release, c.handles[c.IntN(handlesEach)].number
	case "add-lease", "remove-lease":
		if in.Kind = model.AddLease; name == "remove-lease" {
			in.Kind = model.RemoveLease
		}
		if in.Lease = c.someLease(c.Chooser); in.Lease == model.None || c.Chance(0.2) {
			l, ok := c.newLease(ctx)
			if !ok {
				return
			}
			in.Lease = l
		}
		in.Key = c.Key()
	case "end-lease", "expire":
		_ = c.endLease(ctx, c.someLease(c.Chooser), name == "expire")
		return
	case "remove":
		in.Kind, in.Key = model.Remove, c.Key()
	case "ensure-layer":
		if !c.r.target.Traits().Layers {
			return
		}
		in.Kind, in.Key = model.EnsureLayer, c.Key()
	}
	c.perform(ctx, in)
}

func (c *client) remove(ctx context.Context, k int8) error {
	in := model.Input{Kind: model.Remove, Key: k, On: model.None, Lease: model.None, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		used := c.watch(k)
		err = c.r.target.Remove(ctx, c.key(k))
		o.Beside = used() || c.r.config.Faults.Any() // the last mount may not end at once
		return o, err
	})
	return err
}

func (c *client) endLease(ctx context.Context, l int8, expire bool) error {
	if l == model.None {
		return nil
	}
	in := model.Input{Kind: model.EndLease, Key: model.None, On: model.None, Lease: l, Handle: model.None}
	_, err := c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		err = c.r.target.EndLease(ctx, c.lease(l), expire)
		if errdefs.IsNotFound(err) {
			err = nil // it ended before
		}
		return o, err
	})
	return err
}

// free returns a handle with nothing mounted, nil for none.
func (c *client) free() *handle {
	for _, h := range c.handles {
		if len(h.releases) == 0 {
			return h
		}
	}
	return nil
}

func (c *client) mount(ctx context.Context, h *handle) {
	if h.m == nil || len(h.releases) >= 3 {
		return
	}
	in := model.Input{Kind: model.Mount, Key: model.None, On: model.None, Lease: model.None, Handle: h.number}
	if c.r.enter(ctx) != nil {
		return
	}
	stale := h.round != c.r.round.Load()
	c.r.leave()
	if stale {
		h.m, h.releases, h.last = nil, nil, nil
		return
	}
	var release func() error
	round := h.round
	_, err := c.call(ctx, in, func(context.Context) (o model.Output, err error) {
		if round != c.r.round.Load() { // a restart came in between
			return o, errRestarted
		}
		var how []mount.Mount
		how, release, err = h.m.Mount()
		if err == nil {
			o.Writable = slices.ContainsFunc(how, writable)
		}
		return o, err
	})
	if err == nil {
		h.releases = append(h.releases, release)
	}
}

// writable tells whether what is mounted so can be written through.
func writable(m mount.Mount) bool {
	if m.Type == "overlay" {
		return slices.ContainsFunc(m.Options, func(o string) bool { return strings.HasPrefix(o, "upperdir=") })
	}
	return !m.ReadOnly()
}

var errRestarted = fmt.Errorf("the target was restarted: %w", errdefs.ErrUnavailable)

func (c *client) release(ctx context.Context, h *handle) {
	if h.last != nil && c.Chance(0.3) {
		_ = h.last() // releasing twice releases once
	}
	if len(h.releases) == 0 {
		return
	}
	release := h.releases[0]
	h.releases, h.last = h.releases[1:], release
	in := model.Input{Kind: model.Release, Key: model.None, On: model.None, Lease: model.None, Handle: h.number}
	round := h.round
	c.call(ctx, in, func(context.Context) (o model.Output, err error) {
		if round == c.r.round.Load() {
			if err := release(); err != nil && !c.r.config.Faults.Any() && !c.r.config.Rough {
				return o, err
			}
		}
		return o, nil // the hold has ended, whatever the driver says of the mount
	})
}

// walk is a read of each of the keys, which was true at some moment of the walk.
func (c *client) walk(ctx context.Context, keys ...int8) {
	if c.r.enter(ctx) != nil {
		return
	}
	defer c.r.leave()
	found := map[int8]model.Snapshot{}
	end := c.r.recorder.Begin(c.number, "walk")
	began := c.r.clock.Now()
	var wrong error
	err := c.r.target.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		k, ok := c.family.number(info.Name)
		if !ok {
			return nil
		}
		if _, twice := found[k]; twice {
			wrong = fmt.Errorf("a walk passed %q twice", info.Name)
		}
		s, err := c.told(info)
		found[k] = s
		return err
	})
	over := c.r.clock.Now()
	class := model.OK.String()
	if err != nil {
		class = "fault"
	}
	end(class, err != nil)
	if wrong != nil {
		c.r.violation(c.name, wrong.Error(), nil, "")
	}
	if err != nil || !c.r.config.Check {
		return
	}
	for i, k := range keys {
		o := history.Operation{Client: c.number%c.w.Group + (3+i)*c.w.Group, Call: began, Return: over,
			Input: model.Input{Kind: model.Stat, Key: k, On: model.None, Lease: model.None, Handle: model.None}}
		s, ok := found[k]
		if o.Output.Snapshot = s; !ok {
			o.Output = model.Output{Class: model.NotFound}
		}
		c.history.Add(o)
	}
}

// letGo ends the mounts of the client.
func (c *client) letGo(ctx context.Context) {
	for _, h := range c.handles {
		for len(h.releases) > 0 {
			c.release(ctx, h)
		}
	}
}

// end looks at the whole family a last time and lets it go.
func (f *family) end(ctx context.Context, c *client) {
	for k := range int8(f.w.Family) {
		c.stat(ctx, k)
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
	for k := range int8(f.w.Family) {
		again(func() bool { return c.addLease(ctx, last, k) == nil })
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

func (c *client) stat(ctx context.Context, k int8) {
	in := model.Input{Kind: model.Stat, Key: k, On: model.None, Lease: model.None, Handle: model.None}
	c.call(ctx, in, func(ctx context.Context) (o model.Output, err error) {
		info, err := c.r.target.Stat(ctx, c.key(k))
		if err == nil {
			o.Snapshot, err = c.told(info)
		}
		return o, err
	})
}

// hurry returns ctx, which for some calls ends early.
func (r *runner) hurry(ctx context.Context, c *workload.Chooser) (context.Context, context.CancelFunc) {
	if !c.Chance(r.config.Faults.Cancel) {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, 1+time.Duration(c.Int64N(int64(max(time.Millisecond, r.config.Faults.Longest)))))
}
