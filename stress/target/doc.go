// Package target is what the harness drives: one interface over the engine, its
// faces and the peers, with the engine itself on a driver and leases in memory.
//
// It stands on the engine alone, so that a test binary with a planted bug builds
// fast. The faces are in stress/faces.
package target
