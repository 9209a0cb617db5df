// Package powerloss cuts the power.
//
// A process works on a directory below strace, which tells every system call that
// writes or syncs. From these the tests compute what a disk may have at any moment:
// all that was synced, and of the rest, be it contents of files or entries of
// directories, any part, in any order. Each such image is laid out in a directory
// and opened, and the promises are checked against what the process had
// acknowledged until that moment.
//
// File systems are kinder than this model: most keep the order of entries. It grants
// what POSIX does and no more. An fsync of a file makes its contents durable and not
// its name; an fsync of a directory makes its entries durable and not what they lead
// to; a rename happens at one stroke.
//
// GRAPHSNAP_POWERLOSS in the environment asks for that many times the images.
//
// All of it is tests. They need root and strace.
package powerloss
