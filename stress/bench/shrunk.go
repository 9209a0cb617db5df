package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/graphsnap/graphsnap/stress/peer"
)

// shrunkRows are about a database that once held a million records and now holds a
// thousand (moby/buildkit#6882).
var shrunkRows = []row{
	shrunk("shrunk", "", []target{{of: "graphsnap, shrunk", than: "graphsnap, fresh", most: 1.35}}),
	shrunk("shrunk-nosync", "/dev/shm", []target{{of: "graphsnap, shrunk", than: "graphsnap, fresh", most: 1.2}}),
}

// shrunk measures below dir, "" for the site. In memory a sync costs nothing.
func shrunk(rowName, dir string, targets []target) row {
	what := "a Prepare and Commit by one client, 1,000 records, where there once were 1,000,000 and where there were not"
	if dir != "" {
		what += ", in memory, so that fsync costs nothing"
	}
	return row{
		name:    rowName,
		what:    what,
		unit:    "ns",
		targets: targets,
		open: func(ctx context.Context, s *site) (all []contender, err error) {
			on := &site{root: s.root, smoke: s.smoke}
			if dir != "" {
				if on.root, err = os.MkdirTemp(dir, "bench-"); err != nil {
					return nil, err
				}
			} else if on.root, err = s.dir(); err != nil {
				return nil, err
			}
			all = append(all, contender{
				round: func(context.Context) (map[string]figure, error) { return nil, nil },
				close: func() error { return os.RemoveAll(on.root) },
			})
			once, now := s.n(1_000_000, 2000), 1000
			large, small := filepath.Join(on.root, "shrunk.db"), filepath.Join(on.root, "fresh.db")
			// A record is a bucket; a committed one is two.
			if err := errors.Join((fill{n: once / 2}).dockerd(large), shrink(large, once/2, now/2), (fill{n: now / 2}).dockerd(small)); err != nil {
				return all, err
			}
			for _, who := range []string{"graphsnap", "moby"} {
				for i, from := range []string{large, small} {
					p, err := filled(ctx, on, who, from, now/2)
					if err != nil {
						return all, err
					}
					n, done := s.n(100, 10), int64(once)
					all = append(all, one(who+", "+[]string{"shrunk", "fresh"}[i], func(ctx context.Context) (figure, error) {
						f, err := pairs(ctx, p, 1, n, done)
						done += int64(n)
						return f, err
					}, func() error { return errors.Join(p.Close(), openByMoby(ctx, p.Database(), done)) }))
				}
			}
			return all, nil
		},
	}
}

// shrink deletes all but the first keep pairs, as dockerd does.
func shrink(path string, n, keep int) error {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	for from := keep; from < n; from += fillBatch {
		if err := db.Update(func(tx *bolt.Tx) error {
			for i := int64(from + 1); i <= int64(min(n, from+fillBatch)); i++ {
				if err := errors.Join(tx.DeleteBucket([]byte(key(i))), tx.DeleteBucket([]byte(name(i)))); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return errors.Join(err, db.Close())
		}
	}
	return errors.Join(db.Sync(), db.Close())
}

// openByMoby checks that dockerd's snapshotter understands what was left by all that
// was done to it.
func openByMoby(ctx context.Context, path string, last int64) error {
	p, err := peer.Open(ctx, "moby", peer.Options{Root: filepath.Dir(path)})
	if err != nil {
		return fmt.Errorf("moby does not open %s: %w", path, err)
	}
	for _, i := range []int64{1, last} {
		if _, err := p.Stat(ctx, name(i)); err != nil {
			return errors.Join(fmt.Errorf("moby does not know %s: %w", name(i), err), p.Close())
		}
	}
	return p.Close()
}
