// Package containerd is the face for containerd: its snapshots.Snapshotter on an
// engine. It is served to other processes by containerd's own service package, see
// the snapshotter command of graphsnapd.
//
// On this face snapshots go by Remove alone; which of them are wanted is containerd's
// business, in its own database. So the engine is to be opened without a lease
// manager. Nobody releases mounts here: what was handed out is held until the
// snapshot is removed.
//
// The package stands on floor 4 and imports the engine and containerd.
package containerd
