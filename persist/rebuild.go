package persist

// Making a sound database of one that may be damaged.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Repair replaces the database by a new one that has all that Examine could read, and
// with the mutations applied, all or none. What is no record is left out, unless the
// file was damaged: then another Repair does that. First of all it makes a copy of the
// file as it is, beside it, and returns its path; no earlier copy is overwritten. Both
// are on disk, and the new database bears the name, when Repair returns; before, the
// old one does. Repair blocks while it writes.
//
// How the last process ended stays on record, so the next Open does what it has to.
//
// Errors: ErrUnavailable where another process has the database open, or changed it
// since it was examined; those of the mutations and of the file system. Nothing was
// changed then, but backup is there if it is not empty.
func (x *Examination) Repair(ctx context.Context, m ...Mutation) (backup string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("repair snapshot database %s: %w", x.Path, err)
		}
	}()
	for i := range m {
		if err := m[i].check(); err != nil {
			return "", err
		}
	}
	f, err := lockFile(ctx, x.Path, syscall.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	pages, tree, err := readPages(f, st.Size(), true)
	if err != nil {
		return "", err
	}
	if pages.meta.tx != x.tx || st.Size() != x.size {
		return "", fmt.Errorf("it was changed since it was examined: %w", errdefs.ErrUnavailable)
	}
	if backup, err = backUp(f, x.Path); err != nil {
		return "", fmt.Errorf("copy it first: %w", err)
	}
	// As a copy after a crash (renew): what is left of it after another crash goes at
	// the next Open, and it is locked before it bears the name.
	db, err := openBolt(ctx, x.Path+suffixCopy, openEmpty)
	if err != nil {
		return backup, err
	}
	err = fill(db, tree, func(t *txn) error {
		if len(x.Damage) == 0 {
			if err := t.tidy(); err != nil {
				return err
			}
		}
		for i := range m {
			if err := t.apply(&m[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = rename(x.Path+suffixCopy, x.Path)
	} else {
		_ = remove(x.Path + suffixCopy)
	}
	return backup, errors.Join(err, syncDir(filepath.Dir(x.Path)), closeFile(db))
}

// backUp copies the file to the first free name after path.
func backUp(f *os.File, path string) (string, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		name := path + ".backup-" + strconv.Itoa(n)
		to, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		_, err = io.Copy(to, f)
		if err := errors.Join(err, syncFile(to), to.Close(), syncDir(filepath.Dir(path))); err != nil {
			_ = remove(name)
			return "", err
		}
		return name, nil
	}
}

// fill writes what was read of another database into an empty one, and then what
// change does, if it is not nil, in one transaction.
func fill(db *bolt.DB, tree *bucketTree, change func(*txn) error) error {
	tx, err := begin(db)
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing, once it was committed
	for _, name := range slices.Sorted(maps.Keys(tree.buckets)) {
		if name == "" || len(name) > bolt.MaxKeySize {
			continue
		}
		b, err := tx.CreateBucket([]byte(name))
		if err != nil {
			return err
		}
		if err := fillBucket(b, tree.buckets[name]); err != nil {
			return err
		}
	}
	if change != nil {
		if err := change(&txn{Tx: tx}); err != nil {
			return err
		}
	}
	return commit(tx)
}

func fillBucket(b *bolt.Bucket, tree *bucketTree) error {
	if err := b.SetSequence(tree.sequence); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(tree.values)) {
		if len(key) > bolt.MaxKeySize {
			continue
		}
		if err := b.Put([]byte(key), tree.values[key]); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tree.buckets)) {
		if _, has := tree.values[name]; has || len(name) > bolt.MaxKeySize {
			continue
		}
		sub, err := b.CreateBucket([]byte(name))
		if err != nil {
			return err
		}
		if err := fillBucket(sub, tree.buckets[name]); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes what is no record, and writes anew what could be read in part.
func (t *txn) tidy() error {
	// What goes may have been all that stood for something else: the bucket in which
	// a record has its parent is an orphan without the record.
	for range 3 {
		x := Examination{Settings: map[string]string{}}
		if err := x.read(t.Tx); err != nil {
			return err
		}
		for _, l := range x.Leftovers {
			if err := t.tidyOne(l); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
				return err
			}
		}
		for _, key := range x.Sized {
			if b := t.Bucket(bytesOf(key)); b != nil {
				if err := b.Delete(bytesOf(fieldSize)); err != nil {
					return err
				}
			}
		}
	}
	return t.tidyRemovals()
}

func (t *txn) tidyOne(l Leftover) error {
	switch l.Oddity {
	case Orphan, Empty:
		return t.DeleteBucket(bytesOf(l.Key))
	case Shadowed:
		return t.deleteOurs(bucketSnapshots, l.Key)
	case Broken:
		return t.delete(l.Key)
	case Undecodable:
		if l.Record.Key == "" {
			return t.deleteOurs(bucketSnapshots, l.Key)
		}
		return t.put(&l.Record)
	}
	return nil
}

// tidyRemovals removes what cannot be a removal: what is left of another bucket.
func (t *txn) tidyRemovals() error {
	b := t.Bucket(bytesOf(bucketRemoving))
	if b == nil {
		return nil
	}
	var wrong [][]byte
	if err := b.ForEach(func(k, v []byte) error {
		if len(v) > 0 || checkKey("graph ID", string(k)) != nil {
			wrong = append(wrong, bytes.Clone(k))
		}
		return nil
	}); err != nil {
		return err
	}
	for _, k := range wrong {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
