package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/graphsnap/graphsnap"

// floors gives each top-level folder its height. A package imports packages of
// this module only from lower floors, or from its own folder.
var floors = map[string]int{
	"actors":  1,
	"persist": 2,
	"mounts":  2,
	"engine":  3,
	"adapter": 4,
	"stress":  5,
}

// foreign are imports that only some folders may have. Tests are bound too,
// except where tests says otherwise.
var foreign = []struct {
	prefix  string
	why     string
	allowed []string // folders, as path prefixes
	tests   []string // folders whose tests are allowed as well
}{
	{
		prefix:  "go.etcd.io/bbolt",
		why:     "only the persistence actor opens a database",
		allowed: []string{"persist", "adapter/graphsnapd", "adapter/dockerd", "stress"}, // BuildKit's own databases are opened by their daemons, the peers' by them
		tests:   []string{"adapter"},                                                    // containerd's lease manager needs one below it
	},
	{
		prefix:  "github.com/moby/buildkit",
		why:     "the engine does not know BuildKit",
		allowed: []string{"adapter", "stress"},
	},
	{
		prefix:  "github.com/docker/docker",
		why:     "the engine knows graph drivers and layers through its own interfaces",
		allowed: []string{"adapter", "stress"},
		tests:   []string{"mounts"}, // mounts shared on a real overlay2
	},
}

// noMutex are the folders in which state belongs to one goroutine. Their tests
// may use a mutex, for instance in a fake.
var noMutex = []string{"engine", "mounts", "persist"}

func TestFloors(t *testing.T) {
	broken, files, err := checkFloors("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range broken {
		t.Error(b)
	}
	for folder := range floors {
		if files[folder] == 0 {
			t.Errorf("no Go file looked at in %s/: is this the module's root?", folder)
		}
	}
}

// TestFloorsCheckFails plants one breach of each kind.
func TestFloorsCheckFails(t *testing.T) {
	for file, source := range map[string]string{
		"actors/a.go":            `import _ "` + module + `/persist"`,
		"persist/a.go":           `import _ "` + module + `/mounts"`,
		"mounts/sub/a.go":        `import _ "` + module + `/engine"`,
		"engine/a_test.go":       `import _ "` + module + `/adapter/containerd"`,
		"adapter/a.go":           `import _ "` + module + `/stress"`,
		"unknown/a.go":           ``,
		"engine/b.go":            `import _ "go.etcd.io/bbolt"`,
		"engine/b_test.go":       `import _ "go.etcd.io/bbolt"`,
		"adapter/b.go":           `import _ "go.etcd.io/bbolt/errors"`,
		"engine/c.go":            `import _ "github.com/moby/buildkit/snapshot"`,
		"engine/c_linux_test.go": `import _ "github.com/docker/docker/daemon/graphdriver"`,
		"engine/d.go":            "import \"sync\"\nvar m sync.Mutex",
		"mounts/d.go":            "import s \"sync\"\ntype t struct { s.RWMutex }",
		"persist/d.go":           "import . \"sync\"\nvar m Mutex",
	} {
		t.Run(file, func(t *testing.T) {
			broken, _, err := checkFloors(plant(t, file, source))
			if err != nil || len(broken) != 1 || !strings.Contains(broken[0], file) {
				t.Errorf("found %q (%v), want one breach in %s", broken, err, file)
			}
		})
	}
	for file, source := range map[string]string{
		"engine/a.go":             `import _ "` + module + `/mounts"`,
		"adapter/graphsnapd/a.go": `import ( _ "` + module + `/adapter"; _ "go.etcd.io/bbolt"; _ "github.com/moby/buildkit/client" )`,
		"adapter/a_test.go":       `import _ "go.etcd.io/bbolt"`,
		"mounts/a_test.go":        `import _ "github.com/docker/docker/daemon/graphdriver"`,
		"actors/a.go":             "import \"sync\"\nvar m sync.Mutex",
		"engine/a_test.go":        "import \"sync\"\nvar m sync.Mutex",
		"engine/b.go":             "import \"sync\"\nvar g sync.WaitGroup",
	} {
		t.Run(file, func(t *testing.T) {
			if broken, _, err := checkFloors(plant(t, file, source)); err != nil || len(broken) > 0 {
				t.Errorf("found %q (%v), want nothing", broken, err)
			}
		})
	}
}

func plant(t *testing.T, file, source string) string {
	t.Helper()
	root := t.TempDir()
	path := filepath.Join(root, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("package planted\n\n"+source+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return root
}

// checkFloors reads every Go file below root, whatever its build constraints,
// and returns a line for each breach and the number of files per folder.
func checkFloors(root string) (broken []string, files map[string]int, err error) {
	files = map[string]int{}
	set := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata") {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		files[folder]++
		broken = append(broken, checkFile(set, filepath.ToSlash(rel), folder, parsed)...)
		return nil
	})
	return broken, files, err
}

func checkFile(set *token.FileSet, rel, folder string, file *ast.File) (broken []string) {
	floor, known := floors[folder]
	if !known {
		return []string{fmt.Sprintf("%s: folder %s/ is on no floor", rel, folder)}
	}
	test := strings.HasSuffix(rel, "_test.go")
	breach := func(at token.Pos, format string, args ...any) {
		broken = append(broken, fmt.Sprintf("%s:%d: %s", rel, set.Position(at).Line, fmt.Sprintf(format, args...)))
	}
	syncName := ""
	for _, spec := range file.Imports {
		path, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			breach(spec.Pos(), "unreadable import %s", spec.Path.Value)
			continue
		}
		if path == "sync" {
			syncName = "sync"
			if spec.Name != nil {
				syncName = spec.Name.Name
			}
		}
		if inner, ok := strings.CutPrefix(path, module+"/"); ok {
			from, _, _ := strings.Cut(inner, "/")
			if from != folder && floors[from] >= floor {
				breach(spec.Pos(), "%s (floor %d) imports %s (floor %d): only lower floors may be imported", folder, floor, inner, floors[from])
			}
		}
		for _, rule := range foreign {
			if path != rule.prefix && !strings.HasPrefix(path, rule.prefix+"/") {
				continue
			}
			if !within(rel, rule.allowed) && (!test || !within(rel, rule.tests)) {
				breach(spec.Pos(), "imports %s: %s", path, rule.why)
			}
		}
	}
	if test || syncName == "" || !slices.Contains(noMutex, folder) {
		return broken
	}
	if syncName == "." {
		breach(file.Pos(), "imports sync into its own scope, which hides mutexes from this check")
		return broken
	}
	ast.Inspect(file, func(node ast.Node) bool {
		selector, ok := node.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, ok := selector.X.(*ast.Ident)
		if ok && pkg.Name == syncName && (selector.Sel.Name == "Mutex" || selector.Sel.Name == "RWMutex") {
			breach(selector.Pos(), "uses sync.%s: state here belongs to one goroutine", selector.Sel.Name)
		}
		return true
	})
	return broken
}

func within(rel string, folders []string) bool {
	return slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(rel, folder+"/") })
}
