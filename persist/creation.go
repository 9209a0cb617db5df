package persist

// A new database gets its name when it is whole.
//
// bbolt makes the file under its name first, and writes and syncs the first pages
// afterwards. A power loss between leaves a file without them, or with some, which
// is no database, and which nobody would dare to replace. So it is made under another
// name, synced, and renamed: what bears the name was whole once.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Names of files beside the database, which exist while it is made or copied.
const (
	suffixNew  = ".new"
	suffixCopy = ".copy"
)

// openOrCreate opens the database at path, or a new one where there is none.
func openOrCreate(ctx context.Context, path string) (*bolt.DB, error) {
	_, err := os.Stat(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return openBolt(ctx, path, openSound)
	}
	// Locked before it bears the name, as a copy is (renew).
	b, err := openBolt(ctx, path+suffixNew, openEmpty)
	if err != nil {
		return nil, err
	}
	var class error = errdefs.ErrInternal
	switch _, err = os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		err = rename(path+suffixNew, path)
	case err == nil: // it came a moment ago
		class = errdefs.ErrUnavailable
		err = errors.Join(fs.ErrExist, remove(path+suffixNew))
	}
	if err != nil {
		return nil, fmt.Errorf("open snapshot database %s: create it: %w: %w", path, errors.Join(err, closeFile(b)), class)
	}
	return b, nil
}

// openEmpty opens a file and, unless somebody has it locked, empties it: what is in it
// is of a process that died. Where somebody has, bbolt waits for the lock.
func openEmpty(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		err = f.Truncate(0)
	}
	if err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// removeBeside removes what a process left that died while it made or copied the
// database at path, which the caller has locked.
func removeBeside(path string) error {
	for _, suffix := range []string{suffixNew, suffixCopy} {
		if err := remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
