package main

import "go/ast"

// lettingGo are the calls that let go of something, end it or give it back.
var lettingGo = setOf(
	"abandon", "answerReleases", "AskOwed", "bury", "cancel", "Close", "closeFile", "consider", "decide", "dispose",
	"end", "endHolds", "failWaiters", "Forget", "forgetDirectory", "Free", "leave", "Leave", "Owe", "refuseLine",
	"Release", "release", "releaseLayer", "remove", "Remove", "RemoveAll", "retry", "Rollback", "Stop", "stop",
	"stopTimer", "Unlock", "Unseal", "unhold", "unpin", "vanish", "Wait", "withdraw",
)

// undos finds what lets go, among statements that follow each other.
func (f *finder) undos(list []ast.Stmt) {
	for _, s := range list {
		switch d, ok := s.(*ast.DeferStmt); {
		case ok && !isAlone(d):
			f.delete(undo, s)
		case letsGo(s):
			f.delete(undo, s)
			if a, ok := s.(*ast.AssignStmt); ok {
				f.ignored[a.Rhs[0]] = true
			}
		}
	}
}

// letsGo tells whether s is a call that lets go of something, of which nobody uses the
// result.
func letsGo(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.ExprStmt:
		return lettingGo[called(s.X)]
	case *ast.AssignStmt:
		for _, to := range s.Lhs {
			if name, ok := to.(*ast.Ident); !ok || name.Name != "_" {
				return false
			}
		}
		return len(s.Rhs) == 1 && lettingGo[called(s.Rhs[0])]
	}
	return false
}

// isAlone tells whether a deferred function does nothing but one thing that is found
// for itself.
func isAlone(d *ast.DeferStmt) bool {
	body, ok := d.Call.Fun.(*ast.FuncLit)
	if !ok {
		return false
	}
	n := 0
	ast.Inspect(body, func(node ast.Node) bool {
		for _, list := range statements(node) {
			for _, s := range list {
				switch s.(type) {
				case *ast.IfStmt, *ast.BlockStmt:
				default:
					n++
					if !letsGo(s) {
						n = 2
					}
				}
			}
		}
		return true
	})
	return n == 1
}

func setOf(names ...string) map[string]bool {
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}
