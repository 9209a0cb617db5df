package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// TestEveryEngineOptionCanBeSwept reads the options from the engine's source.
func TestEveryEngineOptionCanBeSwept(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../engine/options.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || !strings.HasPrefix(f.Name.Name, "With") {
			continue
		}
		var name strings.Builder
		for i, r := range strings.TrimPrefix(f.Name.Name, "With") {
			if unicode.IsUpper(r) && i > 0 {
				name.WriteByte('-')
			}
			name.WriteRune(unicode.ToLower(r))
		}
		want = append(want, name.String())
	}
	if len(want) == 0 {
		t.Fatal("no option found")
	}
	if have, want := slices.Sorted(maps.Keys(tunable)), slices.Sorted(slices.Values(want)); !slices.Equal(have, want) {
		t.Errorf("a sweep knows %v, the engine has %v", have, want)
	}
}

func TestASweepIsAGrid(t *testing.T) {
	var s sweep
	for _, arg := range []string{"batch=1,64", "sync-on-commit=false,true", "grace=1s"} {
		if err := s.Set(arg); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	var options []int
	for _, p := range s.grid() {
		names = append(names, p.name)
		options = append(options, len(tuned(p.values)))
		for name, value := range p.values {
			if !strings.Contains(" "+p.name+" ", " "+name+"="+value+" ") {
				t.Errorf("%s: %v", p.name, p.values)
			}
		}
	}
	want := []string{
		"batch=1 sync-on-commit=false grace=1s", "batch=1 sync-on-commit=true grace=1s",
		"batch=64 sync-on-commit=false grace=1s", "batch=64 sync-on-commit=true grace=1s",
	}
	if !slices.Equal(names, want) || !slices.Equal(options, []int{2, 3, 2, 3}) {
		t.Errorf("%q with %v options", names, options)
	}
	if points := (sweep)(nil).grid(); len(points) != 1 || points[0].name != "" {
		t.Errorf("without a sweep: %v", points)
	}
}
