package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// kind is a kind of fault.
type kind string

const (
	undo       kind = "undo"
	order      kind = "order"
	generation kind = "generation"
	guard      kind = "guard"
)

var kinds = []kind{undo, order, generation, guard}

// mutant is one fault.
type mutant struct {
	number   int // of its switch, from 1 within its package
	folder   string
	file     string // below the root
	line     int
	function string
	kind     kind
	original string // in one line, abridged
	becomes  string
	nth      int // where a function has several of the same, from 1
	edit     edit
}

// edit puts text around a part of a file.
type edit struct {
	from, to    int // bytes
	open, close string
}

// name tells the mutant from all others, also after the file was edited elsewhere.
func (m *mutant) name() string {
	name := fmt.Sprintf("%s %s %s: %s → %s", m.folder, m.function, m.kind, m.original, m.becomes)
	if m.nth > 1 {
		name += fmt.Sprintf(" #%d", m.nth)
	}
	return name
}

func (m *mutant) at() string { return fmt.Sprintf("%s:%d", m.file, m.line) }

// number gives mutants their numbers, and numbers those that read the same.
func number(all []*mutant) {
	slices.SortStableFunc(all, func(a, b *mutant) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.edit.from, b.edit.from))
	})
	same := map[string]int{}
	for i, m := range all {
		m.number = i + 1
		name := m.name()
		same[name]++
		m.nth = same[name]
	}
}

// instrument returns the source with every edit made. Edits lie within each other or
// apart; of two around the same text the later in the list is the inner one.
func instrument(source []byte, edits []edit) []byte {
	opens, closes := slices.Clone(edits), slices.Clone(edits)
	slices.SortStableFunc(opens, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(b.to, a.to))
	})
	// Where several end at one place the innermost closes first.
	depth := make(map[edit]int, len(edits))
	for i, e := range opens {
		depth[e] = i
	}
	slices.SortFunc(closes, func(a, b edit) int {
		return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(depth[b], depth[a]))
	})
	var out []byte
	at := 0
	for len(opens)+len(closes) > 0 {
		if len(closes) > 0 && (len(opens) == 0 || closes[0].to <= opens[0].from) {
			out = append(append(out, source[at:closes[0].to]...), closes[0].close...)
			at, closes = closes[0].to, closes[1:]
			continue
		}
		out = append(append(out, source[at:opens[0].from]...), opens[0].open...)
		at, opens = opens[0].from, opens[1:]
	}
	return append(out, source[at:]...)
}

// oneLine abridges source text.
func oneLine(text string) string {
	const limit = 100
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return text
}
