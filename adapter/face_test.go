package adapter

// What every method of the face refuses, and that a refused call leaves nothing
// behind. What the methods do is in the files beside this one.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
)

// furnished has, under the lease it returns: "base" committed, "work" active and
// "view" a view on it, and "gone", which was committed and removed.
func furnished(t *testing.T, p *process) leases.Lease {
	t.Helper()
	l, ctx := p.lease(t)
	p.committed(t, ctx, "base", "")
	must(t, p.snap.Prepare(ctx, "work", "base"))
	if _, err := p.snap.View(ctx, "view", "base"); err != nil {
		t.Fatal(err)
	}
	other, ctx := p.lease(t)
	p.committed(t, ctx, "gone", "")
	p.ended(t, other)
	p.gone(t, "gone")
	p.site.settled(t, "making-gone")
	return l
}

// badKeys are no keys at all.
var badKeys = []struct{ what, key, says string }{
	{"an empty key", "", "empty"},
	{"NUL", "a\x00b", `a\x00b`},
	{"too long a key", strings.Repeat("x", 32_001), "xxxx"},
}

// refusal is a call with bad input.
type refusal struct {
	what  string
	call  func(ctx context.Context, s *snapshotter) error
	class error
	says  string // the key, mostly
}

// refusals are calls on a furnished site that no method may accept.
func refusals() []refusal {
	var rr []refusal
	add := func(what string, class error, says string, call func(context.Context, *snapshotter) error) {
		rr = append(rr, refusal{what, call, class, says})
	}
	view := func(ctx context.Context, s *snapshotter, key, parent string, opts ...snapshots.Opt) error {
		m, err := s.View(ctx, key, parent, opts...)
		if err != nil && m != nil {
			return fmt.Errorf("View returned a %T, not nil, beside the error: %v", m, err)
		}
		return err
	}
	tooLong := snapshots.WithLabels(map[string]string{"a": strings.Repeat("x", 5000)})
	const (
		missing = "no/such snapshot"
		another = "a new key"
	)

	for _, k := range badKeys {
		bad := func(what string, call func(context.Context, *snapshotter) error) {
			add(what+" of "+k.what, errdefs.ErrInvalidArgument, k.says, call)
		}
		bad("Prepare", func(ctx context.Context, s *snapshotter) error { return s.Prepare(ctx, k.key, "base") })
		bad("View", func(ctx context.Context, s *snapshotter) error { return view(ctx, s, k.key, "base") })
		bad("Commit", func(ctx context.Context, s *snapshotter) error { return s.Commit(ctx, another, k.key) })
		bad("Commit to the name", func(ctx context.Context, s *snapshotter) error { return s.Commit(ctx, k.key, "work") })
		bad("Mounts", func(ctx context.Context, s *snapshotter) error { _, err := s.Mounts(ctx, k.key); return err })
		bad("Stat", func(ctx context.Context, s *snapshotter) error { _, err := s.Stat(ctx, k.key); return err })
		bad("Usage", func(ctx context.Context, s *snapshotter) error { _, err := s.Usage(ctx, k.key); return err })
		bad("Update", func(ctx context.Context, s *snapshotter) error {
			_, err := s.Update(ctx, snapshots.Info{Name: k.key})
			return err
		})
		if k.key != "" { // which means no parent
			bad("Prepare on the parent", func(ctx context.Context, s *snapshotter) error { return s.Prepare(ctx, another, k.key) })
			bad("View on the parent", func(ctx context.Context, s *snapshotter) error { return view(ctx, s, another, k.key) })
		}
	}

	for parent, class := range map[string]error{
		missing: errdefs.ErrNotFound,
		"gone":  errdefs.ErrNotFound,
		"work":  errdefs.ErrFailedPrecondition,
		"view":  errdefs.ErrFailedPrecondition,
	} {
		add("Prepare on "+parent, class, parent, func(ctx context.Context, s *snapshotter) error { return s.Prepare(ctx, another, parent) })
		add("View on "+parent, class, parent, func(ctx context.Context, s *snapshotter) error { return view(ctx, s, another, parent) })
	}
	for _, taken := range []string{"base", "work", "view"} {
		for _, parent := range []string{"", "base"} {
			add("Prepare of the taken "+taken+" on "+parent, errdefs.ErrAlreadyExists, taken, func(ctx context.Context, s *snapshotter) error { return s.Prepare(ctx, taken, parent) })
			add("View of the taken "+taken+" on "+parent, errdefs.ErrAlreadyExists, taken, func(ctx context.Context, s *snapshotter) error { return view(ctx, s, taken, parent) })
		}
		add("Commit onto the taken "+taken, errdefs.ErrAlreadyExists, taken, func(ctx context.Context, s *snapshotter) error { return s.Commit(ctx, taken, "work") })
	}
	for key, class := range map[string]error{
		missing: errdefs.ErrNotFound,
		"gone":  errdefs.ErrNotFound,
		"base":  errdefs.ErrFailedPrecondition,
		"view":  errdefs.ErrFailedPrecondition,
	} {
		add("Commit of "+key, class, key, func(ctx context.Context, s *snapshotter) error { return s.Commit(ctx, another, key) })
	}
	for _, key := range []string{missing, "gone"} {
		add("Mounts of "+key, errdefs.ErrNotFound, key, func(ctx context.Context, s *snapshotter) error { _, err := s.Mounts(ctx, key); return err })
		add("Stat of "+key, errdefs.ErrNotFound, key, func(ctx context.Context, s *snapshotter) error { _, err := s.Stat(ctx, key); return err })
		add("Usage of "+key, errdefs.ErrNotFound, key, func(ctx context.Context, s *snapshotter) error { _, err := s.Usage(ctx, key); return err })
		add("Update of "+key, errdefs.ErrNotFound, key, func(ctx context.Context, s *snapshotter) error {
			_, err := s.Update(ctx, snapshots.Info{Name: key}, "labels")
			return err
		})
	}
	add("Mounts of what is committed", errdefs.ErrFailedPrecondition, "base", func(ctx context.Context, s *snapshotter) error { _, err := s.Mounts(ctx, "base"); return err })

	add("Prepare with a label too long", errdefs.ErrInvalidArgument, another, func(ctx context.Context, s *snapshotter) error {
		return s.Prepare(ctx, another, "base", tooLong)
	})
	add("View with a label too long", errdefs.ErrInvalidArgument, another, func(ctx context.Context, s *snapshotter) error {
		return view(ctx, s, another, "base", tooLong)
	})
	add("Commit with a label too long", errdefs.ErrInvalidArgument, another, func(ctx context.Context, s *snapshotter) error {
		return s.Commit(ctx, another, "work", tooLong)
	})
	errOpt := errors.New("an option that fails")
	add("Prepare with an option that fails", errOpt, another, func(ctx context.Context, s *snapshotter) error {
		return s.Prepare(ctx, another, "base", func(*snapshots.Info) error { return errOpt })
	})
	for _, path := range []string{"", "Labels", "label", "labels.", "labelsx", "name", "parent", "kind", "created", "updated"} {
		add("Update of the field "+path, errdefs.ErrInvalidArgument, "base", func(ctx context.Context, s *snapshotter) error {
			info := snapshots.Info{Name: "base", Parent: "work", Labels: map[string]string{"a": "b"}}
			_, err := s.Update(ctx, info, "labels.a", path)
			return err
		})
	}
	add("Update with a label too long", errdefs.ErrInvalidArgument, "base", func(ctx context.Context, s *snapshotter) error {
		_, err := s.Update(ctx, snapshots.Info{Name: "base", Labels: map[string]string{"a": strings.Repeat("x", 5000)}}, "labels.a")
		return err
	})
	for _, filter := range []string{"name==", "==base", `labels."a`, "name=base"} {
		add("Walk with the filter "+filter, errdefs.ErrInvalidArgument, "filter", func(ctx context.Context, s *snapshotter) error {
			return s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil }, "kind==active", filter)
		})
	}
	for _, key := range []string{"base", "work", "view", missing} {
		add("Remove of "+key, errdefs.ErrFailedPrecondition, key, func(ctx context.Context, s *snapshotter) error { return s.Remove(ctx, key) })
	}
	return rr
}

// TestRefusedCallsSayWhyAndLeaveNothing makes every call of the table twice, the
// second time under a lease, which may name the key afterwards. At last all leases
// end: a pin that was left would keep a snapshot.
func TestRefusedCallsSayWhyAndLeaveNothing(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l := furnished(t, p)
		under, ctx := p.lease(t)
		for _, r := range refusals() {
			t.Run(r.what, func(t *testing.T) {
				before := p.world(t)
				wantError(t, r.call(inNamespace(), p.snap), r.class, r.says)
				wantError(t, r.call(ctx, p.snap), r.class, r.says)
				if after := p.world(t); !after.equal(before) {
					t.Errorf("before:\n%v\nafter:\n%v", before, after)
				}
			})
		}
		p.ended(t, l, under)
		p.gone(t, "work", "view", "base")
		p.emptied(t)
	})
}

// calls are those that need a context, each with what it would do on a furnished
// site.
var calls = map[string]func(context.Context, *snapshotter) error{
	"Prepare":    func(ctx context.Context, s *snapshotter) error { return s.Prepare(ctx, "new", "base") },
	"Prepare ''": func(ctx context.Context, s *snapshotter) error { return s.Prepare(ctx, "new", "") },
	"View":       func(ctx context.Context, s *snapshotter) error { _, err := s.View(ctx, "new", "base"); return err },
	"View ''":    func(ctx context.Context, s *snapshotter) error { _, err := s.View(ctx, "new", ""); return err },
	"Commit":     func(ctx context.Context, s *snapshotter) error { return s.Commit(ctx, "new", "work") },
	"Mounts":     func(ctx context.Context, s *snapshotter) error { _, err := s.Mounts(ctx, "work"); return err },
	"Stat":       func(ctx context.Context, s *snapshotter) error { _, err := s.Stat(ctx, "work"); return err },
	"Usage":      func(ctx context.Context, s *snapshotter) error { _, err := s.Usage(ctx, "work"); return err },
	"Update": func(ctx context.Context, s *snapshotter) error {
		_, err := s.Update(ctx, snapshots.Info{Name: "work", Labels: map[string]string{"a": "b"}})
		return err
	},
	"Walk": func(ctx context.Context, s *snapshotter) error {
		return s.Walk(ctx, func(context.Context, snapshots.Info) error { return nil })
	},
}

// about is what the error of a call must tell: its key. A walk has none.
func about(call string) string {
	switch call {
	case "Walk":
		return ""
	case "Prepare", "Prepare ''", "View", "View ''", "Commit":
		return `"new"`
	}
	return `"work"`
}

func TestCancelledBeforeLeavesNothing(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l := furnished(t, p)
		under, leased := p.lease(t)
		for name, call := range calls {
			t.Run(name, func(t *testing.T) {
				before := p.world(t)
				for _, ctx := range []context.Context{inNamespace(), leased} {
					ctx, cancel := context.WithCancel(ctx)
					cancel()
					wantError(t, call(ctx, p.snap), context.Canceled, about(name))
				}
				if after := p.world(t); !after.equal(before) {
					t.Errorf("before:\n%v\nafter:\n%v", before, after)
				}
				if named := p.named(t, under); len(named) > 0 {
					t.Errorf("the lease of the context names %q now", named)
				}
			})
		}
		p.ended(t, l, under)
		p.gone(t, "work", "view", "base")
		p.emptied(t)
	})
}

func TestUseAfterCloseIsUnavailable(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l := furnished(t, p)
		work := p.mounts(t, "work")
		_, release, err := work.Mount()
		must(t, err)
		before := p.site.directories(t)
		must(t, p.snap.Close())
		must(t, p.snap.Close())
		leased := leases.WithLease(inNamespace(), l.ID)
		for name, call := range calls {
			wantError(t, call(inNamespace(), p.snap), errdefs.ErrUnavailable, about(name))
			wantError(t, call(leased, p.snap), errdefs.ErrUnavailable, about(name))
		}
		_, _, err = work.Mount()
		wantError(t, err, errdefs.ErrUnavailable, `"work"`)
		must(t, release())
		wantError(t, p.lm.AddResource(inNamespace(), l, resource("new")), errdefs.ErrUnavailable, `"new"`)
		if after := p.site.directories(t); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("directories before: %q, after: %q", before, after)
		}
	})
}

// oddKeys are keys all the same, though they mean something to a file system, to a
// driver or to BuildKit.
func oddKeys() []string {
	return []string{
		"a/b", "/abs/olute", "a:b", "a b", " ", "..", ".", "../../escape", "../escape", "a/../../escape", "a/", "l", "dir",
		"-dash", "_", "a\nb", `back\slash`, "\x01\xff", "schlüssel", "%s", "*", "lower", "link", "merged",
		"buildkit/12/name", "extract-123456789 " + chain("x"), chain("y"), "sha256:short",
		strings.Repeat("k", 128), strings.Repeat("k", 129), strings.Repeat("../", 80), strings.Repeat("long", 8000),
	}
}

func chain(digit string) string {
	const hex = "0123456789abcdef"
	return "sha256:" + strings.Repeat(hex[int(digit[0])%16:][:1], 64)
}

var plainGraphID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// TestOddKeysStayInTheDriversHome leads every odd key through a whole life: active,
// committed under another odd name, parent of a view and of an active snapshot.
func TestOddKeysStayInTheDriversHome(t *testing.T) {
	onEachFace(t, func(t *testing.T, p *process) {
		l, ctx := p.lease(t)
		around := func() (names []string) {
			for _, e := range entries(t, p.site.root) {
				names = append(names, e.Name())
			}
			return names
		}
		before := around()
		keys := oddKeys()
		directories := 0
		for _, key := range keys {
			must(t, p.snap.Prepare(ctx, key, ""))
			wantError(t, p.snap.Prepare(ctx, key, ""), errdefs.ErrAlreadyExists, strings.TrimSuffix(fmt.Sprintf("%.20q", key), `"`))
			p.write(t, p.mounts(t, key), "file", "")
			name, view := key+"/named", key+"?"
			if len(key) == 32_000 {
				name, view = strings.Repeat("name", 8000), strings.Repeat("view", 8000)
			}
			must(t, p.snap.Commit(ctx, name, key))
			must(t, p.snap.Prepare(ctx, key, name)) // the key is free again
			m, err := p.snap.View(ctx, view, name)
			must(t, err)
			if files := p.files(t, m); len(files) != 1 || files[0] != "file" {
				t.Errorf("a view of %.40q holds %q", name, files)
			}
			for _, k := range []string{key, name, view} {
				info, err := p.snap.Stat(ctx, k)
				if err != nil || info.Name != k {
					t.Errorf("stat %.40q: %.40q, %v", k, info.Name, err)
				}
			}
			directories += 2
		}
		if n := len(p.walked(t)); n != 3*len(keys) {
			t.Errorf("a walk passes %d snapshots, want %d", n, 3*len(keys))
		}
		ids := p.site.directories(t)
		if len(ids) != directories {
			t.Errorf("the driver's home holds %d directories, want %d", len(ids), directories)
		}
		for _, id := range ids {
			if !plainGraphID.MatchString(id) {
				t.Errorf("graph ID %q", id)
			}
		}
		if after := around(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("around the driver's home before: %q, after: %q", before, after)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(p.site.root), "escape")); err == nil {
			t.Error("a key left the site")
		}
		p.ended(t, l)
		p.gone(t, keys...)
		p.emptied(t)
	})
}

func TestNameAndIdentityMapping(t *testing.T) {
	s := newSite(t, "vfs")
	p := s.open(t)
	if name := p.snap.Name(); name != "default" {
		t.Errorf("name %q", name)
	}
	must(t, p.snap.Prepare(inNamespace(), "key", ""))
	if m := p.snap.IdentityMapping(); m != nil {
		t.Errorf("an empty mapping is %v, want nil", m)
	}
	if m := p.mounts(t, "key").IdentityMapping(); m != nil {
		t.Errorf("an empty mapping of a Mountable is %v, want nil", m)
	}
	p.close(t)

	ids := []user.IDMap{{ID: 0, ParentID: 100_000, Count: 65_536}}
	p, err := s.start(t, Opt{Name: "overlayfs", IdentityMapping: user.IdentityMapping{UIDMaps: ids, GIDMaps: ids}})
	must(t, err)
	if name := p.snap.Name(); name != "overlayfs" {
		t.Errorf("name %q", name)
	}
	for _, m := range []*user.IdentityMapping{p.snap.IdentityMapping(), p.mounts(t, "key").IdentityMapping()} {
		if m == nil || len(m.UIDMaps) != 1 || m.UIDMaps[0] != ids[0] {
			t.Errorf("mapping %v", m)
		}
	}
}
