// Package persist is the actor that alone writes snapshots.db, and the schema of
// that file. Nobody else opens the database.
//
// What is kept is a set of records, one per snapshot (record.go), the removals
// that were decided and not finished, aliases for dockerd, and a few settings.
// They lie in the buckets of dockerd 28.5.2 as far as its format can say them, so
// that its snapshotter and ours open each other's files, and in buckets of our own
// where it cannot (schema.go). A change is a list of mutations in one message,
// applied wholly or not at all and acknowledged when it is on disk (commit.go).
// At start everything is read once (load.go); after that the truth in memory is
// the engine's, and this package is only written to.
//
// The package knows nothing of drivers, layers or mounts. It imports actors,
// bbolt, containerd's errdefs and log, golang.org/x/sys/unix, and the standard
// library.
package persist
