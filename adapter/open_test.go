package adapter

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// A second process is told at once, and which file it is. (The lock is one of open
// files, so that a second Open in this process is refused like another process.)
func TestDatabaseHeldElsewhereIsAClearError(t *testing.T) {
	s := newSite(t, "vfs")
	p := s.open(t)
	began := time.Now()
	_, _, err := NewSnapshotter(Opt{GraphDriver: p.driver, Root: s.root}, p.prevLM, namespace)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), s.path("snapshots.db")) {
		t.Errorf("got %v", err)
	}
	// Not a measure of speed: a hang is what is meant, and the lock's own limit is
	// half a second.
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("refused after %v", took)
	}
}

func TestRootThatCannotHoldTheDatabaseIsAClearError(t *testing.T) {
	s := newSite(t, "vfs")
	p := s.open(t)
	file := s.path("file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, root := range map[string]string{"a file": file, "not there": s.path("absent"), "unwritable": "/proc"} {
		snap, _, err := NewSnapshotter(Opt{GraphDriver: p.driver, Root: root}, p.prevLM, namespace)
		if snap != nil || err == nil || !strings.Contains(err.Error(), root) {
			t.Errorf("%s: %v, %v", name, snap, err)
		}
	}
}
