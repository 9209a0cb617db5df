package containerd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
	"github.com/docker/docker/daemon/graphdriver"
	"golang.org/x/sys/unix"
)

// suiteTests is how many tests containerd's suite has, in 2.1 and in 2.4. Each opens
// a snapshotter of its own.
const suiteTests = 21

// TestContainerdSuite runs containerd's tests of snapshotters. The suite goes by the
// name of the snapshotter for what a kind of snapshotter cannot do; that is printed,
// so that nothing is left out in silence.
func TestContainerdSuite(t *testing.T) {
	// The suite sets the umask to 0 while it begins, and back when others of its tests
	// may have begun. Snapshots are not to depend on it.
	defer unix.Umask(unix.Umask(0))
	ways := []struct {
		name string
		open opener
	}{{"in process", open}, {"over gRPC", openRemote}}
	for _, driver := range []struct{ name, as, leftOut string }{
		{"overlay2", "overlayfs", "of Rename: a directory of the layer below, which overlayfs renames only with redirect_dir"},
		{"vfs", "vfs", "nothing"},
		{"btrfs", "btrfs", "nothing"},
		{"fuse-overlayfs", "fuse-overlayfs", "of Rename: a directory of the layer below, which fuse-overlayfs does not rename either"},
	} {
		t.Run(driver.name, func(t *testing.T) {
			if driver.name != "overlay2" && os.Getenv("GRAPHSNAP_CONTAINERD") == "" {
				t.Skipf("%s: run by make test-containerd, as it takes a minute", driver.name)
			}
			dir := workIn(t, driver.name)
			// Before the suite begins: overlay2 sets variables of its package while it
			// starts, and reads them when it mounts.
			homes := make(chan graphdriver.Driver, suiteTests*len(ways))
			for i := range cap(homes) {
				home := filepath.Join(dir, fmt.Sprintf("home-%d", i))
				must(t, os.Mkdir(home, 0o755))
				homes <- openDriver(t, driver.name, home)
			}
			opened := make([]atomic.Int32, len(ways))
			t.Run("suite", func(t *testing.T) {
				for i, way := range ways {
					t.Run(way.name, func(t *testing.T) {
						t.Parallel()
						testsuite.SnapshotterSuite(t, driver.as, func(ctx context.Context, root string) (snapshots.Snapshotter, func() error, error) {
							opened[i].Add(1)
							// The logger of ctx ends with the test, what runs beside it may not.
							return way.open(context.WithoutCancel(ctx), <-homes, root)
						})
					})
				}
			})
			// Here, after all tests of the suite, which run beside each other.
			for i, way := range ways {
				n := opened[i].Load()
				if n != suiteTests {
					t.Errorf("%d tests of containerd's suite ran, want %d", n, suiteTests)
				}
				t.Logf("%-8s  %-10s  %d of %d tests  left out: %s", driver.name, way.name, n, suiteTests, driver.leftOut)
			}
		})
	}
}
