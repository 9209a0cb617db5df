package dockerd

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/errdefs"
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
