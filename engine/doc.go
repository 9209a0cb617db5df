// Package engine is the snapshotter without a face: it keeps snapshots in the
// directories of a graph driver and their records in a database, and says what
// may be done with which of them when many want something at once.
//
// # Who changes what
//
// Each key has an owner (package actors) that alone changes what is published of
// it, handling one message at a time. A message reads the published state, has the
// change made durable (package persist) and publishes the new state, in that
// order. Reads look at the published state and ask nobody.
//
// An operation that concerns several keys, or a directory, is a saga run by the
// caller's goroutine: one ask after another, each with its undo deferred. Owners
// never ask owners and never call the driver, so nothing can wait in a circle.
// Driver calls are made by sagas, bounded by a semaphore.
//
// Work that no caller waits for is handed to the reaper: removing a snapshot when
// its last lease, child or hold is gone.
//
// # A snapshot's life
//
//	absent → creating → active → committed → absent
//	absent → view → absent
//
// creating is durable before the driver is called and invisible to callers. A
// commit moves the directory from a key to a name; both change at one instant
// (see flip). Removal first makes the record go and an intent to delete the
// directory appear, in one transaction, then deletes the directory.
//
// # Imports
//
// The package stands on floor 3: it imports actors, persist, mounts and
// containerd's interfaces. It knows the graph driver by an interface of its own.
package engine
