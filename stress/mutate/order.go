package main

import (
	"go/ast"
	"go/types"
)

// writing are the calls of persist and below it that make something durable, or are a
// step to it.
var writing = setOf(
	"alias", "commit", "commitKey", "commitTx", "copyTo", "create", "Delete", "delete", "DeleteBucket", "deleteOurs",
	"discard", "fill", "fillBucket", "hide", "Later", "mark", "Put", "put", "putOrDelete", "putOurs", "putParent",
	"putWhole", "remove", "removeBeside", "rename", "syncDir", "syncFile", "tidy", "tidyOne", "tidyRemovals", "unhide",
	"Write", "writeLast", "writeTo",
)

// telling are the calls that make a change known to others, or begin what follows
// from it.
var telling = setOf(
	"append", "close", "CompareAndSwap", "grant", "mounted", "nudge", "Publish", "publish", "push", "Put", "Seed",
	"settle", "settleAlias", "start", "startTimer", "Store", "unmounted", "wrote",
)

// following are the calls that a write has to precede.
var following = []string{"publish", "Publish", "Free", "Answer"}

// orders finds statements that make a change known, and those that are to follow a
// write.
func (f *finder) orders(list []ast.Stmt) {
	for i, s := range list {
		if e, ok := s.(*ast.ExprStmt); ok && (telling[called(e.X)] || f.writes(e.X)) {
			f.delete(order, s)
		}
		if !contains(s, f.writes) {
			continue
		}
		for _, name := range following {
			last := -1
			for j := i + 1; j < len(list); j++ {
				if contains(list[j], func(e ast.Expr) bool { return called(e) == name }) {
					last = j
				}
			}
			if last > i && !f.uses(list[i+1:last+1], f.defines(s)) {
				f.postpone(list, i, last, name)
			}
		}
	}
}

// postpone adds the mutant in which the statement at i comes after the one at j.
func (f *finder) postpone(list []ast.Stmt, i, j int, name string) {
	first, last := list[i], list[len(list)-1]
	moved := f.textOf(list[i+1], list[j]) + "\n" + f.textOf(first, first) + "\n"
	if j+1 < len(list) {
		moved += f.textOf(list[j+1], last) + "\n"
	}
	f.add(order, first, last, "", "if "+switchCall+" {\n"+moved+"} else {\n", "\n}")
	m := f.found[len(f.found)-1]
	m.original, m.becomes = oneLine(f.textOf(first, first)), "after "+name
}

// dropped finds writes of which somebody uses the error.
func (f *finder) dropped(n ast.Node) {
	if call, ok := n.(*ast.CallExpr); ok && !f.ignored[call] && f.writes(call) && f.isError(call) {
		f.add(order, call, call, "dropped", dropCall+"func() error { return ", " })")
	}
}

// writes tells whether e is a call that writes.
func (f *finder) writes(e ast.Expr) bool {
	call, ok := e.(*ast.CallExpr)
	if !ok || !writing[called(call)] {
		return false
	}
	var name *ast.Ident
	switch fn := call.Fun.(type) {
	case *ast.Ident:
		name = fn
	case *ast.SelectorExpr:
		name = fn.Sel
	default:
		return false
	}
	o := f.info.Uses[name]
	if o == nil || o.Pkg() == nil || o.Pkg().Name() != "persist" && o.Pkg().Name() != "bbolt" {
		return false
	}
	result, ok := f.info.TypeOf(call).(*types.Tuple)
	return f.isError(call) || ok && result.Len() == 0 || name.Name == "Later"
}

func (f *finder) isError(e ast.Expr) bool {
	return types.Identical(f.info.TypeOf(e), types.Universe.Lookup("error").Type())
}

// contains tells whether a call in s is one of those.
func contains(s ast.Stmt, those func(ast.Expr) bool) (yes bool) {
	ast.Inspect(s, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok && those(call) {
			yes = true
		}
		return !yes
	})
	return yes
}

// defines returns what a statement declares for those that follow.
func (f *finder) defines(s ast.Stmt) map[types.Object]bool {
	defined := map[types.Object]bool{}
	if a, ok := s.(*ast.AssignStmt); ok {
		for _, to := range a.Lhs {
			if name, ok := to.(*ast.Ident); ok && f.info.Defs[name] != nil {
				defined[f.info.Defs[name]] = true
			}
		}
	}
	return defined
}

func (f *finder) uses(list []ast.Stmt, objects map[types.Object]bool) (yes bool) {
	for _, s := range list {
		ast.Inspect(s, func(n ast.Node) bool {
			if name, ok := n.(*ast.Ident); ok && objects[f.info.Uses[name]] {
				yes = true
			}
			return !yes
		})
	}
	return yes
}
