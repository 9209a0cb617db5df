package main

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/actors"
)

// leaseCommits is containerd's lease manager, with changes that come at once made in
// one transaction. Each transaction of containerd's costs two syncs under the lock of
// its database, and a build makes a lease, names a snapshot in it and deletes another
// one for each of its steps: those of parallel steps queue there.
//
// One goroutine takes what is queued, applies it to one transaction, and takes what
// came meanwhile as the next one. A change that fails is answered and taken out, and
// the transaction starts over without it: what containerd does for a lease is done in
// the transaction alone, so doing it twice is doing it once.
type leaseCommits struct {
	leases.Manager // containerd's, which reads

	db      *ctdmetadata.DB
	mailbox *actors.Mailbox[*leaseChange]
	done    chan struct{} // closed when everything was answered
}

// leaseChange does something to leases in the transaction of its context.
type leaseChange struct {
	apply func(tx *bolt.Tx) error
	actors.Reply[struct{}]
}

const (
	leaseQueue = 1024 // changes that wait; more wait in their callers
	leaseBatch = 1024 // changes that share a transaction
)

func newLeaseCommits(db *ctdmetadata.DB) *leaseCommits {
	m := &leaseCommits{
		Manager: ctdmetadata.NewLeaseManager(db),
		db:      db,
		mailbox: actors.NewMailbox[*leaseChange]("lease database", leaseQueue),
		done:    make(chan struct{}),
	}
	go m.run()
	return m
}

// Close finishes what was queued and refuses what comes later.
func (m *leaseCommits) Close() error {
	m.mailbox.Close()
	<-m.done
	return nil
}

// change returns when what f does is durable, or was refused. The end of ctx ends
// the wait for room in the queue.
func (m *leaseCommits) change(ctx context.Context, f func(ctx context.Context) error) error {
	c := &leaseChange{apply: func(tx *bolt.Tx) error {
		return f(ctdmetadata.WithTransactionContext(ctx, tx))
	}}
	_, err := actors.Call(ctx, m.mailbox, c, &c.Reply)
	return err
}

func (m *leaseCommits) Create(ctx context.Context, opts ...leases.Opt) (l leases.Lease, err error) {
	err = m.change(ctx, func(ctx context.Context) (err error) {
		l, err = m.Manager.Create(ctx, opts...)
		return err
	})
	if err != nil {
		return leases.Lease{}, err
	}
	return l, nil
}

func (m *leaseCommits) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	return m.change(ctx, func(ctx context.Context) error { return m.Manager.Delete(ctx, l, opts...) })
}

func (m *leaseCommits) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.change(ctx, func(ctx context.Context) error { return m.Manager.AddResource(ctx, l, r) })
}

func (m *leaseCommits) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.change(ctx, func(ctx context.Context) error { return m.Manager.DeleteResource(ctx, l, r) })
}

func (m *leaseCommits) run() {
	defer close(m.done)
	var batch []*leaseChange
	for {
		var open bool
		if batch, open = m.mailbox.Receive(batch[:0], leaseBatch); !open {
			return
		}
		batch = m.commit(batch)
		clear(batch)
	}
}

// commit makes the batch durable, and what arrives while it is applied, and answers
// it. It returns the batch for reuse.
func (m *leaseCommits) commit(batch []*leaseChange) []*leaseChange {
	for {
		var failed *leaseChange
		err := m.db.Update(func(tx *bolt.Tx) error {
			for i := 0; i < len(batch); i++ {
				if err := batch[i].apply(tx); err != nil {
					failed = batch[i]
					batch = append(batch[:i], batch[i+1:]...)
					return err
				}
				if i == len(batch)-1 && i+1 < leaseBatch {
					batch = m.mailbox.TryReceive(batch, leaseBatch-i-1)
				}
			}
			return nil
		})
		if failed != nil {
			failed.Fail(err)
			continue
		}
		for _, c := range batch {
			if err != nil {
				c.Fail(err)
			} else {
				c.Answer(struct{}{})
			}
		}
		return batch
	}
}
