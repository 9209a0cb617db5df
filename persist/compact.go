package persist

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// bbolt uses pages that became free for something else and gives none back: a cache
// that was pruned keeps the file of what it once was. That is not only space. A list
// of the free pages is in memory, and bbolt takes any of them, so that each transaction
// is about pages that are in no cache of the processor's. So where most of the file is
// free Open writes it anew without. That costs 15 microseconds for each snapshot, once.
const (
	compactFrom  = 16 << 20 // bytes; less is not worth the syncs
	compactShare = 8        // at most one in so many bytes is in use
	compactBatch = 32 << 10 // bytes of keys and values in a transaction; bbolt gets slower with more
)

// sparse tells whether most of the database is free pages.
func sparse(db *bolt.DB) bool {
	var size int64
	if err := view(db, func(tx *bolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		return false // whoever needs to read will say so
	}
	free := int64(db.Stats().FreePageN) * int64(db.Info().PageSize)
	return size >= compactFrom && (size-free)*compactShare <= size
}

// compactTo writes what is in the database to a new one at path, and syncs it.
func compactTo(ctx context.Context, db *bolt.DB, path string) (err error) {
	to, err := openBolt(ctx, path, openEmpty)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeFile(to)) }()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // where the disk cannot read a page
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read it: %v: %w", p, errdefs.ErrInternal)
		}
	}()
	// Synced once, when all is there; the list of free pages as Close leaves it.
	to.NoSync, to.NoGrowSync, to.NoFreelistSync = true, true, false
	if err := compact(to, db); err != nil {
		return err
	}
	return syncDB(to)
}
