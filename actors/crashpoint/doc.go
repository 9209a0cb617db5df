// Package crashpoint names the calls at which a test lets the process die, wait, panic
// or hear of a failure: each call that changes what outlives the process, or tells what
// did.
//
//	if err := crashpoint.Before("driver.Create"); err != nil {
//		return err
//	}
//	err := d.driver.Create(id, parent)
//	crashpoint.After("driver.Create")
//
// [Before] and [After] are empty, and cost nothing, but in a build with the tag
// crashpoints. There [Hook] says what happens. Where a call has no error to answer with,
// that of Before is ignored.
//
// A check in stress/ finds calls of the graph driver, the layer store, the lease
// manager and the database that do not stand between the two.
//
// The package imports the standard library.
package crashpoint
