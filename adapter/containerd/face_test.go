package containerd

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// onEachWay runs test in process and over gRPC.
func onEachWay(t *testing.T, driver string, test func(t *testing.T, sn snapshots.Snapshotter, root string)) {
	t.Helper()
	for name, way := range map[string]opener{"in process": open, "over gRPC": openRemote} {
		t.Run(driver+" "+name, func(t *testing.T) {
			root := workIn(t, driver)
			sn, end, err := way(context.Background(), openDriver(t, driver, root), root)
			must(t, err)
			t.Cleanup(func() { must(t, end()) })
			test(t, sn, root)
		})
	}
}

// directories lists the graph IDs in the home of overlay2.
func directories(t *testing.T, root string) (ids []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, "overlay2"))
	must(t, err)
	for _, e := range entries {
		if e.IsDir() && e.Name() != "l" {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

func TestErrorsAndLabels(t *testing.T) {
	ctx := context.Background()
	onEachWay(t, "overlay2", func(t *testing.T, sn snapshots.Snapshotter, root string) {
		inherited := map[string]string{"containerd.io/snapshot/x": "y", "containerd.io/snapshot.ref": "ref"}
		_, err := sn.Prepare(ctx, "work", "", snapshots.WithLabels(map[string]string{"containerd.io/snapshot/x": "y", "containerd.io/snapshot.ref": "ref", "own": "z"}))
		must(t, err)
		must(t, sn.Commit(ctx, "base", "work"))
		info, err := sn.Stat(ctx, "base")
		must(t, err)
		if !maps.Equal(info.Labels, inherited) {
			t.Errorf("a committed snapshot has the labels %v, want %v", info.Labels, inherited)
		}
		_, err = sn.Prepare(ctx, "child", "base", snapshots.WithLabels(map[string]string{"own": "z"}))
		must(t, err)

		for name, c := range map[string]struct {
			err  error
			want func(error) bool
		}{
			"removal of a parent":    {sn.Remove(ctx, "base"), errdefs.IsFailedPrecondition},
			"removal of nothing":     {sn.Remove(ctx, "absent"), errdefs.IsNotFound},
			"commit onto a name":     {sn.Commit(ctx, "base", "child"), errdefs.IsAlreadyExists},
			"preparing a taken key":  {second(sn.Prepare(ctx, "child", "base")), errdefs.IsAlreadyExists},
			"preparing on an active": {second(sn.Prepare(ctx, "other", "child")), errdefs.IsFailedPrecondition},
			"viewing an active":      {second(sn.View(ctx, "other", "child")), errdefs.IsFailedPrecondition},
			"mounting a committed":   {second(sn.Mounts(ctx, "base")), errdefs.IsFailedPrecondition},
			"usage of nothing":       {second(sn.Usage(ctx, "absent")), errdefs.IsNotFound},
			"key with NUL":           {sn.Remove(ctx, "a\x00b"), errdefs.IsInvalidArgument},
		} {
			if !c.want(c.err) {
				t.Errorf("%s: %v", name, c.err)
			}
		}
		var found []string
		must(t, sn.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
			found = append(found, i.Name)
			return nil
		}, `labels."own"==z`))
		if !slices.Equal(found, []string{"child"}) {
			t.Errorf("a walk with a filter found %q", found)
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestRemoveAndCleanupLeaveNothing(t *testing.T) {
	ctx := context.Background()
	onEachWay(t, "overlay2", func(t *testing.T, sn snapshots.Snapshotter, root string) {
		parent := ""
		for _, name := range []string{"a", "b", "c"} {
			mounts, err := sn.Prepare(ctx, name+"-work", parent)
			must(t, err)
			must(t, mount.WithTempMount(ctx, mounts, func(dir string) error {
				return os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644)
			}))
			must(t, sn.Commit(ctx, name, name+"-work"))
			parent = name
		}
		u, err := sn.Usage(ctx, "c")
		must(t, err)
		if u.Inodes < 2 || u.Size == 0 {
			t.Errorf("usage %+v", u)
		}
		mounts, err := sn.View(ctx, "view", "c")
		must(t, err)
		must(t, mount.WithTempMount(ctx, mounts, func(dir string) error {
			for _, name := range []string{"a", "b", "c"} {
				must(t, second(os.Stat(filepath.Join(dir, name))))
			}
			return nil
		}))
		for _, key := range []string{"view", "c", "b", "a"} {
			must(t, sn.Remove(ctx, key))
		}
		must(t, sn.(snapshots.Cleaner).Cleanup(ctx))
		if ids := directories(t, root); len(ids) > 0 {
			t.Errorf("directories %q are left", ids)
		}
	})
}

// Of a chain that is too deep to be described the driver mounts the directory. That
// mount lasts until the snapshot is removed, also under its name, and no longer.
func TestMountOfADeepChainEndsWithRemove(t *testing.T) {
	ctx := context.Background()
	onEachWay(t, "overlay2", func(t *testing.T, sn snapshots.Snapshotter, root string) {
		parent := ""
		var names []string
		for {
			name := strings.Repeat("n", 100) + string(rune('A'+len(names)%26)) + strings.Repeat("m", 1+len(names)/26)
			mounts, err := sn.Prepare(ctx, "work", parent)
			must(t, err)
			if mounts[0].Type == "bind" && strings.HasSuffix(mounts[0].Source, "merged") {
				again, err := sn.Mounts(ctx, "work")
				must(t, err)
				if len(again) != 1 || again[0].Source != mounts[0].Source {
					t.Errorf("mounts are %v and then %v", mounts, again)
				}
				break
			}
			must(t, sn.Commit(ctx, name, "work"))
			parent, names = name, append(names, name)
		}
		if n := len(mountsBelow(t, root)); n != 1 {
			t.Errorf("%d mounts, want 1", n)
		}
		must(t, sn.Commit(ctx, "top", "work"))
		if n := len(mountsBelow(t, root)); n != 1 {
			t.Errorf("%d mounts after the commit, want 1: a client may still use it", n)
		}
		must(t, sn.Remove(ctx, "top"))
		if n := len(mountsBelow(t, root)); n != 0 {
			t.Errorf("%d mounts after the removal", n)
		}
		for _, name := range slices.Backward(names) {
			must(t, sn.Remove(ctx, name))
		}
		must(t, sn.(snapshots.Cleaner).Cleanup(ctx))
		if ids := directories(t, root); len(ids) > 0 {
			t.Errorf("directories %q are left", ids)
		}
	})
}

// A chain goes beyond the 128 layers that overlay2 knows, and all of it is there. On
// more than the kernel stacks nothing is prepared.
func TestFourHundredLayers(t *testing.T) {
	if os.Getenv("GRAPHSNAP_CONTAINERD") == "" {
		t.Skip("run by make test-containerd, as it takes half a minute")
	}
	ctx := context.Background()
	root := workIn(t, "overlay2")
	sn, end, err := openRemote(ctx, openDriver(t, "overlay2", root), root)
	must(t, err)
	t.Cleanup(func() { must(t, end()) })
	parent, files := "", []string(nil)
	layer := func(i int) error {
		name := fmt.Sprint("layer-", i)
		mounts, err := sn.Prepare(ctx, "work", parent)
		if err != nil {
			return err
		}
		if i%50 == 0 || i == 399 {
			must(t, mount.WithTempMount(ctx, mounts, func(dir string) error {
				return os.WriteFile(filepath.Join(dir, name), nil, 0o644)
			}))
			files = append(files, name)
		}
		must(t, sn.Commit(ctx, name, "work"))
		parent = name
		return nil
	}
	for i := range 400 {
		must(t, layer(i))
	}
	slices.Sort(files)
	view, err := sn.View(ctx, "view", parent)
	must(t, err)
	active, err := sn.Prepare(ctx, "active", parent)
	must(t, err)
	for what, mounts := range map[string][]mount.Mount{"view": view, "active": active} {
		must(t, mount.WithTempMount(ctx, mounts, func(dir string) error {
			entries, err := os.ReadDir(dir)
			must(t, err)
			if got := entriesNames(entries); !slices.Equal(got, files) {
				t.Errorf("%s of 400 layers holds %q, want %q", what, got, files)
			}
			return nil
		}))
	}
	for i := 400; ; i++ {
		if err := layer(i); err != nil {
			if !errdefs.IsOutOfRange(err) || !strings.Contains(err.Error(), "at most 500") {
				t.Errorf("layer %d: %v", i, err)
			}
			if i != 500 {
				t.Errorf("layer %d is refused, want 500", i)
			}
			break
		}
	}
	if _, err := sn.Stat(ctx, "work"); !errdefs.IsNotFound(err) {
		t.Errorf("what was refused: %v", err)
	}
}
