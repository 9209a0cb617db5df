package peer

import (
	"context"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	bolt "go.etcd.io/bbolt"
)

// Floor is a bare loop: it takes what is queued, writes of it what moby writes, in
// one transaction, and answers. It checks nothing and remembers nothing. Whoever
// keeps dockerd's format durable cannot be much faster.
type Floor struct {
	path  string
	db    *bolt.DB
	calls chan floorCall
	done  chan struct{}
}

// floorCall is a Commit where there is a name, else a Prepare.
type floorCall struct {
	key, parent, name string
	answer            chan error
}

// floorBatch is the most calls that share a transaction, as in the engine.
const floorBatch = 1024

// OpenFloor opens the floor on root/snapshots.db, with the options of bbolt that
// cost least.
func OpenFloor(root string) (*Floor, error) {
	path := filepath.Join(root, "snapshots.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	f := &Floor{path: path, db: db, calls: make(chan floorCall, floorBatch), done: make(chan struct{})}
	go f.run()
	return f, nil
}

func (f *Floor) run() {
	defer close(f.done)
	batch := make([]floorCall, 0, floorBatch)
	for c := range f.calls {
		batch = append(batch[:0], c)
	more:
		for len(batch) < floorBatch {
			select {
			case c, ok := <-f.calls:
				if !ok {
					break more
				}
				batch = append(batch, c)
			default:
				break more
			}
		}
		err := f.db.Update(func(tx *bolt.Tx) error {
			for _, c := range batch {
				if err := c.write(tx); err != nil {
					return err
				}
			}
			return nil
		})
		for _, c := range batch {
			c.answer <- err
		}
	}
}

// write does to tx what moby's Prepare and Commit do
// (builder/builder-next/adapters/snapshot/snapshot.go of Docker 28.5.2).
func (c *floorCall) write(tx *bolt.Tx) error {
	key, err := tx.CreateBucketIfNotExists([]byte(c.key))
	if err != nil {
		return err
	}
	if c.name == "" {
		return key.Put([]byte("parent"), []byte(c.parent))
	}
	name, err := tx.CreateBucketIfNotExists([]byte(c.name))
	if err != nil {
		return err
	}
	if err := name.Put([]byte("committed"), []byte(c.key)); err != nil {
		return err
	}
	return key.Put([]byte("iscommitted"), []byte{})
}

func (f *Floor) call(c floorCall) error {
	c.answer = make(chan error, 1)
	f.calls <- c
	return <-c.answer
}

// Prepare makes durable what moby's does. The context and the options are ignored.
func (f *Floor) Prepare(_ context.Context, key, parent string, _ ...snapshots.Opt) error {
	return f.call(floorCall{key: key, parent: parent})
}

// Commit makes durable what moby's does. The context and the options are ignored.
func (f *Floor) Commit(_ context.Context, name, key string, _ ...snapshots.Opt) error {
	return f.call(floorCall{key: key, name: name})
}

// Database is the path of the bolt database.
func (f *Floor) Database() string { return f.path }

// Close waits for the calls under way. There must be none afterwards.
func (f *Floor) Close() error {
	close(f.calls)
	<-f.done
	return f.db.Close()
}
