package adapter

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// onSmallDisk puts the site on a file system of its own, of so many MiB. What is
// checked of the site at the end of a test is to be checked before its end: the file
// system goes first.
func (s *site) onSmallDisk(t *testing.T, mib int64) {
	t.Helper()
	mountDisk(t, s.root, mib, "mkfs.ext4", "-q", "-F")
	must(t, os.Mkdir(s.path("tmp"), 0o700))
}

// mountDisk mounts a new file system of so many MiB until the end of the test.
func mountDisk(t *testing.T, at string, mib int64, mkfs ...string) {
	t.Helper()
	mountImage(t, filepath.Join(t.TempDir(), "disk"), at, mib, mkfs...)
}

// mountImage is mountDisk with the file to choose that the file system is in.
func mountImage(t *testing.T, image, at string, mib int64, mkfs ...string) {
	t.Helper()
	f, err := os.Create(image)
	must(t, err)
	must(t, errors.Join(f.Truncate(mib<<20), f.Close()))
	for _, cmd := range [][]string{append(mkfs, image), {"mount", "-o", "loop", image, at}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			cannot(t, fmt.Sprintf("%q: %v: %s", cmd, err, out))
		}
	}
	t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
}

// fill leaves no room on the site's file system. It returns what makes room again.
func (s *site) fill(t *testing.T) (room func()) {
	t.Helper()
	name := s.path("filler")
	for _, piece := range []int64{1 << 20, 4096, 1024} {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		must(t, err)
		for err == nil {
			_, err = io.CopyN(f, zeros{}, piece)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill the disk: %v", err)
		}
		must(t, errors.Join(f.Sync(), f.Close()))
	}
	return func() { must(t, os.Remove(name)) }
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// P9: on a file system that is really full builds fail with an error that says so,
// nothing is lost or left behind, and they succeed after room was made, in the same
// process.
func TestFullFileSystem(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			s := newSite(t, driver)
			s.onSmallDisk(t, 48)
			p := s.open(t)
			l, ctx := p.lease(t)
			p.committed(t, ctx, "base", "")
			room := s.fill(t)

			big := snapshots.WithLabels(map[string]string{"filler": strings.Repeat("x", 4000)})
			var kept []string
			failures := 0
			for i := 0; failures < 20; i++ {
				key := fmt.Sprint("k", i)
				switch err := p.snap.Prepare(ctx, key, "base", big); {
				case err == nil:
					kept = append(kept, key)
				case strings.Contains(err.Error(), syscall.ENOSPC.Error()):
					failures++
				default:
					t.Fatalf("full: %v", err)
				}
				if i == 100_000 {
					t.Fatal("the disk does not become full")
				}
			}
			if err := p.snap.engine.Err(); err != nil {
				t.Errorf("writes are refused for good: %v", err)
			}
			p.there(t, append(kept, "base")...)
			eventually(t, "what could not be created is deleted", func() bool { return len(s.directories(t)) == len(kept)+1 })

			room()
			p.committed(t, ctx, "roomy", "base")
			p.there(t, append(kept, "base", "roomy")...)
			p.ended(t, l)
			p.emptied(t)
			p.close(t)
			s.checkRecords(t)
		})
	}
}
