package dockerd

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/adapter"
)

// check compares what is in the data-root of a dockerd that does not run.
func (h *host) check() (*adapter.CheckReport, error) {
	h.t.Helper()
	root := h.path("data")
	opt := adapter.CheckOpt{
		Database: filepath.Join(root, "buildkit", "snapshots.db"), Driver: h.driver, Home: filepath.Join(root, h.driver),
		LayerDB: filepath.Join(root, "image", h.driver, "layerdb"), Namespace: "buildkit",
	}
	if _, err := adapter.Check(context.Background(), opt); err != nil {
		return nil, err
	}
	db, err := bolt.Open(filepath.Join(root, "buildkit", "containerdmeta.db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		h.t.Fatal(err)
	}
	defer db.Close()
	opt.Leases = ctdmetadata.NewLeaseManager(ctdmetadata.NewDB(db, nil, nil))
	return adapter.Check(context.Background(), opt)
}

// With images and containers in the same directories: what dockerd leaves when it ends,
// which is without closing its builder, is consistent but for what the next start
// mends, and consistent when all is pruned.
func TestCheckOfADockerd(t *testing.T) {
	h := newHost(t, "overlay2")
	baseDir := h.context("base", base, nil)
	road := h.context("road", wholeRoad, map[string]string{"greeting": "hello\n"})
	for _, binary := range []string{stock, graphsnap} {
		d := h.start(binary)
		d.build(baseDir, "-t", "base")
		d.build(road, "-t", "road")
		d.must("create", "--network", "none", "road")
		if _, err := h.check(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "snapshots.db") {
			t.Errorf("%s: check of a running daemon: %v", binary, err)
		}
		d.stop()
		report, err := h.check()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Findings {
			t.Logf("%s: %v", binary, f)
			if !f.Note && f.Remedy != adapter.RemedyStart {
				t.Errorf("%s: found: %v", binary, f)
			}
		}
	}
	d := h.start(graphsnap)
	d.must(append([]string{"rm", "-f"}, strings.Fields(d.must("ps", "-aq"))...)...)
	if left := d.prune(); len(left) > 0 {
		t.Errorf("left after everything was pruned: %q", left)
	}
	d.stop()
	if report, err := h.check(); err != nil || !report.Consistent() || report.Snapshots > 0 {
		t.Errorf("after everything was pruned: %v, %+v", err, report)
	}
}

// A layer that the layer store has lost, as a power loss may cost it one: the check of
// the data-root says which snapshot was it and that the next start mends that. After it
// the snapshot is none of the layer store's any more and what was built is still cached.
func TestCheckOfALayerThatIsGone(t *testing.T) {
	h := newHost(t, "overlay2")
	baseDir := h.context("base", base, nil)
	onBase := h.context("on-base", "FROM base\nRUN echo on base >/file\n", nil)
	d := h.start(graphsnap)
	d.build(baseDir, "-t", "base")
	d.build(onBase, "-t", "on-base")
	var diffIDs []digest.Digest
	for _, id := range strings.Fields(d.must("image", "inspect", "--format", "{{range .RootFS.Layers}}{{.}} {{end}}", "on-base")) {
		diffIDs = append(diffIDs, digest.Digest(id))
	}
	d.must("rmi", "on-base") // only the build cache has its layer now
	d.stop()
	chainID := identity.ChainID(diffIDs)
	layer := h.path(filepath.Join("data", "image", h.driver, "layerdb", chainID.Algorithm().String(), chainID.Encoded()))
	if _, err := os.Stat(filepath.Join(layer, "cache-id")); err != nil {
		t.Fatalf("the layer that is to go: %v", err)
	}
	gone := func() (found []adapter.Finding) {
		t.Helper()
		report, err := h.check()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Findings {
			if f.Kind == "layer-gone" {
				found = append(found, f)
			} else if !f.Note && f.Remedy != adapter.RemedyStart {
				t.Errorf("found: %v", f)
			}
		}
		return found
	}
	if found := gone(); len(found) > 0 {
		t.Errorf("found while no layer is gone: %v", found)
	}
	if err := os.RemoveAll(layer); err != nil {
		t.Fatal(err)
	}
	found := gone()
	if len(found) != 1 || found[0].Remedy != adapter.RemedyStart || found[0].GraphID == "" || !strings.Contains(found[0].Detail, chainID.String()) {
		t.Fatalf("found, of the layer %s that is gone: %v", chainID, found)
	}
	if _, err := os.Stat(h.path(filepath.Join("data", h.driver, found[0].GraphID))); err != nil {
		t.Errorf("the directory of the snapshot: %v", err)
	}

	d = h.start(graphsnap)
	checkCached(t, d.build(onBase, "-t", "on-base"))
	if got := d.must("run", "--rm", "--network", "none", "on-base", "cat", "/file"); got != "on base\n" {
		t.Errorf("the image that was built from the cache prints %q", got)
	}
	d.stop()
	if found := gone(); len(found) > 0 {
		t.Errorf("found after a start: %v", found)
	}
	d = h.start(graphsnap)
	if left := d.prune(); len(left) > 0 {
		t.Errorf("left after everything was pruned: %q", left)
	}
	d.stop()
}
