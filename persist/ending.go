package persist

// How the last process that wrote to the database ended, which the next one must
// know before it writes.
//
// The first transaction of a process says in passing that somebody writes, and in
// which run of the machine; the last one, in Close, that he ended in order. So a
// process that died, or that Close found unable to write, is known by what it left.
//
// If the machine has been running since, pages of which a sync failed look clean in
// the page cache: the kernel reports a write error once, to one process, and keeps
// serving what it could not write. A transaction that builds on such pages is
// durable but for them. So after such an end the whole file is copied, the copy is
// synced and renamed over it, and every page has been written to disk by a sync
// that succeeded. A kill in the middle of a sync that is about to fail leaves no
// other trace, which is why this is done after every end that was not in order and
// not only after those that had said what went wrong. It costs three microseconds for
// each snapshot (BenchmarkOpenAfterKill), half a second for 200,000 of them.
//
// If the machine was started anew, the page cache is gone and what is read is what
// the disk has. Nothing is copied; but directories that were made shortly before
// may be lost, which the engine looks into.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	bolt "go.etcd.io/bbolt"
)

// End says how the last process ended that wrote to a database.
type End uint8

const (
	InOrder   End = iota // it called Close, in this run of the machine, or there was none
	Died                 // it did not, but the machine has been running since
	Restarted            // it wrote in an earlier run of the machine
)

func (e End) String() string {
	switch e {
	case InOrder:
		return "in order"
	case Died:
		return "died"
	case Restarted:
		return "machine restarted"
	}
	return fmt.Sprintf("end %d", uint8(e))
}

// settingProcess holds the run of the machine in which somebody wrote last, and
// whether he has ended in order.
const (
	settingProcess = "process"
	wordOpen       = " open"
	wordClosed     = " closed"
)

// bootID names this run of the machine. Where it is not known every run is taken
// for another, and after an end that was not in order for the same as well.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// ending reads how the last process ended. copied tells whether the file is to be
// copied before it is written to.
func ending(db *bolt.DB, boot string) (end End, copied bool, err error) {
	var last string
	err = view(db, func(tx *bolt.Tx) error {
		last = string((&txn{Tx: tx}).getOurs(bucketSettings, settingProcess))
		return nil
	})
	if last == "" { // nobody wrote, or dockerd alone
		return InOrder, false, err
	}
	run, open := strings.CutSuffix(last, wordOpen)
	run = strings.TrimSuffix(run, wordClosed)
	switch {
	case run != boot || boot == "":
		return Restarted, open && boot == "", err
	case open:
		return Died, true, err
	}
	return InOrder, false, err
}

// renew writes a full copy of the database, syncs it and renames it over the
// database, which it opens then instead of db. Whoever dies in it leaves a database
// that is renewed by the next Open: the copy says what the original did.
//
// Where must is not set the copy only saves space. What keeps it from being made is
// logged then, and db goes on.
func renew(ctx context.Context, db *bolt.DB, path string, must bool) (*bolt.DB, error) {
	failed := func(err, class error) (*bolt.DB, error) {
		_ = closeFile(db)
		return nil, fmt.Errorf("open snapshot database %s: write it anew: %w: %w", path, err, class)
	}
	notMade := func(err, class error) (*bolt.DB, error) {
		_ = remove(path + suffixCopy)
		if must {
			return failed(err, class)
		}
		log.G(ctx).WithError(err).Warnf("snapshot database %s: it is mostly free pages, and could not be written anew without them", path)
		return db, nil
	}
	write := copyTo
	if sparse(db) {
		write = compactTo
	}
	if err := write(ctx, db, path+suffixCopy); err != nil {
		switch full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT); {
		case !full || !must:
			return notMade(err, errdefs.ErrInternal)
		case !onDisk(path):
			return notMade(err, errdefs.ErrUnavailable)
		}
		// A full disk is no reason to keep reads from going on.
		_ = remove(path + suffixCopy)
		log.G(ctx).WithError(err).Warnf("snapshot database %s: no room to copy it; what the disk has was compared with what is read, and is the same", path)
		return db, nil
	}
	// Opened, and so locked, before it bears the name: whoever opens the name finds
	// it locked, and whoever waits for the lock of the original sees that it has
	// lost its name.
	copied, err := openBolt(ctx, path+suffixCopy, os.OpenFile)
	if err != nil {
		return notMade(err, errdefs.ErrInternal)
	}
	if err := rename(path+suffixCopy, path); err != nil {
		return notMade(errors.Join(err, closeFile(copied)), errdefs.ErrInternal)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return failed(errors.Join(err, closeFile(copied)), errdefs.ErrInternal)
	}
	_ = closeFile(db)
	return copied, nil
}

// copyTo writes the database to a file, byte by byte, and syncs it.
func copyTo(_ context.Context, db *bolt.DB, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := &remembering{Writer: f}
	err = view(db, func(tx *bolt.Tx) error {
		return writeTo(tx, w)
	})
	return errors.Join(err, w.failed, syncFile(f), f.Close())
}

// remembering keeps the error of a write, of which bbolt hands on no more than the
// text.
type remembering struct {
	io.Writer
	failed error
}

func (w *remembering) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if err != nil {
		w.failed = err
	}
	return n, err
}

// onDisk tells whether the disk has what the page cache has of the file at path. It
// is what a copy makes sure of, for where there is no room for one. Where the file
// system does not read past its cache the answer is no.
func onDisk(path string) bool {
	cached, err := os.Open(path)
	if err != nil {
		return false
	}
	defer cached.Close()
	// It writes back what is dirty in the cache, and then reads from the disk.
	disk, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECT, 0)
	if err != nil {
		return false
	}
	defer disk.Close()
	const size = 1 << 20
	aligned, err := syscall.Mmap(-1, 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return false
	}
	defer syscall.Munmap(aligned)
	return sameContents(cached, disk, make([]byte, size), aligned)
}

// sameContents compares a and b, read into buffers of one length.
func sameContents(a, b io.ReaderAt, bufA, bufB []byte) bool {
	for at := int64(0); ; at += int64(len(bufA)) {
		n, errA := a.ReadAt(bufA, at)
		m, errB := b.ReadAt(bufB, at)
		switch {
		case errA != nil && errA != io.EOF || errA != errB:
			return false
		case n != m || !bytes.Equal(bufA[:n], bufB[:m]):
			return false
		case errA == io.EOF:
			return true
		}
	}
}
