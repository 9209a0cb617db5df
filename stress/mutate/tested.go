package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// above are the tests of floors above that guard a package as well, by the package of
// theirs: the model checker's, and those of the faces. Of these the fast ones are run.
var above = map[string][]struct {
	folder, match string
	slowest       time.Duration // that a test may take
}{
	"engine": {
		{"stress/run", "^(TestReplays|TestEveryWorkloadIsLinearizable)$", 30 * time.Second},
		{"adapter", "^Test", time.Second},
	},
}

// slowest is how long a test of the package itself may take.
const slowest = 2 * time.Minute

// The tests that come by a mutant are run in batches, those that take least processor
// time first: of the first batch so long together, of each other one so many times as
// long as the one before.
const (
	firstBatch = 50 * time.Millisecond
	nextBatch  = 4
)

// leastLimit is how long tests may take at least that take a moment with no mutant on,
// on a machine that does something else meanwhile.
var leastLimit = 20 * time.Second

// tested is what a test does when no mutant is on.
type tested struct {
	Name    string
	Took    time.Duration
	Cost    time.Duration // of processors
	Reached []int         // numbers of mutants that it comes by
}

// examine runs each test of the binary alone. Tests that fail, or take longer than
// slowest, are of no use here and left out.
func (b *binary) examine(ctx context.Context, match string, slowest time.Duration, parallel int) ([]tested, error) {
	names, err := b.tests(ctx, match)
	if err != nil {
		return nil, err
	}
	found := make([]tested, len(names))
	err = inParallel(ctx, parallel, names, func(ctx context.Context, i int, name string) error {
		file, err := os.CreateTemp(scratch(), "mutate-reached-")
		if err != nil {
			return err
		}
		defer os.Remove(file.Name())
		_ = file.Close()
		o, err := b.run(ctx, []string{name}, slowest, environmentReached+"="+file.Name())
		if err != nil {
			return err
		}
		if !o.passed {
			if o.by != "hangs" {
				fmt.Fprintf(os.Stderr, "%s: %s fails with no mutant on and is left out\n", b.folder, name)
			}
			return nil
		}
		text, err := os.ReadFile(file.Name())
		if err != nil {
			return err
		}
		t := tested{Name: name, Took: o.took, Cost: o.cost}
		for _, line := range strings.Fields(string(text)) {
			n, err := strconv.Atoi(line)
			if err != nil {
				return err
			}
			t.Reached = append(t.Reached, n)
		}
		slices.Sort(t.Reached)
		t.Reached = slices.Compact(t.Reached) // processes that it starts tell again
		found[i] = t
		return nil
	})
	found = slices.DeleteFunc(found, func(t tested) bool { return t.Name == "" })
	slices.SortFunc(found, func(x, y tested) int { return cmp.Compare(x.Cost, y.Cost) })
	return found, err
}

// batch is tests that are run together, and how long they may take.
type batch struct {
	tests []string
	limit time.Duration
}

// batches returns the tests that come by a mutant.
func batches(all []tested, m *mutant) (list []batch) {
	var next batch
	var cost time.Duration
	for bound := firstBatch; ; bound *= nextBatch {
		for len(all) > 0 && cost < bound {
			t := all[0]
			all = all[1:]
			if _, reached := slices.BinarySearch(t.Reached, m.number); reached {
				next.tests = append(next.tests, t.Name)
				next.limit += 4 * t.Took
				cost += t.Cost
			}
		}
		if len(next.tests) > 0 {
			next.limit = max(next.limit, leastLimit).Round(time.Second)
			list = append(list, next)
		}
		if len(all) == 0 {
			return list
		}
		next, cost = batch{}, 0
	}
}

// fileOf returns the file that has the test, "" where it is not found.
func (b *binary) fileOf(test string) (string, error) {
	files, err := filepath.Glob(filepath.Join(b.dir, "*_test.go"))
	if err != nil {
		return "", err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if strings.Contains(string(text), "\nfunc "+test+"(") {
			return file, nil
		}
	}
	return "", nil
}
