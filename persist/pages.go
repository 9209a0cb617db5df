package persist

// Reading a database file without bbolt, for files that may be damaged.
//
// bbolt maps the file and believes what it reads: a page number that was garbled, or
// a file that was cut, makes it panic, in a goroutine of its own too, or read beyond
// the end of the file, which kills the process. Here the file is read page by page,
// every number is compared with what it may be before it is used, and what is wrong
// is written down. The format is that of go.etcd.io/bbolt 1.3 to 1.5
// (internal/common/page.go, meta.go, bucket.go); its integers have the byte order of
// the machine.
//
// Pages bear no checksum, but for the two meta pages. So what can be told is that a
// page is not one, or that its keys are not where they belong; a bit that flipped in
// the middle of a value cannot be seen here.

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
)

const (
	pageHeader   = 16 // id u64, flags u16, count u16, overflow u32
	metaSize     = 64
	bucketHeader = 16 // root u64, sequence u64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagFreelist = 0x10
	flagBucket   = 0x01 // of an element of a leaf

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = ^uint64(0)

	// maxDepth bounds how deep pages may lead to pages, and buckets to buckets. A
	// tree of this depth would fill any disk.
	maxDepth = 32
	// maxDamage bounds how much of it is put into words.
	maxDamage = 100
)

// metaPage is one of the two pages that say where all else lies.
type metaPage struct {
	pageSize                            int64
	root, sequence, freelist, pages, tx uint64
}

// gap is a part of a bucket that could not be read: the keys from low, inclusive, to
// high, exclusive; nil is without bound.
type gap struct {
	bucket    []string // names, from the outermost
	low, high []byte
}

// pageReader reads one file.
type pageReader struct {
	file io.ReaderAt
	size int64
	meta metaPage
	prev *metaPage // of the transaction before, nil where that page is not whole
	free pageSet   // nil where it is not written down
	seen pageSet   // pages that the tree consists of

	twice pageSet // of those, leaves that were read twice

	damage   []string
	omitted  int  // damage that is not in there
	mild     int  // damage that is in there and that bbolt copes with
	quiet    bool // gaps are being filled: what is damaged was said before
	gaps     []gap
	doubtful *bucketTree // what lay where it does not belong
}

// pageSet is a set of pages of a file, a bit for each that the file has.
type pageSet []uint64

// newPageSet makes a set for the pages that a file has, whatever its meta pages say.
func (r *pageReader) newPageSet() pageSet { return make(pageSet, r.whole()/64+1) }

func (s pageSet) has(id uint64) bool { return id/64 < uint64(len(s)) && s[id/64]>>(id%64)&1 != 0 }

func (s pageSet) add(id uint64) {
	if id/64 < uint64(len(s)) {
		s[id/64] |= 1 << (id % 64)
	}
}

// whole answers how many pages the file has.
func (r *pageReader) whole() uint64 { return uint64(r.size / r.meta.pageSize) }

func (r *pageReader) wrong(format string, args ...any) {
	switch {
	case r.quiet:
	case len(r.damage) < maxDamage:
		r.damage = append(r.damage, fmt.Sprintf(format, args...))
	default:
		r.omitted++
	}
}

// miss notes a gap. The elements of one page may leave the same one many times over,
// and each is looked for in the whole tree.
func (r *pageReader) miss(bucket []string, low, high []byte) {
	if r.quiet {
		return
	}
	if n := len(r.gaps); n > 0 {
		last := &r.gaps[n-1]
		if slices.Equal(last.bucket, bucket) && bytes.Equal(last.low, low) && bytes.Equal(last.high, high) {
			return
		}
	}
	r.gaps = append(r.gaps, gap{bucket, low, high})
}

// readPages reads the file, and its contents where keep is set. Where not even a meta
// page can be read there are none. The error is one of reading the file.
func readPages(file io.ReaderAt, size int64, keep bool) (*pageReader, *bucketTree, error) {
	r := &pageReader{file: file, size: size}
	var tree *bucketTree
	if keep {
		tree = newBucketTree()
	}
	if found, err := r.readMeta(); !found || err != nil {
		return r, tree, err
	}
	r.seen, r.twice = r.newPageSet(), r.newPageSet()
	if err := r.readFreelist(); err != nil {
		return r, tree, err
	}
	if err := r.readTree(&place{tree: tree}, r.meta.root, nil, nil, nil, 0); err != nil {
		return r, tree, err
	}
	r.compareFree()
	if keep && len(r.gaps) > 0 {
		if err := r.fillGaps(tree); err != nil {
			return r, tree, err
		}
	}
	if keep && r.doubtful != nil {
		tree.add(r.doubtful)
	}
	if r.omitted > 0 {
		r.damage = append(r.damage, fmt.Sprintf("and %d more", r.omitted))
	}
	return r, tree, nil
}

// at reads n bytes, fewer only where the file ends.
func (r *pageReader) at(offset, n int64) ([]byte, error) {
	if offset < 0 || offset >= r.size {
		return nil, nil
	}
	if m, ok := r.file.(mapping); ok {
		end := min(offset+n, r.size)
		return m[offset:end:end], nil
	}
	buf := make([]byte, min(n, r.size-offset))
	got, err := r.file.ReadAt(buf, offset)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return buf[:got], nil
}

// readMeta finds the meta pages and takes the later one.
func (r *pageReader) readMeta() (found bool, err error) {
	first, err := r.metaAt(0)
	if err != nil {
		return false, err
	}
	// Where the first does not tell how large pages are, the second may lie at any
	// of the sizes that bbolt knows.
	var second *metaPage
	for size := int64(1 << 10); size <= 1<<25 && second == nil; size <<= 1 {
		if first != nil {
			size = first.pageSize
		}
		second, err = r.metaAt(size)
		if err != nil {
			return false, err
		}
		if second != nil && second.pageSize != size {
			if first != nil {
				r.wrong("the meta pages do not agree on how large pages are")
			}
			second = nil
		}
		if first != nil {
			break
		}
	}
	switch {
	case first == nil && second == nil:
		r.wrong("neither of the two meta pages is whole: this is no database, or nothing can be read of it")
		return false, nil
	case second == nil:
		r.wrong("the second meta page is not whole, the first is used")
		r.mild++ // a power loss tears it
		r.meta = *first
	case first == nil:
		r.wrong("the first meta page is not whole, the second is used")
		r.mild++
		r.meta = *second
	case second.tx > first.tx:
		r.meta, r.prev = *second, first
	default:
		r.meta, r.prev = *first, second
	}
	if r.meta.pages > r.whole() {
		r.wrong("the file was cut: it has %d bytes, its %d pages need %d", r.size, r.meta.pages, r.meta.pages*uint64(r.meta.pageSize))
	}
	return true, nil
}

// metaAt reads a meta page, nil where it is not whole.
func (r *pageReader) metaAt(offset int64) (*metaPage, error) {
	b, err := r.at(offset, pageHeader+metaSize)
	if err != nil || len(b) < pageHeader+metaSize {
		return nil, err
	}
	b = b[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaSize-8])
	u32, u64 := binary.NativeEndian.Uint32, binary.NativeEndian.Uint64
	m := &metaPage{
		pageSize: int64(u32(b[8:])),
		root:     u64(b[16:]), sequence: u64(b[24:]),
		freelist: u64(b[32:]), pages: u64(b[40:]), tx: u64(b[48:]),
	}
	if u32(b) != boltMagic || u32(b[4:]) != boltVersion || u64(b[56:]) != sum.Sum64() {
		return nil, nil
	}
	if m.pageSize < 1<<10 || m.pageSize > 1<<25 || m.pageSize&(m.pageSize-1) != 0 || m.pages > 1<<40 {
		r.wrong("the meta page at %d says that there are %d pages of %d bytes", offset, m.pages, m.pageSize)
		return nil, nil
	}
	return m, nil
}

// page is a page that is as long as it says and numbered as it should be.
type page struct {
	id    uint64
	flags uint16
	count int
	body  []byte // all of it, elements refer to it from their own place
}

// readPage answers nil where there is no such page.
func (r *pageReader) readPage(id uint64) (*page, error) {
	size := r.meta.pageSize
	if id < 2 || id >= r.meta.pages {
		r.wrong("page %d: there is none of that number", id)
		return nil, nil
	}
	b, err := r.at(int64(id)*size, size)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) < size {
		r.wrong("page %d: beyond the end of the file", id)
		return nil, nil
	}
	p := &page{id: binary.NativeEndian.Uint64(b), flags: binary.NativeEndian.Uint16(b[8:]), count: int(binary.NativeEndian.Uint16(b[10:]))}
	overflow := uint64(binary.NativeEndian.Uint32(b[12:]))
	switch {
	case p.id != id:
		r.wrong("page %d: says that it is page %d", id, p.id)
		return nil, nil
	case p.flags != flagBranch && p.flags != flagLeaf && p.flags != flagFreelist:
		r.wrong("page %d: of unknown kind %#x", id, p.flags)
		return nil, nil
	case id+overflow >= r.meta.pages:
		r.wrong("page %d: goes on for %d pages, beyond the last", id, overflow)
		return nil, nil
	}
	if overflow > 0 {
		if b, err = r.at(int64(id)*size, (int64(overflow)+1)*size); err != nil {
			return nil, err
		}
		if int64(len(b)) < (int64(overflow)+1)*size {
			r.wrong("page %d: goes on beyond the end of the file", id)
			return nil, nil
		}
	}
	p.body = b
	return p, nil
}

// span answers how many pages p takes.
func (r *pageReader) span(p *page) uint64 { return uint64(int64(len(p.body)) / r.meta.pageSize) }

// readFreelist reads which pages are free, where that is written down.
func (r *pageReader) readFreelist() error {
	if r.meta.freelist == noFreelist {
		return nil
	}
	p, err := r.readPage(r.meta.freelist)
	if p == nil || err != nil {
		return err
	}
	if p.flags != flagFreelist {
		r.wrong("page %d: should be the list of free pages, and is of kind %#x", p.id, p.flags)
		return nil
	}
	ids, count := p.body[pageHeader:], uint64(p.count)
	if count == 0xFFFF {
		count, ids = binary.NativeEndian.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		r.wrong("page %d: lists %d free pages, for which it has no room", p.id, count)
		return nil
	}
	free := r.newPageSet()
	for i := range count {
		id := binary.NativeEndian.Uint64(ids[8*i:])
		if id < 2 || id >= r.meta.pages || free.has(id) {
			r.wrong("page %d: lists the free page %d, which cannot be", p.id, id)
			return nil
		}
		free.add(id)
	}
	for i := range r.span(p) {
		r.seen.add(p.id + i)
	}
	r.free = free
	return nil
}

// compareFree finds pages that are both used and free, or neither.
func (r *pageReader) compareFree() {
	if r.free == nil || len(r.gaps) > 0 {
		return // what is below a gap is in use and not seen
	}
	lost := 0
	for id := uint64(2); id < r.meta.pages && id < r.whole(); id++ {
		switch {
		case r.seen.has(id) && r.free.has(id):
			r.wrong("page %d: in use, and listed as free", id)
		case !r.seen.has(id) && !r.free.has(id):
			lost++
		}
	}
	if lost > 0 {
		if len(r.damage) < maxDamage {
			r.mild++
		}
		r.wrong("%d pages are neither in use nor listed as free", lost)
	}
}
