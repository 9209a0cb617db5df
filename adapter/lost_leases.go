package adapter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// EndLostLeases deletes the leases that BuildKit's cache made for records which it
// does not have any more; records holds the IDs of those that it has. BuildKit makes
// a record's lease and snapshot before it writes the record down, and deletes them
// after it crossed the record out: a crash in between leaves a lease that nobody
// knows, and with it a snapshot that no prune finds.
//
// It must be called before a cache is opened on the records, and with the lease
// manager that [NewSnapshotter] returned. The leases are known by the label that
// BuildKit gives to them and no others (cache/manager.go); leases of views have it
// too, but are temporary, and BuildKit deletes them itself when it starts.
//
// It blocks while leases are deleted. Errors: those of lm. Leases that could not be
// deleted stay, which costs disk space and nothing else.
func EndLostLeases(ctx context.Context, lm leases.Manager, records map[string]bool) error {
	all, err := lm.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	var errs []error
	for _, l := range all {
		_, flat := l.Labels["containerd.io/gc.flat"]
		_, temporary := l.Labels["buildkit/lease.temporary"]
		if !flat || temporary || records[l.ID] {
			continue
		}
		log.G(ctx).WithField("lease", l.ID).Info("the build cache lost the record of this lease")
		if err := lm.Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete lease %q: %w", l.ID, err))
		}
	}
	return errors.Join(errs...)
}
