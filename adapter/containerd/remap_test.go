package containerd

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// hostRoot is root of the user namespaces in these tests.
const hostRoot = 100_000

func withMapping(uids, gids string) snapshots.Opt {
	return snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: uids, snapshots.LabelSnapshotGIDMapping: gids})
}

var mapRoot = withMapping("0:100000:65536", "0:100000:65536")

// openRemapping opens a snapshotter in a directory for driver.
func openRemapping(t *testing.T, driver string, opts ...Option) snapshots.Snapshotter {
	t.Helper()
	root := workIn(t, driver)
	e, err := openEngine(context.Background(), openDriver(t, driver, root), root)
	must(t, err)
	t.Cleanup(func() { must(t, e.Close()) })
	return New(e, opts...)
}

// image makes the snapshots "image-0" to "image-<n-1>" on each other, each with a file
// of its name, of user 5 and group 6, in it.
func image(t *testing.T, sn snapshots.Snapshotter, n int) (top string) {
	t.Helper()
	ctx := context.Background()
	for i := range n {
		name := fmt.Sprint("image-", i)
		mounts, err := sn.Prepare(ctx, "making", top)
		must(t, err)
		must(t, mount.WithTempMount(ctx, mounts, func(dir string) error {
			must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o644))
			return os.Chown(filepath.Join(dir, name), 5, 6)
		}))
		must(t, sn.Commit(ctx, name, "making"))
		top = name
	}
	return top
}

// owners tells who owns what mounts show.
func owners(t *testing.T, mounts []mount.Mount) map[string]string {
	t.Helper()
	mounts = cloneMounts(mounts)
	found := map[string]string{}
	must(t, mount.WithTempMount(context.Background(), mounts, func(dir string) error {
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, name := range append(entriesNames(entries), ".") {
			o, err := owner(filepath.Join(dir, name))
			must(t, err)
			found[name] = o.String()
		}
		return nil
	}))
	return found
}

// cloneMounts returns mounts to mount once: of an overlay with mapped IDs core/mount of
// containerd 2.1 changes the options.
func cloneMounts(mounts []mount.Mount) (clone []mount.Mount) {
	for _, m := range mounts {
		m.Options = slices.Clone(m.Options)
		clone = append(clone, m)
	}
	return clone
}

func entriesNames(entries []os.DirEntry) (names []string) {
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// touch makes a file as root of the user namespace would.
func touch(t *testing.T, mounts []mount.Mount, name string) {
	t.Helper()
	// Where the way to the mount does not matter to that user.
	dir, err := os.MkdirTemp("/tmp", "graphsnap-remap-")
	must(t, err)
	defer os.Remove(dir)
	must(t, os.Chmod(dir, 0o755))
	must(t, mount.All(cloneMounts(mounts), dir))
	defer func() { must(t, mount.UnmountMounts(mounts, dir, 0)) }()
	cmd := exec.Command("touch", name)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: hostRoot, Gid: hostRoot}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("root of the user namespace cannot write: %v\n%s", err, out)
	}
}

func checkOwners(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: owners %v, want %v", what, got, want)
	}
}

// A user namespace sees the owners of the image, on the host they are its own, and the
// image stays as it is.
func TestMountsMapIDs(t *testing.T) {
	ctx := context.Background()
	for _, driver := range []string{"overlay2", "vfs", "btrfs"} {
		t.Run(driver, func(t *testing.T) {
			sn := openRemapping(t, driver, WithRemapIDs())
			top := image(t, sn, 2)
			want := map[string]string{".": "100000:100000", "image-0": "100005:100006", "image-1": "100005:100006"}
			mounts, err := sn.Prepare(ctx, "container", top, mapRoot)
			must(t, err)
			checkOwners(t, "a new snapshot", owners(t, mounts), want)
			touch(t, mounts, "new")
			want["new"] = "100000:100000"
			again, err := sn.Mounts(ctx, "container")
			must(t, err)
			checkOwners(t, "mounts that were asked for later", owners(t, again), want)

			mounts, err = sn.Prepare(ctx, "empty", "", mapRoot)
			must(t, err)
			touch(t, mounts, "new")
			checkOwners(t, "a snapshot on nothing", owners(t, mounts), map[string]string{".": "100000:100000", "new": "100000:100000"})

			mounts, err = sn.View(ctx, "unmapped", top)
			must(t, err)
			checkOwners(t, "the image", owners(t, mounts), map[string]string{".": "0:0", "image-0": "5:6", "image-1": "5:6"})
			if driver == "overlay2" { // of the others a view is a bind
				mounts, err = sn.View(ctx, "view", top, mapRoot)
				must(t, err)
				delete(want, "new")
				checkOwners(t, "a view", owners(t, mounts), want)
			}
		})
	}
}

// Also where the options of the mount are longer than a page before containerd shortens
// them.
func TestMountsOfALongChainMapIDs(t *testing.T) {
	sn := openRemapping(t, "overlay2", WithRemapIDs())
	const n = 60
	mounts, err := sn.Prepare(context.Background(), "container", image(t, sn, n), mapRoot)
	must(t, err)
	if length := len(strings.Join(mounts[0].Options, ",")); length < os.Getpagesize() {
		t.Fatalf("the options take %d bytes", length)
	}
	found := owners(t, mounts)
	for i := range n {
		if name := fmt.Sprint("image-", i); found[name] != "100005:100006" {
			t.Errorf("%s belongs to %q", name, found[name])
		}
	}
}

// A root directory is given away once: then it is the container's. After a power loss
// it may be as it was made, and empty.
func TestMappedRootIsGivenAwayOnce(t *testing.T) {
	ctx := context.Background()
	sn := openRemapping(t, "overlay2", WithRemapIDs())
	mounts, err := sn.Prepare(ctx, "container", image(t, sn, 1), mapRoot)
	must(t, err)
	upper := layersOf(mounts).top
	for _, c := range []struct {
		what string
		do   func()
		want int
	}{
		{"given away by the container", func() { must(t, os.Chown(upper, hostRoot+7, hostRoot+7)) }, hostRoot + 7},
		{"as it was made", func() { must(t, os.Chown(upper, 0, 0)) }, hostRoot},
		{"in use", func() {
			must(t, os.WriteFile(filepath.Join(upper, "file"), nil, 0o600))
			must(t, os.Chown(upper, 0, 0))
		}, 0},
	} {
		c.do()
		must(t, second(sn.Mounts(ctx, "container")))
		if o, err := owner(upper); err != nil || o != (ids{c.want, c.want}) {
			t.Errorf("%s, the root directory belongs to %v (%v), want %d", c.what, o, err, c.want)
		}
	}
}

// What cannot be mapped is refused, with an error that says why, and nothing is left.
func TestMappingThatCannotBe(t *testing.T) {
	ctx := context.Background()
	type refusal struct {
		prepare func(key string) error
		is      func(error) bool
		says    string
	}
	check := func(t *testing.T, sn snapshots.Snapshotter, refusals map[string]refusal) {
		t.Helper()
		for what, c := range refusals {
			if err := c.prepare("refused"); !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want an error that says %q", what, err, c.says)
			}
			if _, err := sn.Stat(ctx, "refused"); !errdefs.IsNotFound(err) {
				t.Errorf("%s: stat of what was refused: %v", what, err)
			}
		}
	}
	t.Run("in mounts", func(t *testing.T) {
		sn := openRemapping(t, "overlay2", WithRemapIDs())
		top := image(t, sn, 2)
		// As containerd does where it does not know that mounts map.
		mounts, err := sn.Prepare(ctx, "making", top)
		must(t, err)
		must(t, mount.WithTempMount(ctx, mounts, func(dir string) error { return os.Chown(dir, hostRoot, hostRoot) }))
		must(t, sn.Commit(ctx, "remapped", "making"))
		deep := ""
		// The room that is missing is more than a shorter name makes.
		for bound := 0; bound < 3; {
			mounts, err := sn.Prepare(ctx, "making", deep)
			must(t, err)
			if deep != "" && mounts[0].Type == "bind" {
				bound++
			}
			deep += "d"
			must(t, sn.Commit(ctx, deep, "making"))
		}
		prepare := func(parent string, opt snapshots.Opt) func(string) error {
			return func(key string) error { return second(sn.Prepare(ctx, key, parent, opt)) }
		}
		check(t, sn, map[string]refusal{
			"a label alone":         {prepare(top, withMapping("0:100000:65536", "")), errdefs.IsInvalidArgument, snapshots.LabelSnapshotGIDMapping},
			"a label of two parts":  {prepare(top, withMapping("0:100000", "0:100000:1")), errdefs.IsInvalidArgument, "container:host:size"},
			"a label of words":      {prepare(top, withMapping("0:all:1", "0:100000:1")), errdefs.IsInvalidArgument, `"all"`},
			"ranges that overlap":   {prepare(top, withMapping("0:100000:10,5:200000:10", "0:100000:10")), errdefs.IsInvalidArgument, "user namespace"},
			"a mapping of nothing":  {prepare(top, withMapping("0:100000:0", "0:100000:0")), errdefs.IsFailedPrecondition, "does not map"},
			"mapped before":         {prepare("remapped", mapRoot), errdefs.IsFailedPrecondition, `"remap-ids"`},
			"mounted by the driver": {prepare(deep, mapRoot), errdefs.IsNotImplemented, "does not map"},
			"a view that is a bind": {func(key string) error {
				return second(sn.View(ctx, key, "image-0", mapRoot))
			}, errdefs.IsNotImplemented, "read-only bind"},
		})
	})
	t.Run("fuse", func(t *testing.T) {
		sn := openRemapping(t, "fuse-overlayfs", WithRemapIDs())
		top := image(t, sn, 2)
		check(t, sn, map[string]refusal{
			"mounted by a process": {func(key string) error { return second(sn.Prepare(ctx, key, top, mapRoot)) }, errdefs.IsNotImplemented, "does not map"},
		})
	})
	t.Run("on disk", func(t *testing.T) {
		sn := openRemapping(t, "vfs")
		top := image(t, sn, 1)
		check(t, sn, map[string]refusal{
			"not mapped before": {func(key string) error { return second(sn.Prepare(ctx, key, top, mapRoot)) }, errdefs.IsNotImplemented, "--remap-ids"},
			"a view":            {func(key string) error { return second(sn.View(ctx, key, top, mapRoot)) }, errdefs.IsNotImplemented, "--remap-ids"},
		})
	})
}

// By default containerd maps: it changes the owners in a snapshot of its own, as here,
// and passes the labels all the same.
func TestContainerdMapsIDs(t *testing.T) {
	ctx := context.Background()
	for _, driver := range []string{"overlay2", "vfs", "btrfs"} {
		t.Run(driver, func(t *testing.T) {
			sn := openRemapping(t, driver)
			mounts, err := sn.Prepare(ctx, "making", image(t, sn, 2))
			must(t, err)
			must(t, mount.WithTempMount(ctx, mounts, func(dir string) error {
				return filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
					must(t, err)
					st := info.Sys().(*syscall.Stat_t)
					return os.Lchown(path, int(st.Uid)+hostRoot, int(st.Gid)+hostRoot)
				})
			}))
			must(t, sn.Commit(ctx, "remapped", "making"))

			want := map[string]string{".": "100000:100000", "image-0": "100005:100006", "image-1": "100005:100006"}
			mounts, err = sn.Prepare(ctx, "container", "remapped", mapRoot)
			must(t, err)
			if slices.ContainsFunc(mounts[0].Options, func(o string) bool { return strings.HasPrefix(o, "uidmap=") }) {
				t.Errorf("the mount maps a second time: %q", mounts[0].Options)
			}
			touch(t, mounts, "new")
			mounts, err = sn.View(ctx, "view", "remapped", mapRoot)
			must(t, err)
			checkOwners(t, "a view", owners(t, mounts), want)
			want["new"] = "100000:100000"
			mounts, err = sn.Mounts(ctx, "container")
			must(t, err)
			checkOwners(t, "a snapshot", owners(t, mounts), want)

			mounts, err = sn.Prepare(ctx, "empty", "", mapRoot)
			must(t, err)
			touch(t, mounts, "new")
			checkOwners(t, "a snapshot on nothing", owners(t, mounts), map[string]string{".": "100000:100000", "new": "100000:100000"})
		})
	}
}

// The trial leaves no mount behind, whether the file system maps or not.
func TestTrialOfMappingLeavesNothing(t *testing.T) {
	dir := workIn(t, "vfs")
	m, err := mappingIn(map[string]string{snapshots.LabelSnapshotUIDMapping: "0:100000:1", snapshots.LabelSnapshotGIDMapping: "0:100000:1"})
	must(t, err)
	must(t, m.possible(dir))
	lower, point := filepath.Join(dir, "lower"), filepath.Join(dir, "point")
	must(t, os.Mkdir(lower, 0o755))
	must(t, os.Mkdir(point, 0o755))
	must(t, unix.Mount("overlay", point, "overlay", 0, "lowerdir="+lower+":"+point))
	defer func() { must(t, unix.Unmount(point, 0)) }()
	if err := m.possible(point); !errdefs.IsNotImplemented(err) {
		t.Errorf("an overlay maps: %v", err)
	}
	if points := mountsBelow(t, dir); len(points) != 1 {
		t.Errorf("mounts %q", points)
	}
}
