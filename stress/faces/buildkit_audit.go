package faces

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/docker/docker/daemon/graphdriver"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/mounts"
	"github.com/graphsnap/graphsnap/stress/peer"
	"github.com/graphsnap/graphsnap/stress/target"
)

// Audit implements target.Audited. It waits for Patience at most.
func (t *BuildKit) Audit(ctx context.Context) []string {
	disk, err := t.disk()
	if err != nil {
		return []string{err.Error()}
	}
	s := target.Scene{
		Engine: t.Snapshotter.(interface {
			Census(context.Context) ([]engine.Resident, []mounts.Entry, error)
			Stats() engine.Stats
		}),
		Disk: disk,
		Owns: t.Owns,
		Names: func(ctx context.Context, l engine.Lease, key string) (bool, error) {
			named, err := t.Leases.ListResources(peer.Context(ctx), leases.Lease{ID: l.ID})
			if err != nil {
				return false, fmt.Errorf("in namespace %q: %w", l.Namespace, err)
			}
			return slices.Contains(named, t.resource(key)), nil
		},
	}
	return s.Audit(ctx, t.Patience)
}

func (t *BuildKit) disk() (target.Disk, error) {
	if null, ok := t.graphDriver().(*peer.Null); ok {
		return null, nil
	}
	return newHome(t.driver, t.root)
}

func (t *BuildKit) graphDriver() graphdriver.Driver {
	return t.Layers.(interface{ Driver() graphdriver.Driver }).Driver()
}

// AuditClosed implements target.Audited: graphsnapd check is to find nothing.
func (t *BuildKit) AuditClosed(ctx context.Context) []string { return findings(t.Check(ctx)) }
