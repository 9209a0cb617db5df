package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"os"
	"path/filepath"

	"golang.org/x/tools/go/packages"
)

// source is a package with its mutants.
type source struct {
	folder  string
	dir     string
	name    string            // of the package
	files   map[string][]byte // by path below the root
	mutants []*mutant
}

// find reads the packages and finds their mutants.
func find(root string, folders []string) ([]*source, error) {
	patterns := make([]string, len(folders))
	for i, folder := range folders {
		patterns[i] = "./" + folder
	}
	loaded, err := packages.Load(&packages.Config{
		Dir: root,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedSyntax,
	}, patterns...)
	if err != nil {
		return nil, err
	}
	var all []*source
	for i, p := range loaded {
		if len(p.Errors) > 0 {
			return nil, fmt.Errorf("load %s: %w", p.PkgPath, p.Errors[0])
		}
		s := &source{name: p.Name, files: map[string][]byte{}}
		for j, file := range p.Syntax {
			path := p.CompiledGoFiles[j]
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return nil, err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			s.dir, s.folder = filepath.Dir(path), filepath.ToSlash(filepath.Dir(rel))
			s.files[rel] = text
			f := &finder{folder: s.folder, file: rel, set: p.Fset, info: p.TypesInfo, text: text, ignored: map[ast.Node]bool{}}
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
					f.function = functionName(fn)
					f.look(fn.Body)
				}
			}
			s.mutants = append(s.mutants, f.found...)
		}
		number(s.mutants)
		if len(s.mutants) == 0 {
			return nil, fmt.Errorf("nothing was found in %s", loaded[i].PkgPath)
		}
		all = append(all, s)
	}
	return all, nil
}

func functionName(fn *ast.FuncDecl) string {
	if fn.Recv == nil || len(fn.Recv.List) == 0 {
		return fn.Name.Name
	}
	t := fn.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	switch generic := t.(type) {
	case *ast.IndexExpr:
		t = generic.X
	case *ast.IndexListExpr:
		t = generic.X
	}
	return types.ExprString(t) + "." + fn.Name.Name
}

// finder finds the mutants of one file.
type finder struct {
	folder, file string
	set          *token.FileSet
	info         *types.Info
	text         []byte

	function string // in which it looks now
	found    []*mutant
	ignored  map[ast.Node]bool // calls whose result nobody uses, which are found as statements
}

// look finds the mutants in a function.
func (f *finder) look(body *ast.BlockStmt) {
	ast.Inspect(body, func(n ast.Node) bool {
		for _, list := range statements(n) {
			f.undos(list)
			f.orders(list)
		}
		f.dropped(n)
		f.guards(n)
		f.generations(n)
		return true
	})
}

// statements returns the list of statements that n has.
func statements(n ast.Node) [][]ast.Stmt {
	switch n := n.(type) {
	case *ast.BlockStmt:
		return [][]ast.Stmt{n.List}
	case *ast.CaseClause:
		return [][]ast.Stmt{n.Body}
	case *ast.CommClause:
		return [][]ast.Stmt{n.Body}
	}
	return nil
}

// add adds the mutant that has open and close around the nodes from first to last, in
// which %s is the name of the switch.
func (f *finder) add(k kind, first, last ast.Node, becomes, open, close string) {
	f.found = append(f.found, &mutant{
		folder: f.folder, file: f.file, line: f.set.Position(first.Pos()).Line, function: f.function,
		kind: k, original: oneLine(f.textOf(first, last)), becomes: becomes,
		edit: edit{f.offset(first.Pos()), f.offset(last.End()), open, close},
	})
}

// delete adds the mutant without the statement.
func (f *finder) delete(k kind, s ast.Stmt) {
	f.add(k, s, s, "deleted", "if !"+switchCall+" { ", " }")
}

func (f *finder) offset(p token.Pos) int { return f.set.Position(p).Offset }

func (f *finder) textOf(first, last ast.Node) string {
	return string(f.text[f.offset(first.Pos()):f.offset(last.End())])
}

// called returns the last name of what a call calls, "" for none.
func called(e ast.Expr) string {
	call, ok := ast.Unparen(e).(*ast.CallExpr)
	if !ok {
		return ""
	}
	return lastName(call.Fun)
}

// lastName returns the last name of an expression, "" for none. A conversion and an
// atomic load have that of what is converted and loaded.
func lastName(e ast.Expr) string {
	switch e := ast.Unparen(e).(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.IndexExpr:
		return lastName(e.X)
	case *ast.StarExpr:
		return lastName(e.X)
	case *ast.CallExpr:
		if s, ok := e.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Load" {
			return lastName(s.X)
		}
		if len(e.Args) == 1 {
			return lastName(e.Args[0])
		}
	}
	return ""
}
