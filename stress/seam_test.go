package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// outlive are the calls that change what outlives the process, or tell what did, by
// the package and type that declare them; "" are functions, "*" is all. Each stands
// between two crash points.
var outlive = map[string]map[string][]string{
	module + "/engine": {"Driver": {"*"}, "Layers": {"*"}},
	module + "/mounts": {"Driver": {"*"}},
	"github.com/docker/docker/daemon/graphdriver":     {"ProtoDriver": {"*"}, "DiffDriver": {"*"}, "Driver": {"*"}},
	"github.com/docker/docker/layer":                  {"Store": {"*"}},
	"github.com/containerd/containerd/v2/core/leases": {"Manager": {"*"}},
	"go.etcd.io/bbolt":                                {"": {"Open"}, "DB": {"*"}, "Tx": {"Commit", "Copy", "CopyFile", "WriteTo"}},
	"golang.org/x/sys/unix":                           {"": {"Mount", "Unmount", "Rename"}},
	"syscall":                                         {"": {"Mount", "Unmount", "Rename"}},
	"os":                                              {"": {"Rename", "Remove"}, "File": {"Sync"}},
}

// harmless are calls for which that does not matter.
var harmless = map[string]string{
	"engine.Driver.Copies": "asked once, at start, and always the same",
	"bbolt.DB.Path":        "memory",
	"bbolt.DB.Stats":       "memory",
	"bbolt.DB.Info":        "memory",
}

// below are the functions, and the types whose methods, are called through the seams,
// so that what they do is between points, or call what goes through them.
var below = map[string][]string{
	"adapter": {
		"driver", "layers", // implement engine.Driver and engine.Layers
		"newDriver", "newDescriber", // ask the driver what it is
		"replaceFile", "syncDir", // of driver
		"EndLostLeases", // calls the lease manager of NewSnapshotter, which calls leaseSeam
		"EndLostLeases", // with the lease manager that NewSnapshotter returned
	},
}

func TestNothingGoesRoundTheCrashPoints(t *testing.T) {
	found, calls, points := checkSeams(t, nil)
	for _, f := range found {
		t.Error(f)
	}
	if calls < 30 || len(points) < 30 {
		t.Errorf("%d calls were seen between %d points: the check looks at too little", calls, len(points))
	}
}

// TestCheckOfCrashPointsFails plants one breach of each kind.
func TestCheckOfCrashPointsFails(t *testing.T) {
	breaches := []struct{ folder, function, says string }{
		{"engine", `(e *Engine) planted1() error { return e.driver.driver.Remove("id") }`, "engine.Driver.Remove"},
		{"engine", `(e *Engine) planted2() func(string) bool { return e.driver.driver.Exists }`, "engine.Driver.Exists"},
		{"engine", `(e *Engine) planted3() { func() { e.layers.layers.All() }() }`, "engine.Layers.All"},
		{"mounts", `(a *actor) planted1() { crashpoint.Before("planted.A"); a.driver.Put("id"); crashpoint.After("planted.B") }`, "mounts.Driver.Put"},
		{"mounts", `(a *actor) planted2() { crashpoint.Before("planted.A"); a.driver.Get("id") }`, "mounts.Driver.Get"},
		{"persist", `(db *DB) planted1() { _ = db.bolt.Sync() }`, "bbolt.DB.Sync"},
		{"persist", `planted2() { _ = os.Rename("a", "b") }`, "os.Rename"},
		{"persist", `planted3() { crashpoint.Before("db.Sync"); _ = os.Remove("a"); crashpoint.After("db.Sync") }`, "db.Sync is used twice"},
		{"adapter", `(s leaseSeam) planted1(ctx context.Context) { s.manager.List(ctx) }`, "leases.Manager.List"},
		{"adapter", `planted2(o Opt) { o.LayerStore.Map() }`, "layer.Store.Map"},
		{"adapter", `planted3(o Opt) { o.GraphDriver.Cleanup() }`, "graphdriver.ProtoDriver.Cleanup"},
	}
	imports := map[string][]string{
		"mounts":  {module + "/actors/crashpoint"},
		"persist": {module + "/actors/crashpoint", "os"},
		"adapter": {"context"},
	}
	overlay := map[string][]byte{}
	for _, b := range breaches {
		path, err := filepath.Abs(filepath.Join("..", b.folder, "a_planted.go"))
		if err != nil {
			t.Fatal(err)
		}
		if overlay[path] == nil {
			overlay[path] = fmt.Appendf(nil, "package %s\n", b.folder)
			for _, i := range imports[b.folder] {
				overlay[path] = fmt.Appendf(overlay[path], "import %q\n", i)
			}
		}
		overlay[path] = fmt.Appendf(overlay[path], "func %s\n", b.function)
	}
	found, _, _ := checkSeams(t, overlay)
	for _, b := range breaches {
		says := func(f string) bool { return strings.Contains(f, b.says) }
		i := slices.IndexFunc(found, says)
		if i < 0 {
			t.Errorf("nothing was said of: func %s", b.function)
			continue
		}
		found = slices.Delete(found, i, i+1)
	}
	if len(found) > 0 {
		t.Errorf("beside the breaches that were planted there are %q", found)
	}
}

// checkSeams type-checks the folders of the engine, with overlay in place of what is
// on disk, and returns a line for each call that is not between crash points, the
// number of those that are, and the points.
func checkSeams(t *testing.T, overlay map[string][]byte) (found []string, calls int, points map[string]int) {
	t.Helper()
	loaded, err := packages.Load(&packages.Config{
		Mode:    packages.NeedName | packages.NeedFiles | packages.NeedSyntax | packages.NeedTypes | packages.NeedTypesInfo | packages.NeedImports,
		Dir:     "..",
		Overlay: overlay,
	}, "./engine", "./mounts", "./persist", "./adapter")
	if err != nil {
		t.Fatal(err)
	}
	points = map[string]int{}
	for _, p := range loaded {
		for _, e := range p.Errors {
			t.Fatalf("%s: %v", p.PkgPath, e)
		}
		for _, file := range p.Syntax {
			s := &seamCheck{Package: p, points: points}
			for _, d := range file.Decls {
				if f, ok := d.(*ast.FuncDecl); ok && f.Body != nil && !slices.Contains(below[p.Name], ownerOf(f)) {
					s.block(f.Body, "")
				}
			}
			found, calls = append(found, s.found...), calls+s.calls
		}
	}
	return found, calls, points
}

// ownerOf names the type of a method, or else the function.
func ownerOf(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	typ := f.Recv.List[0].Type
	if pointer, ok := typ.(*ast.StarExpr); ok {
		typ = pointer.X
	}
	return fmt.Sprint(typ)
}

type seamCheck struct {
	*packages.Package
	points map[string]int
	found  []string
	calls  int
}

func (s *seamCheck) breach(at token.Pos, format string, args ...any) {
	p := s.Fset.Position(at)
	s.found = append(s.found, fmt.Sprintf("%s:%d: %s", filepath.Base(p.Filename), p.Line, fmt.Sprintf(format, args...)))
}

// block looks at statements. between is the point that they are between.
func (s *seamCheck) block(node ast.Node, between string) {
	ast.Inspect(node, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BlockStmt:
			for i, stmt := range n.List {
				inside := between
				if i > 0 && i+1 < len(n.List) {
					before, after := s.point(n.List[i-1], "Before"), s.point(n.List[i+1], "After")
					if before != "" && before == after {
						inside = before
						if s.points[before]++; s.points[before] > 1 {
							s.breach(stmt.Pos(), "the crash point %s is used twice", before)
						}
					}
				}
				s.block(stmt, inside)
			}
			return false
		case *ast.Ident:
			if what := outlives(s.TypesInfo.Uses[n]); what != "" && between == "" {
				s.breach(n.Pos(), "%s is not called between crash points", what)
			} else if what != "" {
				s.calls++
			}
		}
		return true
	})
}

// point returns the name of the crash point that stmt is, or that it has in front of an
// if or an assignment, which look at its error.
func (s *seamCheck) point(stmt ast.Stmt, which string) string {
	if i, ok := stmt.(*ast.IfStmt); ok {
		stmt = i.Init
	}
	var e ast.Expr
	switch stmt := stmt.(type) {
	case *ast.ExprStmt:
		e = stmt.X
	case *ast.AssignStmt:
		e = stmt.Rhs[0]
	}
	call, ok := e.(*ast.CallExpr)
	if !ok || len(call.Args) != 1 {
		return ""
	}
	f, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || f.Sel.Name != which {
		return ""
	}
	if o := s.TypesInfo.Uses[f.Sel]; o == nil || o.Pkg() == nil || o.Pkg().Path() != module+"/actors/crashpoint" {
		return ""
	}
	name, ok := call.Args[0].(*ast.BasicLit)
	if !ok {
		return ""
	}
	point, _ := strconv.Unquote(name.Value)
	return point
}

// outlives returns the name of a function or method that is to be between crash
// points, "" for others.
func outlives(o types.Object) string {
	f, ok := o.(*types.Func)
	if !ok || f.Pkg() == nil {
		return ""
	}
	typ := ""
	if recv := f.Signature().Recv(); recv != nil {
		t := recv.Type()
		if pointer, ok := t.(*types.Pointer); ok {
			t = pointer.Elem()
		}
		named, ok := t.(*types.Named)
		if !ok {
			return ""
		}
		typ = named.Obj().Name()
	}
	names := outlive[f.Pkg().Path()][typ]
	if !slices.Contains(names, f.Name()) && !slices.Contains(names, "*") {
		return ""
	}
	what := strings.Join(slices.DeleteFunc([]string{f.Pkg().Name(), typ, f.Name()}, func(s string) bool { return s == "" }), ".")
	if _, ok := harmless[what]; ok {
		return ""
	}
	return what
}
