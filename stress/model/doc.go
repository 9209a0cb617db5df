// Package model is the sequential snapshotter that histories are compared with:
// snapshots, leases and holds of one small family of keys, as if every operation
// happened at one instant.
//
// Removal for want of a lease happens at any time, by nobody's call. The model lets
// it happen as late as possible: a snapshot that nothing wants is still there until
// an operation can only be explained by its absence. Since such a removal touches
// nothing that another operation changes, one that happened earlier is explained as
// well; only where a lease is added, which revokes it and tells nothing, both are
// followed further.
//
// It imports the standard library only.
package model
