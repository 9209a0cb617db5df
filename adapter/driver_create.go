package adapter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Create makes the directory of id on top of that of parent.
//
// Errors: ErrOutOfRange where that stands on as many directories as one can, the
// driver's.
func (d *driver) Create(id, parent string) error {
	depth, err := d.depthOn(parent)
	if err != nil {
		return err
	}
	limit := d.limit()
	switch {
	case limit > 0 && depth > limit:
		return fmt.Errorf("it would be layer %d of a chain, and of graph driver %s at most %d can be mounted: %w", depth+1, d, limit+1, errdefs.ErrOutOfRange)
	case limit > maxDepth && depth > maxDepth:
		err = d.createDeep(id, parent)
	default:
		err = d.Driver.Create(id, parent, nil)
	}
	if err != nil {
		return err
	}
	return errors.Join(d.inheritOwner(id, parent), d.modeOfRoot(id, parent))
}

// modeRoot is the mode of a root directory that other drivers make.
const modeRoot = 0o755

// modeOfRoot gives a root directory the mode that those of other drivers have. That of
// btrfs is made by the kernel, by the umask, which BuildKit and containerd want to be
// 0: anybody could write to it.
func (d *driver) modeOfRoot(id, parent string) error {
	if parent != "" || d.String() != "btrfs" {
		return nil
	}
	dir, err := d.Driver.Get(id, "")
	if err != nil {
		return err
	}
	return errors.Join(os.Chmod(dir, modeRoot), d.Driver.Put(id))
}

// restoreRoot gives a root directory the mode and the owner that Create gives it, where
// the process died before. A subvolume that nobody has changed since the kernel made it
// was changed last when it was born. To one that was changed later its user may have
// given another mode.
func (d *driver) restoreRoot(id, parent string) (changed bool, err error) {
	if parent != "" || d.String() != "btrfs" {
		return false, nil
	}
	dir, err := d.Driver.Get(id, "")
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, d.Driver.Put(id)) }()
	var st unix.Statx_t
	const fields = unix.STATX_BTIME | unix.STATX_CTIME | unix.STATX_MTIME | unix.STATX_MODE | unix.STATX_UID | unix.STATX_GID
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, fields, &st); err != nil {
		return false, fmt.Errorf("find when %s was made: %w", dir, err)
	}
	changedLast := st.Ctime
	if !d.idmap.Empty() { // Docker's driver may have got as far as to change the owner
		changedLast = st.Mtime
	}
	uid, gid := d.idmap.RootPair()
	whole := st.Mode&0o7777 == modeRoot && int(st.Uid) == uid && int(st.Gid) == gid
	if whole || st.Mask&fields != fields || st.Btime != changedLast {
		return false, nil
	}
	return true, errors.Join(os.Lchown(dir, uid, gid), d.modeOfRoot(id, parent))
}

// depthOn is how many directories one on top of parent stands on, 0 where the driver
// does not stack any.
func (d *driver) depthOn(parent string) (int, error) {
	if d.links == "" || parent == "" {
		return 0, nil
	}
	links, err := d.lowerLinks(parent)
	return len(links) + 1, err
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
