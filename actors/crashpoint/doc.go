// Package crashpoint names the places at which a test lets the process die: before
// and after each call that changes what outlives the process, or tells what did.
//
//	crashpoint.Before("driver.Create")
//	err := d.driver.Create(id, parent)
//	crashpoint.After("driver.Create")
//
// [Before] and [After] are empty, and cost nothing, but in a build with the tag
// crashpoints. There [Hook] says what happens.
//
// A check in stress/ finds calls of the graph driver, the layer store, the lease
// manager and the database that do not stand between the two.
//
// The package imports the standard library.
package crashpoint
