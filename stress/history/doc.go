// Package history records what clients did to one family of keys, and checks that
// some order of it, which real time allows, is what the model would do
// (linearizability, with porcupine).
//
// A history holds a connected component: snapshots, their parents, the leases that
// name them. Splitting further, by key, would not be sound. Workloads keep families
// small, so that a run of millions of operations is many histories and none of them
// is long.
package history
