package adapter

// What the tests of this package share: a site on disk with a real graph driver
// and a real lease database, opened and reopened, and the checks at the end of
// each test that nothing was left behind.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/daemon/graphdriver"
	_ "github.com/docker/docker/daemon/graphdriver/btrfs" // empty without a C compiler
	_ "github.com/docker/docker/daemon/graphdriver/fuse-overlayfs"
	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/docker/docker/daemon/graphdriver/vfs"
	"github.com/moby/buildkit/snapshot"
	"github.com/moby/sys/mountinfo"
	"github.com/moby/sys/user"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/persist"
)

// namespace is where the tests keep content and leases.
const namespace = "buildkit-test"

// patience bounds every wait in these tests.
const patience = 30 * time.Second

// drivers are the kinds of site: one driver that stacks directories and one that
// copies them.
var drivers = []string{"overlay2", "vfs"}

func TestMain(m *testing.M) {
	code := m.Run()
	// Each site checks for itself; this is for tests that have none.
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintf(os.Stderr, "after all tests: %v\n", err)
		code = 1
	}
	os.Exit(code)
}

// cannot skips on a developer's machine and fails in CI, where a skipped test
// would look like a passed one.
func cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// onEachDriver runs test as a subtest for every driver, on a new site each, and
// once more with every bound of the engine at 1, where what waits for itself hangs.
func onEachDriver(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	for _, d := range drivers {
		t.Run(d, func(t *testing.T) { test(t, newSite(t, d)) })
	}
	t.Run(drivers[0]+" at bounds of 1", func(t *testing.T) {
		s := newSite(t, drivers[0])
		s.options = boundsOf1
		test(t, s)
	})
}

var boundsOf1 = []engine.Option{
	engine.WithWriteQueue(1), engine.WithBatch(1),
	engine.WithDriverParallelism(1), engine.WithScanParallelism(1), engine.WithRemovalParallelism(1),
}

// site is what outlives a process: the driver's home, containerd's database of
// content and leases, and snapshots.db, all below root.
type site struct {
	driver  string // its name
	root    string
	overlay bool            // mounts are described where they can be
	foreign []string        // names in the driver's home that a test put there itself
	options []engine.Option // of every process that opens the site

	// watch, where it is set, stands between graphsnap and the real driver and
	// lease manager.
	watch *watch
}

// newSite makes a site that is checked and removed at the end of the test. What
// the test opened on it must be closed by then, which open sees to.
//
// Temporary files go below root too, so that BuildKit's mounts are seen to be this
// test's. For that, and for counting goroutines, these tests are not parallel.
func newSite(t *testing.T, driver string) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "graph drivers mount, which needs root")
	}
	// Not t.TempDir, whose clean-up would walk into mounts that a failed test left.
	root, err := os.MkdirTemp("", "graphsnap-adapter-")
	if err != nil {
		t.Fatal(err)
	}
	if root, err = filepath.EvalSymlinks(root); err != nil { // as the kernel lists mounts
		t.Fatal(err)
	}
	s := &site{driver: driver, root: root}
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		s.checkNothingLeft(t, before)
		s.remove(t)
	})
	tmp := s.path("tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", tmp)
	return s
}

func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// openDriver opens the graph driver anew, as a restart does.
func (s *site) openDriver(t testing.TB) graphdriver.Driver {
	t.Helper()
	var d graphdriver.Driver
	var err error
	switch s.driver {
	case "overlay2":
		d, err = overlay2.Init(s.path(s.driver), nil, user.IdentityMapping{})
	case "vfs":
		d, err = vfs.Init(s.path(s.driver), nil, user.IdentityMapping{})
	default:
		// Those that are not compiled in everywhere. Its home is where the others
		// have theirs.
		d, err = graphdriver.New(s.driver, graphdriver.Options{Root: s.root})
	}
	if graphdriver.IsDriverNotSupported(err) {
		cannot(t, fmt.Sprintf("graph driver %s does not work in %s: %v", s.driver, s.root, err))
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// directories lists the graph IDs in the driver's home, also foreign ones.
func (s *site) directories(t testing.TB) []string {
	t.Helper()
	home := s.path(s.driver)
	switch s.driver {
	case "vfs":
		home = filepath.Join(home, "dir")
	case "btrfs":
		home = filepath.Join(home, "subvolumes")
	}
	var ids []string
	for _, e := range entries(t, home) {
		if e.IsDir() && (!s.linked() || e.Name() != dirLinks) {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

// linked tells whether the driver keeps a short link to every directory.
func (s *site) linked() bool { return s.driver == "overlay2" || s.driver == "fuse-overlayfs" }

// links maps the links in an overlay driver's l/ to the graph IDs that they lead to.
func (s *site) links(t testing.TB) map[string]string {
	t.Helper()
	links := map[string]string{}
	if !s.linked() {
		return links
	}
	for _, e := range entries(t, s.path(s.driver, "l")) {
		target, err := os.Readlink(s.path(s.driver, "l", e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue // it went since
		}
		if err != nil {
			t.Fatal(err)
		}
		links[e.Name()] = filepath.Base(filepath.Dir(target))
	}
	return links
}

func entries(t testing.TB, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

// mounts lists the mount points below root, the newest first.
func (s *site) mounts(t testing.TB) []string {
	t.Helper()
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, s.root+"/"), false
	})
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, i := range infos {
		points = append(points, i.Mountpoint)
	}
	slices.Reverse(points)
	return points
}

// records reads snapshots.db, which nobody may have open: the records by key, and
// the graph IDs of removals that were not finished.
func (s *site) records(t testing.TB) (records map[string]persist.Record, removing []string) {
	t.Helper()
	records = map[string]persist.Record{}
	path := s.path("snapshots.db")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return records, nil // and Open would create it
	}
	db, err := persist.Open(context.Background(), path, persist.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Load(
		func(r persist.Record) error { records[r.Key] = r; return nil },
		func(r persist.Removal) error { removing = append(removing, r.GraphID); return nil },
		func(l persist.Leftover) {
			if l.Oddity == persist.Aliased {
				return
			}
			t.Errorf("snapshots.db has an oddity of kind %d under %q: %v", l.Oddity, l.Key, l.Err)
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	return records, removing
}

// checkNothingLeft is what must be true after Close, whatever a test did.
func (s *site) checkNothingLeft(t testing.TB, before goleak.Option) {
	t.Helper()
	if err := goleak.Find(before); err != nil {
		t.Errorf("goroutines after Close: %v", err)
	}
	for _, point := range s.mounts(t) {
		t.Errorf("mounted after Close: %s", point)
	}
	s.checkRecords(t)
}

// checkRecords compares what is on disk with what is recorded.
func (s *site) checkRecords(t testing.TB) {
	t.Helper()
	records, removing := s.records(t)
	named := map[string]string{}
	for key, r := range records {
		if r.Creating {
			t.Errorf("after Close the creation of %q is still an intent", key)
		}
		if r.GraphID != "" {
			named[r.GraphID] = key
		}
	}
	directories := s.directories(t)
	for id, key := range named {
		if !slices.Contains(directories, id) {
			t.Errorf("the record of %q names the directory %s, which is not there", key, id)
		}
	}
	for _, id := range removing {
		named[id] = "a removal"
	}
	for _, id := range s.foreign {
		named[id] = "the test"
	}
	for chainID, id := range s.layers(t) {
		named[id] = chainID
		if !slices.Contains(directories, id) {
			t.Errorf("the layer %s has the directory %s, which is not there", chainID, id)
		}
	}
	for _, e := range entries(t, s.path("tar-split")) {
		t.Errorf("tar-split/%s is left", e.Name())
	}
	for _, id := range directories {
		if _, ok := named[id]; !ok {
			t.Errorf("no record names the directory %s", id)
		}
	}
	for link, id := range s.links(t) {
		if _, ok := named[id]; !ok {
			t.Errorf("the link l/%s leads to %s, which no record names", link, id)
		}
	}
}

func (s *site) remove(t testing.TB) {
	t.Helper()
	for _, point := range s.mounts(t) {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("clean up: unmount %s: %v", point, err)
			return // and do not delete through it
		}
	}
	if err := os.RemoveAll(s.root); err != nil {
		t.Errorf("clean up: %v", err)
	}
}

var _ snapshot.Snapshotter = (*snapshotter)(nil)

// open opens the site as a new process would. It is closed at the end of the test,
// or before with close.
func (s *site) open(t testing.TB, options ...engine.Option) *process {
	t.Helper()
	p, err := s.start(t, Opt{Engine: options})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// eventually polls until ok, for what happens in the background and tells nobody.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
