package powerloss

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// node is an inode. What it holds is that at the begin of the recording, which the
// disk has; ops change it.
type node struct {
	mode   fs.FileMode // directory, symbolic link, or file
	target string      // of a link
	data   []byte
	names  map[string]*node
}

func (n *node) write(off int, data []byte) {
	if end := off + len(data); end > len(n.data) {
		n.resize(end)
	}
	copy(n.data[off:], data)
}

func (n *node) resize(size int) {
	if size <= len(n.data) {
		n.data = n.data[:size]
		return
	}
	n.data = append(n.data, make([]byte, size-len(n.data))...)
}

func (n *node) clone() *node {
	c := &node{mode: n.mode, target: n.target, data: append([]byte(nil), n.data...), names: map[string]*node{}}
	for name, child := range n.names {
		c.names[name] = child.clone()
	}
	return c
}

// readTree reads what is below path.
func readTree(t *testing.T, path string) *node {
	t.Helper()
	st, err := os.Lstat(path)
	must(t, err)
	n := &node{mode: st.Mode().Type(), names: map[string]*node{}}
	switch n.mode {
	case fs.ModeDir:
		list, err := os.ReadDir(path)
		must(t, err)
		for _, e := range list {
			if e.Type()&fs.ModeDevice == 0 { // for quotas, and made anew whenever vfs is opened
				n.names[e.Name()] = readTree(t, filepath.Join(path, e.Name()))
			}
		}
	case fs.ModeSymlink:
		n.target, err = os.Readlink(path)
		must(t, err)
	case 0:
		n.data, err = os.ReadFile(path)
		must(t, err)
	default:
		t.Fatalf("%s is a file of a kind that is not recorded: %v", path, n.mode)
	}
	return n
}

// differs says where two trees differ.
func (n *node) differs(have *node, path string) string {
	if n == nil || have == nil {
		return fmt.Sprintf("%s was recorded: %v, is there: %v", path, n != nil, have != nil)
	}
	if n.mode != have.mode || n.target != have.target || !bytes.Equal(n.data, have.data) {
		return path + " has other contents"
	}
	for name := range have.names {
		if n.names[name] == nil {
			return filepath.Join(path, name) + " was not recorded"
		}
	}
	for name := range n.names {
		if diff := n.names[name].differs(have.names[name], filepath.Join(path, name)); diff != "" {
			return diff
		}
	}
	return ""
}

// layOut puts the tree below path, where a directory is. What was there goes.
func (n *node) layOut(path string) error {
	list, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	for name, child := range n.names {
		at := filepath.Join(path, name)
		var err error
		switch child.mode {
		case fs.ModeDir:
			if err = os.Mkdir(at, 0o755); err == nil {
				err = child.layOut(at)
			}
		case fs.ModeSymlink:
			err = os.Symlink(child.target, at)
		default:
			err = os.WriteFile(at, child.data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
