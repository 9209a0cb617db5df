package persist

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
)

// bulk is a committed record of some 32 KiB.
func bulk(i int) Record {
	r := Record{Key: fmt.Sprint("bulk-", i), GraphID: fmt.Sprint("id-of-bulk-", i), Kind: Committed, Labels: map[string]string{}}
	for l := range 8 {
		r.Labels[fmt.Sprint("label-", l)] = strings.Repeat(fmt.Sprint(i%10), 4000)
	}
	return r
}

// grow writes so many bulks, and shrink deletes all but the first keep of them.
func (s *store) grow(n int) {
	for i := range n {
		s.write(Put(bulk(i)))
	}
}

func (s *store) shrink(n, keep int) {
	var m []Mutation
	for i := keep; i < n; i++ {
		m = append(m, Delete(bulk(i).Key))
	}
	s.write(m...)
}

func (s *store) size() int64 {
	s.t.Helper()
	st, err := os.Stat(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.Size()
}

// What was pruned is no part of the file after the next Open; all else is, whatever
// way the process before ended.
func TestOpenGivesFreePagesBack(t *testing.T) {
	for name, c := range map[string]struct {
		boot string
		died bool
		want End
	}{
		"closed":    {"run", false, InOrder},
		"died":      {"run", true, Died},
		"restarted": {"another run", true, Restarted},
	} {
		t.Run(name, func(t *testing.T) {
			s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
			s.openIn("run")
			s.grow(800)
			s.write(
				Put(active("k", "")), Put(active("l", "k")), Commit(committed("name", "l", "k"), "l"),
				Removing("gone"), Alias("lease", "sha256:00"), Set("setting", "value"),
			)
			s.shrink(800, 2)
			want, seen, large := s.load(), s.dockerdSees(), s.size()
			if large < compactFrom {
				t.Fatalf("the file has %d bytes", large)
			}

			if c.died {
				s = s.died(c.boot)
			} else {
				s.close()
				s.openIn(c.boot)
			}
			if s.Ended() != c.want {
				t.Errorf("ended %v", s.Ended())
			}
			if small := s.size(); small > large/compactShare {
				t.Errorf("of %d bytes %d are left", large, small)
			}
			if got := s.load(); !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			if got := s.dockerdSees(); !reflect.DeepEqual(got, seen) {
				t.Errorf("dockerd sees %v, saw %v", got, seen)
			}
			if v, ok := s.Setting("setting"); !ok || v != "value" {
				t.Errorf("setting %q, %v", v, ok)
			}
			if beside, err := filepath.Glob(s.path + "?*"); err != nil || len(beside) > 0 {
				t.Errorf("%q are left, %v", beside, err)
			}

			s.write(Put(active("m", "")))
			s.close()
			inode := s.inode()
			s.openIn(c.boot)
			if s.Ended() != InOrder || s.inode() != inode {
				t.Errorf("at the next Open: ended %v, written anew %v", s.Ended(), s.inode() != inode)
			}
			want.records["m"] = active("m", "")
			if got := s.load(); !reflect.DeepEqual(got, want) {
				t.Errorf("at the next Open: got  %+v\nwant %+v", got, want)
			}
			s.close()
			wantClosed(t, filepath.Dir(s.path))
		})
	}
}

func TestOpenLeavesWhatIsInUse(t *testing.T) {
	for name, c := range map[string]struct{ n, keep int }{
		"a quarter is in use": {800, 200},
		"a small file":        {200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.grow(c.n)
			s.shrink(c.n, c.keep)
			inode := s.inode()
			s.reopen()
			if s.inode() != inode {
				t.Error("the file was written anew")
			}
		})
	}
}

// Where there is no room for what is in use everything goes on in the old file.
func TestNoRoomToGiveFreePagesBack(t *testing.T) {
	dir := smallDisk(t, "64m")
	s := &store{t: t, path: filepath.Join(dir, "snapshots.db")}
	s.openIn("run")
	s.grow(800)
	s.shrink(800, 50)
	want := s.load()
	s.close()
	filler := filepath.Join(dir, "filler")
	for _, room := range []int64{0, 512 << 10} { // none to begin, and none to end
		if err := os.WriteFile(filler, make([]byte, 64<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		st, err := os.Stat(filler)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filler, st.Size()-room); err != nil {
			t.Fatal(err)
		}
		inode := s.inode()
		s.openIn("run")
		if s.inode() != inode || s.Ended() != InOrder {
			t.Errorf("written anew %v, ended %v", s.inode() != inode, s.Ended())
		}
		if got := s.load(); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
		if _, err := os.Stat(s.path + suffixCopy); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("half of it is left: %v", err)
		}
		s.close()
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	inode := s.inode()
	s.openIn("run")
	if s.inode() == inode {
		t.Error("with room the file was not written anew")
	}
	s.close()
	wantClosed(t, dir)
}
