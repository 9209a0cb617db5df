// Command stress drives graphsnap with many clients, checks every history of what
// they did against a sequential model, and reports what it measured: while it runs,
// as a table at the end, and with -json and -report in files. With -sweep it runs with
// each value of options of the engine, in turn, and tells what each of them buys.
//
// The first SIGINT or SIGTERM ends a run in order, and what there is by then is checked
// and reported; a second one ends it at once. The exit code is 0 where everything was
// as it should be, 1 where something was not, and 2, with one line, where the command
// line or the machine did not let it begin.
//
// Beside it are tests of all floors together.
package main
