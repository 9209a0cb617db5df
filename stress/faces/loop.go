package faces

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// MountLoop makes a file system of that size in bytes on a sparse file beside dir, mounts
// it there on a loop device, and returns what undoes that. What is mounted below dir by then is unmounted too: the
// driver btrfs mounts its home on itself.
//
// Errors: what mkfs or mount says.
func MountLoop(dir, kind string, size int64) (unmount func() error, err error) {
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the kernel lists mounts
		return nil, err
	}
	image := dir + "." + kind
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		return nil, err
	}
	for _, command := range [][]string{{"mkfs." + kind, "-q", image}, {"mount", "-t", kind, "-o", "loop", image, dir}} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("make a file system for %s: %v: %w: %s", kind, command, err, out), os.Remove(image))
		}
	}
	return func() error {
		points, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		for _, p := range slices.Backward(points) {
			if failed := unix.Unmount(p.Mountpoint, unix.UMOUNT_NOFOLLOW); failed != nil {
				err = errors.Join(err, fmt.Errorf("unmount %s: %w", p.Mountpoint, failed))
			}
		}
		return errors.Join(err, os.Remove(image))
	}, nil
}
