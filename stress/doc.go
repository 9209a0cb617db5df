// Command stress drives graphsnap with many clients, checks every history of what
// they did against a sequential model, and reports what it measured. Beside it are
// tests of all floors together.
package main
