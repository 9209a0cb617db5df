package persist

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
)

func TestOpenOfAFileThatIsHeld(t *testing.T) {
	s := newStore(t)
	_, err := Open(context.Background(), s.path, Options{})
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), s.path) {
		t.Errorf("got %v", err)
	}
}

func TestOpenOfWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, garbage, filepath.Join(dir, "absent", "snapshots.db")} {
		if db, err := Open(context.Background(), path, Options{}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", path, db, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Open(ctx, filepath.Join(dir, "new"), Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCloseDrainsAndLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s, g := openGated(t, Options{})
	first := s.stall(g, Put(active("first", "")))
	queued := s.writes(context.Background(), []Mutation{Put(active("queued", ""))})
	s.Later(Put(active("later", "")))
	closed := make(chan error, 2)
	for range 2 {
		go func() { closed <- s.Close() }()
	}
	g.closed.Store(true)
	g.release <- nil
	for _, c := range []chan error{first, queued[0], closed, closed} {
		if err := <-c; err != nil {
			t.Error(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Write(context.Background(), Put(active("too late", ""))); !errdefs.IsUnavailable(err) {
		t.Errorf("Write after Close: %v", err)
	}
	s.open()
	s.wantRecords(active("first", ""), active("queued", ""), active("later", ""))
	s.close()
}
