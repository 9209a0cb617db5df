package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
)

// What cannot be made durable is not answered, and nobody sees it: at each write of
// each operation the database fails.
func TestNothingIsSeenThatIsNotDurable(t *testing.T) {
	for name, c := range map[string]struct {
		copies bool
		in     string // the call of the driver in which it begins to fail, "" for before all
		do     func(h *harness) error
		seen   func(h *harness) bool
	}{
		"prepare": {
			do:   func(h *harness) error { return h.Prepare(h.t.Context(), "new", "base") },
			seen: func(h *harness) bool { return !h.absent("new") },
		},
		"prepare, the directory is whole": {
			copies: true, in: "Create",
			do:   func(h *harness) error { return h.Prepare(h.t.Context(), "new", "base") },
			seen: func(h *harness) bool { return !h.absent("new") },
		},
		"view": {
			do:   func(h *harness) error { return second(h.View(h.t.Context(), "new", "base")) },
			seen: func(h *harness) bool { return !h.absent("new") },
		},
		"commit": {
			do:   func(h *harness) error { return h.Commit(h.t.Context(), "name", "work") },
			seen: func(h *harness) bool { return !h.absent("name") || h.absent("work") },
		},
		"update": {
			do:   func(h *harness) error { return relabel(h, "base") },
			seen: func(h *harness) bool { return len(h.keys.Load("base").body.labels) > 0 },
		},
		"remove": {
			do:   func(h *harness) error { return h.Remove(h.t.Context(), "work") },
			seen: func(h *harness) bool { return h.absent("work") },
		},
		"borrow": {
			do: func(h *harness) error {
				image := h.layers.image("image", "")
				defer func() { must(h.t, h.layers.Release(image)) }()
				return h.Prepare(h.t.Context(), "new", image.ChainID())
			},
			seen: func(h *harness) bool {
				for _, chain := range h.layers.chainIDs() {
					if h.keys.Load(chain) != nil {
						return true
					}
				}
				return !h.absent("new")
			},
		},
		"export": {
			in: "Checksum",
			do: func(h *harness) error { return second(h.EnsureLayer(h.t.Context(), "base")) },
			seen: func(h *harness) bool {
				return h.Layer("base") != nil || h.keys.Load("base").body.chainID != "" || h.driver.count("Register") > 0
			},
		},
		"lease in a namespace that is new": {
			do: func(h *harness) error {
				return h.AddLease(h.t.Context(), Lease{"new", "l"}, "work", func() error { return nil })
			},
			seen: func(h *harness) bool {
				return h.namespaces.Load(allNamespaces) != nil || len(h.keys.Load("work").leases) > 0
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newMemoryDriver()
			d.copies = c.copies
			h := &harness{t: t, driver: d, layers: newMemoryLayers(d), root: t.TempDir()}
			h.reopen()
			must(t, h.Prepare(t.Context(), "first", ""))
			must(t, h.Commit(t.Context(), "base", "first"))
			must(t, h.Prepare(t.Context(), "work", "base"))
			must(t, h.db.Write(t.Context()))
			if c.in == "" {
				h.breakSync()
			} else {
				d.before = func(call, _ string) error {
					if call == c.in {
						h.breakSync()
					}
					return nil
				}
			}
			if err := c.do(h); !errdefs.IsUnavailable(err) || !errors.Is(err, persist.ErrIndeterminate) {
				t.Errorf("got %v", err)
			}
			d.calm()
			h.quiet()
			if c.seen(h) {
				t.Error("somebody may see what is not known to be durable")
			}
			_ = h.Close() // which cannot write either
		})
	}
}

// What was answered is on disk, without anything that is written later.
func TestWhatIsAnsweredIsDurable(t *testing.T) {
	for _, copies := range []bool{false, true} {
		h := open(t)
		h.driver.copies = copies
		must(t, h.Close())
		h.reopen() // the engine asks once
		ctx := t.Context()
		must(t, h.Prepare(ctx, "first", ""))
		if r, ok := h.now()["first"]; !ok || copies && r.Creating {
			t.Errorf("copies %v: recorded is %+v", copies, r)
		}
		must(t, h.Commit(ctx, "base", "first"))
		if r := h.now()["base"]; r.Kind != persist.Committed {
			t.Errorf("recorded is %+v", r)
		}
		must(t, second(h.View(ctx, "view", "base")))
		if r := h.now()["view"]; r.Kind != persist.View {
			t.Errorf("recorded is %+v", r)
		}
		must(t, relabel(h, "base"))
		if r := h.now()["base"]; r.Labels["l"] != "v" {
			t.Errorf("recorded is %+v", r)
		}
		must(t, second(h.Usage(ctx, "base")))
		h.quiet()
		if r := h.crashed()["base"]; !r.Measured || r.Size != 4096 || r.Inodes != 1 {
			t.Errorf("the usage was measured, and recorded is %+v", r)
		}
	}
}

// now returns the records that are on disk already.
func (h *harness) now() map[string]persist.Record {
	records, _ := h.onDisk()
	return records
}

// onDisk returns the records and removals of a copy of the database as it is.
func (h *harness) onDisk() (records map[string]persist.Record, removals []string) {
	h.t.Helper()
	data, err := os.ReadFile(filepath.Join(h.root, "snapshots.db"))
	must(h.t, err)
	path := filepath.Join(h.t.TempDir(), "snapshots.db")
	must(h.t, os.WriteFile(path, data, 0o600))
	db, err := persist.Open(context.Background(), path, persist.Options{})
	must(h.t, err)
	defer db.Close()
	records = map[string]persist.Record{}
	must(h.t, db.Load(
		func(r persist.Record) error { records[r.Key] = r; return nil },
		func(r persist.Removal) error { removals = append(removals, r.GraphID); return nil }, nil))
	return records, removals
}

// P2: that a directory is to go is durable before the driver is called, and nothing but
// a directory of its own goes with a snapshot.
func TestRemovalIsDurableBeforeTheDirectoryGoes(t *testing.T) {
	h := furnished(t)
	ctx := t.Context()
	view, work := Lease{"ns", "view"}, Lease{"ns", "work"}
	h.lease(view, "view")
	must(t, second(h.View(ctx, "view", "base")))
	h.lease(work, "work")
	removing, goOn := make(chan []string), make(chan struct{})
	h.driver.before = func(call, id string) error {
		if call == "Remove" {
			records, removals := h.onDisk()
			if _, there := records["work"]; there {
				t.Error("it is recorded when its directory goes")
			}
			removing <- removals
			<-goOn
		}
		return nil
	}
	h.endLease(view)
	eventually(t, "the view goes", func() bool { return h.absent("view") })
	if _, removals := h.onDisk(); len(removals) > 0 {
		t.Errorf("with the view is to go %q", removals)
	}
	h.endLease(work)
	if removals := <-removing; len(removals) != 1 || removals[0] != "work" {
		t.Errorf("when the directory goes the removal of %q is recorded", removals)
	}
	h.driver.calm()
	close(goOn)
	eventually(t, "the directory goes", h.gone("work"))
}

// With WithSyncOnCommit, and only with that, the driver syncs before a name is there.
func TestSyncOnCommit(t *testing.T) {
	h := furnished(t)
	must(t, h.Commit(t.Context(), "name", "work"))
	if n := h.driver.count("Sync"); n != 0 {
		t.Errorf("synced %d times without being asked to", n)
	}

	h = furnished(t, WithSyncOnCommit())
	broken := errors.New("input/output error")
	h.driver.before = func(call, id string) error {
		if call == "Sync" && id == "work" {
			return broken
		}
		return nil
	}
	if err := h.Commit(t.Context(), "name", "work"); !errors.Is(err, broken) {
		t.Errorf("what could not be synced was committed: %v", err)
	}
	if !h.absent("name") || h.absent("work") {
		t.Error("the commit failed, and something changed")
	}
	h.driver.before = func(call, id string) error {
		if call == "Sync" && !h.absent("name") {
			t.Error("the name is there before the sync")
		}
		return nil
	}
	syncs := h.driver.count("Sync")
	must(t, h.Commit(t.Context(), "name", "work"))
	if n := h.driver.count("Sync") - syncs; n != 1 {
		t.Errorf("synced %d times", n)
	}
	if err := h.Commit(t.Context(), "other", "absent"); !errdefs.IsNotFound(err) {
		t.Errorf("commit of what is not there: %v", err)
	}
	h.driver.calm()
	info, err := h.Stat(t.Context(), "name")
	if err != nil || info.Kind != snapshots.KindCommitted {
		t.Errorf("%+v, %v", info, err)
	}
}
