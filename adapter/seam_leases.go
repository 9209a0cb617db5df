package adapter

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// leaseSeam is what all calls of the lease manager pass that persists the leases.
// Each is a crash point.
type leaseSeam struct{ manager leases.Manager }

func (s leaseSeam) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	if err := crashpoint.Before("leases.Create"); err != nil {
		return leases.Lease{}, err
	}
	l, err := s.manager.Create(ctx, opts...)
	crashpoint.After("leases.Create")
	return l, err
}

func (s leaseSeam) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	if err := crashpoint.Before("leases.Delete"); err != nil {
		return err
	}
	err := s.manager.Delete(ctx, l, opts...)
	crashpoint.After("leases.Delete")
	return err
}

func (s leaseSeam) List(ctx context.Context, filters ...string) ([]leases.Lease, error) {
	if err := crashpoint.Before("leases.List"); err != nil {
		return nil, err
	}
	ll, err := s.manager.List(ctx, filters...)
	crashpoint.After("leases.List")
	return ll, err
}

func (s leaseSeam) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if err := crashpoint.Before("leases.AddResource"); err != nil {
		return err
	}
	err := s.manager.AddResource(ctx, l, r)
	crashpoint.After("leases.AddResource")
	return err
}

func (s leaseSeam) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	if err := crashpoint.Before("leases.DeleteResource"); err != nil {
		return err
	}
	err := s.manager.DeleteResource(ctx, l, r)
	crashpoint.After("leases.DeleteResource")
	return err
}

func (s leaseSeam) ListResources(ctx context.Context, l leases.Lease) ([]leases.Resource, error) {
	if err := crashpoint.Before("leases.ListResources"); err != nil {
		return nil, err
	}
	rr, err := s.manager.ListResources(ctx, l)
	crashpoint.After("leases.ListResources")
	return rr, err
}
