package main

import (
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// TestLostRecordsLeaveNothing takes from a killed daemon's build cache the records of
// a build, as a crash does between the lease of a record and the record itself. What
// the leases hold belongs to nobody then, and is gone before anything is pruned; what
// another build left is in the cache still.
func TestLostRecordsLeaveNothing(t *testing.T) {
	root := testRoot(t)
	d := startDaemon(t, root, "overlay2")
	version := buildctlVersions[0]
	kept := writeContext(t, root, "kept", "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"touch\", \"/kept\"]\n")
	d.mustBuildctl(version, buildArgs(kept)...)
	d.terminate()
	path := filepath.Join(d.root, "runc-overlay2", "metadata_v2.db")
	before, entries := recordIDs(t, path), d.driverEntries()

	d = startDaemon(t, root, "overlay2")
	d.mustBuildctl(version, buildArgs(writeContext(t, root, "lost", "FROM scratch\nCOPY bin/ /lost/\nRUN [\"/lost/busybox\", \"touch\", \"/lost/too\"]\n"))...)
	if now := d.driverEntries(); len(now) <= len(entries) {
		t.Fatalf("a build makes nothing: %q, before %q", now, entries)
	}
	d.kill()
	forgetRecords(t, path, before)

	d = startDaemon(t, root, "overlay2")
	d.waitFor("the directories of lost records to go", func() bool { return len(d.driverEntries()) == len(entries) })
	d.mustBuildctl(version, buildArgs(kept)...)
	if now := d.driverEntries(); len(now) != len(entries) {
		t.Errorf("what was in the cache was built again: %q, before %q", now, entries)
	}
	d.pruneAll(version)
}

// recordIDs reads the IDs of the cache's records from metadata_v2.db, which nobody may
// have open.
func recordIDs(t *testing.T, path string) map[string]bool {
	t.Helper()
	ids := map[string]bool{}
	inRecords(t, path, func(main *bolt.Bucket) error {
		return main.ForEachBucket(func(id []byte) error { ids[string(id)] = true; return nil })
	})
	return ids
}

// forgetRecords removes all records but those to keep.
func forgetRecords(t *testing.T, path string, keep map[string]bool) {
	t.Helper()
	var lost []string
	for id := range recordIDs(t, path) {
		if !keep[id] {
			lost = append(lost, id)
		}
	}
	if len(lost) == 0 {
		t.Fatal("there is no record to lose")
	}
	inRecords(t, path, func(main *bolt.Bucket) error {
		for _, id := range lost {
			if err := main.DeleteBucket([]byte(id)); err != nil {
				return err
			}
		}
		return nil
	})
}

func inRecords(t *testing.T, path string, do func(main *bolt.Bucket) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(func(tx *bolt.Tx) error { return do(tx.Bucket([]byte("_main"))) }); err != nil {
		t.Fatal(err)
	}
}
