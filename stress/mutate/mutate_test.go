package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// planted is a module with a mutant of each kind that its test catches, and of each
// kind one that it lets pass.
var planted = map[string]string{
	"go.mod": "module planted\n\ngo 1.24\n",
	"persist/persist.go": `package persist

type DB struct{ Written []string }

func (db *DB) Write(s string) error { db.Written = append(db.Written, s); return nil }
func (db *DB) Later(s string)       { db.Written = append(db.Written, s) }
`,
	"shelf/shelf.go": `package shelf

import (
	"errors"

	"planted/persist"
)

type Shelf struct {
	db     *persist.DB
	seen   func(written int)
	serial int
	held   int
	log    []string
}

func (s *Shelf) publish() { s.seen(len(s.db.Written)) }
func (s *Shelf) Release() { s.held-- }
func (s *Shelf) Free()    { s.log = nil }

// Put is tested.
func (s *Shelf) Put(what string, serial int) error {
	s.held++
	defer s.Release()
	if what == "" {
		return errors.New("nothing to put")
	}
	if serial != s.serial {
		return errors.New("another shelf")
	}
	if err := s.db.Write(what); err != nil {
		return err
	}
	s.publish()
	return nil
}

// Take is run and nobody looks at what it did.
func (s *Shelf) Take(what string, serial int) {
	s.held++
	defer s.Release()
	switch {
	case what == "":
		s.log = append(s.log, "nothing")
	case serial == s.serial:
		s.log = append(s.log, what)
	}
	s.db.Later(what)
}

// Loop ends.
func (s *Shelf) Loop() {
	for n := 0; ; n++ {
		if n == 3 {
			break
		}
	}
}

// Unused is not run.
func (s *Shelf) Unused() { s.Free() }
`,
	"shelf/shelf_test.go": `package shelf

import (
	"testing"

	"planted/persist"
)

func TestPut(t *testing.T) {
	var seen []int
	s := &Shelf{db: &persist.DB{}, seen: func(n int) { seen = append(seen, n) }, serial: 1}
	if s.Put("", 1) == nil || s.Put("a", 2) == nil || s.Put("a", 1) != nil {
		t.Error("put")
	}
	if len(s.db.Written) != 1 || len(seen) != 1 || seen[0] != 1 || s.held != 0 {
		t.Error(s.db.Written, seen, s.held)
	}
}

func TestTake(t *testing.T) {
	s := &Shelf{db: &persist.DB{}}
	s.Take("a", 0)
	s.Take("", 0)
}

func TestLoop(t *testing.T) { (&Shelf{}).Loop() }
`,
}

// becomes is what is to become of the mutants in there.
var becomes = map[string]string{
	"shelf Shelf.Put undo: defer s.Release() → deleted":                                            "TestPut",
	`shelf Shelf.Put guard: what == "" → negated`:                                                  "TestPut",
	"shelf Shelf.Put guard: serial != s.serial → negated":                                          "TestPut",
	"shelf Shelf.Put generation: serial != s.serial → false":                                       "TestPut",
	"shelf Shelf.Put guard: err != nil → negated":                                                  "TestPut",
	"shelf Shelf.Put order: s.db.Write(what) → dropped":                                            "TestPut",
	"shelf Shelf.Put order: if err := s.db.Write(what); err != nil { return err } → after publish": "TestPut",
	"shelf Shelf.Put order: s.publish() → deleted":                                                 "TestPut",
	"shelf Shelf.Loop guard: n == 3 → negated":                                                     "",
	"shelf Shelf.Take undo: defer s.Release() → deleted":                                           "",
	`shelf Shelf.Take guard: what == "" → negated`:                                                 "",
	"shelf Shelf.Take guard: serial == s.serial → negated":                                         "",
	"shelf Shelf.Take generation: serial == s.serial → true":                                       "",
	"shelf Shelf.Take order: s.db.Later(what) → deleted":                                           "",
	"shelf Shelf.Unused undo: s.Free() → deleted":                                                  "",
}

func plant(t *testing.T) (root string) {
	t.Helper()
	root = t.TempDir()
	for name, text := range planted {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOWORK", "off")
	return root
}

// mutate runs the command and returns what it printed.
func mutate(t *testing.T, root, accepted string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := command(context.Background(), root, accepted, append([]string{"-packages", "shelf"}, args...), &out)
	t.Log(out.String())
	return out.String(), err
}

func TestEachKindOfMutantIsTried(t *testing.T) {
	root := plant(t)
	out, err := mutate(t, root, "")
	if !errors.Is(err, errNotCaught) || !strings.Contains(err.Error(), "percent are caught") {
		t.Errorf("it ends with %v, want %v for each of two reasons", err, errNotCaught)
	}
	known, err := loadResults(filepath.Join(root, ".build/mutate/results.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, by := range becomes {
		want := ""
		if by != "" {
			want = "shelf." + by
		}
		switch v := known.Verdicts[name]; {
		case v == nil:
			t.Errorf("was not tried: %s", name)
		case v.By != want:
			t.Errorf("caught by %q, want %q: %s", v.By, want, name)
		}
		if strings.Contains(out, name) != (by == "") {
			t.Errorf("reported %v, want %v: %s", by != "", by == "", name)
		}
	}
	for name := range known.Verdicts {
		if _, ok := becomes[name]; !ok {
			t.Errorf("not expected: %s", name)
		}
	}
	if !strings.Contains(out, "Shelf.Unused undo: s.Free() → deleted\n\tSURVIVES, and no test comes by\n") {
		t.Error("it is not said that no test comes by a mutant")
	}
	if _, err := os.Stat(filepath.Join(root, "shelf/mutants_overlay.go")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the work tree was changed: %v", err)
	}
}

// TestHangIsCaught has a loop that never ends, and a wait for nothing.
func TestHangIsCaught(t *testing.T) {
	defer func(d time.Duration) { leastLimit = d }(leastLimit)
	for _, c := range []struct {
		loop  string
		limit time.Duration
	}{
		{"for n := 0; ; {\n\t\tif n == 0 {", time.Second},
		{"for n := 0; ; {\n\t\tif n == 1 {\n\t\t\t<-make(chan int)\n\t\t}\n\t\tif true {", time.Hour},
	} {
		leastLimit = c.limit
		root := plant(t)
		path := filepath.Join(root, "shelf/shelf.go")
		text := strings.Replace(planted["shelf/shelf.go"], "for n := 0; ; n++ {\n\t\tif n == 3 {", c.loop, 1)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := mutate(t, root, "", "-run", "Loop guard: n =="); err != nil || !strings.Contains(out, "100.0") {
			t.Errorf("%v, want it caught", err)
		}
	}
}

func TestSurvivorsNeedAReason(t *testing.T) {
	root := plant(t)
	var reasons strings.Builder
	var last string
	for name, by := range becomes {
		if by == "" {
			last = name
			reasons.WriteString(name + "\n\tNobody\n\tlooks.\n")
		}
	}
	// A part of them is judged by the reasons alone.
	if out, err := mutate(t, root, reasons.String(), "-run", "Shelf"); err != nil || !strings.Contains(out, "\n\tNobody looks.\n") {
		t.Errorf("all survivors have a reason, and it ends with %v", err)
	}
	if _, err := mutate(t, root, reasons.String()); !errors.Is(err, errNotCaught) {
		t.Errorf("half of them are caught, and it ends with %v, want %v", err, errNotCaught)
	}
	one := strings.Replace(reasons.String(), last+"\n\tNobody\n\tlooks.\n", "", 1)
	if _, err := mutate(t, root, one, "-run", "Shelf"); !errors.Is(err, errNotCaught) {
		t.Errorf("one has no reason, and it ends with %v, want %v", err, errNotCaught)
	}
	gone := "shelf Shelf.Gone undo: s.Free() → deleted"
	if _, err := mutate(t, root, reasons.String()+gone+"\n\tIt was there.\n", "-run", "Shelf"); err == nil || !strings.Contains(err.Error(), gone) {
		t.Errorf("a reason is for what is not there, and it ends with %v", err)
	}
	for _, text := range []string{last + "\n", last + "\n\twhy\n" + last + "\n\twhy\n", "\twhy\n", last + "\n" + gone + "\n\twhy\n"} {
		if _, err := parseReasons(text); err == nil {
			t.Errorf("parsed without error: %q", text)
		}
	}
}

// TestWhatIsKnownIsTriedAgainWhenItMayHaveChanged takes the test away that caught.
func TestWhatIsKnownIsTriedAgainWhenItMayHaveChanged(t *testing.T) {
	root := plant(t)
	const which = "Shelf.Put undo"
	if _, err := mutate(t, root, "", "-run", which); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(root, ".build/mutate/shelf/shelf.test")
	if err := os.Remove(binary); err != nil {
		t.Fatal(err)
	}
	if _, err := mutate(t, root, "", "-run", which); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing changed, and it was tried again (%v)", err)
	}
	path := filepath.Join(root, "shelf/shelf_test.go")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(planted["shelf/shelf_test.go"], "|| s.held != 0", "")), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := mutate(t, root, "", "-run", which); !errors.Is(err, errNotCaught) {
		t.Errorf("the test does not look any more, and it ends with %v", err)
	}
	if err := os.WriteFile(path, []byte(planted["shelf/shelf_test.go"]), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := mutate(t, root, "", "-run", which); err != nil {
		t.Errorf("the test looks again, and it ends with %v", err)
	}
}

func TestSampleIsSpreadAndStable(t *testing.T) {
	sources, err := find(plant(t), []string{"shelf"})
	if err != nil {
		t.Fatal(err)
	}
	var names [][]string
	for range 2 {
		number(sources[0].mutants)
		slices.Reverse(sources[0].mutants)
		var sample []string
		seen := map[kind]bool{}
		for _, m := range choose(sources, regexp.MustCompile(""), 4)["shelf"] {
			sample = append(sample, m.name())
			seen[m.kind] = true
		}
		if len(sample) != 4 || len(seen) != 4 {
			t.Errorf("of 4 there are %d of %d kinds: %q", len(sample), len(seen), sample)
		}
		names = append(names, sample)
	}
	if !slices.Equal(names[0], names[1]) {
		t.Errorf("samples differ: %q", names)
	}
	if all := choose(sources, regexp.MustCompile(""), 0)["shelf"]; len(all) != len(becomes) {
		t.Errorf("of all there are %d, want %d", len(all), len(becomes))
	}
}

func TestEditsLieWithinEachOther(t *testing.T) {
	source := "a bc d"
	for want, edits := range map[string][]edit{
		"a <(b[c]> d)":   {{2, 6, "", ")"}, {2, 4, "<(", ">"}, {3, 4, "[", "]"}},
		"{<[a] bc>( d)}": {{4, 6, "(", ")"}, {0, 6, "{", "}"}, {0, 4, "<", ">"}, {0, 1, "[", "]"}},
		"<[a]> bc d":     {{0, 1, "<", ">"}, {0, 1, "[", "]"}},
	} {
		if got := string(instrument([]byte(source), edits)); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
