package adapter

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/engine"
)

func resourceType(name string) string { return "snapshots/" + name }

// resourceTypes are the types that name snapshots of a snapshotter which was
// opened under these names.
func resourceTypes(names []string) []string {
	types := make([]string, len(names))
	for i, name := range names {
		types[i] = resourceType(name)
	}
	return types
}

// leaseManager tells the engine what happens to leases. The manager it wraps is
// the one that persists them.
type leaseManager struct {
	leaseSeam
	engine *engine.Engine
	types  []string // of resources that name snapshots of this snapshotter
}

// lease answers false where ctx names no namespace. The wrapped manager refuses
// such a call, so there is nothing to tell the engine.
func (m *leaseManager) lease(ctx context.Context, l leases.Lease) (engine.Lease, bool) {
	ns, ok := namespaces.Namespace(ctx)
	return engine.Lease{Namespace: ns, ID: l.ID}, ok
}

// ours tells whether r names a snapshot of this snapshotter, under its present or
// an earlier name.
func (m *leaseManager) ours(r leases.Resource) bool {
	return slices.Contains(m.types, r.Type)
}

// Delete deletes a lease. Where the wrapped manager says that it is not there, as
// when its garbage collection was faster, the snapshots that it named are let go
// all the same.
func (m *leaseManager) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	err := m.leaseSeam.Delete(ctx, l, opts...)
	if err == nil || errdefs.IsNotFound(err) {
		if lease, ok := m.lease(ctx, l); ok {
			m.engine.EndLease(lease)
		}
	}
	return err
}

// AddResource adds a resource to a lease. A snapshot need not exist yet.
func (m *leaseManager) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	lease, ok := m.lease(ctx, l)
	if !ok || !m.ours(r) {
		return m.leaseSeam.AddResource(ctx, l, r)
	}
	err := m.engine.AddLease(ctx, lease, r.ID, func() error { return m.leaseSeam.AddResource(ctx, l, r) })
	if err != nil {
		return fmt.Errorf("add snapshot %.80q to lease %q: %w", r.ID, l.ID, err)
	}
	return nil
}

// DeleteResource takes a resource out of a lease. A lease that is not there any more
// does not name the snapshot either.
func (m *leaseManager) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	err := m.leaseSeam.DeleteResource(ctx, l, r)
	if err == nil || errdefs.IsNotFound(err) {
		if lease, ok := m.lease(ctx, l); ok && m.ours(r) {
			m.engine.RemoveLease(lease, r.ID)
		}
	}
	return err
}

// leaseSource lists leases for the engine.
type leaseSource struct {
	manager   leaseSeam
	namespace string
}

// List implements engine.Leases. Beside the namespaces that the engine knows it
// looks into the constructor's own and into that of BuildKit's build history,
// which share a database.
func (s leaseSource) List(ctx context.Context, k engine.Known, each func(engine.Lease, []string)) error {
	types := resourceTypes(k.Names)
	all := append([]string{s.namespace, s.namespace + "_history"}, k.Namespaces...)
	slices.Sort(all)
	for _, ns := range slices.Compact(all) {
		ctx := namespaces.WithNamespace(ctx, ns)
		ll, err := s.manager.List(ctx)
		if err != nil {
			return fmt.Errorf("namespace %q: %w", ns, err)
		}
		for _, l := range ll {
			rr, err := s.manager.ListResources(ctx, l)
			if errdefs.IsNotFound(err) {
				continue // it went since
			}
			if err != nil {
				return fmt.Errorf("resources of lease %q in namespace %q: %w", l.ID, ns, err)
			}
			var keys []string
			for _, r := range rr {
				if slices.Contains(types, r.Type) {
					keys = append(keys, r.ID)
				}
			}
			each(engine.Lease{Namespace: ns, ID: l.ID}, keys)
		}
	}
	return nil
}
