// Package actors is the runtime the engine stands on: goroutines that alone
// change what they own, and the queues through which others ask them to.
// It knows nothing of snapshots.
//
// Two shapes are offered. [Owners] keeps one owner per key, for state of which
// there are millions of small independent pieces. An owner is a goroutine only
// while it has messages: the asker's own where it was idle, and one that ends with
// the last message otherwise. So an idle key costs one small cell. What an owner
// publishes is an immutable value that anybody reads without asking. [Mailbox] is the
// queue of a lone actor that has one table to guard, such as a writer to a file.
//
// Both are bounded, and both refuse in the same way: a full queue makes the
// sender wait until its context ends, a closed one answers ErrUnavailable. Both
// have a second entrance, Owe and Tell, for the messages that must get through: the undo
// of something already accepted, the release of something held, the result of
// work that was begun. Their number is bounded by what was accepted before.
//
// A message that is asked embeds a [Reply]. Once it was enqueued the asker waits
// for the answer, whatever becomes of its context, so that the outcome is always
// known.
//
// The package imports the standard library and containerd's errdefs.
package actors
