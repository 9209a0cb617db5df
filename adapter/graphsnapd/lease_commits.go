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
// came meanwhile as the next one. A change that is refused is taken out, and the
// transaction starts over without it: what containerd does for a lease is done in
// the transaction alone, so doing it twice is doing it once.
type leaseCommits struct {
	leases.Manager // containerd's, which reads

	db      *ctdmetadata.DB
	current currentTx      // that changes are made in
	changes leases.Manager // containerd's, on current
	mailbox *actors.Mailbox[*leaseChange]
	done    chan struct{} // closed when everything was answered
}

// leaseChange does something to leases in the current transaction.
type leaseChange struct {
	apply func() error
	actors.Reply[struct{}]
}

// currentTx is a database that has but the transaction that is under way. What is
// applied through it runs inside an Update of the real one, so containerd's garbage
// collection keeps off as ever.
type currentTx struct{ tx *bolt.Tx }

func (c *currentTx) View(fn func(*bolt.Tx) error) error   { return fn(c.tx) }
func (c *currentTx) Update(fn func(*bolt.Tx) error) error { return fn(c.tx) }

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
	m.changes = ctdmetadata.NewLeaseManager(ctdmetadata.NewDB(&m.current, nil, nil))
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
func (m *leaseCommits) change(ctx context.Context, f func() error) error {
	c := &leaseChange{apply: f}
	_, err := actors.Call(ctx, m.mailbox, c, &c.Reply)
	return err
}

func (m *leaseCommits) Create(ctx context.Context, opts ...leases.Opt) (l leases.Lease, err error) {
	err = m.change(ctx, func() (err error) {
		l, err = m.changes.Create(ctx, opts...)
		return err
	})
	if err != nil {
		return leases.Lease{}, err
	}
	return l, nil
}

func (m *leaseCommits) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	return m.change(ctx, func() error { return m.changes.Delete(ctx, l, opts...) })
}

func (m *leaseCommits) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.change(ctx, func() error { return m.changes.AddResource(ctx, l, r) })
}

func (m *leaseCommits) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.change(ctx, func() error { return m.changes.DeleteResource(ctx, l, r) })
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
//
// What is refused may be so because of what stands before it in the batch, such as a
// lease that is there already. So it is answered after that is durable, and fails with
// it otherwise.
func (m *leaseCommits) commit(batch []*leaseChange) []*leaseChange {
	type refusal struct {
		change *leaseChange
		err    error
	}
	var refused []refusal
	var err error
	for len(batch) > 0 {
		failed := -1
		err = m.db.Update(func(tx *bolt.Tx) error {
			m.current.tx = tx
			for i := 0; i < len(batch); i++ {
				if err := batch[i].apply(); err != nil {
					failed = i
					return err
				}
				if i == len(batch)-1 && i+1 < leaseBatch {
					batch = m.mailbox.TryReceive(batch, leaseBatch-i-1)
				}
			}
			return nil
		})
		if failed < 0 {
			break
		}
		refused = append(refused, refusal{batch[failed], err})
		batch = append(batch[:failed], batch[failed+1:]...)
		err = nil
	}
	for _, c := range batch {
		if err != nil {
			c.Fail(err)
		} else {
			c.Answer(struct{}{})
		}
	}
	for _, r := range refused {
		if err != nil {
			r.change.Fail(err)
		} else {
			r.change.Fail(r.err)
		}
	}
	return batch
}
