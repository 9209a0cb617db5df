package faces

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/moby/sys/reexec"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/stress/target"
)

func TestMain(m *testing.M) {
	_ = log.SetLevel("panic") // Docker logs each opening of a graph driver
	if reexec.Init() {        // overlay2 mounts in a process of its own where paths are long
		return
	}
	os.Exit(m.Run())
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("overlay2 needs root")
	}
	t.Skip("overlay2 needs root")
}

// onOverlay opens the face on overlay2, with an active snapshot of the key "key" that a
// lease keeps.
func onOverlay(t *testing.T) *BuildKit {
	t.Helper()
	needsRoot(t)
	ctx := t.Context()
	b, err := OpenBuildKit(ctx, "overlay2", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b.Patience = time.Second
	if err := errors.Join(b.CreateLease(ctx, "lease"), b.AddLease(ctx, "lease", "key"), b.Prepare(ctx, "key", "")); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestAuditOfTheBuildKitFaceFails plants one thing that does not fit at a time.
func TestAuditOfTheBuildKitFaceFails(t *testing.T) {
	for name, c := range map[string]struct {
		open, closed func(b *BuildKit) error // what happens while it is open, or after Close
		says         string                  // the audit; nothing: ""
	}{
		"nothing": {},
		"a directory that no snapshot has": {
			open: func(b *BuildKit) error { return b.graphDriver().Create("foreign", "", nil) },
			says: `the directory "foreign" has no snapshot`,
		},
		"a directory that is gone": {
			open: func(b *BuildKit) error { return b.graphDriver().Remove("key") },
			says: `"key" has no directory`,
		},
		"what a driver that was killed at its start leaves": {
			open: func(b *BuildKit) error {
				return os.Mkdir(filepath.Join(b.root, "overlay2", "check-overlayfs-support1"), 0o700)
			},
		},
		"a layer that the layer store was removing when it was killed": {
			open: func(b *BuildKit) error {
				dir := filepath.Join(b.root, "image", "overlay2", "layerdb", "sha256", strings.Repeat("a", 64)+"-1-removing")
				return errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "cache-id"), []byte("half"), 0o600),
					os.Mkdir(filepath.Join(b.root, "overlay2", "half"), 0o700))
			},
		},
		"a mount that nobody holds": {
			open: func(b *BuildKit) error {
				dir := filepath.Join(b.root, "overlay2", "key", "merged")
				return errors.Join(os.MkdirAll(dir, 0o700), unix.Mount("none", dir, "tmpfs", 0, "")) // Close ends it
			},
			says: `"key" is mounted and in no table`,
		},
		"a directory that no record names": {
			closed: func(b *BuildKit) error { return os.Mkdir(filepath.Join(b.root, "overlay2", "foreign"), 0o700) },
			says:   `directory-unnamed`,
		},
		"a link to nothing": {
			closed: func(b *BuildKit) error {
				return os.Symlink("../foreign/diff", filepath.Join(b.root, "overlay2", "l", "FOREIGN"))
			},
			says: `link-dangling`,
		},
		"a snapshot without what it held": {
			closed: func(b *BuildKit) error { return os.RemoveAll(filepath.Join(b.root, "overlay2", "key")) },
			says:   `directory-missing`,
		},
		"a layer without its directory": {
			open: func(b *BuildKit) error { _, err := b.Pull(context.Background(), "image"); return err },
			closed: func(b *BuildKit) error {
				disk, err := b.disk()
				if err != nil {
					return err
				}
				all, err := disk.Directories()
				for id := range all {
					if id != "key" {
						err = errors.Join(err, os.RemoveAll(filepath.Join(b.root, "overlay2", id)))
					}
				}
				return err
			},
			says: `layer-directory-missing`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := onOverlay(t)
			var wrong []string
			if c.open != nil {
				if err := c.open(b); err != nil {
					t.Fatal(err)
				}
			}
			wrong = append(wrong, b.Audit(t.Context())...)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			if c.closed != nil {
				if err := c.closed(b); err != nil {
					t.Fatal(err)
				}
			}
			wrong = append(wrong, b.AuditClosed(t.Context())...)
			if said := strings.Join(wrong, "\n"); c.says == "" && said != "" || !strings.Contains(said, c.says) {
				t.Errorf("it says %q, want %q", said, c.says)
			}
		})
	}
}

// TestAuditOfAnEngineOnDiskFails plants what the list of directories does not show.
func TestAuditOfAnEngineOnDiskFails(t *testing.T) {
	needsRoot(t)
	root := t.TempDir()
	disk, err := NewDisk("overlay2", root, false)
	if err != nil {
		t.Fatal(err)
	}
	e, err := target.OpenEngine(t.Context(), disk, root)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Prepare(t.Context(), "key", ""), e.Close()); err != nil {
		t.Fatal(err)
	}
	if wrong := e.AuditClosed(t.Context()); len(wrong) > 0 {
		t.Errorf("before anything is planted: %q", wrong)
	}
	if err := os.Symlink("../foreign/diff", filepath.Join(root, "overlay2", "l", "FOREIGN")); err != nil {
		t.Fatal(err)
	}
	if wrong := e.AuditClosed(t.Context()); len(wrong) != 1 || !strings.Contains(wrong[0], "link-dangling") {
		t.Errorf("a link to nothing: %q", wrong)
	}
}
