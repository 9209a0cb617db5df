package adapter

// What the face tells of snapshots: Stat, Update, Walk, Usage, and what Commit
// makes of them.

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

func (p *process) stat(t testing.TB, key string) snapshots.Info {
	t.Helper()
	info, err := p.snap.Stat(inNamespace(), key)
	must(t, err)
	return info
}

func (p *process) usage(t testing.TB, key string) snapshots.Usage {
	t.Helper()
	u, err := p.snap.Usage(inNamespace(), key)
	must(t, err)
	return u
}

func wantLabels(t testing.TB, info snapshots.Info, want map[string]string) {
	t.Helper()
	if !maps.Equal(info.Labels, want) {
		t.Errorf("labels of %q are %q, want %q", info.Name, info.Labels, want)
	}
}

func TestStatTellsWhatWasMade(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		before := time.Now()
		furnished(t, p)
		after := time.Now()
		for key, want := range map[string]snapshots.Info{
			"base": {Kind: snapshots.KindCommitted},
			"work": {Kind: snapshots.KindActive, Parent: "base"},
			"view": {Kind: snapshots.KindView, Parent: "base"},
		} {
			info := p.stat(t, key)
			if info.Name != key || info.Kind != want.Kind || info.Parent != want.Parent {
				t.Errorf("stat %q: %+v", key, info)
			}
			if info.Created.Before(before) || info.Created.After(after) || !info.Updated.Equal(info.Created) {
				t.Errorf("%q made between %v and %v: created %v, updated %v", key, before, after, info.Created, info.Updated)
			}
			wantLabels(t, info, nil)
		}
	})
}

// BuildKit changes the labels that Stat returned and hands them to Update.
func TestLabelsOfStatBelongToTheCaller(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		given := map[string]string{"a": "1"}
		must(t, p.snap.Prepare(inNamespace(), "key", "", snapshots.WithLabels(given)))
		given["a"], given["b"] = "mine", "mine"
		want := map[string]string{"a": "1"}
		info := p.stat(t, "key")
		wantLabels(t, info, want)
		info.Labels["a"], info.Labels["b"] = "mine", "mine"
		wantLabels(t, p.stat(t, "key"), want)
		updated, err := p.snap.Update(inNamespace(), info)
		must(t, err)
		updated.Labels["a"], info.Labels["a"] = "theirs", "theirs"
		want = map[string]string{"a": "mine", "b": "mine"}
		wantLabels(t, p.stat(t, "key"), want)
		must(t, p.snap.Walk(inNamespace(), func(_ context.Context, info snapshots.Info) error {
			info.Labels["a"] = "walked"
			return nil
		}))
		wantLabels(t, p.stat(t, "key"), want)
	})
}

func TestUpdateChangesWhatThePathsSay(t *testing.T) {
	given := map[string]string{"a": "new", "c": "3", "d": ""}
	onEachFace(t, func(t *testing.T, p *process) {
		furnished(t, p)
		for _, key := range []string{"base", "work", "view"} {
			for _, step := range []struct {
				paths []string
				want  map[string]string
			}{
				{nil, map[string]string{"a": "new", "c": "3"}},
				{[]string{"labels"}, map[string]string{"a": "new", "c": "3"}},
				{[]string{"labels.a"}, map[string]string{"a": "new", "b.x/y": "2", "d": "4"}},
				{[]string{"labels.c", "labels.d"}, map[string]string{"a": "1", "b.x/y": "2", "c": "3"}},
				{[]string{"labels.b.x/y"}, map[string]string{"a": "1", "d": "4"}},
				{[]string{"labels.unknown"}, map[string]string{"a": "1", "b.x/y": "2", "d": "4"}},
				{[]string{"labels.a", "labels"}, map[string]string{"a": "new", "c": "3"}},
			} {
				first := snapshots.Info{Name: key, Labels: map[string]string{"a": "1", "b.x/y": "2", "d": "4"}}
				_, err := p.snap.Update(inNamespace(), first, "labels")
				must(t, err)
				before := p.stat(t, key)
				got, err := p.snap.Update(inNamespace(), snapshots.Info{Name: key, Parent: "ignored", Labels: given}, step.paths...)
				must(t, err)
				wantLabels(t, got, step.want)
				wantLabels(t, p.stat(t, key), step.want)
				if !got.Updated.After(before.Updated) || !got.Created.Equal(before.Created) || got.Parent != before.Parent || got.Kind != before.Kind {
					t.Errorf("update with paths %q of %+v answers %+v", step.paths, before, got)
				}
			}
		}
	})
}

func TestWalkTellsWhatTheFiltersMatch(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		furnished(t, p)
		ctx := inNamespace()
		must(t, p.snap.Prepare(ctx, "other", "", snapshots.WithLabels(map[string]string{"a.b/c": "d"})))
		for _, c := range []struct{ filters, want []string }{
			{nil, []string{"base", "other", "view", "work"}},
			{[]string{"kind==active"}, []string{"other", "work"}},
			{[]string{"kind==view", "kind==committed"}, []string{"base", "view"}},
			{[]string{"parent==base"}, []string{"view", "work"}},
			{[]string{"parent==base,kind==active"}, []string{"work"}},
			{[]string{"name~=^[vw]"}, []string{"view", "work"}},
			{[]string{`labels."a.b/c"==d`}, []string{"other"}},
			{[]string{`labels."a.b/c"`, "name==base"}, []string{"base", "other"}},
			{[]string{"unknown==x"}, nil},
		} {
			if got := p.walked(t, c.filters...); !slices.Equal(got, c.want) {
				t.Errorf("walk with %q passes %q, want %q", c.filters, got, c.want)
			}
		}
		if err := p.snap.Walk(ctx, func(context.Context, snapshots.Info) error { return os.ErrProcessDone }); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("walk returns %v, want what its function returned", err)
		}
		cancelled, cancel := context.WithCancel(ctx)
		passed := 0
		err := p.snap.Walk(cancelled, func(context.Context, snapshots.Info) error { passed++; cancel(); return nil })
		if wantError(t, err, context.Canceled, ""); passed != 1 {
			t.Errorf("a walk passes %d snapshots though it was cancelled in the first", passed)
		}
	})
}

// Nothing is locked while a walk calls back.
func TestWalkMayCallTheSnapshotter(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		furnished(t, p)
		passed := map[string]int{}
		must(t, p.snap.Walk(inNamespace(), func(ctx context.Context, info snapshots.Info) error {
			passed[info.Name]++
			if got := p.stat(t, info.Name); got.Created != info.Created {
				t.Errorf("stat in a walk: %v, walk: %v", got, info)
			}
			key := "from-" + info.Name
			must(t, p.snap.Prepare(ctx, key, "base"))
			must(t, p.snap.Commit(ctx, key+"-done", key))
			_, err := p.snap.View(ctx, key+"-view", key+"-done")
			must(t, err)
			_, err = p.snap.Update(ctx, snapshots.Info{Name: info.Name, Labels: map[string]string{"walked": "yes"}})
			must(t, err)
			p.usage(t, info.Name)
			return nil
		}))
		for _, key := range []string{"base", "work", "view"} {
			if passed[key] != 1 {
				t.Errorf("%q was passed %d times", key, passed[key])
			}
		}
	})
}

func TestCommitMovesTheSnapshot(t *testing.T) {
	const inherited, ref = "containerd.io/snapshot/kept", "containerd.io/snapshot.ref"
	onEachFace(t, func(t *testing.T, p *process) {
		ctx := inNamespace()
		p.committed(t, ctx, "base", "")
		must(t, p.snap.Prepare(ctx, "key", "base", snapshots.WithLabels(map[string]string{
			inherited: "of the key", ref: "of the key", "containerd.io/snapshot/both": "of the key", "own": "of the key",
		})))
		p.write(t, p.mounts(t, "key"), "file", "")
		before := time.Now()
		must(t, p.snap.Commit(ctx, "name", "key", snapshots.WithLabels(map[string]string{
			"containerd.io/snapshot/both": "of the name", "asked": "of the name", "empty": "",
		})))
		info := p.stat(t, "name")
		if info.Kind != snapshots.KindCommitted || info.Parent != "base" {
			t.Errorf("committed: %+v", info)
		}
		if info.Created.Before(before) || info.Created.After(time.Now()) || !info.Updated.Equal(info.Created) {
			t.Errorf("committed after %v: created %v, updated %v", before, info.Created, info.Updated)
		}
		want := map[string]string{
			inherited: "of the key", ref: "of the key", "containerd.io/snapshot/both": "of the name", "asked": "of the name",
		}
		wantLabels(t, info, want)
		if !p.absent("key") {
			t.Error("the key is there after its commit")
		}
		if got := p.walked(t); !slices.Equal(got, []string{"base", "name"}) {
			t.Errorf("a walk passes %q", got)
		}
		wantError(t, p.snap.Commit(ctx, "again", "key"), errdefs.ErrNotFound, "key")

		p.close(t)
		p = p.site.open(t)
		if again := p.stat(t, "name"); !again.Created.Equal(info.Created) || !again.Updated.Equal(info.Updated) || again.Parent != "base" {
			t.Errorf("after a restart: %+v, before: %+v", again, info)
		}
		wantLabels(t, p.stat(t, "name"), want)
	})
}

// A key that was committed is free, and what it names then is another directory.
func TestKeyIsFreeAfterCommit(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		ctx := inNamespace()
		names := []string{"name-1", "name-2", "name-3"}
		for i, name := range names {
			must(t, p.snap.Prepare(ctx, "key", ""))
			if files := p.files(t, p.mounts(t, "key")); len(files) > 0 {
				t.Errorf("the key made anew holds %q", files)
			}
			p.write(t, p.mounts(t, "key"), name, "")
			if n := len(p.site.directories(t)); n != i+1 {
				t.Errorf("%d directories after %d snapshots", n, i+1)
			}
			must(t, p.snap.Commit(ctx, name, "key"))
		}
		for _, name := range names {
			m, err := p.snap.View(ctx, "view-of-"+name, name)
			must(t, err)
			if files := p.files(t, m); !slices.Equal(files, []string{name}) {
				t.Errorf("%q holds %q", name, files)
			}
		}
		// A name is a key too: it may be committed from what bears it.
		must(t, p.snap.Prepare(ctx, "same", "name-1"))
		wantError(t, p.snap.Commit(ctx, "same", "same"), errdefs.ErrAlreadyExists, "same")
	})
}

func TestUsageCountsBytesAndInodes(t *testing.T) {
	const size = 64 << 10
	onEachFace(t, func(t *testing.T, p *process) {
		ctx := inNamespace()
		for _, parent := range []string{"", "name-on-"} {
			key, name := "key-on-"+parent, "name-on-"+parent
			must(t, p.snap.Prepare(ctx, key, parent))
			before := p.usage(t, key)
			p.inside(t, p.mounts(t, key), func(dir string) {
				for _, file := range []string{"one" + parent, "two" + parent} {
					must(t, os.WriteFile(filepath.Join(dir, file), make([]byte, size), 0o600))
				}
			})
			after := p.usage(t, key)
			// A driver that copies counts what differs: the first file makes the
			// directory that it is in differ too.
			bytes, inodes := after.Size-before.Size, after.Inodes-before.Inodes
			if bytes < 2*size || bytes > 2*size+8192 || inodes < 2 || inodes > 3 {
				t.Errorf("on %q two files of %d bytes take %d bytes and %d inodes", parent, size, bytes, inodes)
			}
			must(t, p.snap.Commit(ctx, name, key))
			if committed := p.usage(t, name); committed != after {
				t.Errorf("on %q usage is %+v, after Commit %+v", parent, after, committed)
			}
			_, err := p.snap.View(ctx, "view-on-"+parent, name)
			must(t, err)
			if u := p.usage(t, "view-on-"+parent); u != (snapshots.Usage{}) {
				t.Errorf("a view takes %+v", u)
			}
		}
	})
}

// The second call does not read the directory again, nor does one after a restart.
func TestUsageOfCommittedIsMeasuredOnce(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		furnished(t, p)
		w := p.site.watch
		first := p.usage(t, "base")
		// What was measured is told to the owner, which answers this afterwards.
		_, err := p.snap.Update(inNamespace(), snapshots.Info{Name: "base"}, "labels.a")
		must(t, err)
		scans := w.count("GetMetadata")
		if again := p.usage(t, "base"); again != first || w.count("GetMetadata") != scans {
			t.Errorf("measured %+v, then %+v in %d scans more", first, again, w.count("GetMetadata")-scans)
		}
		if p.usage(t, "work"); w.count("GetMetadata") == scans {
			t.Error("what is active was not measured anew")
		}
		p.close(t)
		p = p.site.open(t)
		scans = w.count("GetMetadata")
		if again := p.usage(t, "base"); again != first || w.count("GetMetadata") != scans {
			t.Errorf("after a restart measured %+v, before %+v, in %d scans", again, first, w.count("GetMetadata")-scans)
		}
	})
}
