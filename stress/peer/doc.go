// Package peer opens graphsnap and the snapshotters that people use today behind
// one interface, so that they can be measured and tested side by side:
//
//	graphsnap   the BuildKit face of this project
//	moby        the snapshotter inside dockerd 28.5.2's builder
//	containerd  containerd's overlay snapshotter
//	metastore   the bolt MetaStore below containerd's snapshotters, alone
//	floor       a bare loop that makes durable what moby writes, and nothing else
//
// The first two stand on Docker's layer store and one of its graph drivers:
// overlay2, or Null, which costs nothing, so that what is measured is the
// snapshotter.
//
// The package stands on floor 5 and may import everything.
package peer
