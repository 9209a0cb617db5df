package main

import (
	"go/ast"
	"go/token"
	"go/types"
)

// guards finds the conditions that decide whether something is done.
func (f *finder) guards(n ast.Node) {
	switch n := n.(type) {
	case *ast.IfStmt:
		f.negate(n.Cond)
	case *ast.SwitchStmt:
		if n.Tag != nil {
			return // its cases are values
		}
		for _, c := range n.Body.List {
			for _, condition := range c.(*ast.CaseClause).List {
				f.negate(condition)
			}
		}
	}
}

func (f *finder) negate(condition ast.Expr) {
	f.add(guard, condition, condition, "negated", switchCall+" != (", ")")
}

// tellsApart are the fields and variables that tell a thing from those before and after
// it.
var tellsApart = setOf(
	"answered", "boot", "clock", "committed", "epoch", "event", "generation", "graphID", "GraphID", "id", "round", "serial", "tx",
)

// generations finds the comparisons that tell a thing from what took its place: of
// what is counted, of names that are not used twice, and of pointers. Each passes, and
// where it does not say by itself which way that is, it fails as well.
func (f *finder) generations(n ast.Node) {
	switch n := n.(type) {
	case *ast.CallExpr:
		if name := called(n); name == "is" || name == "before" {
			f.constant(n, true)
		}
	case *ast.BinaryExpr:
		if !f.tellsApart(n.X, n.Y) {
			return
		}
		switch n.Op {
		case token.EQL:
			f.constant(n, true)
		case token.NEQ:
			f.constant(n, false)
		case token.LSS, token.LEQ, token.GTR, token.GEQ:
			f.constant(n, true)
			f.constant(n, false)
		}
	}
}

func (f *finder) constant(e ast.Expr, value bool) {
	if value {
		f.add(generation, e, e, "true", "("+switchCall+" || (", "))")
	} else {
		f.add(generation, e, e, "false", "(!"+switchCall+" && (", "))")
	}
}

func (f *finder) tellsApart(x, y ast.Expr) bool {
	for _, e := range []ast.Expr{x, y} {
		if tv := f.info.Types[e]; tv.IsNil() || tv.Value != nil {
			return false
		}
	}
	if tellsApart[lastName(x)] || tellsApart[lastName(y)] {
		return true
	}
	for _, e := range []ast.Expr{x, y} {
		switch f.info.TypeOf(e).Underlying().(type) {
		case *types.Pointer, *types.Chan:
			return true
		case *types.Interface:
			return !f.isError(e)
		}
	}
	return false
}
