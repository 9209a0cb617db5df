package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// errPending is the answer about a key that is being created or that a Commit is
// about to reach, to somebody who wants it to be free. To answer ErrAlreadyExists
// would be wrong if that comes to nothing: BuildKit goes on to use what exists.
type errPending struct{ decided <-chan struct{} }

func (errPending) Error() string { return "it is not decided yet" }

// free answers nil where a snapshot may appear under the key.
func (s *state) free(key string) error {
	switch {
	case s.phase == absent:
		return nil
	case s.pending != nil && s.visible() == nil:
		return errPending{s.pending}
	case s.phase == creating:
		return fmt.Errorf("snapshot %q could neither be finished nor undone: %w", key, errdefs.ErrUnavailable)
	case s.phase == lost:
		// Not ErrAlreadyExists: there is nothing to go on with.
		return fmt.Errorf("snapshot %q is lost and not removed yet, which happens when no lease names it and what stands on it: %w", key, errdefs.ErrUnavailable)
	}
	return errTaken(key)
}

// untilDecided repeats ask for as long as it answers errPending. The operation
// that is waited for waits for nobody that waits here, so there is no circle.
func (e *Engine) untilDecided(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		var p errPending
		if !errors.As(err, &p) {
			return err
		}
		select {
		case <-p.decided:
		case <-ctx.Done():
			return fmt.Errorf("waiting for another operation on the key: %w", context.Cause(ctx))
		}
	}
}

// awaitFree waits until it is decided whether key is taken, and answers nil where
// it is not.
func (e *Engine) awaitFree(ctx context.Context, key string) error {
	if e.lender(key) != nil {
		return errTaken(key)
	}
	return e.untilDecided(ctx, func() error { return e.keys.Load(key).plain().free(key) })
}
