package adapter

// What the tests of the face and of the leases begin and end with.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/snapshot"

	"github.com/graphsnap/graphsnap/engine"
)

// onEachFace runs test for every driver with the usual bounds and with all bounds
// at 1, each time on a new watched site. options come on top.
func onEachFace(t *testing.T, test func(t *testing.T, p *process), options ...engine.Option) {
	t.Helper()
	for _, d := range drivers {
		for name, bounds := range map[string][]engine.Option{"default": nil, "one": boundsOf1} {
			t.Run(d+"/bounds="+name, func(t *testing.T) {
				s := newSite(t, d)
				s.options = bounds
				s.watch = newWatch()
				test(t, s.open(t, options...))
			})
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// added makes l name keys.
func (p *process) added(t testing.TB, l leases.Lease, keys ...string) {
	t.Helper()
	for _, key := range keys {
		must(t, p.lm.AddResource(inNamespace(), l, resource(key)))
	}
}

func (p *process) ended(t testing.TB, ls ...leases.Lease) {
	t.Helper()
	for _, l := range ls {
		must(t, p.lm.Delete(inNamespace(), l))
	}
}

// named returns what l names as the previous manager has it.
func (p *process) named(t testing.TB, l leases.Lease) []string {
	t.Helper()
	rr, err := p.prevLM.ListResources(inNamespace(), l)
	must(t, err)
	var keys []string
	for _, r := range rr {
		keys = append(keys, r.Type+" "+r.ID)
	}
	slices.Sort(keys)
	return keys
}

// committed makes the committed snapshot name on parent, with a file of its name.
func (p *process) committed(t testing.TB, ctx context.Context, name, parent string) {
	t.Helper()
	key := "making-" + name
	must(t, p.snap.Prepare(ctx, key, parent))
	p.write(t, p.mounts(t, key), filepath.Base(name), "of "+name)
	must(t, p.snap.Commit(ctx, name, key))
}

func (p *process) mounts(t testing.TB, key string) snapshot.Mountable {
	t.Helper()
	m, err := p.snap.Mounts(inNamespace(), key)
	must(t, err)
	return m
}

// write mounts m as it says, writes a file and unmounts.
func (p *process) write(t testing.TB, m snapshot.Mountable, file, content string) {
	t.Helper()
	p.inside(t, m, func(dir string) {
		must(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600))
	})
}

// files lists what is in m, mounted as it says.
func (p *process) files(t testing.TB, m snapshot.Mountable) (names []string) {
	t.Helper()
	p.inside(t, m, func(dir string) {
		for _, e := range entries(t, dir) {
			names = append(names, e.Name())
		}
	})
	return names
}

func (p *process) inside(t testing.TB, m snapshot.Mountable, f func(dir string)) {
	t.Helper()
	mounts, release, err := m.Mount()
	must(t, err)
	defer func() { must(t, release()) }()
	p.bound(t, mounts, f)
}

// bound mounts what a Mountable returned and calls f with the place.
func (p *process) bound(t testing.TB, mounts []mount.Mount, f func(dir string)) {
	t.Helper()
	dir, err := os.MkdirTemp(p.site.path("tmp"), "bind-")
	must(t, err)
	must(t, mount.All(mounts, dir))
	defer func() { must(t, mount.UnmountAll(dir, 0)) }()
	f(dir)
}

func (p *process) absent(key string) bool {
	_, err := p.snap.Stat(inNamespace(), key)
	return errdefs.IsNotFound(err)
}

// gone waits until keys are absent.
func (p *process) gone(t testing.TB, keys ...string) {
	t.Helper()
	for _, key := range keys {
		eventually(t, fmt.Sprintf("%q is removed", key), func() bool { return p.absent(key) })
	}
}

func (p *process) there(t testing.TB, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if _, err := p.snap.Stat(inNamespace(), key); err != nil {
			t.Errorf("%q should be there: %v", key, err)
		}
	}
}

// considered returns when the reaper has seen all that happened to keys before and
// has done what it was going to do: what is there then stays. It asks the owners of
// keys, so that they have handled what was sent to them, and has two snapshots
// removed, one after the other. The second goes in a round of the reaper that began
// after the round ended in which it saw keys.
func (p *process) considered(t testing.TB, keys ...string) {
	t.Helper()
	ctx := inNamespace()
	for _, key := range keys {
		_, err := p.snap.Update(ctx, snapshots.Info{Name: key}, "labels.nothing")
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) { // it may be a layer alone
			t.Fatal(err)
		}
	}
	for range 2 {
		l, ctx := p.lease(t)
		must(t, p.snap.Prepare(ctx, "probe", ""))
		p.ended(t, l)
		p.gone(t, "probe")
	}
	p.site.settled(t, "probe")
}

// settled waits until no directory bears the graph ID id.
func (s *site) settled(t testing.TB, id string) {
	t.Helper()
	eventually(t, "the directory "+id+" is deleted", func() bool { return !slices.Contains(s.directories(t), id) })
}

// emptied waits until the driver's home is as it was at first, and expects no
// snapshot then. That tells of pins and holds too: each keeps a snapshot.
func (p *process) emptied(t testing.TB) {
	t.Helper()
	eventually(t, "no directory is left", func() bool { return len(p.site.directories(t)) == 0 })
	eventually(t, "no link is left", func() bool { return len(p.site.links(t)) == 0 })
	if keys := p.walked(t); len(keys) > 0 {
		t.Errorf("there is no directory, but there are snapshots: %q", keys)
	}
}

// walked lists the keys that a walk passes, sorted.
func (p *process) walked(t testing.TB, filters ...string) []string {
	t.Helper()
	var keys []string
	must(t, p.snap.Walk(inNamespace(), func(_ context.Context, info snapshots.Info) error {
		keys = append(keys, info.Name)
		return nil
	}, filters...))
	slices.Sort(keys)
	return keys
}

// world is all that a call could have left behind.
type world struct {
	directories, links, mounts []string
	infos                      map[string]string
}

func (p *process) world(t testing.TB) world {
	t.Helper()
	w := world{
		directories: p.site.directories(t),
		links:       slices.Sorted(maps.Keys(p.site.links(t))),
		mounts:      p.site.mounts(t),
		infos:       map[string]string{},
	}
	must(t, p.snap.Walk(inNamespace(), func(_ context.Context, info snapshots.Info) error {
		w.infos[info.Name] = fmt.Sprint(info)
		return nil
	}))
	return w
}

func (w world) equal(v world) bool {
	return slices.Equal(w.directories, v.directories) && slices.Equal(w.links, v.links) &&
		slices.Equal(w.mounts, v.mounts) && maps.Equal(w.infos, v.infos)
}

// wantError expects the class of an error and what it tells about the call.
func wantError(t testing.TB, err, class error, says string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("no error, want %v", class)
	case !errors.Is(err, class):
		t.Errorf("error is %v, want %v", err, class)
	case !strings.Contains(err.Error(), says):
		t.Errorf("error %q does not say %q", err, says)
	}
}
