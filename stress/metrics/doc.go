// Package metrics is what a run of the harness measures, and what its report is
// made of: latencies per operation, throughput over time, errors by class, and what
// the engine, the runtime and the driver tell of themselves.
//
// It imports the engine for its counters.
package metrics
