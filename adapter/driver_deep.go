package adapter

// Chains deeper than overlay2 goes. Its limit is the page that the options of mount(2)
// have; fsopen(2) takes directories one by one, as many as the kernel stacks. So what
// stands on more directories than the driver takes is made here, in the driver's
// layout, and mounted here, never described: those who hold it get a bind.
//
// The driver itself can neither mount such a directory nor build on it, and says so
// ("max depth exceeded", "mount label too large"). It can do all else with it: tell
// where it is, measure and delete it. So this is only for homes that Docker does not
// use, those with descriptions.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxDepth is how many directories one of overlay2 or fuse-overlayfs may stand on
	// (maxDepth in their packages).
	maxDepth = 128
	// maxDeep is one less than the kernel stacks (OVL_MAX_STACK): read-only, what a
	// snapshot holds itself is one of the directories too.
	maxDeep = 499
)

// besideDiff leads from a link to what lies beside the directory that it leads to. So
// no path is the longer for a long graph ID.
const besideDiff = "/../"

// knowsDeep tells whether the kernel takes the directories of an overlay one by one,
// which it does since Linux 6.7, and whether the paths of links are short enough for
// it (255 bytes).
func knowsDeep(links string) bool {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.FsconfigSetString(fd, "lowerdir+", links) == nil &&
		len(links)+len("/")+linkLength+len(besideDiff+fileWork) < 256
}

// limit is how many directories one may stand on, 0 for any number.
func (d *driver) limit() int {
	switch {
	case d.links == "":
		return 0
	case d.describer != nil && d.describer.deep:
		return maxDeep
	}
	return maxDepth
}

// lowerLinks returns the links to the directories that id stands on, relative to the
// home, the nearest first.
func (d *driver) lowerLinks(id string) ([]string, error) {
	links, err := os.ReadFile(filepath.Join(d.dir(id), fileLower))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return strings.Split(string(links), ":"), nil
}

// isDeep tells whether id is mounted here.
func (d *driver) isDeep(id string) (bool, error) {
	if d.describer == nil || !d.describer.deep {
		return false, nil
	}
	links, err := d.lowerLinks(id)
	return len(links) > maxDepth, err
}

// createDeep makes what the driver's Create would.
func (d *driver) createDeep(id, parent string) error {
	dir := d.dir(id)
	if err := os.Mkdir(dir, 0o710); err != nil {
		return err
	}
	diff := filepath.Join(dir, fileDiff)
	if err := os.Mkdir(diff, 0o755); err != nil {
		return err
	}
	// Whatever the umask.
	if err := errors.Join(os.Chmod(dir, 0o710), os.Chmod(diff, 0o755)); err != nil {
		return err
	}
	_, err := d.restoreOverlay(id, parent)
	return err
}

// mountDeep mounts id where, and as, the driver's Get would.
func (d *driver) mountDeep(id string) (_ string, err error) {
	dir := d.dir(id)
	links, err := d.lowerLinks(id)
	if err != nil {
		return "", err
	}
	own, err := d.link(id)
	if err != nil {
		return "", err
	}
	readonly := true
	switch _, err := os.Lstat(filepath.Join(dir, fileCommitted)); {
	case errors.Is(err, fs.ErrNotExist):
		readonly = false
	case err != nil:
		return "", err
	}
	overlay, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("open an overlay: %w", err)
	}
	defer unix.Close(overlay)
	set := func(key, value string) {
		if err == nil {
			if err = unix.FsconfigSetString(overlay, key, value); err != nil {
				err = fmt.Errorf("set %s=%s: %w", key, value, err)
			}
		}
	}
	for _, option := range d.describer.options {
		if key, value, ok := strings.Cut(option, "="); ok {
			set(key, value)
		} else if err == nil {
			err = unix.FsconfigSetFlag(overlay, option)
		}
	}
	if readonly {
		links = append([]string{filepath.Join(dirLinks, own)}, links...)
	} else {
		upper := filepath.Join(d.links, own)
		set("upperdir", upper)
		set("workdir", upper+besideDiff+fileWork)
	}
	for _, link := range links {
		set("lowerdir+", filepath.Join(filepath.Dir(d.links), link))
	}
	if err != nil {
		return "", err
	}
	if err := unix.FsconfigCreate(overlay); err != nil {
		return "", fmt.Errorf("make an overlay of %d directories: %w", len(links), err)
	}
	mount, err := unix.Fsmount(overlay, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("mount an overlay of %d directories: %w", len(links), err)
	}
	defer unix.Close(mount)
	point := filepath.Join(dir, merged)
	if err := os.Mkdir(point, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, point, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		_ = os.Remove(point)
		return "", fmt.Errorf("mount at %s: %w", point, err)
	}
	return point, nil
}
