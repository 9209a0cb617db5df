package adapter

// Mounts that are described are those that the driver would have made, and what is
// written through the ones is there through the others.

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// described makes a driver on s that describes mounts, and directories "0" to
// "<n-1>", each built on the one before.
func described(t *testing.T, s *site, n int) *driver {
	t.Helper()
	d, err := newDriver(s.openDriver(t), DriverOpt{OverlayMounts: true})
	must(t, err)
	parent := ""
	for i := range n {
		id := fmt.Sprint(i)
		must(t, d.Create(id, parent))
		parent = id
	}
	t.Cleanup(func() {
		for i := range n {
			must(t, d.Remove(fmt.Sprint(i)))
		}
	})
	return d
}

// mountedAt mounts what is described of id and calls f with the place.
func (d *driver) mountedAt(t *testing.T, s *site, id string, readonly bool, f func(dir string)) {
	t.Helper()
	dir, err := d.Get(id)
	must(t, err)
	if dir != "" {
		t.Fatalf("the driver mounted %q at %s", id, dir)
	}
	mounts, err := d.Describe(id, readonly)
	must(t, err)
	(&process{site: s}).bound(t, mounts, f)
}

// overlayOptions returns the options of the overlay at dir as the kernel has them,
// with the links in the names of directories resolved.
func overlayOptions(t *testing.T, dir string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	must(t, err)
	if len(infos) != 1 || infos[0].FSType != "overlay" {
		t.Fatalf("%d mounts at %s, want an overlay: %+v", len(infos), dir, infos)
	}
	options := strings.Split(infos[0].VFSOptions, ",")
	for i, o := range options {
		name, value, _ := strings.Cut(o, "=")
		if !slices.Contains([]string{"lowerdir", "lowerdir+", "upperdir", "workdir"}, name) {
			continue
		}
		paths := strings.Split(value, ":")
		for j, path := range paths {
			paths[j], err = filepath.EvalSymlinks(path)
			must(t, err)
		}
		options[i] = name + "=" + strings.Join(paths, ":")
	}
	// Whether an upper directory gets a UUID is for the first mount of it.
	options = slices.DeleteFunc(options, func(o string) bool { return strings.HasPrefix(o, "uuid=") })
	slices.Sort(options)
	return options
}

func TestDescriptionIsTheDriversMount(t *testing.T) {
	s := newSite(t, "overlay2")
	d := described(t, s, 4)
	for _, id := range []string{"2", "3"} { // built on, so read-only, and not
		var ours, theirs []string
		d.mountedAt(t, s, id, false, func(dir string) { ours = overlayOptions(t, dir) })
		dir, err := d.Driver.Get(id, "")
		must(t, err)
		theirs = overlayOptions(t, dir)
		must(t, d.Put(id))
		if !slices.Equal(ours, theirs) {
			t.Errorf("%q is mounted with\n%q, by the driver with\n%q", id, ours, theirs)
		}
	}
}

func TestDescriptionOfOneDirectory(t *testing.T) {
	s := newSite(t, "overlay2")
	d := described(t, s, 1)
	for readonly, option := range map[bool]string{true: "ro", false: "rw"} {
		mounts, err := d.Describe("0", readonly)
		must(t, err)
		want := []mount.Mount{{Type: "bind", Source: filepath.Join(d.dir("0"), "diff"), Options: []string{option, "rbind"}}}
		if fmt.Sprint(mounts) != fmt.Sprint(want) {
			t.Errorf("read-only %v: %+v, want %+v", readonly, mounts, want)
		}
	}
}

// change is what is done to a tree through one kind of mount to be seen through the
// other.
func change(t *testing.T, dir, by string) {
	t.Helper()
	must(t, os.RemoveAll(filepath.Join(dir, "emptied")))
	must(t, os.Mkdir(filepath.Join(dir, "emptied"), 0o750)) // opaque
	must(t, os.WriteFile(filepath.Join(dir, "emptied", by), nil, 0o640))
	must(t, os.Remove(filepath.Join(dir, "deleted"))) // a whiteout
	must(t, os.WriteFile(filepath.Join(dir, "kept", "file"), []byte(by), 0o600))
	must(t, unix.Lsetxattr(filepath.Join(dir, "kept"), "user.by", []byte(by), 0))
	must(t, os.Rename(filepath.Join(dir, "kept", "old"), filepath.Join(dir, "kept", "new")))
}

// listing describes what is below dir.
func listing(t *testing.T, dir string) (lines []string) {
	t.Helper()
	must(t, filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		by := make([]byte, 64)
		n, err := unix.Lgetxattr(path, "user.by", by)
		if err != nil {
			n = 0
		}
		var content []byte
		if info.Mode().IsRegular() {
			content, err = os.ReadFile(path)
			must(t, err)
		}
		lines = append(lines, fmt.Sprintf("%s %s %q %q", strings.TrimPrefix(path, dir), info.Mode(), by[:n], content))
		return nil
	}))
	return lines
}

// What is written through a description is what the driver mounts, and the reverse:
// a root goes from one face to another.
func TestDescriptionAndDriverWriteTheSame(t *testing.T) {
	for _, writer := range []string{"description", "driver"} {
		t.Run(writer, func(t *testing.T) {
			s := newSite(t, "overlay2")
			d := described(t, s, 0)
			byDriver := func(id string, _ bool, f func(string)) {
				dir, err := d.Driver.Get(id, "")
				must(t, err)
				f(dir)
				must(t, d.Put(id))
			}
			byDescription := func(id string, readonly bool, f func(string)) { d.mountedAt(t, s, id, readonly, f) }
			write, read := byDescription, byDriver
			if writer == "driver" {
				write, read = byDriver, byDescription
			}
			must(t, d.Create("base", ""))
			write("base", false, func(dir string) {
				for _, sub := range []string{"emptied", "kept"} {
					must(t, os.Mkdir(filepath.Join(dir, sub), 0o755))
				}
				for _, file := range []string{"emptied/file", "deleted", "kept/file", "kept/old"} {
					must(t, os.WriteFile(filepath.Join(dir, file), []byte("base"), 0o644))
				}
			})
			must(t, d.Create("top", "base"))
			var wrote, active, viewed []string
			write("top", false, func(dir string) {
				change(t, dir, writer)
				wrote = listing(t, dir)
			})
			read("top", false, func(dir string) { active = listing(t, dir) })
			must(t, d.Create("child", "top")) // from now on it is read-only
			read("top", true, func(dir string) { viewed = listing(t, dir) })
			if len(wrote) != 6 {
				t.Errorf("%d entries were written: %q", len(wrote), wrote)
			}
			if !slices.Equal(wrote, active) || !slices.Equal(wrote, viewed) {
				t.Errorf("written\n%q\nread\n%q\nand after another was built on it\n%q", wrote, active, viewed)
			}
			for _, id := range []string{"child", "top", "base"} {
				must(t, d.Remove(id))
			}
		})
	}
}

// Where the options would not fit, however they are shortened, the driver mounts, and
// what is held is a bind. What is longer than a page and fits when it is shortened is
// mounted by containerd's package as it is.
func TestDescriptionThatDoesNotFit(t *testing.T) {
	s := newSite(t, "overlay2")
	s.overlay = true
	p := s.open(t)
	_, ctx := p.lease(t)
	parent, bound, shortened := "", 0, 0
	for i := range 128 {
		name := fmt.Sprintf("layer-that-does-not-have-a-short-name-%d", i)
		must(t, p.snap.Prepare(ctx, "making", parent))
		m := p.mounts(t, "making")
		mounts, release := hold(t, m)
		switch length := len(strings.Join(mounts[0].Options, ",")); {
		case mounts[0].Type == "bind" && parent != "":
			bound++
			if n := len(s.mounts(t)); n != 1 {
				t.Fatalf("layer %d: bound, with %d mounts by the driver", i, n)
			}
		case bound > 0:
			t.Fatalf("layer %d: described, though those below were not", i)
		default:
			if left := s.mounts(t); len(left) > 0 {
				t.Fatalf("layer %d: described, and mounted: %q", i, left)
			}
			if length >= os.Getpagesize() {
				shortened++
			}
		}
		if i < 3 || shortened > 0 {
			p.bound(t, mounts, func(dir string) { must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600)) })
		}
		must(t, release())
		must(t, p.snap.Commit(ctx, name, "making"))
		if parent = name; bound == 1 {
			break
		}
	}
	if bound == 0 || shortened == 0 {
		t.Fatalf("%d directories were bound and %d shortened, want some of both", bound, shortened)
	}
	view, err := p.snap.View(ctx, "view", parent)
	must(t, err)
	if files := p.files(t, view); len(files) != 3+shortened+1 || !slices.Contains(files, parent) {
		t.Errorf("the last one holds %q", files)
	}
}

// What a differ that looks at descriptions would get wrong is not described.
func TestNoDescription(t *testing.T) {
	s := newSite(t, "overlay2")
	ids := []user.IDMap{{ID: 0, ParentID: 100_000, Count: 65536}}
	for name, make := range map[string]func() (*driver, error){
		"not asked for": func() (*driver, error) { return newDriver(s.openDriver(t), DriverOpt{}) },
		"IDs are mapped": func() (*driver, error) {
			return newDriver(s.openDriver(t), DriverOpt{
				OverlayMounts:   true,
				IdentityMapping: user.IdentityMapping{UIDMaps: ids, GIDMaps: ids},
			})
		},
		"no native differences": func() (*driver, error) {
			return newDriver(metacopying{s.openDriver(t)}, DriverOpt{OverlayMounts: true})
		},
		"another driver": func() (*driver, error) {
			return newDriver(newSite(t, "vfs").openDriver(t), DriverOpt{OverlayMounts: true})
		},
	} {
		d, err := make()
		must(t, err)
		must(t, d.Create("base", ""))
		dir, err := d.Get("base")
		if err != nil || dir == "" {
			t.Errorf("%s: Get returned %q, %v, want a directory", name, dir, err)
		}
		must(t, d.Put("base"))
		must(t, d.Remove("base"))
	}
}

// metacopying says of itself what overlay2 does where the kernel's metacopy is on.
type metacopying struct{ graphdriver.Driver }

func (metacopying) Status() [][2]string { return [][2]string{{"Native Overlay Diff", "false"}} }
