// Package mounts is the refcount actor of graphsnap: it decides when a graph
// driver mounts and unmounts a graph ID, lets any number of holders share the
// one kernel mount, and knows who holds what.
//
// # How it works
//
// One goroutine owns the table and never makes a syscall. What changes the
// table is a message to it: [Table.Acquire], [Hold.Release], [Table.Seal] and
// the others each send one and wait for the reply. The driver's Get and Put run
// in goroutines beside it, at most one at a time for each graph ID, bounded by
// the semaphore of [Options], and come back as messages. So a slow mount delays
// those who want that graph ID and nobody else.
//
// # A graph ID's states
//
//	            Acquire              Get done
//	unmounted ──────────▶ mounting ──────────▶ mounted ◀──▶ mounted
//	    ▲  │                  │ Get failed        │     more holds come and go
//	    │  │ Seal             ▼                   │ last Release, Drop, Close
//	    │  ▼              unmounted               ▼
//	    │ sealed                              unmounting
//	    └─────────────────────────────────────────┘ Put done
//
// Where the driver's Put failed the graph ID is mounted still, with no holder.
// An Acquire then shares that mount; a release, Seal, Drop or Close tries Put
// again. Where Get mounted nothing there is no Put either: the graph ID counts as
// mounted while it is held, and its holders mount it themselves. A graph ID that is unmounted, not sealed and not waited for has no
// entry in the table.
//
// # Imports
//
// The package stands on floor 2: it may import actors and libraries, never
// BuildKit, docker/docker or a floor above. (One test brings overlay2, to count
// what the kernel really mounts.)
package mounts
