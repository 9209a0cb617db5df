package peer

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/moby/go-archive"
	"github.com/moby/sys/user"
)

// nullDriver is the name under which layer.NewStoreFromOptions finds Null.
const nullDriver = "null"

func init() {
	// The only error is that the name is taken.
	if err := graphdriver.Register(nullDriver, newNull); err != nil {
		panic(err)
	}
}

// Null is a graph driver that costs nothing: it makes no directories and remembers
// in memory which it was asked to make. All of them are one empty directory. It
// says that it is btrfs, a driver that makes a directory at one stroke: no
// snapshotter does more for it than for a driver of that kind.
type Null struct {
	existed func(id string) bool
	dir     string

	mu   sync.Mutex
	made map[string]bool // false: removed
}

func newNull(home string, _ []string, _ user.IdentityMapping) (graphdriver.Driver, error) {
	dir := filepath.Join(home, "empty")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Null{dir: dir, made: map[string]bool{}}, nil
}

func (d *Null) set(id string, made bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.made[id] = made
}

// Exists implements graphdriver.Driver.
func (d *Null) Exists(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if made, known := d.made[id]; known {
		return made
	}
	return d.existed != nil && d.existed(id)
}

// Directories returns the graph IDs that it was asked to make and not to remove since.
func (d *Null) Directories() (map[string]bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	made := maps.Clone(d.made)
	maps.DeleteFunc(made, func(_ string, made bool) bool { return !made })
	return made, nil
}

// Mounted returns none.
func (d *Null) Mounted() ([]string, error) { return nil, nil }

// Describes tells that a directory that is held need not be mounted.
func (d *Null) Describes() bool { return true }

// Create implements graphdriver.Driver.
func (d *Null) Create(id, _ string, _ *graphdriver.CreateOpts) error { d.set(id, true); return nil }

// CreateReadWrite implements graphdriver.Driver.
func (d *Null) CreateReadWrite(id, parent string, o *graphdriver.CreateOpts) error {
	return d.Create(id, parent, o)
}

// Remove implements graphdriver.Driver.
func (d *Null) Remove(id string) error { d.set(id, false); return nil }

// Get implements graphdriver.Driver.
func (d *Null) Get(string, string) (string, error) { return d.dir, nil }

// Put implements graphdriver.Driver.
func (d *Null) Put(string) error { return nil }

// String implements graphdriver.Driver.
func (d *Null) String() string { return "btrfs" }

// Status implements graphdriver.Driver.
func (d *Null) Status() [][2]string { return nil }

// GetMetadata implements graphdriver.Driver.
func (d *Null) GetMetadata(string) (map[string]string, error) {
	return map[string]string{"UpperDir": d.dir}, nil
}

// Cleanup implements graphdriver.Driver.
func (d *Null) Cleanup() error { return nil }

// Diff implements graphdriver.Driver.
func (d *Null) Diff(string, string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(make([]byte, 1024))), nil // the end of an archive
}

// Changes implements graphdriver.Driver.
func (d *Null) Changes(string, string) ([]archive.Change, error) { return nil, nil }

// ApplyDiff implements graphdriver.Driver.
func (d *Null) ApplyDiff(_, _ string, diff io.Reader) (int64, error) {
	return io.Copy(io.Discard, diff)
}

// DiffSize implements graphdriver.Driver.
func (d *Null) DiffSize(string, string) (int64, error) { return 0, nil }
