package dockerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/docker/docker/layer"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/adapter"
)

// Opt is that of dockerd's own snapshotter, with more fields that may stay empty.
type Opt = adapter.Opt

// NewSnapshotter is [adapter.NewSnapshotter] for the builder of dockerd, whose
// cache keeps its records in opt.Root too. It must be called before they are
// opened, as dockerd does.
//
// A lease that is to name a layer which is gone is refused, with an error that
// names the layer. The builder looks whether the layer store has an image's layers,
// lets go of them, and leases them; where the image's last tag goes in between, it
// would find out later and no longer know what it misses.
//
// It ends the leases of records that the builder lost, see [adapter.EndLostLeases].
func NewSnapshotter(opt Opt, prevLM leases.Manager, ns string) (snapshot.Snapshotter, *leaseutil.Manager, error) {
	path := filepath.Join(opt.Root, "metadata_v2.db")
	s, lm, err := adapter.NewSnapshotter(opt, layerLeases{prevLM, opt.LayerStore, path}, ns)
	if err != nil {
		return nil, nil, err
	}
	// Only disk space is at stake.
	if err := endLostLeases(context.TODO(), path, lm); err != nil {
		log.L.WithError(err).Warn("leases of records that the build cache lost are not looked for")
	}
	return s, lm, nil
}

// layerLeases refuses to lease layers that are not there. dockerd's builder has no
// other snapshots that bear a digest: it leaves unpacking to the layer store.
type layerLeases struct {
	leases.Manager
	layers  layer.Store
	records string // path of the cache's records
}

func (m layerLeases) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if err := m.checkLayer(r); err != nil {
		return err
	}
	return m.Manager.AddResource(ctx, l, r)
}

func (m layerLeases) checkLayer(r leases.Resource) error {
	if m.layers == nil || !strings.HasPrefix(r.Type, "snapshots/") {
		return nil
	}
	chainID, err := digest.Parse(r.ID)
	if err != nil {
		return nil
	}
	// Not with Get, whose Release would delete a layer that nobody else holds.
	if _, ok := m.layers.Map()[layer.ChainID(chainID)]; ok {
		return nil
	}
	if _, err := os.Stat(m.records); err != nil {
		// The records of an old dockerd are being migrated, all of them or none.
		return nil
	}
	return fmt.Errorf("layer %s is gone: its image was removed: %w", chainID, errdefs.ErrNotFound)
}

// endLostLeases is [adapter.EndLostLeases] for the records in the database at path
// (metadata.Store of buildkit/cache/metadata).
func endLostLeases(ctx context.Context, path string, lm leases.Manager) error {
	records, err := records(path)
	if records == nil || err != nil {
		return err
	}
	return adapter.EndLostLeases(ctx, lm, records)
}

// records reads the IDs of the cache's records, nil where it has not kept any yet.
func records(path string) (map[string]bool, error) {
	if _, err := os.Stat(path); err != nil {
		if os.IsNotExist(err) {
			return nil, nil
		}
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	defer db.Close()
	var ids map[string]bool
	err = db.View(func(tx *bolt.Tx) error {
		main := tx.Bucket([]byte("_main"))
		if main == nil {
			return nil
		}
		ids = map[string]bool{}
		return main.ForEachBucket(func(id []byte) error {
			ids[string(id)] = true
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return ids, nil
}
