//go:build crashpoints

package adapter

// What a process that died may leave, and what not.

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// compare looks at what a process left that died: all that was answered is there,
// what was not is there or not, and nothing is left over. Then it ends all leases, or
// removes what there is by call, and nothing at all is left.
func (s *site) compare(t *testing.T) {
	t.Helper()
	var name string
	var before, after appearance
	readJSON(t, s.note(fileScene), &name)
	readJSON(t, s.note(fileBefore), &before)
	readJSON(t, s.note(fileAfter), &after)
	_, err := os.Stat(s.note(fileAnswered))
	answered := err == nil
	sc := sceneOf(t, name)

	d := s.raise(t, sc)
	s.unmounted(t, "Open")
	var found appearance
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		found = d.looked(t)
		if sc.unsynced {
			found, before, after = found.withoutUncommitted(), before.withoutUncommitted(), after.withoutUncommitted()
		}
		// Where the leases are as they were to be, what they do not name any more goes.
		decided := answered || len(sc.gone) > 0 && !sc.byCall && maps.Equal(found.Leases, after.Leases)
		wrong := found.wrong(before, after, decided, sc.steps)
		if wrong == "" {
			if orphans := d.orphans(t); len(orphans) > 0 {
				wrong = fmt.Sprintf("%q are left over", orphans)
			} else if n := d.snap.engine.Pending().Directories; n > 0 {
				// Such as that of a layer, which is no orphan until it is released.
				wrong = fmt.Sprintf("%d directories are still to be deleted", n)
			}
		}
		if wrong == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("answered: %v; %s\nfound  %v\nbefore %v\nafter  %v", answered, wrong, found, before, after)
		}
	}
	d.close(t)
	s.checkRecords(t)
	directories, links := s.directories(t), s.links(t)

	d = s.raise(t, sc)
	again := d.looked(t)
	if sc.unsynced {
		again = again.withoutUncommitted()
	}
	if !maps.Equal(again.Snapshots, found.Snapshots) || !maps.Equal(again.Leases, found.Leases) {
		t.Errorf("opened again, %v became %v", found, again)
	}
	if again := s.directories(t); !slices.Equal(again, directories) {
		t.Errorf("opened again, the directories %q became %q", directories, again)
	}
	if again := s.links(t); !maps.Equal(again, links) {
		t.Errorf("opened again, the links %q became %q", links, again)
	}
	if sc.byCall {
		d.removed(t)
	} else {
		all, err := d.prevLM.List(inNamespace())
		must(t, err)
		d.ended(t, all...)
	}
	eventually(t, "no snapshot is left", func() bool { return len(d.walked(t)) == 0 })
	for id := range d.store.Map() {
		// What a process has put into the layer store for itself.
		if l, err := d.store.Get(id); err == nil {
			_, err := d.store.Release(l)
			must(t, err)
		}
	}
	d.cleared(t)
	d.close(t)
	s.checkRecords(t)
	s.unmounted(t, "Close")
}

// removed removes all snapshots by call, those first on which none stands.
func (d *daemon) removed(t *testing.T) {
	t.Helper()
	for all := d.walked(t); len(all) > 0; {
		before := len(all)
		all = slices.DeleteFunc(all, func(key string) bool {
			err := d.snap.engine.Remove(inNamespace(), key)
			if err != nil && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Remove: %v", err)
			}
			return err == nil
		})
		if len(all) == before {
			t.Fatalf("none of %q can be removed", all)
		}
	}
}

// unmounted expects no mount but that of a file system for the driver.
func (s *site) unmounted(t *testing.T, after string) {
	t.Helper()
	for _, point := range s.mounts(t) {
		if point != s.path(s.driver) {
			t.Errorf("mounted after %s: %s", after, point)
		}
	}
}

// appearance is what callers see of each snapshot and of each lease.
type appearance struct{ Snapshots, Leases map[string]string }

// withoutUncommitted is without what snapshots hold that are not committed.
func (a appearance) withoutUncommitted() appearance {
	all := map[string]string{}
	for key, of := range a.Snapshots {
		if strings.HasPrefix(of, snapshots.KindActive.String()) {
			of, _, _ = strings.Cut(of, ", holds ")
		}
		all[key] = of
	}
	a.Snapshots = all
	return a
}

func (d *daemon) looked(t *testing.T) appearance {
	t.Helper()
	a := appearance{Snapshots: map[string]string{}, Leases: map[string]string{}}
	must(t, d.snap.Walk(inNamespace(), func(_ context.Context, info snapshots.Info) error {
		of := fmt.Sprintf("%v on %q with %v", info.Kind, info.Parent, info.Labels)
		if info.Kind == snapshots.KindCommitted {
			of += fmt.Sprintf(", a layer: %v", d.layer(t, info.Name) != nil)
		}
		if info.Kind != snapshots.KindView && !strings.HasPrefix(info.Name, "sha256:") {
			of += ", holds " + d.contents(t, info)
		}
		a.Snapshots[info.Name] = of
		return nil
	}))
	if d.prevLM == nil {
		return a
	}
	all, err := d.prevLM.List(inNamespace())
	must(t, err)
	for _, l := range all {
		a.Leases[l.ID] = fmt.Sprint(d.named(t, l))
	}
	return a
}

// contents mounts a snapshot behind the engine's back, so that nothing is recorded.
// Where that fails, as for one that is being deleted, it says why.
func (d *daemon) contents(t *testing.T, info snapshots.Info) string {
	t.Helper()
	id := info.Name
	if info.Kind == snapshots.KindCommitted {
		id = "making-" + id // see committed
	}
	dir, err := d.driver.Get(id, "")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = d.driver.Put(id) }()
	var files []string
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && path == dir {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				files = append(files, info.Mode().String())
			}
		}
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		files = append(files, fmt.Sprintf("%s: %q", e.Name(), content))
		return err
	})
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(files)
}

// orphans lists the directories, and those that links lead to, that belong neither to
// a snapshot nor to a layer.
func (d *daemon) orphans(t *testing.T) (orphans []string) {
	t.Helper()
	owned := map[string]bool{}
	for _, id := range d.site.layers(t) {
		owned[id] = true
	}
	for _, key := range d.walked(t) {
		owned[key], owned["making-"+key] = true, true
	}
	for _, id := range append(d.site.directories(t), slices.Collect(maps.Values(d.site.links(t)))...) {
		if !owned[id] {
			orphans = append(orphans, id)
		}
	}
	return orphans
}

// wrong says what is neither as before nor as after, nothing where all is. What was
// decided is as after.
func (a appearance) wrong(before, after appearance, decided, steps bool) string {
	if decided {
		before = after
	}
	for _, c := range []struct{ found, before, after map[string]string }{
		{a.Snapshots, before.Snapshots, after.Snapshots},
		{a.Leases, before.Leases, after.Leases},
	} {
		all := maps.Clone(c.found)
		maps.Copy(all, c.before)
		maps.Copy(all, c.after)
		for key := range all {
			now, isThere := c.found[key]
			was, wasThere := c.before[key]
			then, thenThere := c.after[key]
			if (now != was || isThere != wasThere) && (now != then || isThere != thenThere) {
				return fmt.Sprintf("%q is %q", key, now)
			}
		}
	}
	if !steps && !maps.Equal(a.Snapshots, before.Snapshots) && !maps.Equal(a.Snapshots, after.Snapshots) {
		return "half of it happened"
	}
	return ""
}
