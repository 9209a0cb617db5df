package persist

// Looking at a database that nobody has open.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Examination is what a database holds and what is wrong with it.
type Examination struct {
	Path string
	// Damage says in words what is wrong with the pages of the file. Where there is
	// some, the rest is what could be read nevertheless.
	Damage []string
	// Ended is how the last process ended.
	Ended End

	Records   []Record // as Load yields them, by key
	Removals  []string // graph IDs
	Leftovers []Leftover
	Settings  map[string]string
	Sized     []string // keys of records that bear a size though they are not committed

	tx   uint64 // the last one
	size int64
}

// Examine reads the database at path, which it does not change. Whatever is in the
// file, it neither panics nor loops. It blocks while it reads all of the file, and
// holds the lock that keeps other processes from opening it.
//
// Errors: ErrNotFound where there is no file, ErrUnavailable, within a second, where
// another process has it open, and those of the file system. Damage is none.
func Examine(ctx context.Context, path string) (x *Examination, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("examine snapshot database %s: %w", path, err)
		}
	}()
	f, err := lockFile(ctx, path, syscall.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pages, _, err := readPages(f, st.Size(), false)
	if err != nil {
		return nil, err
	}
	x = &Examination{Path: path, Damage: pages.damage, Settings: map[string]string{}, tx: pages.meta.tx, size: st.Size()}
	if len(pages.damage) == 0 {
		if err := x.load(path); err != nil {
			x.Damage = append(x.Damage, err.Error())
		}
	}
	if len(x.Damage) == 0 {
		return x, nil
	}
	// bbolt gets to see nothing but what it wrote itself.
	_, tree, err := readPages(f, st.Size(), true)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "graphsnap-check-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	salvaged := filepath.Join(dir, "snapshots.db")
	db, err := openBolt(ctx, salvaged, os.OpenFile)
	if err != nil {
		return nil, err
	}
	db.NoSync = true
	if err := errors.Join(fill(db, tree, nil), closeFile(db)); err != nil {
		return nil, err
	}
	return x, x.load(salvaged)
}

// lockFile opens the file at path for reading and locks it as bbolt does.
func lockFile(ctx context.Context, path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = fmt.Errorf("another process holds it: %w", errdefs.ErrUnavailable)
	}
	if err == nil && !bears(f, path) {
		err = fmt.Errorf("another process replaces it: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// bears tells whether path names the file still.
func bears(f *os.File, path string) bool {
	held, err := f.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// load reads what Load and Setting tell of a database of which the pages are whole.
func (x *Examination) load(path string) (err error) {
	// Pages were looked at before, so this is for what was overlooked there.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("reading it panicked: %v", p)
		}
	}()
	db, err := openFile(path, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("another process holds it: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		return err
	}
	defer closeFile(db)
	if x.Ended, _, err = ending(db, bootID()); err != nil {
		return err
	}
	if err := view(db, x.read); err != nil {
		return err
	}
	slices.SortFunc(x.Records, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	return nil
}

func (x *Examination) read(tx *bolt.Tx) error {
	x.Records, x.Removals, x.Leftovers, x.Sized = nil, nil, nil, nil
	l := &loader{
		tx:       tx,
		buckets:  func(each func(string, top) error) error { return eachBucket(tx, each) },
		record:   func(r Record) error { x.Records = append(x.Records, r); return nil },
		leftover: func(l Leftover) { x.Leftovers = append(x.Leftovers, l) },
	}
	if err := l.load(func(r Removal) error { x.Removals = append(x.Removals, r.GraphID); return nil }); err != nil {
		return err
	}
	if b := tx.Bucket(bytesOf(bucketSettings)); b != nil {
		if err := b.ForEach(func(k, v []byte) error { x.Settings[string(k)] = string(v); return nil }); err != nil {
			return err
		}
	}
	return eachBucket(tx, func(key string, at top) error {
		if at.size != nil && (at.shape == shapeActive || at.shape == shapeBorrowed || at.shape == shapeHidden) {
			x.Sized = append(x.Sized, key)
		}
		return nil
	})
}
