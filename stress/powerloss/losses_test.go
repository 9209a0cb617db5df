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
		ends = append(ends, s.ended-1)
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

// images yields what the disk may have: every choice of what is pending where that
// makes no more than limit, else so many: what was done up to each op; all but one
// op; one op alone; and others drawn at random. And writes of several sectors torn.
func (m *moment) images(limit int, random *rand.Rand, yield func(fates []fate)) {
	n := len(m.pending)
	all := func(f fate) []fate {
		return slices.Repeat([]fate{f}, n)
	}
	var tears []int
	for i, p := range m.pending {
		if len(m.ops[p].data) > sector {
			tears = append(tears, i)
		}
	}
	for _, i := range tears {
		for _, rest := range []fate{lost, kept} {
			fates := all(rest)
			fates[i] = torn
			yield(fates)
		}
	}
	if n < 20 && 1<<n <= limit {
		for set := range 1 << n {
			fates := all(lost)
			for i := range fates {
				fates[i] = fate(set >> i & 1)
			}
			yield(fates)
		}
		return
	}
	var some [][]fate
	for i := range n + 1 {
		some = append(some, slices.Concat(all(kept)[:i], all(lost)[i:]))
	}
	for i := range n {
		but, alone := all(kept), all(lost)
		but[i], alone[i] = lost, kept
		some = append(some, but, alone)
	}
	// The first and the last are always there.
	some[1], some[n] = some[n], some[1]
	random.Shuffle(len(some)-2, func(i, j int) { some[i+2], some[j+2] = some[j+2], some[i+2] })
	for i := range limit {
		if i < min(len(some), (limit+1)*2/3) {
			yield(some[i])
			continue
		}
		fates := all(lost)
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
