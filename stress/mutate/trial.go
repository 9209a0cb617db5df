package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// trial tries the mutants of a package.
type trial struct {
	root, build string
	source      *source
	known       *results
	parallel    int
}

// result is what became of a mutant.
type result struct {
	Name    string // tells it from all others
	At      string // file and line
	Package string
	Kind    kind
	By      string // what noticed, "" for nothing
	Reached bool   // by any test, where nothing noticed
	Reason  string // why it may survive
}

// try tries the mutants, unless it is known what becomes of them.
func (t *trial) try(ctx context.Context, mutants []*mutant) ([]*result, error) {
	all := make([]*result, len(mutants))
	var left []int
	for i, m := range mutants {
		all[i] = &result{Name: m.name(), At: m.at(), Package: m.folder, Kind: m.kind}
		v := t.known.of(m)
		if v.By != "" {
			seen, err := t.seen(m, v.By)
			if err == nil && seen == v.Seen { // else the test is gone
				all[i].By = v.By
				continue
			}
		}
		left = append(left, i)
	}
	if len(left) == 0 {
		return all, nil
	}
	dir := filepath.Join(t.build, strings.ReplaceAll(t.source.folder, "/", "-"))
	overlay, err := t.source.overlay(dir)
	if err != nil {
		return nil, err
	}
	left, err = t.with(ctx, overlay, dir, t.source.folder, "^(Test|Fuzz)", slowest, mutants, left, all)
	if err != nil {
		return nil, err
	}
	for _, a := range above[t.source.folder] {
		if len(left) == 0 {
			break
		}
		left, err = t.with(ctx, overlay, dir, a.folder, a.match, a.slowest, mutants, left, all)
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

// with tries those of the mutants that are left with the tests in folder, and returns
// those that are left then.
func (t *trial) with(ctx context.Context, overlay, dir, folder, match string, slowest time.Duration, mutants []*mutant, left []int, all []*result) ([]int, error) {
	b, err := compile(ctx, t.root, overlay, folder, filepath.Join(dir, strings.ReplaceAll(folder, "/", "-")+".test"))
	if err != nil {
		return nil, err
	}
	tests, err := t.examine(ctx, b, match, slowest)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	err = inParallel(ctx, t.parallel, left, func(ctx context.Context, _, i int) error {
		m, r := mutants[i], all[i]
		list := batches(tests, m)
		r.Reached = r.Reached || len(list) > 0
		v := t.known.of(m)
		if v.Passed[folder] == b.hash {
			return nil
		}
		var o outcome
		for _, batch := range list {
			var err error
			if o, err = b.run(ctx, batch.tests, batch.limit, on(m)); err != nil {
				return err
			}
			if !o.passed {
				break
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return t.known.change(func() {
			if o.by == "" {
				v.Passed = maps.Clone(v.Passed)
				if v.Passed == nil {
					v.Passed = map[string]string{}
				}
				v.Passed[folder] = b.hash
				v.By = ""
			} else {
				r.By = folder + "." + o.by
				v = verdict{By: r.By}
				v.Seen, _ = t.seen(m, r.By)
			}
			t.known.Verdicts[m.name()] = &v
		})
	})
	var survive []int
	for _, i := range left {
		if all[i].By == "" {
			survive = append(survive, i)
		}
	}
	fmt.Fprintf(os.Stderr, "%s: %d of %d mutants pass the tests of %s (%v)\n", t.source.folder, len(survive), len(left), folder, time.Since(began).Round(time.Second))
	return survive, err
}

// examine is binary.examine, unless that was done before.
func (t *trial) examine(ctx context.Context, b *binary, match string, slowest time.Duration) ([]tested, error) {
	name := t.source.folder + " under " + b.folder
	if known := t.known.Tested[name]; known != nil && known.Binary == b.hash {
		return known.Tests, nil
	}
	tests, err := b.examine(ctx, match, slowest, t.parallel)
	if err != nil {
		return nil, err
	}
	return tests, t.known.change(func() { t.known.Tested[name] = &examined{Binary: b.hash, Tests: tests} })
}

// seen is the hash of what it depends on that a mutant is noticed: the file that has it
// and the file of the test. Where no test is known that noticed it is that of the first
// alone.
func (t *trial) seen(m *mutant, by string) (string, error) {
	files := []string{m.file}
	i := strings.LastIndex(by, ".")
	if folder, test := by[:i], by[i+1:]; strings.HasPrefix(test, "Test") || strings.HasPrefix(test, "Fuzz") {
		file, err := (&binary{dir: filepath.Join(t.root, folder)}).fileOf(test)
		if err != nil {
			return "", err
		}
		rel, err := filepath.Rel(t.root, file)
		if err != nil {
			return "", err
		}
		files = append(files, rel)
	}
	return hashOf(t.root, files...)
}

// inParallel calls f for all of a list, so many at once.
func inParallel[T any](ctx context.Context, parallel int, list []T, f func(ctx context.Context, i int, of T) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, parallel))
	for i, of := range list {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return f(ctx, i, of)
		})
	}
	return g.Wait()
}
