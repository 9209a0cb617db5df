// Package stress holds what tests the floors below it together, or against
// each other.
package stress
