package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"text/template"
)

// What is compiled in calls these.
const (
	switchName = "mutantIsOn"
	dropName   = "mutantDrops"
	switchCall = switchName + "(%d)"
	dropCall   = dropName + "(%d, "
)

// The environment of the tests.
const (
	environmentOn      = "GRAPHSNAP_MUTANT"         // the number of the mutant that is on
	environmentReached = "GRAPHSNAP_MUTANT_REACHED" // a file that takes the numbers of those that were come by
)

// switches is added to the package. What was come by is written at once, since
// processes that tests start may be killed.
var switches = template.Must(template.New("").Parse(`package {{.Package}}

import (
	"os"
	"strconv"
	"sync/atomic"
)

var (
	mutantOn, _   = strconv.Atoi(os.Getenv("` + environmentOn + `"))
	mutantFile    = os.Getenv("` + environmentReached + `")
	mutantReached [{{.Mutants}} + 1]atomic.Bool
)

func ` + switchName + `(n int) bool {
	if mutantFile != "" && !mutantReached[n].Swap(true) {
		if f, err := os.OpenFile(mutantFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			_, _ = f.WriteString(strconv.Itoa(n) + "\n")
			_ = f.Close()
		}
	}
	return n == mutantOn
}

func ` + dropName + `(n int, f func() error) error {
	if ` + switchName + `(n) {
		return nil
	}
	return f()
}
`))

// binary is the tests of a package, with the mutants of one that they use compiled in.
type binary struct {
	path   string
	dir    string // of the package, where its tests run
	folder string
	hash   string
}

// overlay writes the package with all its mutants and returns the file that tells the
// go command so.
func (s *source) overlay(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	put := func(name string, text []byte) error {
		path := filepath.Join(dir, name)
		replace[filepath.Join(s.dir, name)] = path
		return os.WriteFile(path, text, 0o644)
	}
	for file, text := range s.files {
		var edits []edit
		for _, m := range s.mutants {
			if m.file == file {
				e := m.edit
				e.open = strings.Replace(e.open, "%d", fmt.Sprint(m.number), 1)
				edits = append(edits, e)
			}
		}
		if err := put(filepath.Base(file), instrument(text, edits)); err != nil {
			return "", err
		}
	}
	var added strings.Builder
	if err := switches.Execute(&added, struct {
		Package string
		Mutants int
	}{s.name, len(s.mutants)}); err != nil {
		return "", err
	}
	if err := put("mutants_overlay.go", []byte(added.String())); err != nil {
		return "", err
	}
	list, err := json.Marshal(struct{ Replace map[string]string }{replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}

// compile makes the test binary of the package in folder.
func compile(ctx context.Context, root, overlay, folder, path string) (*binary, error) {
	c := exec.CommandContext(ctx, "go", "test", "-c", "-overlay", overlay, "-o", path, "./"+folder)
	c.Dir = root
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile the tests of %s: %w\n%s", folder, err, out)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	return &binary{path: path, dir: filepath.Join(root, folder), folder: folder, hash: hex.EncodeToString(sum[:8])}, nil
}
