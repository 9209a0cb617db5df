package peer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/reexec"
	bolt "go.etcd.io/bbolt"
)

func TestMain(m *testing.M) {
	_ = log.SetLevel("panic") // Docker logs each opening of a graph driver
	if reexec.Init() {        // overlay2 mounts in a process of its own where paths are long
		return
	}
	os.Exit(m.Run())
}

// each runs test on every snapshotter.
func each(t *testing.T, test func(t *testing.T, name string, open func() Snapshotter)) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("overlay2 needs root")
		}
		t.Skip("overlay2 needs root")
	}
	for _, driver := range []string{"null", "overlay2"} {
		for _, name := range Names {
			if name == "metastore" && driver == "overlay2" {
				continue
			}
			t.Run(name+"/"+driver, func(t *testing.T) {
				root := t.TempDir()
				opened := false
				test(t, name, func() Snapshotter {
					t.Helper()
					o := Options{Root: root, Driver: driver}
					if opened {
						o.Existed = func(id string) bool { return id == "key" }
					}
					opened = true
					s, err := Open(context.Background(), name, o)
					if err != nil {
						t.Fatal(err)
					}
					return s
				})
			})
		}
	}
}

// TestSame checks that the same calls do the same to all of them, as far as they
// know what is asked.
func TestSame(t *testing.T) {
	each(t, func(t *testing.T, name string, open func() Snapshotter) {
		ctx := context.Background()
		s := open()
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(s.Prepare(ctx, "key", ""))
		m, err := s.Mounts(ctx, "key")
		must(err)
		_, release, err := m.Mount()
		must(err)
		must(release())
		must(s.Keep(ctx, "name"))
		must(s.Commit(ctx, "name", "key"))
		must(s.Close())

		s = open() // a snapshot that was committed is there after a restart
		info, err := s.Stat(ctx, "name")
		must(err)
		if info.Kind != snapshots.KindCommitted || info.Parent != "" {
			t.Errorf("Stat answers %+v", info)
		}
		_, err = s.Usage(ctx, "name")
		must(err)
		var walked []string
		must(s.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
			walked = append(walked, info.Name)
			return nil
		}))
		if want := []string{"name"}; !slices.Equal(walked, want) && name != "moby" {
			t.Errorf("Walk yields %q, want %q", walked, want)
		}
		v, err := s.View(ctx, "view", "name")
		must(err)
		_, release, err = v.Mount()
		must(err)
		must(release())
		must(s.Prepare(ctx, "child", "name"))
		if info, err = s.Stat(ctx, "child"); err != nil || info.Parent != "name" {
			t.Errorf("Stat of the child answers %+v, %v", info, err)
		}
		if _, err := s.Stat(ctx, "nobody"); !errdefs.IsNotFound(err) {
			t.Errorf("Stat of an absent key answers %v", err)
		}
		if name == "containerd" || name == "metastore" {
			must(s.Remove(ctx, "child"))
			must(s.Remove(ctx, "view"))
		}
		must(s.Remove(ctx, "name"))
		must(s.Close())
	})
}

// TestFloorWritesWhatMobyWrites compares the databases after the same calls.
func TestFloorWritesWhatMobyWrites(t *testing.T) {
	ctx := context.Background()
	var wrote []map[string]string
	for _, open := range []func(root string) (Pairs, error){
		func(root string) (Pairs, error) { return Open(ctx, "moby", Options{Root: root}) },
		func(root string) (Pairs, error) { return OpenFloor(root) },
	} {
		s, err := open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		parent := ""
		for i := range 10 {
			key, name := fmt.Sprint("key-", i), fmt.Sprint("name-", i)
			if err := s.Prepare(ctx, key, parent); err != nil {
				t.Fatal(err)
			}
			if err := s.Commit(ctx, name, key); err != nil {
				t.Fatal(err)
			}
			parent = name
		}
		path := s.Database()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		wrote = append(wrote, contents(t, path))
	}
	if len(wrote[0]) != 30 {
		t.Errorf("moby wrote %d fields, which is not what 10 pairs are made of", len(wrote[0]))
	}
	if diff := cmp.Diff(wrote[0], wrote[1]); diff != "" {
		t.Errorf("moby wrote -, the floor +:\n%s", diff)
	}
}

func contents(t *testing.T, path string) map[string]string {
	db, err := bolt.Open(filepath.Clean(path), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fields := map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				fields[string(name)+"/"+string(k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return fields
}
