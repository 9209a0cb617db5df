package containerd

// Snapshots of which a user namespace sees other owners than the host, see the
// package's doc.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// mapping is what the labels of a snapshot say of IDs.
type mapping struct {
	labels [2]string // for user IDs, for group IDs
	ids    [2][]idRange
}

// idRange maps size IDs from container on to those from host on.
type idRange struct{ container, host, size int }

// mappingIn returns nil where labels ask for none.
func mappingIn(labels map[string]string) (_ *mapping, err error) {
	m := &mapping{}
	names := [2]string{snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping}
	m.labels = [2]string{labels[names[0]], labels[names[1]]}
	if m.labels == [2]string{} {
		return nil, nil
	}
	for i, name := range names {
		if m.ids[i], err = parseRanges(m.labels[i]); err != nil {
			return nil, fmt.Errorf("label %s: %w", name, err)
		}
	}
	return m, nil
}

// parseRanges reads "container:host:size", several of them with commas between.
func parseRanges(s string) (ranges []idRange, err error) {
	for one := range strings.SplitSeq(s, ",") {
		var n [3]int
		parts := strings.Split(one, ":")
		if len(parts) != len(n) {
			return nil, fmt.Errorf("%q is not of the form container:host:size: %w", one, errdefs.ErrInvalidArgument)
		}
		for i, part := range parts {
			id, err := strconv.ParseUint(part, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q is not an ID in %q: %w", part, one, errdefs.ErrInvalidArgument)
			}
			n[i] = int(id)
		}
		ranges = append(ranges, idRange{container: n[0], host: n[1], size: n[2]})
	}
	return ranges, nil
}

// ids are of a user and a group.
type ids [2]int

func (o ids) String() string { return fmt.Sprintf("%d:%d", o[0], o[1]) }

// onHost returns what o of the user namespace is on the host.
func (m *mapping) onHost(o ids) (host ids, err error) {
	for i, ranges := range m.ids {
		n := slices.IndexFunc(ranges, func(r idRange) bool { return r.container <= o[i] && o[i] < r.container+r.size })
		if n < 0 {
			return host, fmt.Errorf("its root directory belongs to %v, which the mapping %q does not map", o, m.labels)
		}
		host[i] = ranges[n].host + o[i] - ranges[n].container
	}
	return host, nil
}

// contains tells whether o of the host is one of the user namespace.
func (m *mapping) contains(o ids) bool {
	for i, ranges := range m.ids {
		if !slices.ContainsFunc(ranges, func(r idRange) bool { return r.host <= o[i] && o[i] < r.host+r.size }) {
			return false
		}
	}
	return true
}

// mappingAsked is the mapping that the options of a creation ask for.
func mappingAsked(opts []snapshots.Opt) (*mapping, error) {
	var asked snapshots.Info
	for _, opt := range opts {
		if err := opt(&asked); err != nil {
			return nil, err
		}
	}
	return mappingIn(asked.Labels)
}

// mapped returns mounts as those of a snapshot with the mapping m, or of one without
// where m is nil.
func (s *snapshotter) mapped(ctx context.Context, key string, mounts []mount.Mount, m *mapping) ([]mount.Mount, error) {
	if m == nil {
		return mounts, nil
	}
	info, err := s.engine.Stat(ctx, key)
	if err != nil {
		return nil, err
	}
	if s.remapIDs {
		mounts, err = m.inMounts(mounts)
	} else {
		err = m.onDisk(mounts, info.Parent == "")
	}
	if err != nil {
		return nil, fmt.Errorf("map the IDs of snapshot %q: %w", key, err)
	}
	return mounts, nil
}

// onDisk checks that what is mounted belongs to the user namespace: containerd changed
// the owners of all files in the snapshot that this one stands on, or nobody did. One
// that stands on none is given to root there.
func (m *mapping) onDisk(mounts []mount.Mount, base bool) error {
	top := layersOf(mounts).top
	now, err := owner(top)
	switch {
	case err != nil:
		return err
	case base:
		root, err := m.onHost(ids{0, 0})
		if err != nil {
			return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		return giveNew(top, ids{os.Geteuid(), os.Getegid()}, root)
	case !m.contains(now):
		return fmt.Errorf("its root directory belongs to %v, which nobody has mapped to any of %q yet, and this snapshotter was not started to map in mounts (graphsnapd snapshotter --remap-ids): %w",
			now, m.labels, errdefs.ErrNotImplemented)
	}
	return nil
}

// inMounts has the mounts map. What overlayfs writes to the upper directory it writes
// without a mapping, so that one belongs to the IDs of the host.
func (m *mapping) inMounts(mounts []mount.Mount) ([]mount.Mount, error) {
	l := layersOf(mounts)
	if l.bind && l.readonly {
		return nil, fmt.Errorf("it is a read-only bind, which containerd mounts without a mapping: %w", errdefs.ErrNotImplemented)
	}
	made, err := owner(l.below)
	if err != nil {
		return nil, err
	}
	host, err := m.onHost(made)
	if err != nil {
		return nil, fmt.Errorf("%w: where containerd mapped it before it lacks \"remap-ids\" among the capabilities of this plugin: %w",
			err, errdefs.ErrFailedPrecondition)
	}
	if err := m.possible(l.below); err != nil {
		return nil, err
	}
	if !l.bind && !l.readonly {
		if err := giveNew(l.top, made, host); err != nil {
			return nil, err
		}
	}
	mounts = slices.Clone(mounts) // they are everybody's who holds it
	mounts[0].Options = append([]string{"uidmap=" + m.labels[0], "gidmap=" + m.labels[1]}, mounts[0].Options...)
	return mounts, nil
}

// layers are directories of a mount.
type layers struct {
	top      string // what is written to, or the topmost of what is read
	below    string // the topmost that a mapping is for
	bind     bool
	readonly bool
}

// layersOf takes apart the only one of mounts.
func layersOf(mounts []mount.Mount) (l layers) {
	m := mounts[0]
	if m.Type != "overlay" {
		return layers{top: m.Source, below: m.Source, bind: true, readonly: slices.Contains(m.Options, "ro")}
	}
	l.readonly = true
	for _, option := range m.Options {
		switch name, value, _ := strings.Cut(option, "="); name {
		case "lowerdir":
			l.below, _, _ = strings.Cut(value, ":")
		case "upperdir":
			l.top, l.readonly = value, false
		}
	}
	if l.readonly {
		l.top = l.below
	}
	return l
}

func owner(dir string) (ids, error) {
	var st syscall.Stat_t
	if err := syscall.Lstat(dir, &st); err != nil {
		return ids{}, fmt.Errorf("find the owner of %s: %w", dir, err)
	}
	return ids{int(st.Uid), int(st.Gid)}, nil
}

// giveNew gives dir to its owner where nobody has used it yet: it is empty, and has the
// owner that it was made with. A power loss may take it back there.
func giveNew(dir string, made, to ids) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := owner(dir)
	if err != nil || now != made {
		return err
	}
	switch _, err := f.Readdirnames(1); {
	case err == nil:
		return nil
	case !errors.Is(err, io.EOF):
		return err
	}
	return f.Chown(to[0], to[1])
}

// possible asks the kernel for a mapped mount of dir, which nobody gets to see. The
// file systems of disks can do that and overlays cannot.
func (m *mapping) possible(dir string) error {
	namespace, err := mount.GetUsernsFD(m.labels[0], m.labels[1])
	if err != nil {
		return fmt.Errorf("make a user namespace with %q: %w: %w", m.labels, err, errdefs.ErrInvalidArgument)
	}
	defer namespace.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", dir, err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(namespace.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("the file system at %s does not map (%w): %w", dir, err, errdefs.ErrNotImplemented)
	}
	return nil
}
