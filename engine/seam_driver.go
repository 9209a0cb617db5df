package engine

import (
	"context"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// driverSeam is what all calls of the driver pass but Get and Put, which the table
// of mounts makes. Each is a crash point.
type driverSeam struct {
	driver Driver
	copies bool // does not change
}

func newDriverSeam(d Driver) driverSeam { return driverSeam{driver: d, copies: d.Copies()} }

func (s driverSeam) Copies() bool { return s.copies }

func (s driverSeam) Create(id, parent string) error {
	if err := crashpoint.Before("driver.Create"); err != nil {
		return err
	}
	err := s.driver.Create(id, parent)
	crashpoint.After("driver.Create")
	return err
}

func (s driverSeam) Describe(id string, readonly bool) ([]mount.Mount, error) {
	if err := crashpoint.Before("driver.Describe"); err != nil {
		return nil, err
	}
	mounts, err := s.driver.Describe(id, readonly)
	crashpoint.After("driver.Describe")
	return mounts, err
}

func (s driverSeam) Remove(id string) error {
	if err := crashpoint.Before("driver.Remove"); err != nil {
		return err
	}
	err := s.driver.Remove(id)
	crashpoint.After("driver.Remove")
	return err
}

func (s driverSeam) Exists(id string) bool {
	crashpoint.Before("driver.Exists")
	exists := s.driver.Exists(id)
	crashpoint.After("driver.Exists")
	return exists
}

func (s driverSeam) Usage(ctx context.Context, id, parent string) (snapshots.Usage, error) {
	if err := crashpoint.Before("driver.Usage"); err != nil {
		return snapshots.Usage{}, err
	}
	u, err := s.driver.Usage(ctx, id, parent)
	crashpoint.After("driver.Usage")
	return u, err
}

func (s driverSeam) Sync(id string) error {
	if err := crashpoint.Before("driver.Sync"); err != nil {
		return err
	}
	err := s.driver.Sync(id)
	crashpoint.After("driver.Sync")
	return err
}

func (s driverSeam) Survey(ids []string) (Survey, error) {
	if err := crashpoint.Before("driver.Survey"); err != nil {
		return Survey{}, err
	}
	found, err := s.driver.Survey(ids)
	crashpoint.After("driver.Survey")
	return found, err
}

func (s driverSeam) Unmount(id string) error {
	if err := crashpoint.Before("driver.Unmount"); err != nil {
		return err
	}
	err := s.driver.Unmount(id)
	crashpoint.After("driver.Unmount")
	return err
}

func (s driverSeam) Restore(id, parent string) (changed bool, err error) {
	if err := crashpoint.Before("driver.Restore"); err != nil {
		return false, err
	}
	changed, err = s.driver.Restore(id, parent)
	crashpoint.After("driver.Restore")
	return changed, err
}
