package persist

// Reading the tree of buckets of a file that may be damaged (pages.go), and looking
// elsewhere for what cannot be reached.

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// bucketTree is what was read of a bucket.
type bucketTree struct {
	sequence uint64
	values   map[string][]byte
	buckets  map[string]*bucketTree
}

func newBucketTree() *bucketTree {
	return &bucketTree{values: map[string][]byte{}, buckets: map[string]*bucketTree{}}
}

// at returns the bucket at the path, which it makes where there is none.
func (t *bucketTree) at(path []string) *bucketTree {
	for _, name := range path {
		sub := t.buckets[name]
		if sub == nil {
			sub = newBucketTree()
			t.buckets[name] = sub
		}
		t = sub
	}
	return t
}

// add takes from what t does not have.
func (t *bucketTree) add(from *bucketTree) {
	for key, value := range from.values {
		if _, has := t.values[key]; !has {
			t.values[key] = value
		}
	}
	for name, sub := range from.buckets {
		if t.buckets[name] == nil {
			t.buckets[name] = sub
		} else if name[0] == 0 { // fields of two versions of a record make no third
			t.buckets[name].add(sub)
		}
	}
}

// place says where in the tree of buckets the pages belong that are being read.
type place struct {
	path []string
	tree *bucketTree // nil: contents are not kept
	// inner is the place of every bucket in this one where contents are not kept and
	// so nobody asks for its name.
	inner *place
	// within restricts what is taken to a part that is missing; nil: all.
	within *gap
}

// around tells whether the place is in a bucket around the one that is wanted.
func (c *place) around() bool { return c.within != nil && len(c.path) < len(c.within.bucket) }

// here tells whether the place is in the very bucket that is wanted.
func (c *place) here() bool { return c.within != nil && slices.Equal(c.path, c.within.bucket) }

// readTree reads the page and those below it. The first key is to be begin, where that
// is not nil, and keys are to lie in the range from low to high.
func (r *pageReader) readTree(c *place, id uint64, begin, low, high []byte, depth int) error {
	p, err := r.readPage(id)
	if err != nil {
		return err
	}
	again := r.seen.has(id)
	switch {
	case p == nil:
	case depth > maxDepth:
		r.wrong("page %d: too deep in the tree", id)
		p = nil
	case p.flags == flagFreelist || p.flags == flagBranch && p.count == 0:
		r.wrong("page %d: of kind %#x with %d elements, which cannot be here", id, p.flags, p.count)
		p = nil
	case again:
		r.wrong("page %d: in use twice", id)
		// A leaf may be read by whoever is wrong, too, but once: buckets in it may lead
		// back to it.
		if p.flags == flagBranch || r.twice.has(id) {
			p = nil
		} else {
			r.twice.add(id)
		}
	}
	if p == nil {
		r.miss(c.path, low, high)
		return nil
	}
	for i := range r.span(p) {
		if i > 0 && r.seen.has(id+i) {
			r.wrong("page %d: goes on over page %d, which is in use", id, id+i)
		}
		r.seen.add(id + i)
	}
	if first, ok := p.firstKey(); begin != nil && (!ok || !bytes.Equal(first, begin)) {
		// bbolt reads it nevertheless; when it writes it looks for the key above, to
		// replace it, and adds another one.
		r.wrong("page %d: its first key is %.40q, not the one that leads to it", id, first)
	}
	if p.flags == flagLeaf {
		return r.readLeaf(c, p, low, high, depth)
	}
	return r.readBranch(c, p, low, high, depth)
}

func (r *pageReader) readBranch(c *place, p *page, low, high []byte, depth int) error {
	type child struct {
		begin, low, high []byte
		id               uint64
	}
	var children []child
	last := low
	for i := range p.count {
		key, id, ok := p.branchElement(i)
		if !ok {
			r.wrong("page %d: element %d is not within the page", p.id, i)
			r.miss(c.path, last, high)
			continue
		}
		if i > 0 && bytes.Compare(last, key) >= 0 || !in(key, low, high) {
			r.wrong("page %d: the key of element %d is not where it belongs", p.id, i)
			children = append(children, child{nil, low, high, id})
			continue
		}
		if n := len(children); n > 0 {
			children[n-1].high = key
		}
		children = append(children, child{key, key, high, id})
		if i == 0 {
			children[0].low = low // what is smaller than all keys is put there
		}
		last = key
	}
	for _, child := range children {
		if c.here() && !overlap(*c.within, child.low, child.high) {
			continue
		}
		if err := r.readTree(c, child.id, child.begin, child.low, child.high, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// readLeaf reads the elements of a leaf, be it a page or lie in the value of a bucket.
func (r *pageReader) readLeaf(c *place, p *page, low, high []byte, depth int) error {
	var last []byte
	elsewhere := p.count > 0 // none of the keys belongs here
	for i := range p.count {
		flags, key, value, ok := p.leafElement(i)
		if !ok {
			r.wrong("page %d: element %d is not within the page", p.id, i)
			r.miss(c.path, last, high)
			continue
		}
		at := c
		if !in(key, low, high) {
			r.wrong("page %d: the key of element %d, %.40q, is not where it belongs", p.id, i, key)
			if at = r.doubt(c, p); at == nil {
				continue
			}
		} else {
			elsewhere = false
			if last != nil && bytes.Compare(last, key) >= 0 {
				r.wrong("page %d: the key of element %d, %.40q, does not follow the one before", p.id, i, key)
			}
		}
		last = key
		if c.here() && !in(key, c.within.low, c.within.high) {
			continue
		}
		switch {
		case flags == flagBucket:
			if err := r.readBucket(at, p, key, value, depth); err != nil {
				return err
			}
		case flags != 0:
			r.wrong("page %d: element %d, %.40q, is of unknown kind %#x", p.id, i, key, flags)
		case len(c.path) == 0:
			r.wrong("page %d: element %d, %.40q, is a value where only buckets are", p.id, i, key)
		case at.tree != nil && !c.around():
			if _, has := at.tree.values[string(key)]; !has {
				at.tree.values[string(key)] = bytes.Clone(value)
			}
		}
	}
	if elsewhere { // it is another leaf than the one that is meant, which may still be found
		r.miss(c.path, low, high)
	}
	return nil
}

// doubt returns the place for what lies where it does not belong: it is taken if
// there is nothing else of that key. Of a page that is free it is not taken at all.
func (r *pageReader) doubt(c *place, p *page) *place {
	if r.free.has(p.id) || c.within != nil || c.tree == nil {
		return nil
	}
	if r.doubtful == nil {
		r.doubtful = newBucketTree()
	}
	return &place{path: c.path, tree: r.doubtful.at(c.path)}
}

// readBucket reads the bucket of which value is what its parent keeps.
func (r *pageReader) readBucket(c *place, p *page, key, value []byte, depth int) error {
	if c.around() && c.within.bucket[len(c.path)] != string(key) {
		return nil
	}
	sub := c.inner
	if sub == nil {
		sub = &place{path: append(slices.Clone(c.path), string(key)), within: c.within}
		if c.tree == nil && c.within == nil {
			c.inner = sub
		}
	}
	if len(value) < bucketHeader || len(sub.path) > maxDepth {
		r.wrong("page %d: the bucket %.40q is cut off or too deep", p.id, key)
		r.miss(sub.path, nil, nil)
		return nil
	}
	if c.tree != nil {
		name := string(key)
		sub.tree = c.tree.buckets[name]
		switch {
		case sub.tree == nil:
			sub.tree = newBucketTree()
			sub.tree.sequence = binary.NativeEndian.Uint64(value[8:])
			c.tree.buckets[name] = sub.tree
		case c.within != nil && !sub.around() && !sub.here():
			return nil // it was read where it belongs
		}
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return r.readTree(sub, root, nil, nil, nil, depth+1)
	}
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || binary.NativeEndian.Uint16(inline[8:]) != flagLeaf || binary.NativeEndian.Uint32(inline[12:]) != 0 {
		r.wrong("page %d: what the bucket %.40q holds is no page", p.id, key)
		r.miss(sub.path, nil, nil)
		return nil
	}
	q := &page{id: p.id, flags: flagLeaf, count: int(binary.NativeEndian.Uint16(inline[10:])), body: inline}
	return r.readLeaf(sub, q, nil, nil, depth+1)
}

// firstKey returns the key of the first element.
func (p *page) firstKey() (key []byte, ok bool) {
	if p.count == 0 {
		return nil, false
	}
	if p.flags == flagBranch {
		key, _, ok = p.branchElement(0)
	} else {
		_, key, _, ok = p.leafElement(0)
	}
	return key, ok
}

// branchElement returns the lowest key below a page and the page.
func (p *page) branchElement(i int) (key []byte, id uint64, ok bool) {
	const size = 16 // position u32, length of the key u32, page u64
	at := pageHeader + i*size
	if at+size > len(p.body) {
		return nil, 0, false
	}
	key, ok = p.part(at, size, binary.NativeEndian.Uint32(p.body[at:]), 0, binary.NativeEndian.Uint32(p.body[at+4:]))
	return key, binary.NativeEndian.Uint64(p.body[at+8:]), ok && len(key) > 0
}

// leafElement returns a key and its value.
func (p *page) leafElement(i int) (flags uint32, key, value []byte, ok bool) {
	const size = 16 // flags u32, position u32, lengths of key and value u32
	at := pageHeader + i*size
	if at+size > len(p.body) {
		return 0, nil, nil, false
	}
	u32 := func(offset int) uint32 { return binary.NativeEndian.Uint32(p.body[at+offset:]) }
	key, ok = p.part(at, size, u32(4), 0, u32(8))
	if !ok || len(key) == 0 {
		return 0, nil, nil, false
	}
	value, ok = p.part(at, size, u32(4), u32(8), u32(12))
	return u32(0), key, value, ok
}

// part returns what an element refers to: n bytes, so far behind the place of the
// element and skip more. It lies behind all elements and within the page.
func (p *page) part(at, size int, behind, skip, n uint32) ([]byte, bool) {
	from := uint64(at) + uint64(behind) + uint64(skip)
	to := from + uint64(n)
	if from < uint64(pageHeader+p.count*size) || to > uint64(len(p.body)) {
		return nil, false
	}
	return p.body[from:to:to], true
}

func in(key, low, high []byte) bool {
	return (low == nil || bytes.Compare(low, key) <= 0) && (high == nil || bytes.Compare(key, high) < 0)
}

func overlap(g gap, low, high []byte) bool {
	return (g.high == nil || low == nil || bytes.Compare(low, g.high) < 0) && (high == nil || g.low == nil || bytes.Compare(g.low, high) < 0)
}

// fillGaps looks elsewhere for what could not be read. It adds only what is missing:
// what the transaction before the last one saw there, of which the pages are not used
// again before the next; and, where it is known which pages are free, pages that
// belong to the tree and that nothing leads to any more.
func (r *pageReader) fillGaps(tree *bucketTree) error {
	gaps := r.gaps
	r.quiet = true
	seen := r.seen
	if r.free != nil {
		for id := uint64(2); id < r.meta.pages; id++ {
			if seen.has(id) || r.free.has(id) {
				continue
			}
			if err := r.adopt(tree, gaps, id); err != nil {
				return err
			}
		}
	}
	if r.prev == nil || r.prev.pageSize != r.meta.pageSize {
		return nil
	}
	last := r.meta
	defer func() { r.meta, r.seen = last, seen }()
	r.meta.root, r.meta.pages = r.prev.root, min(r.prev.pages, last.pages)
	for i := range gaps {
		r.seen, r.twice = r.newPageSet(), r.newPageSet()
		if err := r.readTree(&place{tree: tree, within: &gaps[i]}, r.prev.root, nil, nil, nil, 0); err != nil {
			return err
		}
	}
	return nil
}

// adopt takes a leaf that nothing leads to and that is not free into the gap where its
// keys belong, if there is just one.
func (r *pageReader) adopt(tree *bucketTree, gaps []gap, id uint64) error {
	p, err := r.readPage(id)
	if p == nil || err != nil || p.flags != flagLeaf || p.count == 0 {
		return err
	}
	flags, first, _, ok := p.leafElement(0)
	_, last, _, whole := p.leafElement(p.count - 1)
	if !ok || !whole {
		return nil
	}
	var fits *gap
	for i := range gaps {
		g := &gaps[i]
		// Buckets lie in the outermost one, and values in the others.
		if (len(g.bucket) == 0) != (flags == flagBucket) || !in(first, g.low, g.high) || !in(last, g.low, g.high) {
			continue
		}
		if fits != nil && !slices.Equal(fits.bucket, g.bucket) {
			return nil
		}
		fits = g
	}
	if fits == nil {
		return nil
	}
	return r.readLeaf(&place{path: fits.bucket, tree: tree.at(fits.bucket)}, p, nil, nil, len(fits.bucket))
}
