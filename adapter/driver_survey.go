package adapter

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/engine"
)

// merged is where in its directory an overlay driver mounts a snapshot.
const merged = "merged"

// Survey reads the driver's home once, and the list of mounts. The links are read
// only where a directory is missing.
func (d *driver) Survey(ids []string) (s engine.Survey, err error) {
	there := map[string]struct{}{}
	home := d.home(ids)
	if home != "" {
		names, err := readNames(home)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
		for _, name := range names {
			there[name] = struct{}{}
		}
	}
	for _, id := range ids {
		// dockerd made directories of keys that are paths, and some drivers do not
		// tell where theirs are: those are looked for one by one.
		if _, ok := there[id]; !ok && !d.Driver.Exists(id) {
			s.Missing = append(s.Missing, id)
		}
	}
	if home != "" && len(s.Missing) > 0 {
		// What the last process deleted before it died shall not come back after a
		// power loss: it is forgotten because it is missing.
		if err := d.syncNames(home); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s, err
		}
	}
	if d.links == "" {
		return s, nil
	}
	if len(s.Missing) > 0 {
		missing := map[string]bool{}
		for _, id := range s.Missing {
			missing[id] = true
		}
		if err := d.eachLink(func(_, to string) {
			if missing[to] {
				s.Linked = append(s.Linked, to)
				delete(missing, to)
			}
		}); err != nil {
			return s, err
		}
	}
	mounted, err := d.mounted()
	if err != nil {
		return s, err
	}
	for _, id := range ids {
		for range mounted[id] {
			s.Mounted = append(s.Mounted, id)
		}
	}
	return s, nil
}

// home returns the directory in which the directories of graph IDs lie, "" where
// that is not known.
func (d *driver) home(ids []string) string {
	if d.links != "" {
		return filepath.Dir(d.links)
	}
	switch d.String() {
	case "vfs", "btrfs":
		// They do not tell, but where the directory of a graph ID is: their Get
		// mounts nothing.
		for _, id := range ids {
			if strings.ContainsRune(id, filepath.Separator) {
				continue
			}
			if dir, err := d.Driver.Get(id, ""); err == nil && filepath.Base(dir) == id {
				return filepath.Dir(dir)
			}
		}
	}
	return ""
}

// mounted counts the mounts at each graph ID, of whoever made them.
func (d *driver) mounted() (map[string]int, error) {
	home, err := filepath.EvalSymlinks(filepath.Dir(d.links)) // as the kernel lists them
	if err != nil {
		return nil, err
	}
	mounted := map[string]int{}
	_, err = mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		if id, ok := strings.CutPrefix(i.Mountpoint, home+"/"); ok {
			if id, ok := strings.CutSuffix(id, "/"+merged); ok {
				mounted[id]++
			}
		}
		return true, false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	return mounted, nil
}

// Unmount ends a mount as the driver's Put would, had the driver made it: it goes at
// once, and for processes that still use it when they end. With its mount point it
// goes from other mount namespaces too.
func (d *driver) Unmount(id string) error {
	if d.links == "" {
		return nil
	}
	point := filepath.Join(d.dir(id), merged)
	if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	_ = unix.Rmdir(point) // fails where another mount is below this one
	return nil
}
