package dockerd

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/docker/docker/layer"
	"github.com/moby/buildkit/snapshot"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/engine"
)

// newAtOnce is graphsnap's, which removes snapshots from before it opened at once,
// not after half a minute.
func newAtOnce(opt Opt, lm leases.Manager) (snapshot.Snapshotter, leases.Manager, error) {
	opt.Engine = []engine.Option{engine.WithGrace(0)}
	return newSnapshotter(opt, lm)
}

// turn is one dockerd's time on a root. The image's layer has a reference before
// the snapshotter opens, if there is one.
func turn(t *testing.T, root string, open open, image layer.ChainID, check func(b *builder) error) {
	t.Helper()
	err := onBuilder(t, root, func(opt Opt, lm leases.Manager) (snapshot.Snapshotter, leases.Manager, error) {
		if image != "" {
			if _, err := opt.LayerStore.Get(image); err != nil {
				return nil, nil, err
			}
		}
		return open(opt, lm)
	}, check)
	if err != nil {
		t.Fatal(err)
	}
}

// image registers a layer with one file, as the image store does.
func (b *builder) image() (layer.ChainID, error) {
	var content bytes.Buffer
	w := tar.NewWriter(&content)
	err := errors.Join(w.WriteHeader(&tar.Header{Name: "image", Mode: 0o600, Size: 5}), func() error { _, err := w.Write([]byte("image")); return err }(), w.Close())
	if err != nil {
		return "", err
	}
	l, err := b.layers.Register(&content, "")
	if err != nil {
		return "", err
	}
	return l.ChainID(), nil
}

// buckets reads dockerd's part of snapshots.db, which nobody may have open, without
// the field that it does not know.
func buckets(t *testing.T, root string) map[string]map[string]string {
	t.Helper()
	db, err := bolt.Open(filepath.Join(root, "snapshots.db"), 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := map[string]map[string]string{}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
			if name[0] == 0 {
				return nil
			}
			fields := map[string]string{}
			all[string(name)] = fields
			return b.ForEach(func(k, v []byte) error {
				if string(k) != "graphsnap" {
					fields[string(k)] = string(v)
				}
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// holds checks what a snapshot is and what is in it.
func (b *builder) holds(key string, kind snapshots.Kind, parent string, files ...string) error {
	info, err := b.snapshot.Stat(inNamespace, key)
	if err != nil {
		return err
	}
	if info.Kind != kind || info.Parent != parent {
		return fmt.Errorf("%q is %v on %q, want %v on %q", key, info.Kind, info.Parent, kind, parent)
	}
	if _, err := b.snapshot.Usage(inNamespace, key); err != nil {
		return err
	}
	look := func(dir string) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		var found []string
		for _, e := range entries {
			found = append(found, e.Name())
		}
		if !slices.Equal(found, files) {
			return fmt.Errorf("%q holds %q, want %q", key, found, files)
		}
		return nil
	}
	if kind == snapshots.KindActive {
		return b.inside(key, look)
	}
	view := "view-of-" + key
	if err := b.lease(view, view); err != nil {
		return err
	}
	m, err := b.snapshot.View(inNamespace, view, key)
	if err != nil {
		return err
	}
	return errors.Join(b.mounted(m, look), b.unlease(view))
}

// make makes a committed snapshot that holds file beyond its parent, under a lease
// of the same name.
func (b *builder) make(name, parent, file string) error {
	key := "making-" + name
	return errors.Join(b.active(key, parent, file), b.lease(name, name), b.snapshot.Commit(inNamespace, name, key), b.unlease(key))
}

// active makes an active snapshot under a lease of the same name.
func (b *builder) active(key, parent, file string) error {
	if err := errors.Join(b.lease(key, key), b.snapshot.Prepare(inNamespace, key, parent)); err != nil {
		return err
	}
	return b.inside(key, func(dir string) error { return os.WriteFile(filepath.Join(dir, file), nil, 0o600) })
}

// TestP8WrittenByStock has stock dockerd's snapshotter write all that it can, and
// what it should not: names committed twice, a key under two names, the size of what
// was removed meanwhile, aliases of leases that are gone. graphsnap serves the same
// from it, changes none of dockerd's fields but sizes, rids the disk of what nobody can use, and
// stock dockerd's goes on from there. In the end nothing is left.
func TestP8WrittenByStock(t *testing.T) {
	root := newRoot(t)
	var image layer.ChainID
	sound := func(b *builder) error {
		if err := errors.Join(
			b.holds(image.String(), snapshots.KindCommitted, "", "image"),
			b.holds("low", snapshots.KindCommitted, image.String(), "image", "low"),
			b.holds("high", snapshots.KindCommitted, "low", "high", "image", "low"),
			b.holds("exported", snapshots.KindCommitted, image.String(), "exported", "image"),
			b.holds("twice", snapshots.KindCommitted, "low", "image", "low", "second"),
			b.holds("cache-mount", snapshots.KindActive, "", "cached"),
		); err != nil {
			return err
		}
		for key, want := range map[string]bool{"image": true, "exported": true, image.String(): true, "cache-mount": false, "nobody": false} {
			if l, err := b.snapshot.GetLayer(key); err != nil || (l != nil) != want {
				return fmt.Errorf("the layer of %q is %v, %v", key, l, err)
			}
		}
		return nil
	}

	turn(t, root, newStock, "", func(b *builder) (err error) {
		if image, err = b.image(); err != nil {
			return err
		}
		if err := errors.Join(
			// Its alias stays for ever, and where no other lease of the layer begins
			// afterwards, dockerd forgets that it borrowed it.
			b.lease("ended", image.String()), b.unlease("ended"),
			b.lease("image", image.String()),
			b.make("low", image.String(), "low"),
			b.make("high", "low", "high"),
			b.make("exported", image.String(), "exported"),
			b.active("cache-mount", "", "cached"),

			// Of the first key of twice nobody knows any more.
			b.active("first", "low", "first"), b.lease("twice", "twice"),
			b.snapshot.Commit(inNamespace, "twice", "first"),
			b.active("second", "low", "second"),
			b.snapshot.Commit(inNamespace, "twice", "second"),
			// Nor of these, but that a lease names one of them.
			b.active("third", "high", "third"), b.active("fourth", "", "fourth"), b.lease("gone", "gone"),
			b.snapshot.Commit(inNamespace, "gone", "third"), b.snapshot.Commit(inNamespace, "gone", "fourth"),
			b.unlease("gone", "first", "second", "fourth"),
			// The other name goes with the directory of both.
			b.active("key", "", "key"), b.lease("one", "one"), b.lease("other", "other"),
			b.snapshot.Commit(inNamespace, "one", "key"), b.snapshot.Commit(inNamespace, "other", "key"),
			b.unlease("one", "key"),
			b.active("removed", "", "removed"),
		); err != nil {
			return err
		}
		if _, err := b.snapshot.EnsureLayer(inNamespace, "exported"); err != nil {
			return err
		}
		b.driver.then = func() { err = b.unlease("removed") }
		_, usageErr := b.snapshot.Usage(inNamespace, "removed")
		b.driver.then = nil
		return errors.Join(usageErr, err, sound(b))
	})
	written := buckets(t, root)
	for key, field := range map[string]string{
		"first": "iscommitted", "third": "iscommitted", "other": "committed", "removed": "size", "image": "chainid", "ended": "chainid",
	} {
		if _, ok := written[key][field]; !ok {
			t.Errorf("stock dockerd's does not leave %s of %q any more: %q", field, key, written[key])
		}
	}
	for _, key := range []string{"gone", "key"} {
		if b, ok := written[key]; ok {
			t.Errorf("stock dockerd's keeps %q: %q", key, b)
		}
	}

	// All is served, and of what it is written as, nothing changes.
	turn(t, root, newAtOnce, image, func(b *builder) error {
		before := b.directories()
		if !slices.Contains(before, "overlay2/first") || !slices.Contains(before, "overlay2/third") {
			return fmt.Errorf("no orphan is on disk: %q", before)
		}
		if err := sound(b); err != nil {
			return err
		}
		for _, key := range []string{"first", "second", "third", "fourth", "gone", "key", "one", "other", "removed", "ended", "image"} {
			if _, err := b.snapshot.Stat(inNamespace, key); !errdefs.IsNotFound(err) {
				return fmt.Errorf("Stat of %q: %v", key, err)
			}
		}
		return b.without("first")
	})
	for _, key := range []string{"first", "removed", "ended"} {
		delete(written, key)
	}
	now := buckets(t, root)
	for _, all := range []map[string]map[string]string{written, now} {
		for key := range all {
			delete(all[key], "size") // was measured anew, with inodes
		}
	}
	if !maps.EqualFunc(now, written, maps.Equal) {
		t.Errorf("dockerd's buckets:\n%q\nbefore:\n%q", now, written)
	}

	// A lease kept the other orphan, and another one the broken name.
	turn(t, root, newAtOnce, image, func(b *builder) error {
		if err := errors.Join(sound(b), b.make("ours", "high", "ours"), b.unlease("third", "other")); err != nil {
			return err
		}
		return errors.Join(b.without("third"), b.holds("ours", snapshots.KindCommitted, "high", "high", "image", "low", "ours"))
	})
	turn(t, root, newStock, image, func(b *builder) error {
		return errors.Join(sound(b), b.make("theirs", "ours", "theirs"),
			b.holds("theirs", snapshots.KindCommitted, "ours", "high", "image", "low", "ours", "theirs"))
	})
	turn(t, root, newAtOnce, "", func(b *builder) error {
		if err := errors.Join(sound(b), b.holds("theirs", snapshots.KindCommitted, "ours", "high", "image", "low", "ours", "theirs")); err != nil {
			return err
		}
		if err := b.unlease("theirs", "ours", "high", "exported", "twice", "low", "cache-mount", "image"); err != nil {
			return err
		}
		return b.emptied()
	})
	for deadline := time.Now().Add(patience); len(buckets(t, root)) > 0; {
		// Records without a directory may be left when the disk is empty.
		if time.Now().After(deadline) {
			t.Fatalf("left in the database: %q", buckets(t, root))
		}
		turn(t, root, newAtOnce, "", func(*builder) error { return nil })
	}
	turn(t, root, newStock, "", func(b *builder) error {
		return errors.Join(b.make("new", "", "new"), b.holds("new", snapshots.KindCommitted, "", "new"))
	})
}

// without waits until nothing of a graph ID is on disk.
func (b *builder) without(graphID string) error {
	var want []string
	gone := 0
	for _, path := range b.directories() {
		switch {
		case path == "overlay2/"+graphID, strings.HasPrefix(path, "overlay2/l/") && b.linksTo(path, graphID):
			gone++
		default:
			want = append(want, path)
		}
	}
	if gone != 2 {
		return nil // it went before
	}
	return b.reduced(want)
}

func (b *builder) linksTo(path, graphID string) bool {
	target, err := os.Readlink(filepath.Join(b.root, path))
	return err == nil && strings.Contains(target, "/"+graphID+"/")
}
