package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/docker/docker/layer"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/stress/peer"
)

// tailRows are about what others notice while a snapshot is read from end to end.
var tailRows = []row{{
	name: "beside-scans",
	what: "99th percentiles while Usage of a snapshot of 1 GiB and EnsureLayer of it run, and while nothing does",
	unit: "ns",
	targets: []target{
		{of: "Stat of others, busy", than: "Stat of others, quiet", most: 1.2},
		{of: "Stat of the same, busy", than: "Stat of the same, quiet", most: 1.2},
		{of: "Prepare of others, busy", than: "Prepare of others, quiet", most: 1.2},
	},
	open: openTail,
}}

func openTail(ctx context.Context, s *site) (_ []contender, err error) {
	root, err := s.dir()
	if err != nil {
		return nil, err
	}
	files, err := s.dir()
	if err != nil {
		return nil, err
	}
	if err := writeFiles(files, s.n(4096, 16), 256<<10); err != nil {
		return nil, err
	}
	p, err := peer.Open(ctx, "graphsnap", peer.Options{Root: filepath.Join(root, "graphsnap"), Driver: "overlay2"})
	if err != nil {
		return nil, err
	}
	t := &tail{s: s, p: p, files: files}
	if err := errors.Join(p.Prepare(ctx, "other", "")); err != nil {
		return nil, err
	}
	return []contender{{round: t.round, close: func() error {
		return errors.Join(p.Close(), os.RemoveAll(root), os.RemoveAll(files))
	}}}, nil
}

// writeFiles writes n files of so many bytes that no two have in common.
func writeFiles(dir string, n, size int) error {
	b := make([]byte, size)
	x := uint64(1)
	for i := range n {
		for j := range b { // xorshift: neither compressible nor slow
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			b[j] = byte(x)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// syncFileSystem writes out what the file system of dir has not on disk.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

type tail struct {
	s     *site
	p     peer.Snapshotter
	files string
	made  int
}

// round measures for a while, then while the scans run of a snapshot that nobody
// measured yet. Its files are links to those of the rounds before.
func (t *tail) round(ctx context.Context) (map[string]figure, error) {
	t.made++
	key, big := fmt.Sprint("making-", t.made), fmt.Sprint("big-", t.made)
	if err := t.p.Prepare(ctx, key, ""); err != nil {
		return nil, err
	}
	if err := t.fill(ctx, key); err != nil {
		return nil, err
	}
	if err := t.p.Commit(ctx, big, key); err != nil {
		return nil, err
	}
	// What was written so far must not be flushed while others are measured.
	if err := syncFileSystem(t.files); err != nil {
		return nil, err
	}
	quiet := make(chan struct{})
	time.AfterFunc(time.Duration(t.s.n(1500, 50))*time.Millisecond, func() { close(quiet) })
	figures := map[string]figure{}
	if err := t.measure(ctx, "quiet", big, quiet, figures); err != nil {
		return nil, err
	}
	busy, failed := make(chan struct{}), error(nil)
	go func() {
		defer close(busy)
		usage := make(chan error, 1)
		go func() {
			_, err := t.p.Usage(ctx, big)
			usage <- err
		}()
		_, err := t.p.(*peer.Docker).Snapshotter.(interface {
			EnsureLayer(context.Context, string) ([]layer.DiffID, error)
		}).EnsureLayer(ctx, big)
		failed = errors.Join(err, <-usage)
	}()
	err := t.measure(ctx, "busy", big, busy, figures)
	<-busy
	return figures, errors.Join(err, failed)
}

// fill links the files into the snapshot, and writes one that makes it another
// layer.
func (t *tail) fill(ctx context.Context, key string) (err error) {
	m, err := t.p.Mounts(ctx, key)
	if err != nil {
		return err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	// A snapshot without a parent is its directory: no link is made across file
	// systems.
	dir := mounts[0].Source
	entries, err := os.ReadDir(t.files)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.Link(filepath.Join(t.files, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "salt"), []byte(key), 0o644)
}

// measure times calls until done is closed, a thousand Stats to a Prepare.
func (t *tail) measure(ctx context.Context, when, big string, done <-chan struct{}, figures map[string]figure) error {
	var others, same, prepares []float64
	for n := 0; ; n++ {
		select {
		case <-done:
			if n > 0 {
				for name, samples := range map[string][]float64{"Stat of others": others, "Stat of the same": same, "Prepare of others": prepares} {
					figures[name+", "+when] = figure{quantile(samples, 0.99), map[string]float64{"median": quantile(samples, 0.5)}}
				}
				return nil
			}
		default:
		}
		for range 1000 {
			began := time.Now()
			_, err := t.p.Stat(ctx, "other")
			others = append(others, float64(time.Since(began)))
			if err != nil {
				return err
			}
			began = time.Now()
			_, err = t.p.Stat(ctx, big)
			same = append(same, float64(time.Since(began)))
			if err != nil {
				return err
			}
		}
		began := time.Now()
		err := t.p.Prepare(ctx, fmt.Sprint("beside-", t.made, "-", when, "-", n), "")
		prepares = append(prepares, float64(time.Since(began)))
		if err != nil {
			return err
		}
	}
}
