package persist

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	bolterrors "go.etcd.io/bbolt/errors"
)

// An Open that fails lets go of the file, so that the next one need not fail as well.
func TestOpenThatCannotCopyLetsGo(t *testing.T) {
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	s.openIn("run")
	s.write(Put(active("k", "")))
	left, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	if err := os.WriteFile(s.path, left, 0o600); err != nil {
		t.Fatal(err)
	}
	inTheWay := s.path + suffixCopy
	if err := os.MkdirAll(filepath.Join(inTheWay, "and not empty"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), s.path, Options{Boot: "run"}); !errdefs.IsInternal(err) {
		t.Errorf("with a directory where the copy is to be: %v", err)
	}
	wantClosed(t, filepath.Dir(s.path))
	if err := os.RemoveAll(inTheWay); err != nil {
		t.Fatal(err)
	}
	s.openIn("run")
	s.wantOne(active("k", ""))
	s.close()
}

// The name may go to another file between the opening of the file and its lock.
func TestFileThatLosesItsNameIsNotOpened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	db, err := openBolt(context.Background(), path, func(path string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(path, flag, mode)
		return f, errors.Join(err, os.Rename(path, path+".old"))
	})
	if db != nil || !errdefs.IsUnavailable(err) {
		t.Errorf("got %v, %v", db, err)
	}
	wantClosed(t, filepath.Dir(path))
}

func TestCloseTriesAgainWhatFoundNoRoom(t *testing.T) {
	s, g := openGated(t, Options{Idle: time.Hour})
	s.Later(Put(active("later", "")))
	first := s.stall(g, Put(active("a", "")))
	g.release <- errFull
	if err := <-first; !errors.Is(err, ErrNoRoom) {
		t.Fatal(err)
	}
	g.closed.Store(true)
	s.reopen()
	s.wantRecords(active("later", ""))
}

func TestCloseSaysThatTheLastTransactionFailed(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("k", "")))
	if err := s.bolt.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		t.Errorf("Close: %v", err)
	}
}
