package adapter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxDepth is how many directories one of overlay2 or fuse-overlayfs may stand on
// (maxDepth in their packages): that many links still fit into the page that the
// options of a mount have. The kernel takes 500, but only through a system call that
// those who mount what is described, and dockerd, do not use; a chain that no other
// user of the driver's home could mount, or build on, would be none of Docker's.
const maxDepth = 128

// Create makes the directory of id on top of that of parent.
//
// Errors: ErrOutOfRange where that stands on as many directories as the driver takes,
// the driver's.
func (d *driver) Create(id, parent string) error {
	if err := d.checkDepth(parent); err != nil {
		return err
	}
	if err := d.Driver.Create(id, parent, nil); err != nil {
		return err
	}
	return d.inheritOwner(id, parent)
}

// checkDepth says in plain words what the driver's Create would, before it makes
// anything.
func (d *driver) checkDepth(parent string) error {
	if d.links == "" || parent == "" {
		return nil
	}
	depth := 1
	switch lower, err := os.ReadFile(filepath.Join(d.dir(parent), fileLower)); {
	case err == nil:
		depth += strings.Count(string(lower), ":") + 1
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if depth > maxDepth {
		return fmt.Errorf("it would be layer %d of a chain, and graph driver %s mounts at most %d: %w", depth+1, d, maxDepth+1, errdefs.ErrOutOfRange)
	}
	return nil
}

// inheritOwner gives what id holds to the owner of what parent holds, so that the
// root directory of a chain keeps its owner: that of the topmost directory counts.
// Docker's driver does not, and so dockerd's images do not; containerd's overlay
// snapshotter does, which those who take descriptions expect.
func (d *driver) inheritOwner(id, parent string) error {
	if d.describer == nil || parent == "" {
		return nil
	}
	var st unix.Stat_t
	below := filepath.Join(d.dir(parent), fileDiff)
	if err := unix.Stat(below, &st); err != nil {
		return fmt.Errorf("find the owner of %s: %w", below, err)
	}
	if int(st.Uid) == os.Geteuid() && int(st.Gid) == os.Getegid() {
		return nil
	}
	return os.Chown(filepath.Join(d.dir(id), fileDiff), int(st.Uid), int(st.Gid))
}
