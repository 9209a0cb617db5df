package persist

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// died returns what a process left that died now: the file as it is.
func (s *store) died(boot string) *store {
	s.t.Helper()
	b, err := os.ReadFile(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	d := &store{t: s.t, path: filepath.Join(s.t.TempDir(), "snapshots.db")}
	if err := os.WriteFile(d.path, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
	d.openIn(boot)
	return d
}

func (s *store) openIn(boot string) {
	s.t.Helper()
	db, err := Open(context.Background(), s.path, Options{Boot: boot})
	if err != nil {
		s.t.Fatal(err)
	}
	s.DB = db
	s.t.Cleanup(func() { _ = db.Close() })
}

func (s *store) inode() uint64 {
	s.t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(s.path, &st); err != nil {
		s.t.Fatal(err)
	}
	return st.Ino
}

// A new database has no name until it is whole, and what is left of one that did not
// become whole is in nobody's way.
func TestANewDatabaseIsWholeOrNotThere(t *testing.T) {
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	if err := os.WriteFile(s.path+suffixNew, make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	s.open()
	s.write(Put(active("k", "")))
	s.wantOne(active("k", ""))
	s.close()
	for _, suffix := range []string{suffixNew, suffixCopy} {
		if err := os.WriteFile(s.path+suffix, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s.open()
	s.wantOne(active("k", ""))
	if beside, err := filepath.Glob(s.path + "?*"); err != nil || len(beside) > 0 {
		t.Errorf("%q are left, %v", beside, err)
	}
}

func TestTwoProcessesDoNotCreateTheDatabaseAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	other, err := bolt.Open(path+suffixNew, 0o600, nil) // another process, in the middle of it
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := Open(context.Background(), path, Options{}); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
	if err := other.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("k")); return err }); err != nil {
		t.Errorf("the other's file was touched: %v", err)
	}
}

func TestOpenKnowsHowTheLastProcessEnded(t *testing.T) {
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	s.openIn("first")
	if s.Ended() != InOrder {
		t.Errorf("a new database: %v", s.Ended())
	}
	if d := s.died("first"); d.Ended() != InOrder {
		t.Errorf("a process that wrote nothing: %v", d.Ended())
	}
	s.write(Put(active("k", "")))
	for boot, want := range map[string]End{"first": Died, "second": Restarted} {
		d := s.died(boot)
		if d.Ended() != want {
			t.Errorf("in the %s run, after a death in the first: %v", boot, d.Ended())
		}
		again := d.died(boot)
		if again.Ended() != want {
			t.Errorf("dead again before the first write: %v", again.Ended())
		}
		again.close()
		again.openIn(boot)
		if again.Ended() != InOrder {
			t.Errorf("closed without a write: %v", again.Ended())
		}
		again.wantOne(active("k", ""))
	}
	s.close()
	for boot, want := range map[string]End{"first": InOrder, "second": Restarted} {
		if d := s.died(boot); d.Ended() != want {
			t.Errorf("in the %s run, closed in the first: %v", boot, d.Ended())
		}
	}
}

func (s *store) wantOne(r Record) {
	s.t.Helper()
	if got := s.load().records; len(got) != 1 || got[r.Key].GraphID != r.GraphID {
		s.t.Errorf("records: %v", got)
	}
}

// P9: what failed to be synced looks clean, so every page is written anew.
func TestOpenAfterADeathWritesTheFileAnew(t *testing.T) {
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	s.openIn("run")
	s.write(Put(active("k", "")))
	left, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	before := s.inode()
	s.openIn("run")
	if s.inode() != before {
		t.Error("the file was copied after an end in order")
	}
	s.close()

	if err := os.WriteFile(s.path, left, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path+".copy", []byte("of a process that died while it copied"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.openIn("run")
	if s.inode() == before {
		t.Error("the file was not copied")
	}
	if _, err := os.Stat(s.path + ".copy"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the copy is left: %v", err)
	}
	s.wantOne(active("k", ""))
	if _, err := Open(context.Background(), s.path, Options{}); !errdefs.IsUnavailable(err) {
		t.Errorf("the copy is not locked: %v", err)
	}
	s.write(Put(active("l", "")))
	s.close()
	s.openIn("run")
	if got := s.load().records; len(got) != 2 || s.Ended() != InOrder {
		t.Errorf("after a write to the copy: %v, %v", got, s.Ended())
	}
	s.close()
	wantClosed(t, filepath.Dir(s.path))
}

// A process that waited for the lock of a file that was renamed away must not go
// on with it: another one has the file of that name.
func TestOpenNoticesThatTheFileWasReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	held, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	waits := make(chan struct{})
	go func() {
		close(waits)
		db, err := Open(context.Background(), path, Options{})
		if err == nil {
			_ = db.Close()
		}
		got <- err
	}()
	<-waits
	// Where Open comes later than the rename it finds the new name and succeeds;
	// it never ends with the old file.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; err != nil && !errdefs.IsUnavailable(err) {
		t.Error(err)
	}
	wantClosed(t, filepath.Dir(path))
}

var errFull = &fs.PathError{Op: "write", Path: "snapshots.db", Err: syscall.ENOSPC}

func TestBatchWithoutRoomNeverWas(t *testing.T) {
	s, g := openGated(t, Options{Idle: time.Hour})
	g.closed.Store(true)
	s.write(Put(active("k", "")))
	s.Later(Put(active("later", "")), Delete("k"))
	g.closed.Store(false)
	first := s.stall(g, Put(active("a", "")))
	s.Later(Put(active("later still", "")))
	g.release <- errFull
	if err := <-first; !errdefs.IsUnavailable(err) || !errors.Is(err, ErrNoRoom) || !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrIndeterminate) {
		t.Errorf("the batch that found no room: %v", err)
	}
	if s.Err() != nil {
		t.Errorf("writes are refused: %v", s.Err())
	}
	second := s.stall(g, Put(active("k", "b"))) // after the Delete that was kept
	g.closed.Store(true)
	g.release <- nil
	if err := <-second; err != nil {
		t.Errorf("with room again: %v", err)
	}
	s.write()
	s.wantRecords(active("k", "b"), active("later", ""), active("later still", ""))
}

func TestWhatFoundNoRoomIsTriedAgainUnasked(t *testing.T) {
	s, g := openGated(t, Options{Idle: time.Millisecond})
	s.Later(Put(active("later", "")))
	for range 3 {
		<-g.arrived
		g.release <- errFull
	}
	<-g.arrived
	g.closed.Store(true)
	g.release <- nil
	s.write()
	s.wantRecords(active("later", ""))
}

func TestNoRoomIsNotTakenForAFailedSync(t *testing.T) {
	for name, c := range map[string]struct {
		failed error
		last   func() (int, error)
	}{
		"a sync that found no room":        {failed: syscall.ENOSPC},
		"a write that failed for the disk": {failed: &fs.PathError{Op: "write", Err: syscall.EIO}},
		"growing that could not be synced": {failed: errors.New("file sync error: no space left on device")},
		"the last page may be written":     {failed: errFull, last: func() (int, error) { return 1 << 30, nil }},
		"the file is not mapped":           {failed: errFull, last: func() (int, error) { return 0, errors.New("no mapping") }},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := open(context.Background(), filepath.Join(t.TempDir(), "snapshots.db"), Options{}, func(e env) env {
				e.commit = func(tx *bolt.Tx) error {
					_ = tx.Rollback()
					return c.failed
				}
				if c.last != nil {
					e.last = c.last
				}
				return e
			})
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if err := db.Write(context.Background(), Put(active("a", ""))); !errors.Is(err, ErrIndeterminate) || db.Err() == nil {
				t.Errorf("got %v, and then %v", err, db.Err())
			}
		})
	}
}

func TestRemovingLeavesRecordsAlone(t *testing.T) {
	s := newStore(t)
	s.write(Put(active("k", "")), Removing("g"), Removing("k"))
	for range 2 {
		c := s.load()
		if len(c.records) != 1 || len(c.removals) != 2 || !c.removals["g"] || !c.removals["k"] {
			t.Errorf("got %+v", c)
		}
		s.reopen()
	}
	if err := s.Write(t.Context(), Removing("")); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "empty") {
		t.Errorf("no graph ID: %v", err)
	}
}

// A full disk keeps nobody from reading what a dead process left: where there is no
// room for a copy, what the disk has is compared with what is read.
func TestOpenAfterADeathOnAFullDisk(t *testing.T) {
	dir := smallDisk(t, "1m")
	s := newStore(t)
	s.write(Put(active("k", "")))
	left, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	full := &store{t: t, path: filepath.Join(dir, "snapshots.db")}
	if err := os.WriteFile(full.path, left, 0o600); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	before := full.inode()
	full.openIn("")
	if full.Ended() != Died || full.inode() != before {
		t.Errorf("ended %v, copied %v", full.Ended(), full.inode() != before)
	}
	full.wantOne(active("k", ""))
	if _, err := os.Stat(full.path + ".copy"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a copy is left: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	full.write(Put(active("l", "")))
	full.close()
	wantClosed(t, dir)
}

func TestWhatTheDiskHasIsCompared(t *testing.T) {
	long := strings.Repeat("page", 1000)
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true}, {long, long, true}, {long, long[1:] + "p", false}, {long, long[:3999], false}, {long[:4], long, false}, {long[:2048], long[:2048], true},
	} {
		got := sameContents(strings.NewReader(c.a), strings.NewReader(c.b), make([]byte, 1024), make([]byte, 1024))
		if got != c.want {
			t.Errorf("%d bytes and %d: %v", len(c.a), len(c.b), got)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, make([]byte, 3<<20+4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if !onDisk(file) {
		t.Error("a file that was written differs from itself")
	}
	wantClosed(t, filepath.Dir(file))
}
