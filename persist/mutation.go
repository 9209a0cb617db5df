package persist

// The mutations of which a message is made, and what is checked of them before
// they touch a transaction that others share.

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Mutation is one change to the database. Several in one message are applied in
// their order, all or none.
type Mutation struct {
	op     op
	record Record // put, commit
	key    string // the key, graph ID, alias or setting that is changed
	value  string // graph ID of remove and discard, chain ID of alias, value of set
}

type op uint8

const (
	opPut op = iota
	opCommit
	opDelete
	opRemove
	opRemoving
	opRemoved
	opAlias
	opUnalias
	opDiscard
	opSet
)

// Put creates the record of r.Key or replaces it.
func Put(r Record) Mutation { return Mutation{op: opPut, record: r} }

// Commit makes the record of name appear and that of the active key disappear.
// The message fails with ErrNotFound where key has no record, ErrAlreadyExists
// where name has one, ErrFailedPrecondition where key is not active or its graph
// ID is not that of name.
func Commit(name Record, key string) Mutation {
	return Mutation{op: opCommit, record: name, key: key}
}

// Delete makes the record of key disappear, if there is one.
func Delete(key string) Mutation { return Mutation{op: opDelete, key: key} }

// Remove makes the record of key disappear, if there is one, and the removal of
// graphID appear.
func Remove(key, graphID string) Mutation {
	return Mutation{op: opRemove, key: key, value: graphID}
}

// Removing makes the removal of graphID appear, whatever records there are.
func Removing(graphID string) Mutation { return Mutation{op: opRemoving, key: graphID} }

// Removed makes the removal of graphID disappear: its directory is gone.
func Removed(graphID string) Mutation { return Mutation{op: opRemoved, key: graphID} }

// Alias tells dockerd that lease means the layer chainID. A lease that bears the
// key of a record gets no alias: there the snapshot of that key is meant.
func Alias(lease, chainID string) Mutation {
	return Mutation{op: opAlias, key: lease, value: chainID}
}

// Unalias makes the alias of lease disappear, if there is one.
func Unalias(lease string) Mutation { return Mutation{op: opUnalias, key: lease} }

// Discard makes disappear what Load called an Orphan, Empty or Shadowed under key, if
// it is there still, and where graphID is not empty the removal of graphID appear. No
// record may bear an Orphan's graph ID: whoever reads its parent there would lose it.
func Discard(key, graphID string) Mutation {
	return Mutation{op: opDiscard, key: key, value: graphID}
}

// Set gives a setting of the engine a value.
func Set(name, value string) Mutation { return Mutation{op: opSet, key: name, value: value} }

// MaxKey is the length in bytes of the longest key. bbolt's limit is 32,768.
const MaxKey = 32000

func checkKey(what, key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%s is empty: %w", what, errdefs.ErrInvalidArgument)
	case len(key) > MaxKey:
		return fmt.Errorf("%s %.40q... is longer than %d bytes: %w", what, key, MaxKey, errdefs.ErrInvalidArgument)
	case strings.IndexByte(key, 0) >= 0:
		return fmt.Errorf("%s %q contains NUL: %w", what, key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// check refuses what bbolt would refuse, or would take and not give back, before
// it touches a transaction that others share.
func (m *Mutation) check() error {
	switch m.op {
	case opPut:
		return m.record.check()
	case opCommit:
		if m.record.Kind != Committed {
			return fmt.Errorf("commit %q as %q: record is %v: %w", m.key, m.record.Key, m.record.Kind, errdefs.ErrInvalidArgument)
		}
		if err := checkKey("key", m.key); err != nil {
			return err
		}
		return m.record.check()
	case opRemove:
		if err := checkKey("graph ID", m.value); err != nil {
			return err
		}
	case opDiscard:
		if m.value != "" {
			if err := checkKey("graph ID", m.value); err != nil {
				return err
			}
		}
	}
	return checkKey("key", m.key)
}

func (r *Record) check() error {
	if err := checkKey("key", r.Key); err != nil {
		return err
	}
	if r.Parent != "" {
		if err := checkKey("parent", r.Parent); err != nil {
			return err
		}
	}
	if r.GraphID != "" {
		if err := checkKey("graph ID", r.GraphID); err != nil {
			return err
		}
	}
	switch {
	case r.Kind < Active || r.Kind > Borrowed:
		return fmt.Errorf("snapshot %q: unknown %v: %w", r.Key, r.Kind, errdefs.ErrInvalidArgument)
	case r.Kind == Borrowed && !isDigest(r.Key):
		return fmt.Errorf("snapshot %q is borrowed but its key is no chain ID: %w", r.Key, errdefs.ErrInvalidArgument)
	case r.Measured && r.Size < 0:
		return fmt.Errorf("snapshot %q has size %d: %w", r.Key, r.Size, errdefs.ErrInvalidArgument)
	}
	return nil
}
