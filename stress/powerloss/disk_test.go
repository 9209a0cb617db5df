package powerloss

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// op is a change of one inode's contents, or of entries of directories at one stroke.
type op struct {
	what    string // for messages
	ended   int
	durable int // when a sync that covers it ended

	file *node
	off  int
	data []byte // nil: the file was cut or extended to off

	entries []entry
}

type entry struct {
	dir  *node
	name string
	to   *node // nil: it was removed
}

// sync is an fsync of an inode, or of all of them.
type sync struct {
	began, ended int
	of           *node
}

type ack struct {
	ended int
	line  string
}

const never = 1 << 60

// recording is what a process did below root.
type recording struct {
	root    string
	initial *node
	ops     []*op
	syncs   []sync
	acks    []ack // lines that the process wrote to its standard output
	begin   int   // when it had written that it begins; what was done before is on the disk
}

// record runs the process and takes note of all it does below root, of which what is
// there before is on the disk.
func record(t *testing.T, root, role string, args ...string) *recording {
	t.Helper()
	r := &recording{root: root, initial: readTree(t, root)}
	b := &builder{recording: r, now: r.initial.clone(), open: map[int]*description{}, inodes: map[*node]*node{}}
	b.index(r.initial, b.now)
	whole := true
	for _, c := range trace(t, role, append([]string{root}, args...)...) {
		whole = whole && c.name != exited
		if err := b.call(&c); err != nil {
			t.Fatalf("%s(%.200s): %v", c.name, strings.Join(c.args, ", "), err)
		}
	}
	r.begin = -1
	for _, a := range r.acks {
		if a.line == begun {
			r.begin = a.ended
		}
	}
	for _, o := range r.ops {
		if o.durable = r.durableAt(o); o.ended < r.begin {
			o.durable = o.ended
		}
	}
	if diff := b.now.differs(readTree(t, root), root); diff != "" && whole {
		t.Fatal("what was recorded is not what is there: ", diff)
	}
	if len(r.acks) == 0 || len(r.syncs) == 0 {
		t.Fatalf("the process acknowledged %d times and synced %d times", len(r.acks), len(r.syncs))
	}
	return r
}

// durableAt is when each of the inodes that o changes was synced.
func (r *recording) durableAt(o *op) int {
	when := func(n *node) int {
		for _, s := range r.syncs { // in the order of their ends
			if s.began > o.ended && (s.of == nil || s.of == n) {
				return s.ended
			}
		}
		return never
	}
	if o.file != nil {
		return when(o.file)
	}
	at := 0
	for _, e := range o.entries {
		at = max(at, when(e.dir))
	}
	return at
}

// builder follows the process. It has a tree as the process sees it, of which each
// inode stands for one of the recording.
type builder struct {
	*recording
	now    *node
	inodes map[*node]*node // of now, to those of the recording
	open   map[int]*description
}

type description struct {
	node *node
	off  int
	end  bool // O_APPEND
}

func (b *builder) index(recorded, now *node) {
	b.inodes[now] = recorded
	for name, n := range now.names {
		b.index(recorded.names[name], n)
	}
}

// find returns the directory of path, the name in it and what bears it. ok is false
// for what is not below root.
func (b *builder) find(path string) (dir *node, name string, n *node, ok bool) {
	rel, err := filepath.Rel(b.root, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return nil, "", nil, false
	}
	if rel == "." {
		return nil, "", b.now, true
	}
	dir = b.now
	parts := strings.Split(rel, "/")
	for _, p := range parts[:len(parts)-1] {
		if dir = dir.names[p]; dir == nil {
			return nil, "", nil, false
		}
	}
	name = parts[len(parts)-1]
	return dir, name, dir.names[name], true
}

func (b *builder) add(c *call, o *op) {
	o.what = c.name
	if o.file != nil {
		o.file = b.inodes[o.file]
	}
	for i, e := range o.entries {
		if e.to == nil {
			delete(e.dir.names, e.name)
		} else {
			e.dir.names[e.name] = e.to
		}
		o.what += " " + e.name
		o.entries[i].dir, o.entries[i].to = b.inodes[e.dir], b.inodes[e.to]
	}
	o.ended = c.ended
	b.ops = append(b.ops, o)
}

// create makes a new inode bear a name.
func (b *builder) create(c *call, path string, mode fs.FileMode, target string) (*node, error) {
	dir, name, _, ok := b.find(path)
	if !ok {
		return nil, nil
	}
	n := &node{mode: mode, target: target, names: map[string]*node{}}
	b.inodes[n] = &node{mode: mode, target: target, names: map[string]*node{}}
	b.add(c, &op{entries: []entry{{dir, name, n}}})
	return n, nil
}

func (b *builder) call(c *call) error {
	switch c.name {
	case "openat":
		delete(b.open, c.result)
		_, _, n, ok := b.find(c.path(0))
		if !ok {
			return nil
		}
		flags := "|" + c.args[2] + "|"
		if n == nil {
			if !strings.Contains(flags, "|O_CREAT|") {
				return nil // the kernel makes some in the working directories of overlays
			}
			n, _ = b.create(c, c.path(0), 0, "")
		}
		b.open[c.result] = &description{node: n, end: strings.Contains(flags, "|O_APPEND|")}
		if strings.Contains(flags, "|O_TRUNC|") && len(n.data) > 0 {
			n.data = nil
			b.add(c, &op{file: n})
		}
	case "close":
		delete(b.open, c.fd(0))
	case "write", "pwrite64":
		if c.fd(0) == 1 {
			for _, line := range strings.Split(strings.TrimSuffix(c.str(1), "\n"), "\n") {
				b.acks = append(b.acks, ack{c.ended, line})
			}
			return nil
		}
		d := b.open[c.fd(0)]
		if d == nil {
			return nil
		}
		data := []byte(c.str(1))[:c.result]
		off := d.off
		switch {
		case c.name == "pwrite64":
			off = c.number(3)
		case d.end:
			off = len(d.node.data)
			fallthrough
		default:
			d.off = off + len(data)
		}
		d.node.write(off, data)
		b.add(c, &op{file: d.node, off: off, data: data})
	case "copy_file_range":
		from, to := b.open[c.fd(0)], b.open[c.fd(2)]
		if to == nil {
			return nil
		}
		if from == nil || c.args[1] != "NULL" || c.args[3] != "NULL" {
			return errors.New("a copy that the recording does not know how to make")
		}
		data := append([]byte(nil), from.node.data[from.off:from.off+c.result]...)
		if len(data) > 0 {
			to.node.write(to.off, data)
			b.add(c, &op{file: to.node, off: to.off, data: data})
		}
		from.off, to.off = from.off+c.result, to.off+c.result
	case "lseek":
		if d := b.open[c.fd(0)]; d != nil {
			d.off = c.result
		}
	case "ftruncate":
		if d := b.open[c.fd(0)]; d != nil {
			d.node.resize(c.number(1))
			b.add(c, &op{file: d.node, off: c.number(1)})
		}
	case "fsync", "fdatasync":
		if d := b.open[c.fd(0)]; d != nil {
			b.syncs = append(b.syncs, sync{c.began, c.ended, b.inodes[d.node]})
		}
	case "syncfs":
		if b.open[c.fd(0)] != nil {
			b.syncs = append(b.syncs, sync{c.began, c.ended, nil})
		}
	case "sync":
		b.syncs = append(b.syncs, sync{c.began, c.ended, nil})
	case "mkdirat":
		_, err := b.create(c, c.path(0), fs.ModeDir, "")
		return err
	case "symlinkat":
		_, err := b.create(c, c.path(1), fs.ModeSymlink, c.str(0))
		return err
	case "unlinkat":
		dir, name, n, ok := b.find(c.path(0))
		if ok && n != nil { // else the kernel made it, too
			b.add(c, &op{entries: []entry{{dir, name, nil}}})
		}
	case "renameat", "renameat2":
		from, old, n, ok := b.find(c.path(0))
		to, name, _, also := b.find(c.path(2))
		if !ok && !also {
			return nil
		}
		if !ok || !also || n == nil {
			return errors.New("a rename that the recording does not know how to make")
		}
		b.add(c, &op{entries: []entry{{from, old, nil}, {to, name, n}}})
	default: // those that the processes do not use
		for i := range c.args {
			if strings.Contains(c.args[i], strings.ReplaceAll(fmt.Sprintf("% x", b.root), " ", `\x`)) {
				return errors.New("a call that the recording does not know")
			}
		}
	}
	return nil
}
