package powerloss

import (
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
)

// fate is what the power loss does to an op.
type fate uint8

const (
	lost fate = iota
	kept
	torn // of each 512 bytes it is drawn whether they are kept
)

// sector is what a disk writes wholly or not at all, in bytes.
const sector = 512

// moment is one at which the power may go: what had been done by then, and what of
// that no sync had covered.
type moment struct {
	*recording
	at      int
	pending []int // indices of ops
}

// moments are those just before a sync ended, and the last one. In between the images
// are those of the moment that follows.
func (r *recording) moments() (all []moment) {
	ends := []int{never - 1}
	for _, s := range r.syncs {
		if s.began > r.begin {
			ends = append(ends, s.ended-1)
		}
	}
	slices.Sort(ends)
	for _, at := range slices.Compact(ends) {
		m := moment{recording: r, at: at}
		for i, o := range r.ops {
			if o.ended <= at && o.durable > at {
				m.pending = append(m.pending, i)
			}
		}
		all = append(all, m)
	}
	return all
}

// acknowledged are the lines that the process had written by then.
func (m *moment) acknowledged() (lines []string) {
	for _, a := range m.acks {
		if a.ended <= m.at {
			lines = append(lines, a.line)
		}
	}
	return lines
}

// images yields limit choices of what the disk may have: every choice of what is
// pending, where they are no more, and some with a torn write; else nothing, all, what
// was done up to an op, all but one op, one op alone, a write torn, and others drawn at
// random.
func (m *moment) images(limit int, random *rand.Rand, yield func(fates []fate)) {
	n := len(m.pending)
	with := func(rest fate, i int, f fate) []fate {
		fates := slices.Repeat([]fate{rest}, n)
		if i < n {
			fates[i] = f
		}
		return fates
	}
	var some [][]fate
	for i, p := range m.pending {
		if len(m.ops[p].data) > sector {
			some = append(some, with(lost, i, torn), with(kept, i, torn))
		}
	}
	if n < 20 && 1<<n <= limit {
		for set := range 1 << n {
			fates := with(lost, n, lost)
			for i := range fates {
				fates[i] = fate(set >> i & 1)
			}
			yield(fates)
		}
		limit = min(limit-1<<n, len(some))
	} else {
		yield(with(lost, n, lost))
		yield(with(kept, n, kept))
		limit -= 2
		for i := range n {
			upTo := with(kept, n, kept)
			copy(upTo[i:], with(lost, n, lost))
			some = append(some, upTo, with(lost, i, kept), with(kept, i, lost))
		}
	}
	random.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	for i := range limit {
		if i < len(some) && i <= limit*2/3 {
			yield(some[i])
			continue
		}
		fates := with(lost, n, lost)
		for i := range fates {
			fates[i] = fate(random.IntN(2))
		}
		yield(fates)
	}
}

// image is the tree that the disk has.
func (m *moment) image(fates []fate, random *rand.Rand) *node {
	type content struct {
		data  []byte
		names map[string]*node
	}
	disk := map[*node]*content{}
	have := func(n *node) *content {
		if disk[n] == nil {
			disk[n] = &content{slices.Clone(n.data), maps.Clone(n.names)}
		}
		return disk[n]
	}
	next := 0
	for i, o := range m.ops {
		if o.ended > m.at {
			break
		}
		f := kept
		if next < len(m.pending) && m.pending[next] == i {
			f = fates[next]
			next++
		}
		if f == lost {
			continue
		}
		for _, e := range o.entries {
			if e.to == nil {
				delete(have(e.dir).names, e.name)
			} else {
				have(e.dir).names[e.name] = e.to
			}
		}
		if o.file == nil {
			continue
		}
		c := have(o.file)
		n := node{data: c.data}
		switch {
		case o.data == nil:
			n.resize(o.off)
		case f == torn:
			for at := 0; at < len(o.data); at += sector {
				if random.IntN(2) == 0 {
					n.write(o.off+at, o.data[at:min(at+sector, len(o.data))])
				}
			}
		default:
			n.write(o.off, o.data)
		}
		c.data = n.data
	}
	var assemble func(n *node) *node
	assemble = func(n *node) *node {
		c := disk[n]
		if c == nil {
			c = &content{n.data, n.names}
		}
		tree := &node{mode: n.mode, target: n.target, data: c.data, names: map[string]*node{}}
		for name, child := range c.names {
			tree.names[name] = assemble(child)
		}
		return tree
	}
	return assemble(m.initial)
}

// full is the image of all that was done.
func (m *moment) full() *node {
	return m.image(slices.Repeat([]fate{kept}, len(m.pending)), nil)
}

// powerlosses multiplies n by what the environment asks for.
func powerlosses(n int) int {
	if times, err := strconv.Atoi(os.Getenv("GRAPHSNAP_POWERLOSS")); err == nil && times > 0 {
		return n * times
	}
	return n
}
