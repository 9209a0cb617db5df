// Package trace records what a client of containerd's snapshots API does, a stock
// buildkitd for instance, and replays it against any target at another speed.
//
// The recorder stands between the client and a snapshotter: stress/trace/record serves
// it on a socket. A trace says when each call began, how long it took, and what was
// answered. Replayed, a call begins when its time has come and when all calls have
// ended that had ended before it in the recording and that it has a key in common with;
// what it answers is compared with what was recorded.
//
// It imports what stress/target imports, and metrics.
package trace
