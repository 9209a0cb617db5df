package engine

import (
	"time"

	"github.com/graphsnap/graphsnap/persist"
)

// Stats tells what an engine is doing and did since Open, for display.
type Stats struct {
	Database persist.Stats

	Keys        int // owners of keys at work
	KeysQueue   int // messages that wait for them, in all mailboxes together
	Leases      int // owners of leases at work
	MountsQueue int // messages that wait for the table of mounts

	// Directories whose removal is durable and that are not deleted yet.
	Pending Pending
}

// MeanBatch returns how many messages shared a transaction between two Stats, 0
// where there was none.
func (s Stats) MeanBatch(before Stats) float64 {
	n := s.Database.Transactions - before.Database.Transactions
	if n == 0 {
		return 0
	}
	return float64(s.Database.Messages-before.Database.Messages) / float64(n)
}

// MeanCommit returns what a transaction took to become durable between two Stats,
// 0 where there was none.
func (s Stats) MeanCommit(before Stats) time.Duration {
	n := s.Database.Transactions - before.Database.Transactions
	if n == 0 {
		return 0
	}
	return (s.Database.Committing - before.Database.Committing) / time.Duration(n)
}

// Stats returns the counters. It waits for nobody.
func (e *Engine) Stats() Stats {
	return Stats{
		Database:    e.db.Stats(),
		Keys:        e.keys.Running(),
		KeysQueue:   e.keys.Queued(),
		Leases:      e.leases.Running(),
		MountsQueue: e.mounts.Queued(),
		Pending:     e.Pending(),
	}
}
