package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"math/rand/v2"

	"github.com/containerd/containerd/v2/core/snapshots"

	"github.com/graphsnap/graphsnap/stress/peer"
)

const readKeys = 100_000

var readRows = []row{
	{
		name:    "stat-one",
		what:    "Stat of one key among 100,000",
		unit:    "ns",
		targets: []target{{of: "graphsnap", most: 40}},
		open: func(ctx context.Context, s *site) ([]contender, error) {
			return statContenders(ctx, s, func(i int) int { return 0 }, false)
		},
		judge: noAllocation,
	},
	{
		name:    "stat-random",
		what:    "Stat of random keys among 100,000",
		unit:    "ns",
		targets: []target{{of: "graphsnap", than: "sync.Map", most: 1.5}},
		open: func(ctx context.Context, s *site) ([]contender, error) {
			return statContenders(ctx, s, func(i int) int { return i }, false)
		},
		judge: noAllocation,
	},
	{
		name:    "stat-parallel",
		what:    "Stat of random keys among 100,000, by as many as there are processors",
		unit:    "ns",
		targets: []target{{of: "graphsnap", than: "sync.Map", most: 1.5}},
		open: func(ctx context.Context, s *site) ([]contender, error) {
			return statContenders(ctx, s, func(i int) int { return i }, true)
		},
		judge: noAllocation,
	},
	{
		name:    "walk",
		what:    "Walk over 100,000 with a label filter that one in a hundred passes",
		unit:    "ns",
		targets: []target{{of: "containerd", than: "graphsnap", least: 10}},
		open: func(ctx context.Context, s *site) ([]contender, error) {
			return labelled(ctx, s, func(ctx context.Context, p peer.Snapshotter, keys int) (int, error) {
				found := 0
				err := p.Walk(ctx, func(context.Context, snapshots.Info) error { found++; return nil }, `labels."tenth"==7`)
				if want := keys / 100; err == nil && found != want {
					err = fmt.Errorf("found %d, want %d", found, want)
				}
				return 1, err
			})
		},
	},
	{
		name:    "usage-cached",
		what:    "Usage of a committed snapshot that was measured before",
		unit:    "ns",
		targets: []target{{of: "containerd", than: "graphsnap", least: 10}},
		open: func(ctx context.Context, s *site) ([]contender, error) {
			names := make([]string, s.n(20_000, 100)) // making one takes longer than Usage
			for i := range names {
				names[i] = name(int64(1 + i))
			}
			return labelled(ctx, s, func(ctx context.Context, p peer.Snapshotter, _ int) (int, error) {
				for _, name := range names {
					if _, err := p.Usage(ctx, name); err != nil {
						return 0, err
					}
				}
				return len(names), nil
			})
		},
	},
}

// noAllocation checks that Stat allocates nothing where there are no labels.
func noAllocation(r *result) {
	s := r.find("graphsnap")
	v := verdict{What: "allocations of graphsnap", Ratio: summarize(s.extra["allocations"])}
	v = v.against(target{most: 0.01}) // the runtime's own
	v.Target = "none"
	r.Verdicts = append(r.Verdicts, v)
}

// statContenders have the same keys, in the order that pick makes of one that is
// random.
func statContenders(ctx context.Context, s *site, pick func(int) int, parallel bool) (all []contender, err error) {
	n := s.n(readKeys, 1000)
	order := rand.New(rand.NewPCG(1, 2)).Perm(n)
	keys, boxed := make([]string, n), make([]any, n)
	var m sync.Map
	for i := range n { // as they are loaded: not in the order in which they are asked for
		m.Store(name(int64(1+i)), new(int))
	}
	for i := range order {
		at := pick(i)
		if i > 0 && at == pick(i-1) {
			keys[i], boxed[i] = keys[i-1], boxed[i-1] // one key is one piece of memory too
			continue
		}
		keys[i] = name(int64(1 + order[at]))
		boxed[i] = keys[i] // boxing would be the larger part of what sync.Map costs
	}
	loop := func(times int, do func(i int) error) (figure, error) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		var err error
		if !parallel {
			for i := range times {
				if err := do(i % n); err != nil {
					return figure{}, err
				}
			}
		} else {
			workers := runtime.GOMAXPROCS(0)
			errs := make([]error, workers)
			var g sync.WaitGroup
			for w := range workers {
				g.Go(func() {
					for i := range times / workers {
						if err := do((i + w*n/workers) % n); err != nil {
							errs[w] = err
							return
						}
					}
				})
			}
			g.Wait()
			err = errors.Join(errs...)
		}
		took := time.Since(began)
		runtime.ReadMemStats(&after)
		return figure{float64(took.Nanoseconds()) / float64(times), map[string]float64{
			"allocations": float64(after.Mallocs-before.Mallocs) / float64(times),
		}}, err
	}
	all = append(all, one("sync.Map", func(context.Context) (figure, error) {
		return loop(s.n(500_000, 1000), func(i int) error {
			if _, ok := m.Load(boxed[i]); !ok {
				return errors.New("a key is missing")
			}
			return nil
		})
	}, nil))

	from := filepath.Join(s.root, "stat.db")
	bolt, ctd := from+".dockerd", from+".containerd"
	if err := errors.Join((fill{n: n}).dockerd(bolt), (fill{n: n}).containerd(ctx, ctd)); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(bolt), os.Remove(ctd)) }()
	labels := from + ".labels"
	if err := (fill{n: n, labels: twoLabels}).graphsnap(ctx, labels); err != nil {
		return all, err
	}
	defer func() { err = errors.Join(err, os.Remove(labels)) }()
	for _, c := range []struct {
		name, who, from string
		times           int
	}{
		{"graphsnap", "graphsnap", bolt, s.n(500_000, 1000)},
		{"graphsnap, two labels", "graphsnap", labels, s.n(200_000, 1000)},
		{"moby", "moby", bolt, s.n(20_000, 100)},
		{"containerd", "containerd", ctd, s.n(20_000, 100)},
	} {
		p, err := filled(ctx, s, c.who, c.from, n)
		if err != nil {
			return all, err
		}
		all = append(all, one(c.name, func(ctx context.Context) (figure, error) {
			return loop(c.times, func(i int) error {
				_, err := p.Stat(ctx, keys[i])
				return err
			})
		}, p.Close))
	}
	return all, nil
}

func twoLabels(i int64) map[string]string {
	return map[string]string{"tenth": fmt.Sprint(i % 100), "containerd.io/snapshot.ref": "sha256:" + key(i)}
}

// labelled are graphsnap and containerd with labels on every snapshot. do returns
// how many operations it made.
func labelled(ctx context.Context, s *site, do func(ctx context.Context, p peer.Snapshotter, keys int) (int, error)) (all []contender, err error) {
	n := s.n(readKeys, 1000)
	f := fill{n: n, labels: twoLabels}
	from := filepath.Join(s.root, "labels.db")
	if err := errors.Join(f.graphsnap(ctx, from+".graphsnap"), f.containerd(ctx, from+".containerd")); err != nil {
		return nil, err
	}
	for _, who := range []string{"graphsnap", "containerd"} {
		p, err := filled(ctx, s, who, from+"."+who, n)
		if err != nil {
			return all, err
		}
		all = append(all, one(who, func(ctx context.Context) (figure, error) {
			began := time.Now()
			times, err := do(ctx, p, n)
			return figure{value: float64(time.Since(began).Nanoseconds()) / float64(times)}, err
		}, p.Close))
		if err := os.Remove(from + "." + who); err != nil {
			return all, err
		}
	}
	return all, nil
}
