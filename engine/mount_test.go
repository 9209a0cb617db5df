package engine

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
)

// Where the driver leaves the mounting to the holders they are told how to, and
// counted like others.
func TestMountThatIsLeftToTheHolder(t *testing.T) {
	ctx := context.Background()
	h := open(t)
	h.driver.leaves = true
	l := Lease{Namespace: "ns", ID: "lease"}
	h.lease(l, "active")
	must(t, h.Prepare(ctx, "active", ""))
	m, err := h.Mounts(ctx, "active")
	must(t, err)
	how, release, err := m.Mount()
	must(t, err)
	if len(how) != 1 || how[0].Type != "memory" || how[0].Source != "active" {
		t.Errorf("described as %+v", how)
	}
	h.endLease(l)
	h.lease(l, "probe")
	must(t, h.Prepare(ctx, "probe", ""))
	h.endLease(l)
	eventually(t, "the reaper has seen both", func() bool { return h.absent("probe") })
	if h.absent("active") {
		t.Error("it went while held")
	}
	must(t, release())
	must(t, release())
	eventually(t, "it goes with the hold", func() bool { return h.absent("active") })
	h.driver.mu.Lock()
	defer h.driver.mu.Unlock()
	if h.driver.calls["Put"] != 0 {
		t.Error("what nobody mounted was unmounted")
	}
}

// P6: what the driver mounted is bound read-only for a view, and writable else.
func TestViewsAreReadOnly(t *testing.T) {
	h := furnished(t)
	view, err := h.View(t.Context(), "view", "base")
	must(t, err)
	empty, err := h.View(t.Context(), "empty", "")
	must(t, err)
	work, err := h.Mounts(t.Context(), "work")
	must(t, err)
	for m, readonly := range map[*Mountable]bool{view: true, empty: true, work: false} {
		how, release, err := m.Mount()
		must(t, err)
		if len(how) != 1 || slices.Contains(how[0].Options, "ro") != readonly {
			t.Errorf("%q is mounted with %q", m.key, how[0].Options)
		}
		must(t, release())
	}
	if err := second(h.Mounts(t.Context(), "base")); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("mounts of a committed snapshot: %v", err)
	}
}

// A description that fails ends the hold that was taken for it.
func TestDescriptionThatFails(t *testing.T) {
	for name, fail := range map[string]func(call, id string) error{
		"error": func(call, _ string) error {
			if call == "Describe" {
				return errors.New("unreadable")
			}
			return nil
		},
		"panic": func(call, _ string) error {
			if call == "Describe" {
				panic("unreadable")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			h := open(t)
			h.driver.leaves = true
			must(t, h.Prepare(ctx, "making", ""))
			must(t, h.Commit(ctx, "base", "making"))
			view, err := h.View(ctx, "view", "base")
			must(t, err)
			h.driver.mu.Lock()
			h.driver.before = fail
			h.driver.mu.Unlock()
			_, _, err = view.Mount()
			if err == nil || name == "panic" && !errdefs.IsInternal(err) {
				t.Errorf("Mount answered %v", err)
			}
			h.driver.calm()
			held, err := h.mounts.Held(ctx)
			must(t, err)
			if len(held) != 0 {
				t.Errorf("held: %+v", held)
			}
			eventually(t, "the view counts no hold", func() bool { return h.keys.Load("view").holds == 0 })
		})
	}
}
