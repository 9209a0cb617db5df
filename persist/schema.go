package persist

// Where a record lies. dockerd 28.5.2 has a top-level bucket per key, of five
// shapes (builder/builder-next/adapters/snapshot/snapshot.go, leasemanager.go):
//
//	active       <key>      parent
//	committed    <name>     committed = graph ID, chainid and size once known
//	hidden       <graph ID> parent, iscommitted: the key a name was committed
//	                        from; the name's parent is read here
//	borrowed     <chain ID> nothing
//	alias        <lease>    chainid only
//
// A record of these kinds goes there with these fields, and what they do not say
// goes into one more field of the same bucket: a random key dirties one page, not
// two. The bucket of an active key is named by the key and a hidden one by the
// graph ID, which in dockerd are the same. A record goes whole into our own bucket
// where that format cannot say it: a view, an active key with another graph ID,
// and any record whose bucket, or whose hidden bucket, is already something else.
// It stays there for its life.
//
// A key has a record in one of the two places. Should both have one, because
// dockerd ran in between, dockerd's wins.

import (
	"fmt"
	"strconv"
	"strings"
	"unsafe"

	bolt "go.etcd.io/bbolt"
)

// The fields of dockerd's buckets, and ours.
const (
	fieldParent      = "parent"
	fieldCommitted   = "committed"
	fieldIsCommitted = "iscommitted"
	fieldChainID     = "chainid"
	fieldSize        = "size"
	fieldOurs        = "graphsnap"
)

// Buckets of our own begin with NUL, which no key contains.
const (
	bucketSnapshots = "\x00snapshots" // key: a whole record
	bucketRemoving  = "\x00removing"  // graph ID: nothing
	bucketSettings  = "\x00graphsnap" // name: value
)

// shape is what a bucket of dockerd's format is.
type shape uint8

const (
	shapeNone shape = iota // there is no bucket
	shapeActive
	shapeCommitted
	shapeHidden
	shapeBorrowed
	shapeAlias
	shapeEmpty // nothing in it that we know
)

func (s shape) isRecord() bool {
	return s == shapeActive || s == shapeCommitted || s == shapeBorrowed
}

// isFree says that a record may have the bucket. An alias gives way: who asks for
// the snapshot of a key means the snapshot before the lease of that name.
func (s shape) isFree() bool { return s == shapeNone || s == shapeAlias }

// top is a top-level bucket with its fields. The slices live as long as the
// transaction, and only until the bucket is written to.
type top struct {
	bucket                                  *bolt.Bucket // nil also where it was read without bbolt
	parent, committed, chainID, size, extra []byte       // nil: not there
	isCommitted                             bool
	shape                                   shape
}

func lookUp(tx *bolt.Tx, key string) top {
	return read(key, tx.Bucket(bytesOf(key)))
}

func read(key string, b *bolt.Bucket) top {
	t := top{bucket: b}
	if b == nil {
		return t
	}
	c := b.Cursor() // one for all fields: each Get would make its own
	for k, v := c.First(); k != nil; k, v = c.Next() {
		t.field(k, v)
	}
	t.setShape(key)
	return t
}

// field takes a field of the bucket.
func (t *top) field(name, value []byte) {
	switch string(name) {
	case fieldParent:
		t.parent = value
	case fieldCommitted:
		t.committed = value
	case fieldIsCommitted:
		t.isCommitted = true
	case fieldChainID:
		t.chainID = value
	case fieldSize:
		t.size = value
	case fieldOurs:
		t.extra = value
	}
}

// setShape says what the bucket is, of which all fields were taken.
func (t *top) setShape(key string) {
	switch {
	case len(t.committed) > 0: // dockerd, too, ignores an empty one
		t.shape = shapeCommitted
	case t.isCommitted:
		t.shape = shapeHidden
	case t.parent != nil:
		t.shape = shapeActive
	case isDigest(key):
		t.shape = shapeBorrowed
	case t.chainID != nil:
		t.shape = shapeAlias
	default:
		t.shape = shapeEmpty
	}
}

// plain returns what dockerd's fields say, but for the size and for the parent of
// a name, which lies in its hidden bucket. parent is the text of the field.
func (t *top) plain(key, parent string) Record {
	r := Record{Key: key}
	switch t.shape {
	case shapeActive:
		r.Kind, r.GraphID, r.Parent = Active, key, parent
	case shapeCommitted:
		r.Kind, r.GraphID, r.ChainID = Committed, string(t.committed), string(t.chainID)
	case shapeBorrowed:
		r.Kind = Borrowed
	}
	return r
}

// record returns what dockerd's fields say, completed by ours. Where ours cannot
// be decoded the record is returned nevertheless, with the error: an active one as
// if half made, so that recovery looks at it.
func (t *top) record(key, parent string) (Record, error) {
	r := t.plain(key, parent)
	if t.extra != nil {
		whole := r
		if err := whole.decode(t.extra); err != nil {
			r.Creating = t.shape == shapeActive
			return r.withSize(t.size), fmt.Errorf("snapshot %q: %w", key, err)
		}
		r = whole
	}
	return r.withSize(t.size), nil
}

// withSize lets dockerd's size win. If it is not the one we wrote, the count of
// inodes beside ours is not that of the same measurement.
func (r Record) withSize(size []byte) Record {
	if r.Kind != Committed {
		return r
	}
	n, err := strconv.ParseInt(string(size), 10, 64)
	switch {
	case err != nil || n < 0:
		r.Measured, r.Size, r.Inodes = false, 0, 0
	case !r.Measured || r.Size != n:
		r.Measured, r.Size, r.Inodes = true, n, -1
	}
	return r
}

// inDockerdsWords says that dockerd's fields can name what r is. Whether the
// buckets are free is another question.
func (r *Record) inDockerdsWords() bool {
	switch r.Kind {
	case Active:
		return r.GraphID == r.Key && !isDigest(r.Key)
	case Committed:
		return r.GraphID != "" && r.GraphID != r.Key && !isDigest(r.GraphID)
	case Borrowed:
		return true
	}
	return false
}

// isDigest says whether dockerd takes key for the chain ID of a layer.
func isDigest(key string) bool {
	hex, ok := strings.CutPrefix(key, "sha256:")
	if !ok || len(hex) != 64 {
		return false
	}
	for _, c := range []byte(hex) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// bytesOf is s without a copy. bbolt copies keys, keeps values until the end of
// the transaction, and changes neither.
func bytesOf(s string) []byte {
	if s == "" {
		return []byte{} // not nil: an empty value is not an absent one
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}
