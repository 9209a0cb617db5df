// Package run lets clients drive a target as a workload says, measures it, and has
// the checker look at every history and at what the target consists of.
//
// It knows targets by their interface only.
package run
