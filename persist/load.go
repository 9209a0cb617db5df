package persist

// Reading everything, once, at start. What is not a record is told, not judged:
// recovery decides what becomes of it.

import (
	"errors"
	"fmt"
	"hash/maphash"
	"runtime/debug"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Oddity says what a Leftover is.
type Oddity uint8

const (
	_           Oddity = iota
	Aliased            // an alias: Key is the lease, Record.ChainID what it means
	Orphan             // a hidden bucket whose name is gone: Key is the graph ID, Record.Parent its parent
	Broken             // a committed name without its hidden bucket, so the parent in Record is not known; not yielded
	Empty              // a bucket without a field that we know
	Shadowed           // a record in our own bucket whose key has one of dockerd's as well; not yielded
	Undecodable        // Err says why; Record is what dockerd's fields say and was yielded, if Record.Key is set
)

// Leftover is what Load found that is not, or not only, a record.
type Leftover struct {
	Oddity Oddity
	Key    string
	Record Record
	Err    error
}

// Load yields every record and every removal, in no particular order, and ends
// with the first error one of the functions returns. leftover is told of what is
// neither; it may be nil. Load is for the time before the first Write: the
// functions must not call Write, which could wait for Load to end.
func (db *DB) Load(record func(Record) error, removal func(Removal) error, leftover func(Leftover)) (err error) {
	if leftover == nil {
		leftover = func(Leftover) {}
	}
	return db.read(func(tx *bolt.Tx, m mapping) error {
		l := &loader{tx: tx, record: record, leftover: leftover}
		l.buckets = func(each func(string, top) error) error { return scan(tx, m, each) }
		return l.load(removal)
	})
}

// Count returns how many records Load will yield, and what is none by the way, for who
// makes room for them. It blocks while the head of every page is read, and fails as Load does.
func (db *DB) Count() (n int, err error) {
	err = db.read(func(tx *bolt.Tx, m mapping) (err error) {
		n, err = countBuckets(tx, m)
		return err
	})
	return n, err
}

// read calls do with the file in memory, in a transaction that keeps its pages as they
// are.
func (db *DB) read(do func(*bolt.Tx, mapping) error) (err error) {
	// Pages were looked at when the database was opened, and may not be readable now.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("load snapshot database %s: %v: %w", db.w.path, p, errdefs.ErrDataLoss)
		}
	}()
	return view(db.bolt, func(tx *bolt.Tx) error {
		return mapped(db.w.path, func(m mapping) error { return do(tx, m) })
	})
}

type loader struct {
	tx *bolt.Tx
	// buckets passes over the top-level buckets, but for our own, as eachBucket does.
	buckets  func(each func(key string, at top) error) error
	record   func(Record) error
	leftover func(Leftover)

	// hidden and named are sums of hashes of graph IDs: of those that have a
	// hidden bucket and those that a name refers to. Where the sums are equal, so
	// are the sets, and a million strings need not be kept to know it.
	seed          maphash.Seed
	hidden, named uint64

	parent string // the last one that was read
}

// eachBucket passes over the top-level buckets, but for our own.
func eachBucket(tx *bolt.Tx, each func(key string, at top) error) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		if name[0] == 0 {
			return nil
		}
		key := string(name)
		return each(key, read(key, b))
	})
}

func (l *loader) load(removal func(Removal) error) error {
	l.seed = maphash.MakeSeed()
	if err := l.buckets(l.dockerds); err != nil {
		return err
	}
	if b := l.tx.Bucket(bytesOf(bucketSnapshots)); b != nil {
		if err := b.ForEach(func(k, v []byte) error { return l.ours(string(k), v) }); err != nil {
			return err
		}
	}
	if b := l.tx.Bucket(bytesOf(bucketRemoving)); b != nil {
		if err := b.ForEach(func(k, _ []byte) error { return removal(Removal{GraphID: string(k)}) }); err != nil {
			return err
		}
	}
	if l.hidden != l.named {
		return l.orphans()
	}
	return nil
}

// dockerds yields what is in a bucket of dockerd's format.
func (l *loader) dockerds(key string, at top) error {
	switch at.shape {
	case shapeHidden:
		l.hidden += maphash.String(l.seed, key)
		return nil
	case shapeAlias:
		l.leftover(Leftover{Oddity: Aliased, Key: key, Record: Record{ChainID: string(at.chainID)}})
		return nil
	case shapeNone, shapeEmpty:
		l.leftover(Leftover{Oddity: Empty, Key: key})
		return nil
	}
	r, err := at.record(key, l.parentText(at))
	if at.shape == shapeCommitted {
		if !l.parentOf(&r, at) {
			l.leftover(Leftover{Oddity: Broken, Key: key, Record: r})
			return nil
		}
	}
	if err != nil {
		l.leftover(Leftover{Oddity: Undecodable, Key: key, Record: r, Err: err})
	}
	return l.record(r)
}

// parentOf reads the parent of a committed name where dockerd reads it.
func (l *loader) parentOf(r *Record, at top) bool {
	if r.GraphID != r.Key {
		at = lookUp(l.tx, r.GraphID)
		if at.shape == shapeHidden {
			l.named += maphash.String(l.seed, r.GraphID)
		}
	}
	r.Parent = l.parentText(at)
	return at.shape != shapeNone
}

// parentText returns the parent in a bucket of dockerd's. Snapshots in a row often stand
// on one, and then share its name.
func (l *loader) parentText(at top) string {
	switch {
	case len(at.parent) == 0:
		return ""
	case string(at.parent) != l.parent:
		l.parent = string(at.parent)
	}
	return l.parent
}

// ours yields a record of our own bucket.
func (l *loader) ours(key string, value []byte) error {
	r := Record{Key: key}
	err := r.decode(value)
	if err == nil && r.Kind == 0 {
		err = errors.New("record has no kind")
	}
	if err != nil {
		l.leftover(Leftover{Oddity: Undecodable, Key: key, Err: err})
		return nil
	}
	if r.Kind == Committed && lookUp(l.tx, r.GraphID).shape == shapeHidden {
		l.named += maphash.String(l.seed, r.GraphID)
	}
	if lookUp(l.tx, key).shape.isRecord() {
		l.leftover(Leftover{Oddity: Shadowed, Key: key, Record: r})
		return nil
	}
	return l.record(r)
}

// orphans finds the hidden buckets that no name refers to. It is the slow way,
// taken only where there are some.
func (l *loader) orphans() error {
	named := map[string]bool{}
	if err := l.buckets(func(_ string, at top) error {
		if at.shape == shapeCommitted {
			named[string(at.committed)] = true
		}
		return nil
	}); err != nil {
		return err
	}
	if b := l.tx.Bucket(bytesOf(bucketSnapshots)); b != nil {
		if err := b.ForEach(func(_, v []byte) error {
			var r Record
			if r.decode(v) == nil {
				named[r.GraphID] = true
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return l.buckets(func(key string, at top) error {
		if at.shape == shapeHidden && !named[key] {
			l.leftover(Leftover{Oddity: Orphan, Key: key, Record: Record{Parent: string(at.parent)}})
		}
		return nil
	})
}
