package run

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// change is one of the source of the engine.
type change struct{ file, old, new string }

// planted are bugs, each made of changes to the engine's source, which the go command
// compiles in place of it.
var planted = map[string][]change{
	"a lease dropped early: one that ends takes the others with it": {
		{"engine/lease.go", "s.leases = slices.Delete(slices.Clone(s.leases), i, i+1)", "s.leases = nil; _ = i"},
		// The listing of leases makes it good otherwise.
		{"engine/listing.go", "if !slices.Equal(s.leases, l.named[key]) {", "if len(s.leases) > 0 && !slices.Equal(s.leases, l.named[key]) {"},
		{"engine/reaper.go", "	case len(l.named[key]) > 0:\n", "	case false:\n"},
	},
	"a double release: the second one ends somebody else's hold": {
		{"engine/mount.go", "release = sync.OnceValue(func() error {", "_ = sync.OnceValue[error]\n\trelease = (func() error {"},
	},
	"a commit visible before it is durable": {
		{"engine/commit.go", "	s.flip = m.flip\n	m.e.publish(o, s)\n	m.e.commits.append(m.name, m.flip)\n	m.flip.done.Store(true)\n", ""},
		{"engine/commit.go", "	if err := m.e.db.Write(m.ctx, persist.Commit(", "	s.flip = m.flip\n	m.e.publish(o, s)\n	m.e.commits.append(m.name, m.flip)\n	m.flip.done.Store(true)\n	if err := m.e.db.Write(m.ctx, persist.Commit("},
	},
	"a pin forgotten": {
		{"engine/messages.go", "	s.children++\n", ""},
		{"engine/messages.go", "	s.children--\n", ""},
	},
	"a lost update of labels": {
		{"engine/update.go", "	s.body = &b\n	m.e.publish(o, s)\n	m.Answer(&b)", "	m.e.publish(o, s)\n	m.Answer(&b)"},
	},
	"a layer let go of while snapshots stand on it": {
		{"engine/layers.go", "	for _, lease := range e.keys.Load(key).plain().leases {\n", "	_ = e.releaseLayer(l)\n	for _, lease := range e.keys.Load(key).plain().leases {\n"},
	},
	"a snapshot that takes the key of a layer": {
		{"engine/pending.go", "	if e.lender(key) != nil {\n		return errTaken(key)", "	if false {\n		return errTaken(key)"},
	},
	"a view that writes through": {
		{"engine/mount.go", "	if readonly {\n		options = append(options, \"ro\")", "	if false {\n		options = append(options, \"ro\")"},
	},
}

const (
	plantedMarker = "GRAPHSNAP_PLANTED_RUN"
	plantedLimit  = time.Minute // for each to be found
)

// TestPlantedRun is what TestPlantedBugsAreFound starts in a process of its own.
func TestPlantedRun(t *testing.T) {
	if os.Getenv(plantedMarker) == "" {
		return // that is for the processes that TestPlantedBugsAreFound starts
	}
	w, err := workload.Get("mixed")
	if err != nil {
		t.Fatal(err)
	}
	r := onNull(t, Config{
		Workload: w, Clients: 16, Duration: plantedLimit, Seed: 2, Checkpoint: 5 * time.Second,
		Faults: faults.New(faults.Rates{Driver: faults.Calls{Delay: 0.1}, Cancel: 0.2, Longest: 300 * time.Microsecond}, 2),
	})
	for _, v := range r.Verdict.Violations {
		t.Logf("FOUND after %v: %s", v.After, v.Message)
	}
}

// plant builds the tests of this package with crash points and a bug in the engine, and
// returns the path of the binary.
func plant(t *testing.T, changes []change) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sources := map[string]string{}
	for _, c := range changes {
		if sources[c.file] == "" {
			source, err := os.ReadFile(filepath.Join(root, c.file))
			if err != nil {
				t.Fatal(err)
			}
			sources[c.file] = string(source)
		}
		if n := strings.Count(sources[c.file], c.old); n != 1 {
			t.Fatalf("%s has what the bug replaces %d times: the test has to follow the source", c.file, n)
		}
		sources[c.file] = strings.Replace(sources[c.file], c.old, c.new, 1)
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for file, source := range sources {
		path := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
			t.Fatal(err)
		}
		overlay.Replace[filepath.Join(root, file)] = path
	}
	written, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, written, 0o600); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "stress.test")
	if out, err := exec.Command("go", "test", "-tags", "crashpoints", "-c", "-overlay", list, "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return binary
}

func TestPlantedBugsAreFound(t *testing.T) {
	for name, changes := range planted {
		t.Run(name, func(t *testing.T) {
			binary := plant(t, changes)
			ctx, cancel := context.WithTimeout(context.Background(), 5*plantedLimit)
			defer cancel()
			run := exec.CommandContext(ctx, binary, "-test.run=^TestPlantedRun$", "-test.v")
			run.Env = append(os.Environ(), plantedMarker+"=1")
			out, err := run.CombinedOutput()
			_, found, ok := bytes.Cut(out, []byte("FOUND "))
			if err == nil || !ok {
				t.Fatalf("not found (%v):\n%s", err, out)
			}
			line, _, _ := strings.Cut(string(found), "\n")
			t.Log(line)
		})
	}
}
