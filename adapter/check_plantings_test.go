package adapter

import (
	"errors"
	"os"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/persist"
)

// planted is one inconsistency. The lease of the site names the keys n0, n1 and n2,
// which stand on each other and are committed, gone, which is too and stands on n0, act,
// which is active on n2, and half, which is not there.
type planted struct {
	name    string
	drivers string // "" is all
	plant   func(t *testing.T, s *site)
	kind    string
	key     string
	remedy  Remedy
	note    bool
	lost    []string // keys that are not there in the end
	clean   func(t *testing.T, s *site)
}

func rec(kind persist.Kind, key, parent, graphID string) persist.Record {
	return persist.Record{Kind: kind, Key: key, Parent: parent, GraphID: graphID, Created: 1, Updated: 1}
}

func made(ids ...string) func(t *testing.T, s *site) {
	return func(t *testing.T, s *site) {
		d := s.openDriver(t)
		for _, id := range ids {
			must(t, d.Create(id, "", nil))
		}
	}
}

func wrote(m ...persist.Mutation) func(t *testing.T, s *site) {
	return func(t *testing.T, s *site) { s.writes(t, m...) }
}

func all(ff ...func(t *testing.T, s *site)) func(t *testing.T, s *site) {
	return func(t *testing.T, s *site) {
		for _, f := range ff {
			f(t, s)
		}
	}
}

const strayLink = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

func linked(target string) func(t *testing.T, s *site) {
	return func(t *testing.T, s *site) { must(t, os.Symlink(target, s.path(s.driver, "l", strayLink))) }
}

var plantings = []planted{
	{name: "directory of a name", kind: "directory-missing", key: "gone", remedy: RemedyRepair, lost: []string{"gone"},
		plant: func(t *testing.T, s *site) { must(t, s.openDriver(t).Remove("making-gone")) }},
	{name: "directory of an active key", kind: "directory-missing", key: "act", remedy: RemedyStart,
		plant: func(t *testing.T, s *site) { must(t, s.openDriver(t).Remove("act")) }},
	{name: "directory that nobody names", kind: "directory-unnamed", remedy: RemedyRepair, plant: made("stray")},
	{name: "content of a name", drivers: "overlay2", kind: "directory-missing", key: "gone", remedy: RemedyRepair, lost: []string{"gone"},
		plant: func(t *testing.T, s *site) { must(t, os.RemoveAll(s.path(s.driver, "making-gone", "diff"))) }},
	{name: "lower", drivers: "overlay2", kind: "directory-broken", key: "n1", remedy: RemedyRepair,
		plant: func(t *testing.T, s *site) { must(t, os.Remove(s.path(s.driver, "making-n1", "lower"))) }},
	{name: "link file", drivers: "overlay2", kind: "directory-broken", key: "n1", remedy: RemedyRepair,
		plant: func(t *testing.T, s *site) {
			must(t, os.WriteFile(s.path(s.driver, "making-n1", "link"), make([]byte, 26), 0o644))
		}},
	{name: "work", drivers: "overlay2", kind: "directory-broken", key: "act", remedy: RemedyRepair,
		plant: func(t *testing.T, s *site) { must(t, os.RemoveAll(s.path(s.driver, "act", "work"))) }},
	{name: "link to nothing", drivers: "overlay2", kind: "link-dangling", remedy: RemedyRepair, plant: linked("../nothing/diff")},
	{name: "link to elsewhere", drivers: "overlay2", kind: "link-dangling", remedy: RemedyNone, plant: linked("/etc"),
		clean: func(t *testing.T, s *site) { must(t, os.Remove(s.path(s.driver, "l", strayLink))) }},
	{name: "second link", drivers: "overlay2", kind: "link-surplus", remedy: RemedyNone, plant: linked("../act/diff"),
		clean: func(t *testing.T, s *site) { must(t, os.Remove(s.path(s.driver, "l", strayLink))) }},
	{name: "mount", drivers: "overlay2", kind: "mounted", remedy: RemedyStart,
		plant: func(t *testing.T, s *site) {
			point := s.path(s.driver, "making-n1", merged)
			must(t, os.MkdirAll(point, 0o700))
			must(t, unix.Mount("tmpfs", point, "tmpfs", 0, "size=64k"))
		}},
	{name: "creation", kind: "creating", key: "half", remedy: RemedyStart,
		plant: func(t *testing.T, s *site) {
			r := rec(persist.Active, "half", "n0", "half")
			r.Creating = true
			s.writes(t, persist.Put(r))
		}},
	{name: "removal", kind: "removing", remedy: RemedyStart, plant: all(made("zombie"), wrote(persist.Removing("zombie")))},
	{name: "no parent", kind: "parent-missing", key: "half", remedy: RemedyRepair, lost: []string{"half", "half2"},
		plant: all(made("half", "half2"), wrote(persist.Put(rec(persist.Committed, "half", "nobody", "half")), persist.Put(rec(persist.Active, "half2", "half", "half2"))))},
	{name: "circle of parents", kind: "parent-circle", key: "half", remedy: RemedyRepair, lost: []string{"half", "half2", "half3"},
		plant: all(made("half", "half2", "half3"), wrote(persist.Put(rec(persist.Committed, "half", "half2", "half")),
			persist.Put(rec(persist.Committed, "half2", "half", "half2")), persist.Put(rec(persist.Active, "half3", "half", "half3"))))},
	{name: "active parent", kind: "parent-not-committed", key: "half", remedy: RemedyNone,
		plant: func(t *testing.T, s *site) {
			must(t, s.openDriver(t).Create("half", "act", nil))
			s.writes(t, persist.Put(rec(persist.Active, "half", "act", "half")))
		},
		clean: func(t *testing.T, s *site) {
			must(t, s.openDriver(t).Remove("half"))
			s.writes(t, persist.Delete("half"))
		}},
	{name: "directory of two", kind: "shared-directory", key: "half", remedy: RemedyRepair, lost: []string{"half"},
		plant: wrote(persist.Put(rec(persist.View, "half", "n0", "making-n1")))},
	{name: "directory of two in dockerd's format", kind: "shared-directory", key: "making-n1", remedy: RemedyRepair, lost: []string{"making-n1"},
		plant: func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return tx.Bucket([]byte("making-n1")).Delete([]byte("iscommitted")) })
		}},
	{name: "outside", kind: "outside", key: "half", remedy: RemedyRepair, lost: []string{"half"},
		plant: wrote(persist.Put(rec(persist.View, "half", "n0", "../../precious")))},
	{name: "removal outside", kind: "outside", remedy: RemedyRepair, plant: wrote(persist.Removing("../tmp"))},
	{name: "record that cannot be read", kind: "unreadable-record", key: "half", remedy: RemedyRepair, lost: []string{"half"},
		plant: func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return bucketOf(tx, "\x00snapshots", "half", "\x07") })
		}},
	{name: "labels that cannot be read", kind: "unreadable-record", key: "n1", remedy: RemedyRepair,
		plant: func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return bucketOf(tx, "n1", "graphsnap", "\x07") })
		}},
	{name: "bucket that is no record", kind: "no-record", key: "half", remedy: RemedyRepair,
		plant: func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return bucketOf(tx, "half", "what", "ever") })
		}},
	{name: "key of a name that is gone", kind: "no-record", key: "half", remedy: RemedyRepair, lost: []string{"half"},
		plant: all(made("half"), func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return bucketOf(tx, "half", "parent", "n0", "iscommitted", "") })
		})},
	{name: "name of a key that is gone", kind: "no-record", key: "half", remedy: RemedyRepair, lost: []string{"half"},
		plant: all(made("stray"), func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return bucketOf(tx, "half", "committed", "stray") })
		})},
	{name: "size", kind: "size-not-committed", key: "act", remedy: RemedyRepair, note: true,
		plant: func(t *testing.T, s *site) {
			s.plant(t, func(tx *bolt.Tx) error { return bucketOf(tx, "act", "size", "17") })
		}},
	{name: "alias", kind: "alias-unleased", key: "nobody", remedy: RemedyStart, plant: wrote(persist.Alias("nobody", unknownChain()))},
	{name: "export", kind: "work-file", remedy: RemedyStart,
		plant: func(t *testing.T, s *site) { must(t, os.MkdirAll(s.path("tar-split", "layer-1"), 0o700)) }},
	{name: "damage", kind: "damaged", remedy: RemedyRepair,
		plant: func(t *testing.T, s *site) {
			f, err := os.OpenFile(s.path("snapshots.db"), os.O_RDWR, 0)
			must(t, err)
			_, err = f.WriteAt([]byte("garbled"), 16) // the first meta page
			must(t, errors.Join(err, f.Close()))
		}},
}
