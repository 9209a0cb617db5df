package persist

// A transaction for which the disk has no room. Unlike one that fails later it never
// was, so the writer goes on.

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// neverWas tells whether transaction id, whose commit failed because a page could
// not be written, left the database as it was before. The page that makes it the
// last one is written after all others were synced: what readers see tells whether
// it came to that.
func (w *writer) neverWas(id int) bool {
	last, err := w.env.last()
	return err == nil && last < id
}

// noRoom tells whether the error of a commit says that a page, or the growth of the
// file, found no room. The same from a sync is another matter: a file system that
// allocates when it writes back says it there, and then has lost pages.
func noRoom(err error) bool {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		var failed *fs.PathError
		if errors.As(err, &failed) && failed.Op == "write" && failed.Err == full {
			return true
		}
		// bbolt wraps this one as text only.
		if text := err.Error(); strings.HasPrefix(text, "file resize error") && strings.HasSuffix(text, full.Error()) {
			return true
		}
	}
	return false
}

// keep answers those who wait for a batch that found no room, and keeps the rest
// for the next one.
func (w *writer) keep(batch []*message, cause error) []*message {
	err := fmt.Errorf("snapshot database %s: %w (%w), nothing was changed: make room and try again: %w", w.path, ErrNoRoom, cause, errdefs.ErrUnavailable)
	for _, m := range batch {
		switch {
		case m.due:
			m.Fail(err)
		case len(m.mutations) > 0:
			w.kept = append(w.kept, m)
		}
	}
	if !w.full {
		w.full = true
		w.log.WithError(cause).Warnf("snapshot database %s: no room for a transaction; what nobody waits for is tried again, the rest is refused", w.path)
	}
	return batch
}
