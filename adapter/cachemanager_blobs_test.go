package adapter

// Layer blobs that BuildKit unpacks into snapshots, whole and spoiled ones.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/util/leaseutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/graphsnap/graphsnap/engine"
)

// blob writes a layer into the content store, compressed or not, and returns what
// BuildKit needs to unpack it. spoil may change what is stored.
func (w *worker) blob(t testing.TB, files tree, compress bool, spoil func([]byte) []byte) ocispecs.Descriptor {
	t.Helper()
	var plain bytes.Buffer
	tw := tar.NewWriter(&plain)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	diffID := digest.FromBytes(plain.Bytes())

	stored, mediaType := plain.Bytes(), ocispecs.MediaTypeImageLayer
	if compress {
		var packed bytes.Buffer
		gz := gzip.NewWriter(&packed)
		if _, err := gz.Write(stored); err != nil {
			t.Fatal(err)
		}
		if err := gz.Close(); err != nil {
			t.Fatal(err)
		}
		stored, mediaType = packed.Bytes(), ocispecs.MediaTypeImageLayerGzip
	}
	if spoil != nil {
		stored = spoil(stored)
	}
	desc := ocispecs.Descriptor{
		MediaType:   mediaType,
		Digest:      digest.FromBytes(stored),
		Size:        int64(len(stored)),
		Annotations: map[string]string{labels.LabelUncompressed: diffID.String()},
	}
	// Content is collected unless a lease names it. This one is for the time until
	// the cache manager's own does.
	_, ctx := w.lease(t)
	if err := content.WriteBlob(ctx, w.content, desc.Digest.String(), bytes.NewReader(stored), desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

func (w *worker) byBlob(t testing.TB, desc ocispecs.Descriptor, parent cache.ImmutableRef) cache.ImmutableRef {
	t.Helper()
	ref, err := w.cm.GetByBlob(inNamespace(), desc, parent)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestUnpackLayerBlobs(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s)
		base := w.byBlob(t, w.blob(t, tree{"bin/sh": "a shell", "etc/motd": "hello"}, true, nil), nil)
		top := w.byBlob(t, w.blob(t, tree{"etc/.wh.motd": "", "etc/issue": "on top"}, true, nil), base)
		if n := len(s.directories(t)); n != 0 {
			t.Errorf("%d directories before anybody mounts a blob", n)
		}
		checkTree(t, top, tree{"bin/sh": "a shell", "etc/issue": "on top"})
		checkTree(t, base, tree{"bin/sh": "a shell", "etc/motd": "hello"})
		eventually(t, "nothing left but the two layers", func() bool {
			return len(w.lasting(t)) == 2 && len(s.directories(t)) == 2
		})

		child := w.newRef(t, top)
		dir, unmount := mountRef(t, child, false)
		writeFile(t, filepath.Join(dir, "etc/issue"), "changed")
		unmount()
		checkTree(t, child, tree{"bin/sh": "a shell", "etc/issue": "changed"})
		checkTree(t, top, tree{"bin/sh": "a shell", "etc/issue": "on top"})
		release(t, child, top, base)

		// Found again after a restart, without unpacking again.
		w.close(t)
		w = openWorker(t, s, engine.WithGrace(time.Millisecond))
		top = w.get(t, top.ID())
		key := w.snapshotOf(t, top)
		before, err := w.snap.Stat(inNamespace(), key)
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, top, tree{"bin/sh": "a shell", "etc/issue": "on top"})
		after, err := w.snap.Stat(inNamespace(), key)
		if err != nil || !before.Created.Equal(after.Created) {
			t.Errorf("the layer was unpacked again: %v, %v, then %v", err, before.Created, after.Created)
		}
		release(t, top)
		w.eventuallyEmpty(t)
	})
}

// spoiled cuts off the end of what is stored, so that unpacking writes files before
// it fails.
func spoiled(stored []byte) []byte { return stored[:len(stored)*3/4] }

// incompressible makes files that are spread over the whole blob.
func incompressible() tree {
	files := tree{}
	for i := range 8 {
		name := fmt.Sprintf("file%d", i)
		var content strings.Builder
		for d := digest.FromString(name); content.Len() < 1<<15; d = digest.FromString(d.String()) {
			content.WriteString(d.Encoded())
		}
		files[name] = content.String()
	}
	return files
}

func TestFailedUnpackLeavesNothing(t *testing.T) {
	onEachDriver(t, func(t *testing.T, s *site) {
		w := openWorker(t, s, engine.WithLeaseSweep(20*time.Millisecond))
		files := incompressible()
		base := w.layer(t, nil, put(t, tree{"base": "stays"}))
		baseKey := w.snapshotOf(t, base)
		eventually(t, "the layer of the test alone", func() bool { return slices.Equal(w.keys(t), []string{baseKey}) })
		directories := s.directories(t)
		nothingNew := func() bool {
			return slices.Equal(w.keys(t), []string{baseKey}) && slices.Equal(s.directories(t), directories) && len(s.mounts(t)) == 0
		}

		for name, temporary := range map[string]func(*testing.T) (ctx context.Context, end func()){
			"BuildKits own lease": func(*testing.T) (context.Context, func()) { return inNamespace(), func() {} },
			"lease of the caller": func(t *testing.T) (context.Context, func()) {
				ctx, done, err := leaseutil.WithLease(inNamespace(), w.lm, leaseutil.MakeTemporary)
				if err != nil {
					t.Fatal(err)
				}
				return ctx, func() {
					if err := done(ctx); err != nil {
						t.Error(err)
					}
				}
			},
			"lease that expires": func(t *testing.T) (context.Context, func()) {
				l, ctx := w.lease(t, leases.WithExpiration(time.Second))
				return ctx, func() { w.collectUntilGone(t, l) }
			},
		} {
			t.Run(name, func(t *testing.T) {
				bad := w.byBlob(t, w.blob(t, files, true, spoiled), nil)
				ctx, end := temporary(t)
				for range 2 { // the second attempt is none the wiser
					if _, err := bad.Mount(ctx, true, nil); err == nil {
						t.Fatal("a blob that is cut off was unpacked")
					}
				}
				end()
				eventually(t, "the half unpacked layer removed", nothingNew)
				release(t, bad)
				w.prune(t)
				if !nothingNew() {
					t.Errorf("after release and prune: keys %q, directories %q", w.keys(t), s.directories(t))
				}
			})
		}

		// The failures are not in the way of the same layer from a sound blob, which
		// shares the snapshot's key with them.
		bad := w.byBlob(t, w.blob(t, files, true, spoiled), nil)
		if _, err := bad.Mount(inNamespace(), true, nil); err == nil {
			t.Error("a blob that is cut off was unpacked")
		}
		good := w.byBlob(t, w.blob(t, files, true, nil), nil)
		if w.snapshotOf(t, bad) != w.snapshotOf(t, good) {
			t.Error("the two blobs do not share a snapshot, so this test shows little")
		}
		checkTree(t, good, files)
		release(t, bad, good, base)
		w.eventuallyEmpty(t)
	})
}
