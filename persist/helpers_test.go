package persist

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// store is a database in a file of the test, that can be closed and opened again.
type store struct {
	*DB
	t    testing.TB
	path string
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	s.open()
	t.Cleanup(func() {
		_ = s.Close()
		wantClosed(t, filepath.Dir(s.path))
	})
	return s
}

// cannot skips on a developer's machine and fails in CI, where a skipped test
// would look like a passed one.
func cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// smallDisk is a directory with a file system of that size. It needs root: CI must have
// it.
func smallDisk(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		cannot(t, fmt.Sprint("cannot mount a small tmpfs: ", err))
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

// wantClosed finds files below dir that are open. A lock goes with its file.
func wantClosed(t testing.TB, dir string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(target, dir) {
			t.Errorf("%s is open still", target)
		}
	}
}

func (s *store) open() {
	s.t.Helper()
	db, err := Open(context.Background(), s.path, Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.DB = db
}

func (s *store) reopen() {
	s.t.Helper()
	s.close()
	s.open()
}

func (s *store) close() {
	s.t.Helper()
	if err := s.Close(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *store) write(m ...Mutation) {
	s.t.Helper()
	if err := s.Write(context.Background(), m...); err != nil {
		s.t.Fatal(err)
	}
}

// contents is all that Load tells.
type contents struct {
	records   map[string]Record
	removals  map[string]bool
	leftovers map[string]Oddity
}

func (s *store) load() contents {
	s.t.Helper()
	c := contents{map[string]Record{}, map[string]bool{}, map[string]Oddity{}}
	if err := s.Load(
		func(r Record) error {
			if _, ok := c.records[r.Key]; ok {
				s.t.Errorf("%q was yielded twice", r.Key)
			}
			c.records[r.Key] = r
			return nil
		},
		func(r Removal) error { c.removals[r.GraphID] = true; return nil },
		func(l Leftover) { c.leftovers[l.Key] = l.Oddity },
	); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// wantRecords checks what Load yields, now and after reopening.
func (s *store) wantRecords(want ...Record) {
	s.t.Helper()
	m := map[string]Record{}
	for _, r := range want {
		m[r.Key] = r
	}
	for range 2 {
		if got := s.load().records; !reflect.DeepEqual(got, m) {
			s.t.Errorf("records:\n got %+v\nwant %+v", got, m)
		}
		s.reopen()
	}
}

type buckets map[string]map[string]string

// dockerdSees is what lies in dockerd's buckets, without the field it ignores.
func (s *store) dockerdSees() buckets {
	s.t.Helper()
	got := buckets{}
	if err := s.bolt.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if name[0] == 0 {
				return nil
			}
			fields := map[string]string{}
			got[string(name)] = fields
			return b.ForEach(func(k, v []byte) error {
				if string(k) != fieldOurs {
					fields[string(k)] = string(v)
				}
				return nil
			})
		})
	}); err != nil {
		s.t.Fatal(err)
	}
	return got
}

func (s *store) wantDockerdSees(want buckets) {
	s.t.Helper()
	if got := s.dockerdSees(); !maps.EqualFunc(got, want, maps.Equal) {
		s.t.Errorf("dockerd's buckets:\n got %q\nwant %q", got, want)
	}
}

// dockerd closes the database, changes it as another program would, and opens it.
func (s *store) dockerd(change func(tx *bolt.Tx)) {
	s.t.Helper()
	s.close()
	db, err := bolt.Open(s.path, 0o600, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { change(tx); return nil }); err != nil {
		s.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		s.t.Fatal(err)
	}
	s.open()
}

// put is how dockerd writes a field.
func (s *store) put(tx *bolt.Tx, bucket string, fields ...string) {
	s.t.Helper()
	b, err := tx.CreateBucketIfNotExists([]byte(bucket))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		if err := b.Put([]byte(fields[i]), []byte(fields[i+1])); err != nil {
			s.t.Fatal(err)
		}
	}
}

func active(key, parent string) Record {
	return Record{Key: key, Kind: Active, GraphID: key, Parent: parent, Created: 10, Updated: 11}
}

func committed(name, graphID, parent string) Record {
	return Record{Key: name, Kind: Committed, GraphID: graphID, Parent: parent, Created: 10, Updated: 12}
}

func digestOf(c string) string { return "sha256:" + strings.Repeat(c, 64) }
