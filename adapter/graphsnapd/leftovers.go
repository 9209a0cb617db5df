package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountsBelow lists the mount points strictly below dir, deepest and newest
// first, so that unmounting in this order never meets a busy parent.
func mountsBelow(dir string) ([]string, error) {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	infos, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(info.Mountpoint, prefix), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	points := make([]string, len(infos))
	for i, info := range infos {
		points[len(infos)-1-i] = info.Mountpoint
	}
	slices.SortStableFunc(points, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return points, nil
}

// stepMounts lists the mounts that builds make: temporary ones, roots of
// containers, cache mounts, and what the graph driver mounts in its home. What
// else is mounted below the root, such as a disk for the driver's home, was put
// there by somebody else.
func stepMounts(root string) (points []string, err error) {
	places := []string{filepath.Join(root, "tmp")}
	for _, driver := range knownDrivers {
		worker := workerRoot(root, driver)
		places = append(places, filepath.Join(worker, "executor"), filepath.Join(worker, "cachemounts"), filepath.Join(worker, driver))
	}
	for _, place := range places {
		below, err := mountsBelow(place)
		if err != nil {
			return nil, err
		}
		points = append(points, below...)
	}
	return points, nil
}

// boundHomes lists the homes of drivers that are mounted on themselves. The btrfs
// driver does that when it starts, and leaves it for Cleanup to undo, which is
// never called.
func boundHomes(root string) (homes []string, err error) {
	for _, driver := range knownDrivers {
		home := filepath.Join(workerRoot(root, driver), driver)
		bound, err := boundOnItself(home)
		if err != nil {
			return nil, err
		}
		if bound {
			homes = append(homes, home)
		}
	}
	return homes, nil
}

// boundOnItself tells whether the topmost mount at dir is one of dir on itself.
func boundOnItself(dir string) (bound bool, err error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return false, fmt.Errorf("list mounts: %w", err)
	}
	byID := map[int]*mountinfo.Info{}
	for _, info := range infos {
		byID[info.ID] = info
	}
	for _, info := range infos {
		if info.Mountpoint != dir {
			continue
		}
		bound = false
		parent := byID[info.Parent]
		if parent == nil || parent == info {
			continue
		}
		within, err := filepath.Rel(parent.Mountpoint, dir)
		bound = err == nil && parent.Major == info.Major && parent.Minor == info.Minor && info.Root == filepath.Join(parent.Root, within)
	}
	return bound, nil
}

// unmount removes the mounts at points. A mount that is still in use vanishes
// from sight now and ends with its last user.
func unmount(points []string) error {
	var errs []error
	for _, point := range points {
		// A mount may have gone since it was listed.
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	return errors.Join(errs...)
}

// unmountAll removes every mount that a daemon makes below its root. The caller
// holds the root's lock and runs no build, so each of them belongs to a daemon
// that was killed, or to a step that outlived its build.
func unmountAll(root string) error {
	points, err := stepMounts(root)
	if err != nil {
		return err
	}
	homes, err := boundHomes(root)
	if err != nil {
		return err
	}
	return unmount(append(points, homes...))
}

// removeContainers kills what still runs of a killed daemon and removes the
// runtime's state of it. Each directory below an executor's root is the bundle
// of the container that bears its name.
func removeContainers(ctx context.Context, root, runtime string) error {
	bundles, err := filepath.Glob(filepath.Join(root, "runc-*", "executor", "*", "config.json"))
	if err != nil {
		return fmt.Errorf("list containers of an earlier daemon: %w", err)
	}
	var errs []error
	for _, config := range bundles {
		bundle := filepath.Dir(config)
		// "--force" also makes it a success that the runtime knows none of
		// that name: the daemon may have been killed before it was started.
		out, err := exec.CommandContext(ctx, runtime, "delete", "--force", filepath.Base(bundle)).CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("remove container %s of an earlier daemon: %w: %s", filepath.Base(bundle), err, bytes.TrimSpace(out)))
			continue
		}
		points, err := mountsBelow(bundle)
		if err == nil {
			err = unmount(points)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.RemoveAll(bundle); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// waitNoSteps waits until no mount of a build is left. BuildKit answers a
// cancelled Solve before the last of its containers has been reaped and its root
// released; the mount table is what tells when that has happened.
func waitNoSteps(ctx context.Context, root string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		points, err := stepMounts(root)
		if err != nil || len(points) == 0 {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d mounts still in use, the first is %s: %w", len(points), points[0], context.Cause(ctx))
		}
	}
}

// useTempDir points temporary files and mounts of this process at root/tmp and
// empties it. BuildKit mounts what it copies from below $TMPDIR; in the shared
// /tmp nobody could tell afterwards whose mounts those were.
func useTempDir(root string) error {
	dir := filepath.Join(root, "tmp")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty temporary directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o711); err != nil {
		return fmt.Errorf("make temporary directory: %w", err)
	}
	return os.Setenv("TMPDIR", dir)
}
