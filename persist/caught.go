package persist

// bbolt panics where a page is not what it should be, and where a page that is mapped
// cannot be had: a sector that cannot be read, a file that somebody cut. The writer makes
// an error of it, and of a database that bbolt cannot go on with, or even close, one that
// refuses writes.

import (
	"errors"
	"fmt"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"
)

// errStuck is that bbolt panicked with its locks taken: it would wait for itself.
var errStuck = errors.New("its file stays open and locked until the process ends")

// caught calls f, of which a panic is an error.
func (w *writer) caught(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.log.Errorf("snapshot database %s: panic: %v\n%s", w.path, p, debug.Stack())
			err = fmt.Errorf("snapshot database %s: panic: %v", w.path, p)
		}
	}()
	return f()
}

// locking is caught for what takes or gives back bbolt's locks: where it panics they stay
// as they were then.
func (w *writer) locking(f func() error) error {
	w.stuck = true
	return w.caught(func() error {
		err := f()
		w.stuck = false
		return err
	})
}

// begin is env.begin.
func (w *writer) begin() (tx *bolt.Tx, err error) {
	if w.stuck {
		return nil, errStuck
	}
	err = w.locking(func() (err error) {
		tx, err = w.env.begin()
		return err
	})
	return tx, err
}

// rollback ends a transaction that is not to be, and gives back the lock that Close
// needs.
func (w *writer) rollback(tx *bolt.Tx) { _ = w.locking(tx.Rollback) }

// commitTx makes the transaction durable with commit.
func (w *writer) commitTx(tx *bolt.Tx, commit func(*bolt.Tx) error) error {
	err := w.locking(func() error { return commit(tx) })
	if w.stuck {
		w.rollback(tx)
	}
	return err
}
