package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/graphsnap/graphsnap/stress/peer"
)

// pairPeers are the contenders where only metadata is compared.
var pairPeers = []string{"graphsnap", "moby", "metastore", "floor"}

func openPairs(ctx context.Context, who string, o peer.Options) (peer.Pairs, error) {
	if who == "floor" {
		return peer.OpenFloor(o.Root)
	}
	return peer.Open(ctx, who, o)
}

// smallPairRows are about a database of at most 1,000 keys: it is made anew for
// every 1,000 pairs.
var smallPairRows = []row{
	smallPairs("pair-1", 1, []target{{of: "graphsnap", than: "moby", most: 1.1}}),
	smallPairs("pair-64", 64, []target{
		{of: "moby", than: "graphsnap", least: 12},
		{of: "metastore", than: "graphsnap", least: 12},
		{of: "graphsnap", than: "floor", most: 1.5},
	}),
	smallPairs("pair-256", 256, []target{
		{of: "moby", than: "graphsnap", least: 25},
		{of: "metastore", than: "graphsnap", least: 25},
		{of: "graphsnap", than: "floor", most: 1.5},
	}),
	{
		name: "pair-growth",
		what: "a durable Prepare and Commit as clients become more, database of at most 4,000 keys",
		unit: "ns",
		open: func(ctx context.Context, s *site) (all []contender, _ error) {
			for _, clients := range growth {
				all = append(all, one(growthName(clients), func(ctx context.Context) (figure, error) {
					// Several for each client: where most make one, the last ones have nobody beside them.
					return freshPairs(ctx, s, "graphsnap", clients, min(s.n(4000, 64), 200+clients*10), s.n(2, 1))
				}, nil))
			}
			return all, nil
		},
		judge: judgeGrowth,
	},
}

var growth = []int{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}

func growthName(clients int) string { return fmt.Sprintf("graphsnap, %d clients", clients) }

// judgeGrowth checks that throughput never falls by more than a tenth from the best
// that fewer clients had.
func judgeGrowth(r *result) {
	var best *series
	worst := verdict{What: "throughput beside the best with fewer clients", Target: "at least 0.9"}
	for _, clients := range growth {
		s := r.find(growthName(clients))
		if best != nil {
			if now := summarize(ratios(best, s)); worst.Ratio == (summary{}) || now.Median < worst.Ratio.Median {
				worst.Ratio = now
				worst.What = fmt.Sprintf("throughput with %d clients beside the best with fewer", clients)
			}
		}
		if best == nil || s.Summary.Median < best.Summary.Median {
			best = s
		}
	}
	r.Verdicts = append(r.Verdicts, worst.against(target{least: 0.9}))
}

func smallPairs(name string, clients int, targets []target) row {
	return row{
		name:    name,
		what:    fmt.Sprintf("a durable Prepare and Commit, driver that costs nothing, at most 1,000 keys, %d clients", clients),
		unit:    "ns",
		targets: targets,
		open: func(ctx context.Context, s *site) (all []contender, _ error) {
			for _, who := range pairPeers {
				n, times := s.n(1000, 64), s.n(4, 1)
				if clients == 1 {
					n, times = s.n(200, 20), 1
				} else if who == "moby" || who == "metastore" {
					n, times = s.n(400, 16), 1 // they cost the same whatever their number
				}
				all = append(all, one(who, func(ctx context.Context) (figure, error) {
					return freshPairs(ctx, s, who, clients, n, times)
				}, nil))
			}
			return all, nil
		},
	}
}

// freshPairs makes n pairs in each of so many new databases.
func freshPairs(ctx context.Context, s *site, who string, clients, n, times int) (sum figure, err error) {
	sum.extra = map[string]float64{}
	for range times {
		root, err := s.dir()
		if err != nil {
			return sum, err
		}
		p, err := openPairs(ctx, who, peer.Options{Root: root})
		if err != nil {
			return sum, err
		}
		f, err := pairs(ctx, p, clients, n, 0)
		if err := errors.Join(err, p.Close(), os.RemoveAll(root)); err != nil {
			return sum, err
		}
		sum.value += f.value / float64(times)
		for k, v := range f.extra {
			sum.extra[k] += v / float64(times)
		}
	}
	return sum, nil
}

// largePairRows are about a database that is large already. It stays open and grows
// by as much for everybody.
var largePairRows = []row{
	largePairs("pair-64-100k", 100_000),
	largePairs("pair-64-1M", 1_000_000),
}

func largePairs(name string, keys int) row {
	return row{
		name: name,
		what: fmt.Sprintf("a durable Prepare and Commit, driver that costs nothing, %d keys, 64 clients", keys),
		unit: "ns",
		targets: []target{
			{of: "graphsnap", than: "floor", most: 1.5},
			{of: "moby", than: "graphsnap", least: 3},
		},
		open: func(ctx context.Context, s *site) (all []contender, err error) {
			keys := s.n(keys, 1000)
			from := filepath.Join(s.root, name+".db")
			if err := (fill{n: keys}).dockerd(from); err != nil {
				return nil, err
			}
			for _, who := range []string{"graphsnap", "moby", "floor"} {
				root, err := s.dir()
				if err != nil {
					return all, err
				}
				if err := copyFile(from, filepath.Join(root, "snapshots.db")); err != nil {
					return all, err
				}
				p, err := openPairs(ctx, who, peer.Options{Root: root, Existed: below(int64(keys))})
				if err != nil {
					return all, err
				}
				n, done := s.n(2000, 64), int64(keys)
				if who == "moby" {
					n = s.n(256, 16)
				}
				all = append(all, one(who, func(ctx context.Context) (figure, error) {
					f, err := pairs(ctx, p, 64, n, done)
					done += int64(n)
					return f, err
				}, func() error { return errors.Join(p.Close(), os.RemoveAll(root)) }))
			}
			return all, os.Remove(from)
		},
	}
}
