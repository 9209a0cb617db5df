package mounts

// A driver may leave the mounting to the holders. They are counted all the same.

import (
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
)

// leavingDriver mounts nothing, so there is nothing to undo.
type leavingDriver struct{ t *testing.T }

func (leavingDriver) Get(string) (string, error) { return "", nil }

func (d leavingDriver) Put(id string) error {
	d.t.Errorf("Put of %q, where Get mounted nothing", id)
	return nil
}

func TestHoldsOfWhatIsNotMountedCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := New(leavingDriver{t}, Options{})
		acquire := func(write bool) *Hold {
			h, err := table.Acquire(t.Context(), "x", write)
			if err != nil || h.Dir() != "" {
				t.Fatalf("Acquire returned the directory %q, %v", h.Dir(), err)
			}
			return h
		}
		reader, writer := acquire(false), acquire(true)
		wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 2, Writers: 1})
		var freed counter
		wantSealRefused(t, table, "x", freed.freed)
		mustRelease(t, writer, writer)
		synctest.Wait()
		freed.want(t, 0)
		mustRelease(t, reader)
		synctest.Wait()
		freed.want(t, 1)
		wantHeld(t, table)

		if err := table.Seal(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		late := acquiring(t.Context(), table, "x")
		synctest.Wait()
		pending(t, late)
		table.Forget("x")
		if o := <-late; !errdefs.IsNotFound(o.err) {
			t.Errorf("Acquire of what was removed: %v, want not found", o.err)
		}

		// The holds that Drop and Close end are those that nobody releases.
		acquire(false)
		if err := table.Drop(t.Context(), "x"); err != nil {
			t.Error(err)
		}
		wantHeld(t, table)
		left := acquire(true)
		if err := table.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		mustRelease(t, left)
	})
}
