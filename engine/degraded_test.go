package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/persist"
)

// breakSync puts another file in the place of the open database: what is written
// goes nowhere, and a sync fails, as it does on a disk that is about to die.
func (h *harness) breakSync() {
	h.t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	must(h.t, err)
	defer null.Close()
	fds, err := os.ReadDir("/proc/self/fd")
	must(h.t, err)
	for _, fd := range fds {
		if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); target == filepath.Join(h.root, "snapshots.db") {
			var n int
			_, err := fmt.Sscan(fd.Name(), &n)
			must(h.t, err)
			must(h.t, unix.Dup3(int(null.Fd()), n, unix.O_CLOEXEC))
			return
		}
	}
	h.t.Fatal("the database is not open")
}

// P9: after a failed sync writes are refused and reads go on; what was acknowledged
// is there after reopening, and what was not is left to recovery.
func TestAfterAFailedSyncReadsGoOn(t *testing.T) {
	h := open(t)
	h.leases = newMemoryLeases()
	for _, key := range []string{"a", "b"} {
		must(t, h.Prepare(t.Context(), "making-"+key, ""))
		must(t, h.Commit(t.Context(), key, "making-"+key))
	}
	must(t, h.Prepare(t.Context(), "active", "a"))
	must(t, h.db.Write(t.Context())) // or what waits for a batch to ride in is the first to fail
	h.breakSync()

	err := h.Prepare(t.Context(), "new", "a")
	if !errdefs.IsUnavailable(err) || !errors.Is(err, persist.ErrIndeterminate) || !strings.Contains(err.Error(), "prepare \"new\"") {
		t.Errorf("the batch that failed: %v", err)
	}
	removes := h.driver.count("Remove")
	for what, err := range map[string]error{
		"prepare": h.Prepare(t.Context(), "newer", ""),
		"commit":  h.Commit(t.Context(), "c", "active"),
		"update":  relabel(h, "a"),
		"err":     h.Err(),
	} {
		if !errdefs.IsUnavailable(err) || errors.Is(err, persist.ErrIndeterminate) || !strings.Contains(err.Error(), "open it again") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for key, there := range map[string]bool{"a": true, "b": true, "active": true, "new": false, "newer": false, "c": false} {
		if h.absent(key) == there {
			t.Errorf("%q is there: %v", key, !there)
		}
	}
	m, err := h.Mounts(t.Context(), "active")
	must(t, err)
	_, release, err := m.Mount()
	must(t, err)
	must(t, release())
	if n := h.driver.count("Remove"); n != removes {
		t.Error("a directory was deleted though nothing is known of the database")
	}
	must(t, h.Close())

	before := inode(t, h.root)
	h.reopen()
	if inode(t, h.root) == before {
		t.Error("the database was not written anew")
	}
	for _, key := range []string{"a", "b", "active"} {
		if h.absent(key) {
			t.Errorf("%q was acknowledged and is gone", key)
		}
	}
	must(t, h.Prepare(t.Context(), "new", "a"))
}

// P9: a creation that fails, and whose undo fails as well, may be there after the next
// start. Whoever asked for it is told so.
func TestACreationThatCannotBeUndoneIsIndeterminate(t *testing.T) {
	h := open(t)
	h.driver.before = func(call, _ string) error {
		if call != "Create" {
			return nil
		}
		h.breakSync()
		return errInjected
	}
	err := h.Prepare(t.Context(), "key", "")
	if !errors.Is(err, errInjected) || !errors.Is(err, persist.ErrIndeterminate) || !errdefs.IsUnavailable(err) {
		t.Errorf("prepare: %v", err)
	}
	if !h.absent("key") {
		t.Error("what failed is served")
	}
	must(t, h.Close())
	h.driver.calm()
	h.reopen()
	if h.absent("key") {
		t.Error("the record was gone: this is not the case that the error is for")
	}
}

// P9 and P5: where the removal of a snapshot may be on disk or not, nobody is told that
// a lease keeps it, and who mounts it gets an answer.
func TestWhatMayBeRemovedIsNotLentOrMounted(t *testing.T) {
	h := open(t)
	h.leases = newMemoryLeases()
	must(t, h.Close())
	h.opts = []Option{WithGrace(0)}
	h.reopen()
	l := Lease{Namespace: "ns", ID: "l"}
	h.lease(l, "key")
	must(t, h.Prepare(t.Context(), "key", ""))
	m, err := h.Mounts(t.Context(), "key")
	must(t, err)
	must(t, h.db.Write(t.Context())) // or what waits for a batch to ride in is the first to fail
	h.breakSync()
	h.endLease(l)
	eventually(t, "the removal fails", func() bool { return h.Err() != nil && h.keys.Load("key").doubtful })

	if _, _, err := m.Mount(); !errdefs.IsUnavailable(err) {
		t.Errorf("mount: %v", err)
	}
	err = h.AddLease(t.Context(), Lease{Namespace: "ns", ID: "m"}, "key", func() error {
		t.Error("the lease manager was told")
		return nil
	})
	if !errdefs.IsUnavailable(err) {
		t.Errorf("add a lease: %v", err)
	}
	if h.absent("key") {
		t.Error("it is not served any more")
	}
	must(t, h.Close())
	h.reopen()
	h.lease(Lease{Namespace: "ns", ID: "m"}, "key")
}

func relabel(h *harness, key string) error {
	_, err := h.Update(h.t.Context(), snapshots.Info{Name: key, Labels: map[string]string{"l": "v"}}, "labels.l")
	return err
}

func inode(t *testing.T, root string) uint64 {
	t.Helper()
	var st syscall.Stat_t
	must(t, syscall.Stat(filepath.Join(root, "snapshots.db"), &st))
	return st.Ino
}

// P9 on a file system that is really full: nothing is lost, and all goes on
// without a restart when there is room.
func TestAFullDiskHurtsNothing(t *testing.T) {
	h := onASmallDisk(t)
	l := Lease{Namespace: "ns", ID: "l"}
	kept, err := h.fill(l)
	if !errdefs.IsUnavailable(err) || !errors.Is(err, persist.ErrNoRoom) || !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full: %v", err)
	}
	if h.Err() != nil {
		t.Errorf("writes are refused for good: %v", h.Err())
	}
	for _, key := range kept {
		if h.absent(key) {
			t.Errorf("%q was acknowledged and is gone", key)
		}
	}
	// A removal that finds no room is made up for, too. Whether it finds any
	// depends on the pages that are free.
	h.endLease(l)
	h.makeRoom()
	must(t, h.Prepare(t.Context(), "roomy", ""))
	for _, key := range kept {
		eventually(t, key+" is removed", func() bool { return h.absent(key) })
	}
	if h.absent("roomy") {
		t.Error("without a lease from the beginning, it was removed")
	}
	h.finish()
}

// A Commit for which there is no room leaves what it was to commit as it is: on disk,
// too, the snapshot is whole.
func TestACommitWithoutRoomLeavesAWholeSnapshot(t *testing.T) {
	h := onASmallDisk(t)
	kept, _ := h.fill(Lease{Namespace: "ns", ID: "l"})
	key := kept[len(kept)-1]
	if err := h.Commit(t.Context(), "name", key, filler); !errors.Is(err, persist.ErrNoRoom) {
		t.Fatalf("commit: %v, want no room", err)
	}
	h.makeRoom()
	must(t, h.Close())
	db, err := persist.Open(t.Context(), filepath.Join(h.root, "snapshots.db"), persist.Options{})
	must(t, err)
	defer db.Close()
	found := false
	must(t, db.Load(func(r persist.Record) error {
		if r.Key == key {
			found = true
			if r.Creating || r.Kind != persist.Active {
				t.Errorf("%+v", r)
			}
		}
		return nil
	}, nil, nil))
	if !found {
		t.Error("it has no record")
	}
}

// onASmallDisk opens an engine whose database is on a file system of a megabyte.
func onASmallDisk(t *testing.T) *harness {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("a small file system needs root")
		}
		t.Skip("a small file system needs root")
	}
	h := &harness{t: t, driver: newMemoryDriver(), leases: newMemoryLeases(), root: t.TempDir()}
	must(t, syscall.Mount("none", h.root, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { _ = syscall.Unmount(h.root, syscall.MNT_DETACH) })
	h.opts = []Option{WithGrace(0)}
	h.reopen()
	return h
}

// filler makes records large.
var filler = snapshots.WithLabels(map[string]string{"filler": strings.Repeat("x", 4000)})

// fill prepares snapshots under l until the disk is full, and returns those that were
// acknowledged and the error of the next.
func (h *harness) fill(l Lease) (kept []string, err error) {
	h.t.Helper()
	for i := 0; err == nil && i < 10_000; i++ {
		key := fmt.Sprint("k", i)
		h.lease(l, key)
		if err = h.Prepare(h.t.Context(), key, "", filler); err == nil {
			kept = append(kept, key)
		}
	}
	return kept, err
}

func (h *harness) makeRoom() {
	h.t.Helper()
	must(h.t, syscall.Mount("none", h.root, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
}
