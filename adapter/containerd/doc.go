// Package containerd is the face for containerd: its snapshots.Snapshotter on an
// engine. It is served to other processes by containerd's own service package, see
// the snapshotter command of graphsnapd.
//
// On this face snapshots go by Remove alone; which of them are wanted is containerd's
// business, in its own database. So the engine is to be opened without a lease
// manager. Nobody releases mounts here: what was handed out is held until the
// snapshot is removed or the engine closed. What clients have mounted by then stays
// mounted. What they were told to mount they can mount later, but for binds of what the
// driver had mounted (with fuse-overlayfs, and of chains that are too long to be
// described): those are there again after the next call of Mounts.
//
// # Mapped IDs
//
// The labels snapshots.LabelSnapshotUIDMapping and snapshots.LabelSnapshotGIDMapping,
// which go together, say which user namespace a snapshot is for: its files are to have
// the owners there that they have in the image. There are two ways.
//
// By default containerd does it. It prepares a snapshot of its own on the image, changes
// the owner of every file, commits that, and asks for the labelled snapshot on top. All
// drivers can do that but fuse-overlayfs, of which a root directory does not keep its
// owner. Where the parent is still the image the answer is ErrNotImplemented.
//
// With WithRemapIDs the mounts have the options uidmap and gidmap, and containerd's
// core/mount (of 2.0 or later, on Linux 5.19 or later) mounts what is below with mapped
// IDs: nothing is copied. It works where a snapshot is described by an overlay, and
// where it is a directory of its own, as with vfs and btrfs, if the file system that
// the driver's home is on can be mounted so, as ext4, xfs, btrfs and tmpfs can.
// ErrNotImplemented is the answer for overlays that the driver mounts, such as those
// that are too deep to be described, and for views that are a bind, which core/mount
// leaves unmapped. Of a parent that containerd has mapped before it is
// ErrFailedPrecondition.
//
// containerd 2.4 maps all that is mounted below the driver's home at once, and cannot
// while one of those overlays of the driver is among it.
//
// The package stands on floor 4 and imports the engine and containerd.
package containerd
