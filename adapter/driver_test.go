package adapter

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// layout describes all that an overlay driver keeps of graph IDs, by name, with
// modes and owners; links bear random names, which are left out where they lead to
// their graph ID and back.
func (s *site) layout(t *testing.T, ids ...string) string {
	t.Helper()
	var b strings.Builder
	links := s.links(t)
	for _, id := range ids {
		must(t, filepath.WalkDir(s.path(s.driver, id), func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st syscall.Stat_t
			must(t, syscall.Lstat(path, &st))
			rel := strings.TrimPrefix(path, s.path(s.driver))
			content := ""
			if e.Type().IsRegular() {
				c, err := os.ReadFile(path)
				must(t, err)
				content = string(c)
				for link, to := range links {
					content = strings.ReplaceAll(content, link, "<link to "+to+">")
				}
			}
			fmt.Fprintf(&b, "%s %o %d:%d %s\n", rel, st.Mode, st.Uid, st.Gid, content)
			return nil
		}))
		n := 0
		for _, to := range links {
			if to == id {
				n++
			}
		}
		fmt.Fprintf(&b, "%d links to %s\n", n, id)
	}
	return b.String()
}

// What a crash may take of a directory, and what it looks like when it was whole.
func TestRestoreMakesWhatCreateMakes(t *testing.T) {
	for _, mapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("mapped=%v", mapped), func(t *testing.T) {
			var idmap user.IdentityMapping
			if mapped {
				m := []user.IDMap{{ID: 0, ParentID: 100_000, Count: 65536}}
				idmap = user.IdentityMapping{UIDMaps: m, GIDMaps: m}
			}
			s := newSite(t, "overlay2")
			d := s.overlay2(t, idmap)
			ids := []string{"base", "middle", "top"}
			parents := map[string]string{"middle": "base", "top": "middle"}
			for _, id := range ids {
				must(t, d.Create(id, parents[id]))
				must(t, os.WriteFile(s.path(s.driver, id, "diff", "file"), []byte("of "+id), 0o600))
			}
			// What a container may do to its root.
			must(t, os.Chown(s.path(s.driver, "top", "diff"), 1000, 1000))
			want := s.layout(t, ids...)
			parts := []string{"link", "l", "lower", "work", "committed"}
			for _, id := range ids {
				for set := range 1 << len(parts) {
					var gone []string
					for i, part := range parts {
						if set>>i&1 == 0 {
							continue
						}
						gone = append(gone, part)
						if part != "l" {
							must(t, os.RemoveAll(s.path(s.driver, id, part)))
							continue
						}
						for link, to := range s.links(t) {
							if to == id {
								must(t, os.Remove(s.path(s.driver, "l", link)))
							}
						}
					}
					damaged := s.layout(t, ids...) != want
					changed := false
					for _, id := range ids { // parents first, as recovery does
						c, err := d.Restore(id, parents[id])
						must(t, err)
						changed = changed || c
					}
					if got := s.layout(t, ids...); got != want {
						t.Fatalf("%s without %q:\n%s\nwant\n%s", id, gone, got, want)
					}
					if changed != damaged {
						t.Errorf("%s without %q: changed %v", id, gone, changed)
					}
				}
			}
			for _, id := range ids {
				dir, err := d.Get(id)
				must(t, err)
				if c, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(c) != "of "+id {
					t.Errorf("%s holds %q, %v", id, c, err)
				}
				must(t, d.Put(id))
			}
			s.removeAll(t, d, "top", "middle", "base")
		})
	}
}

func (s *site) overlay2(t *testing.T, idmap user.IdentityMapping) *driver {
	t.Helper()
	gd, err := overlay2.Init(s.path(s.driver), nil, idmap)
	if graphdriver.IsDriverNotSupported(err) {
		cannot(t, err.Error())
	}
	must(t, err)
	d, err := newDriver(gd, DriverOpt{IdentityMapping: idmap})
	must(t, err)
	return d
}

func (s *site) removeAll(t *testing.T, d *driver, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, d.Remove(id))
	}
	if n := len(s.links(t)); n != 0 {
		t.Errorf("%d links left", n)
	}
}

// Files of which the contents did not reach the disk are as good as missing, and a
// link of another directory is nobody's to take.
func TestRestoreOfGarbledFiles(t *testing.T) {
	s := newSite(t, "overlay2")
	d := s.overlay2(t, user.IdentityMapping{})
	must(t, d.Create("base", ""))
	must(t, d.Create("other", ""))
	must(t, d.Create("k", "base"))
	ids := []string{"base", "other", "k"}
	want := s.layout(t, ids...)
	other, err := d.link("other")
	must(t, err)
	for file, contents := range map[string][]string{
		"link":  {"", strings.Repeat("\x00", 26), "../../../../../../etc/abcd", other, strings.Repeat("A", 26)},
		"lower": {"", "l/" + other, "l/", "\x00\x00"},
	} {
		for _, content := range contents {
			must(t, os.WriteFile(s.path(s.driver, "k", file), []byte(content), 0o644))
			changed, err := d.Restore("k", "base")
			must(t, err)
			// A link of a good name that leads nowhere is made to lead here, and
			// the old one stays until the directory goes.
			got := s.layout(t, ids...)
			if file == "link" && content == strings.Repeat("A", 26) {
				got = strings.Replace(got, "2 links to k", "1 links to k", 1)
				must(t, os.Remove(s.path(s.driver, "l", content)))
				must(t, os.Remove(s.path(s.driver, "k", "link")))
				_, err := d.Restore("k", "base")
				must(t, err)
			}
			if got != want || !changed {
				t.Errorf("%s with %q, changed %v:\n%s\nwant\n%s", file, content, changed, got, want)
			}
		}
	}
	s.removeAll(t, d, "k", "other", "base")
}

// Where the content is lost nothing is invented.
func TestRestoreOfLostContent(t *testing.T) {
	s := newSite(t, "overlay2")
	d := s.overlay2(t, user.IdentityMapping{})
	must(t, d.Create("k", ""))
	must(t, os.RemoveAll(s.path(s.driver, "k", "diff")))
	for _, id := range []string{"k", "never-there"} {
		if changed, err := d.Restore(id, ""); !errdefs.IsNotFound(err) || changed {
			t.Errorf("%s: changed %v, %v", id, changed, err)
		}
	}
	if _, err := os.Lstat(s.path(s.driver, "k", "diff")); err == nil {
		t.Error("content was invented")
	}
	s.removeAll(t, d, "k")
}

// The survey tells of what it was asked about and of nothing else.
func TestSurvey(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			s := newSite(t, driver)
			d, err := newDriver(s.openDriver(t), DriverOpt{})
			must(t, err)
			for _, id := range []string{"there", "linked", "foreign", "foreign-linked"} {
				must(t, d.Create(id, ""))
			}
			ids := []string{"missing", "there", "linked", "gone/with/slash"}
			dir := func(id string) string {
				if driver == "vfs" {
					return s.path(driver, "dir", id)
				}
				return s.path(driver, id)
			}
			for _, id := range []string{"linked", "foreign-linked"} {
				must(t, os.RemoveAll(dir(id)))
			}
			for _, id := range []string{"there", "there", "foreign"} {
				must(t, os.MkdirAll(filepath.Join(dir(id), merged), 0o700))
				must(t, unix.Mount("none", filepath.Join(dir(id), merged), "tmpfs", 0, "size=64k"))
			}
			got, err := d.Survey(ids)
			must(t, err)
			slices.Sort(got.Missing)
			wantLinked, wantMounted := []string{"linked"}, []string{"there", "there"}
			if driver == "vfs" { // which mounts nothing
				wantLinked, wantMounted = nil, nil
			}
			if !slices.Equal(got.Missing, []string{"gone/with/slash", "linked", "missing"}) || !slices.Equal(got.Linked, wantLinked) || !slices.Equal(got.Mounted, wantMounted) {
				t.Errorf("survey: %+v", got)
			}
			for _, id := range got.Mounted {
				must(t, d.Unmount(id))
			}
			if driver != "vfs" {
				if left := s.mounts(t); len(left) != 1 || !strings.Contains(left[0], "foreign") {
					t.Errorf("mounts left: %q", left)
				}
			}
			for _, point := range s.mounts(t) {
				must(t, unix.Unmount(point, unix.MNT_DETACH))
			}
			s.removeAll(t, d, "there", "linked", "foreign", "foreign-linked")
		})
	}
}
