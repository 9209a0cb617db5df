package adapter

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The longest chain that overlay2 takes works, and one layer more is refused without
// a trace.
func TestDepth(t *testing.T) {
	for name, overlay := range map[string]bool{"bound": false, "described": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "overlay2")
			s.overlay = overlay
			p := s.open(t)
			_, ctx := p.lease(t)
			parent := ""
			for i := range maxDepth + 1 {
				layer := fmt.Sprint("layer-", i)
				if i == 0 || i == maxDepth {
					p.committed(t, ctx, layer, parent)
				} else {
					must(t, p.snap.Prepare(ctx, "making", parent))
					must(t, p.snap.Commit(ctx, layer, "making"))
				}
				parent = layer
			}
			view, err := p.snap.View(ctx, "view", parent)
			must(t, err)
			if files := p.files(t, view); len(files) != 2 {
				t.Errorf("the deepest snapshot holds %q", files)
			}
			before := p.world(t)
			err = p.snap.Prepare(ctx, "too-deep", parent)
			wantError(t, err, errdefs.ErrOutOfRange, "too-deep")
			if text := fmt.Sprint(err); !strings.Contains(text, "layer 130") || !strings.Contains(text, "at most 129") {
				t.Errorf("the error %q names neither depth nor limit", text)
			}
			if after := p.world(t); !after.equal(before) {
				t.Errorf("before\n%+v\nafter\n%+v", before, after)
			}
		})
	}
}

// The root directory belongs to whom it belonged to in the parent.
func TestOwnerOfTheRootDirectory(t *testing.T) {
	s := newSite(t, "overlay2")
	s.overlay = true
	p := s.open(t)
	_, ctx := p.lease(t)
	must(t, p.snap.Prepare(ctx, "making", ""))
	p.inside(t, p.mounts(t, "making"), func(dir string) { must(t, os.Chown(dir, 3, 4)) })
	must(t, p.snap.Commit(ctx, "base", "making"))
	p.committed(t, ctx, "top", "base")
	view, err := p.snap.View(ctx, "view", "top")
	must(t, err)
	p.inside(t, view, func(dir string) {
		var st unix.Stat_t
		must(t, unix.Stat(dir, &st))
		if st.Uid != 3 || st.Gid != 4 {
			t.Errorf("/ belongs to %d:%d, want 3:4", st.Uid, st.Gid)
		}
	})
}
