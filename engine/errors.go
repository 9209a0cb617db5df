package engine

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
)

func errNotFound(key string) error {
	return fmt.Errorf("snapshot %q: %w", key, errdefs.ErrNotFound)
}

// errDoubtful is for what would be lost if the next start found the removal on disk.
func errDoubtful(key string) error {
	return fmt.Errorf("snapshot %q: it was being removed when the database failed, and only the next start tells whether it is: %w", key, errdefs.ErrUnavailable)
}

func errTaken(key string) error {
	return fmt.Errorf("snapshot %q: %w", key, errdefs.ErrAlreadyExists)
}

var errClosed = fmt.Errorf("the snapshotter is closed: %w", errdefs.ErrUnavailable)

// checkKey refuses what cannot name a snapshot. what says which of the caller's
// words it is.
func checkKey(what, key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%s is empty: %w", what, errdefs.ErrInvalidArgument)
	case strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("%s %q contains NUL: %w", what, abridged(key), errdefs.ErrInvalidArgument)
	case len(key) > persist.MaxKey:
		return fmt.Errorf("%s %q has %d bytes, more than %d: %w", what, abridged(key), len(key), persist.MaxKey, errdefs.ErrInvalidArgument)
	}
	return nil
}

func abridged(s string) string {
	const limit = 80
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "…"
}
