package adapter

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
)

// snapshotWas is what a process said of a snapshot before it was killed.
type snapshotWas struct {
	kind       snapshots.Kind
	parent     string
	label      string
	graphID    string
	file       string // it has that one, with contentOf it
	lease      string
	committing string // the name of a Commit that was not answered
	ended      bool   // its lease may have ended
}

func contentOf(file string) string { return strings.Repeat(file+"\n", 20) }

// journal is what all processes wrote so far. Each line was written at one stroke
// and is there though the process was killed.
type journal struct {
	lines     int
	snapshots map[string]snapshotWas
}

func (s *site) journal(t *testing.T) *journal {
	t.Helper()
	b, err := os.ReadFile(s.path("journal"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	j := &journal{snapshots: map[string]snapshotWas{}}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Split(line, " ")
		if len(f) < 4 {
			continue
		}
		j.lines++
		key, x, lease := f[1], f[2], f[3]
		was := j.snapshots[key]
		switch f[0] {
		case "prepared":
			was = snapshotWas{kind: snapshots.KindActive, parent: x, lease: lease, graphID: key}
		case "labelled":
			was.label = x
		case "wrote":
			was.file = x
		case "committing":
			was.committing = x
		case "committed":
			j.snapshots[x] = snapshotWas{kind: snapshots.KindCommitted, parent: was.parent, lease: lease, graphID: key, file: was.file, label: x}
			delete(j.snapshots, key)
			continue
		case "viewed":
			was = snapshotWas{kind: snapshots.KindView, parent: x, lease: lease}
		case "ending":
			for k, was := range j.snapshots {
				if was.lease == lease {
					was.ended = true
					j.snapshots[k] = was
				}
			}
			continue
		}
		j.snapshots[key] = was
	}
	return j
}
