package persist

// Reading pages where they lie in memory.
//
// A cursor of bbolt makes a bucket and two slices of each snapshot and searches for it
// in the tree that it walks: most of what Open took. Here the leaves are read from
// front to back, and a record as it lies in them, in a quarter of the time. It is for
// pages that were looked at (guard.go) or written since by bbolt, in a transaction that
// keeps them from being used for something else; each number is compared with what it
// may be all the same.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// mapping is a file in memory.
type mapping []byte

// ReadAt implements io.ReaderAt.
func (m mapping) ReadAt(p []byte, offset int64) (int, error) {
	return bytes.NewReader(m).ReadAt(p, offset)
}

// mapped is withMapping of the file at path.
func mapped(path string, do func(mapping) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return withMapping(f, do)
}

// withMapping has the file in memory while do runs. Nothing of it may be kept, and no
// other goroutine may look at it: a page that the disk does not give is an error of
// withMapping, and anywhere else the end of the process.
func withMapping(f *os.File, do func(mapping) error) (err error) {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() == 0 {
		return do(nil)
	}
	m, err := syscall.Mmap(int(f.Fd()), 0, int(st.Size()), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map %s: %w", f.Name(), err)
	}
	defer syscall.Munmap(m)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read %s: %v: %w", f.Name(), p, errdefs.ErrDataLoss)
		}
	}()
	return do(m)
}

// scan passes over the top-level buckets that tx sees, but for our own, in m, the file
// of its database.
func scan(tx *bolt.Tx, m mapping, each func(key string, at top) error) error {
	s := newScanner(tx, m)
	return s.leaves(s.root, 0, func(p *page) error { return s.leaf(p, each) })
}

// countBuckets is the number of top-level buckets that tx sees in m. Of the leaves, which
// are nearly all pages, it reads the heads.
func countBuckets(tx *bolt.Tx, m mapping) (n int, err error) {
	s := newScanner(tx, m)
	err = s.leaves(s.root, 0, func(p *page) error { n += p.count; return nil })
	return n, err
}

func newScanner(tx *bolt.Tx, m mapping) *scanner {
	s := &scanner{tx: tx, root: uint64(tx.Cursor().Bucket().Root())}
	s.file, s.size = m, int64(len(m))
	s.meta.pageSize = int64(tx.DB().Info().PageSize)
	s.meta.pages = s.whole()
	return s
}

type scanner struct {
	pageReader
	tx   *bolt.Tx
	root uint64
}

// leaves passes over the leaves of the tree at page id.
func (s *scanner) leaves(id uint64, depth int, each func(*page) error) error {
	p, err := s.readPage(id)
	switch {
	case err != nil:
		return err
	case p == nil || depth > maxDepth || p.flags == flagFreelist:
		return s.damaged(id)
	case p.flags == flagLeaf:
		return each(p)
	}
	for i := range p.count {
		_, child, ok := p.branchElement(i)
		if !ok {
			return s.damaged(id)
		}
		if err := s.leaves(child, depth+1, each); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) leaf(p *page, each func(key string, at top) error) error {
	for i := range p.count {
		flags, name, value, ok := p.leafElement(i)
		if !ok || flags != flagBucket || len(value) < bucketHeader {
			return s.damaged(p.id)
		}
		if name[0] == 0 {
			continue
		}
		key := string(name)
		var at top
		if binary.NativeEndian.Uint64(value) != 0 { // it has grown, and has pages of its own
			at = lookUp(s.tx, key)
		} else if at, ok = fields(key, value[bucketHeader:]); !ok {
			return s.damaged(p.id)
		}
		if err := each(key, at); err != nil {
			return err
		}
	}
	return nil
}

// fields reads a bucket that lies within a leaf.
func fields(key string, inline []byte) (at top, ok bool) {
	if len(inline) < pageHeader {
		return at, false
	}
	p := page{count: int(binary.NativeEndian.Uint16(inline[10:])), body: inline}
	for i := range p.count {
		flags, name, value, ok := p.leafElement(i)
		if !ok {
			return at, false
		}
		if flags == 0 {
			at.field(name, value)
		}
	}
	at.setShape(key)
	return at, true
}

func (s *scanner) damaged(id uint64) error {
	return fmt.Errorf("page %d of the snapshot database is not what it was when it was opened: %w", id, errdefs.ErrDataLoss)
}
