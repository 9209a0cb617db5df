// Package process has a target in a process of its own, which can be killed with all
// that is under way in it and started again on what it left.
//
// The process is this program once more (reexec). What the target is asked and answers
// goes over a pair of sockets with net/rpc. Errors come through with their classes, a
// client's deadline with what is left of it.
package process
