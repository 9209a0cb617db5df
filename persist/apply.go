package persist

// What each mutation does to the buckets. Nothing here waits, and nothing here
// undoes: after an error the transaction is rolled back.

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// txn applies mutations to one transaction.
type txn struct {
	*bolt.Tx
	// values holds the encodings that bbolt refers to until the transaction ends.
	// When it grows, those written before stay where they are.
	values []byte
	// ours are our buckets that were looked for, nil where there is none: to find out
	// anew for each key that there is no bucket costs as much as to look into it.
	ours map[string]*bolt.Bucket
}

// reset makes t ready for the next transaction, when nothing refers to the values
// of the last one.
func (t *txn) reset(tx *bolt.Tx) {
	const keep = 1 << 20 // a large batch does not decide how much is held for ever
	if cap(t.values) > keep {
		t.values = nil
	}
	t.Tx, t.values = tx, t.values[:0]
	clear(t.ours)
}

func (t *txn) apply(m *Mutation) error {
	switch m.op {
	case opPut:
		return t.put(&m.record)
	case opCommit:
		return t.commitKey(&m.record, m.key)
	case opDelete:
		return t.delete(m.key)
	case opRemove:
		if err := t.delete(m.key); err != nil {
			return err
		}
		return t.putOurs(bucketRemoving, m.value, []byte{})
	case opRemoving:
		return t.putOurs(bucketRemoving, m.key, []byte{})
	case opRemoved:
		return t.deleteOurs(bucketRemoving, m.key)
	case opAlias:
		return t.alias(m.key, m.value)
	case opUnalias:
		if lookUp(t.Tx, m.key).shape != shapeAlias {
			return nil
		}
		return t.DeleteBucket(bytesOf(m.key))
	case opDiscard:
		return t.discard(m.key, m.value)
	case opSet:
		return t.putOurs(bucketSettings, m.key, bytesOf(m.value))
	}
	return fmt.Errorf("unknown mutation %d: %w", m.op, errdefs.ErrInvalidArgument)
}

func (t *txn) put(r *Record) error {
	at := lookUp(t.Tx, r.Key)
	if at.shape.isRecord() {
		old := at.plain(r.Key, string(at.parent))
		if old.Kind == r.Kind && (old.GraphID == r.GraphID || r.Kind == Borrowed) {
			return t.fill(at, r)
		}
		if err := t.delete(r.Key); err != nil {
			return err
		}
		at = lookUp(t.Tx, r.Key)
	} else if t.getOurs(bucketSnapshots, r.Key) != nil {
		return t.putWhole(r)
	}
	if !at.shape.isFree() || !r.inDockerdsWords() {
		return t.putWhole(r)
	}
	if r.Kind == Committed {
		hidden := lookUp(t.Tx, r.GraphID)
		if !hidden.shape.isFree() && hidden.shape != shapeHidden {
			return t.putWhole(r)
		}
		if err := t.hide(hidden, r.GraphID, r.Parent); err != nil {
			return err
		}
	}
	return t.create(at, r)
}

// commitKey moves the record of key to that of name.
func (t *txn) commitKey(name *Record, key string) error {
	at := lookUp(t.Tx, key)
	var old Record
	switch ours := t.getOurs(bucketSnapshots, key); {
	case at.shape.isRecord():
		old = at.plain(key, string(at.parent))
	case ours != nil:
		if err := old.decode(ours); err != nil {
			return fmt.Errorf("commit %q as %q: %w", key, name.Key, err)
		}
	default:
		return fmt.Errorf("commit %q as %q: key has no record: %w", key, name.Key, errdefs.ErrNotFound)
	}
	if old.Kind != Active {
		return fmt.Errorf("commit %q as %q: key is %v: %w", key, name.Key, old.Kind, errdefs.ErrFailedPrecondition)
	}
	if old.GraphID != name.GraphID {
		return fmt.Errorf("commit %q as %q: graph ID is %q, not %q: %w", key, name.Key, old.GraphID, name.GraphID, errdefs.ErrFailedPrecondition)
	}
	to := lookUp(t.Tx, name.Key)
	if to.shape.isRecord() || t.getOurs(bucketSnapshots, name.Key) != nil {
		return fmt.Errorf("commit %q as %q: name has a record: %w", key, name.Key, errdefs.ErrAlreadyExists)
	}

	if !at.shape.isRecord() {
		if err := t.deleteOurs(bucketSnapshots, key); err != nil {
			return err
		}
		return t.put(name)
	}
	// dockerd's way: the bucket of the key stays and keeps the parent.
	if err := errors.Join(
		at.bucket.Put(bytesOf(fieldIsCommitted), []byte{}),
		at.bucket.Delete(bytesOf(fieldOurs)),
		at.putParent(name.Parent),
	); err != nil {
		return err
	}
	if !to.shape.isFree() {
		return t.putWhole(name)
	}
	return t.create(to, name)
}

// delete makes the record of key go, and the hidden bucket of a name.
func (t *txn) delete(key string) error {
	if ours := t.getOurs(bucketSnapshots, key); ours != nil {
		var r Record
		if r.decode(ours) == nil && r.Kind == Committed {
			if err := t.unhide(r.GraphID); err != nil {
				return err
			}
		}
		if err := t.deleteOurs(bucketSnapshots, key); err != nil {
			return err
		}
	}
	at := lookUp(t.Tx, key)
	switch {
	case !at.shape.isRecord():
		return nil
	case at.shape == shapeCommitted && string(at.committed) != key:
		if at.isCommitted {
			// dockerd committed another key under a name that had been a key
			// itself: what is left is the hidden bucket of the other name.
			return errors.Join(
				at.bucket.Delete(bytesOf(fieldCommitted)),
				at.bucket.Delete(bytesOf(fieldChainID)),
				at.bucket.Delete(bytesOf(fieldSize)),
				at.bucket.Delete(bytesOf(fieldOurs)),
				t.unhide(string(at.committed)),
			)
		}
		if err := t.unhide(string(at.committed)); err != nil {
			return err
		}
	}
	return t.DeleteBucket(bytesOf(key))
}

// create makes the bucket of r, which is free.
func (t *txn) create(at top, r *Record) error {
	if at.shape == shapeAlias {
		if err := t.DeleteBucket(bytesOf(r.Key)); err != nil {
			return err
		}
	}
	b, err := t.CreateBucket(bytesOf(r.Key))
	if err != nil {
		return err
	}
	return t.fill(top{bucket: b}, r)
}

// fill writes the fields of r into its bucket.
func (t *txn) fill(at top, r *Record) error {
	var also part
	switch r.Kind {
	case Active:
		if err := at.putParent(r.Parent); err != nil {
			return err
		}
	case Committed:
		if err := at.bucket.Put(bytesOf(fieldCommitted), bytesOf(r.GraphID)); err != nil {
			return err
		}
		if err := at.putOrDelete(fieldChainID, at.chainID, r.ChainID); err != nil {
			return err
		}
		size := ""
		if r.Measured {
			size = strconv.FormatInt(r.Size, 10)
		}
		if err := at.putOrDelete(fieldSize, at.size, size); err != nil {
			return err
		}
		// Only where the parent changed: the hidden bucket is another page.
		if at.committed != nil {
			if hidden := lookUp(t.Tx, r.GraphID); hidden.bucket != nil && string(hidden.parent) != r.Parent {
				if err := hidden.putParent(r.Parent); err != nil {
					return err
				}
			}
		}
	case Borrowed:
		also = partParent | partGraphID | partChainID
	}
	return at.bucket.Put(bytesOf(fieldOurs), t.encode(r, also))
}

func (at *top) putParent(parent string) error {
	if at.parent != nil && string(at.parent) == parent {
		return nil
	}
	return at.bucket.Put(bytesOf(fieldParent), bytesOf(parent)) // dockerd writes an empty one, too
}

func (at *top) putOrDelete(field string, old []byte, value string) error {
	switch {
	case value == "" && old == nil:
		return nil
	case value == "":
		return at.bucket.Delete(bytesOf(field))
	}
	return at.bucket.Put(bytesOf(field), bytesOf(value))
}

// hide makes the bucket in which dockerd reads the parent of a name.
func (t *txn) hide(at top, graphID, parent string) error {
	if at.shape == shapeAlias {
		if err := t.DeleteBucket(bytesOf(graphID)); err != nil {
			return err
		}
		at = top{}
	}
	if at.bucket == nil {
		b, err := t.CreateBucket(bytesOf(graphID))
		if err != nil {
			return err
		}
		at.bucket = b
	}
	return errors.Join(
		at.putParent(parent),
		at.bucket.Put(bytesOf(fieldIsCommitted), []byte{}),
	)
}

func (t *txn) unhide(graphID string) error {
	if graphID == "" || lookUp(t.Tx, graphID).shape != shapeHidden {
		return nil
	}
	return t.DeleteBucket(bytesOf(graphID))
}

func (t *txn) alias(lease, chainID string) error {
	at := lookUp(t.Tx, lease)
	if at.shape == shapeNone {
		b, err := t.CreateBucket(bytesOf(lease))
		if err != nil {
			return err
		}
		at = top{bucket: b, shape: shapeAlias}
	}
	if at.shape != shapeAlias {
		return nil
	}
	return at.bucket.Put(bytesOf(fieldChainID), bytesOf(chainID))
}

// discard deletes what is no record, or not the one that counts, of key.
func (t *txn) discard(key, graphID string) error {
	switch at := lookUp(t.Tx, key); {
	case at.shape == shapeHidden, at.shape == shapeEmpty:
		if err := t.DeleteBucket(bytesOf(key)); err != nil {
			return err
		}
	case at.shape.isRecord():
		if err := t.deleteOurs(bucketSnapshots, key); err != nil {
			return err
		}
	}
	if graphID == "" {
		return nil
	}
	return t.putOurs(bucketRemoving, graphID, []byte{})
}

func (t *txn) encode(r *Record, also part) []byte {
	from := len(t.values)
	t.values = r.encode(t.values, also)
	return t.values[from:len(t.values):len(t.values)]
}

func (t *txn) putWhole(r *Record) error {
	return t.putOurs(bucketSnapshots, r.Key, t.encode(r, partWhole))
}

// our returns a bucket of our own, nil where there is none.
func (t *txn) our(bucket string) *bolt.Bucket {
	b, known := t.ours[bucket]
	if !known {
		b = t.Bucket(bytesOf(bucket))
		if t.ours == nil {
			t.ours = map[string]*bolt.Bucket{}
		}
		t.ours[bucket] = b
	}
	return b
}

func (t *txn) putOurs(bucket, key string, value []byte) error {
	b := t.our(bucket)
	if b == nil {
		var err error
		if b, err = t.CreateBucket(bytesOf(bucket)); err != nil {
			return err
		}
		t.ours[bucket] = b
	}
	return b.Put(bytesOf(key), value)
}

func (t *txn) getOurs(bucket, key string) []byte {
	b := t.our(bucket)
	if b == nil {
		return nil
	}
	return b.Get(bytesOf(key))
}

func (t *txn) deleteOurs(bucket, key string) error {
	b := t.our(bucket)
	if b == nil {
		return nil
	}
	return b.Delete(bytesOf(key))
}
