package mounts_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/daemon/graphdriver"
	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/user"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/mounts"
)

// overlayDriver is overlay2 as the table sees a driver.
type overlayDriver struct{ graphdriver.Driver }

func (d overlayDriver) Get(id string) (string, error) { return d.Driver.Get(id, "") }

// openOverlay2 makes a driver home with the graph IDs base and view, a child of
// it. It needs root and a kernel that mounts overlays: CI must have both.
func openOverlay2(t *testing.T) (home string, d overlayDriver) {
	t.Helper()
	home = t.TempDir()
	driver, err := overlay2.Init(home, nil, user.IdentityMapping{})
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("overlay2 on %s: %v", home, err)
		}
		t.Skipf("overlay2 on %s (it needs root and overlay): %v", home, err)
	}
	t.Cleanup(func() {
		if err := driver.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	if err := driver.Create("base", "", nil); err != nil {
		t.Fatal(err)
	}
	if err := driver.CreateReadWrite("view", "base", nil); err != nil {
		t.Fatal(err)
	}
	return home, overlayDriver{driver}
}

func kernelMounts(t *testing.T, home string) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(home))
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, info := range infos {
		if info.Mountpoint != home {
			points = append(points, info.Mountpoint)
		}
	}
	return points
}

func TestP6HoldersShareOneOverlay2Mount(t *testing.T) {
	home, d := openOverlay2(t)
	table := mounts.New(d, mounts.Options{Parallelism: semaphore.NewWeighted(4)})
	ctx := context.Background()

	var (
		all   sync.WaitGroup
		holds [64]*mounts.Hold
	)
	for i := range holds {
		all.Go(func() {
			h, err := table.Acquire(ctx, "view", i == 0)
			if err != nil {
				t.Error(err)
				return
			}
			holds[i] = h
		})
	}
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
	file := filepath.Join(holds[0].Dir(), "file")
	if err := os.WriteFile(file, []byte("written"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, h := range holds {
		if m := kernelMounts(t, home); len(m) != 1 || m[0] != h.Dir() {
			t.Fatalf("before release %d of %q the kernel has %v", i, h.Dir(), m)
		}
		if got, err := os.ReadFile(filepath.Join(h.Dir(), "file")); err != nil || string(got) != "written" {
			t.Fatalf("hold %d reads %q, %v", i, got, err)
		}
		if err := h.Release(); err != nil {
			t.Fatal(err)
		}
		if err := h.Release(); err != nil { // P7
			t.Fatal(err)
		}
	}
	if m := kernelMounts(t, home); len(m) != 0 {
		t.Fatalf("after the last release the kernel has %v", m)
	}

	// A sealed directory is not mounted and can be removed.
	h, err := table.Acquire(ctx, "view", false)
	if err != nil {
		t.Fatal(err)
	}
	freed := make(chan struct{})
	if err := table.Seal(ctx, "view", func() { close(freed) }); err == nil {
		t.Fatal("sealed while held")
	}
	if err := h.Release(); err != nil {
		t.Fatal(err)
	}
	<-freed
	if err := table.Seal(ctx, "view", nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove("view"); err != nil {
		t.Fatal(err)
	}
	table.Forget("view")
	_, err = table.Acquire(ctx, "view", false)
	if err == nil || !strings.Contains(err.Error(), "view") {
		t.Fatalf("acquire after removal: %v", err)
	}

	// Close leaves nothing mounted, whoever forgot to release.
	if err := d.CreateReadWrite("forgotten", "base", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := table.Acquire(ctx, "forgotten", false); err != nil {
		t.Fatal(err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	if m := kernelMounts(t, home); len(m) != 0 {
		t.Fatalf("after Close the kernel has %v", m)
	}
}
