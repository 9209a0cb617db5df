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

// fast is how long a test may take that is run before the others.
const fast = 200 * time.Millisecond

// leastLimit is how long tests may take at least that take a moment with no mutant on,
// on a machine that does something else meanwhile.
var leastLimit = 10 * time.Second

// tested is what a test does when no mutant is on.
type tested struct {
	Name    string
	Took    time.Duration
	Reached []int // numbers of mutants that it comes by
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
		t := tested{Name: name, Took: o.took}
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
	slices.SortFunc(found, func(x, y tested) int { return cmp.Compare(x.Took, y.Took) })
	return found, err
}

// batches returns the tests that come by a mutant, the fast ones and the others, and
// how long all of a batch may take.
func batches(all []tested, m *mutant) (names [2][]string, limits [2]time.Duration) {
	for _, t := range all {
		if _, reached := slices.BinarySearch(t.Reached, m.number); !reached {
			continue
		}
		i := 0
		if t.Took > fast {
			i = 1
		}
		names[i] = append(names[i], t.Name)
		limits[i] += 4 * t.Took
	}
	for i := range limits {
		limits[i] = max(limits[i], leastLimit).Round(time.Second)
	}
	return names, limits
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
