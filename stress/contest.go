package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/graphsnap/graphsnap/stress/faces"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/report"
	"github.com/graphsnap/graphsnap/stress/run"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/trace"
)

// entrant is who takes part in a contest: the target, with some options of the
// engine or as a peer.
type entrant struct {
	name    string
	options map[string]string // that a sweep set, nil for none
	peer    bool
	// open opens the target, new, with all that it keeps in root.
	open func(ctx context.Context, root string, inject *faults.Injector) (target.Target, error)
}

// entrants are those that the command line asks for. Ratios are to the first.
func (s *settings) entrants() []entrant {
	var all []entrant
	for _, p := range s.sweep.grid() {
		e := entrant{name: p.name, options: p.values}
		if e.name == "" {
			e.name = s.target
		}
		e.open = func(ctx context.Context, root string, inject *faults.Injector) (target.Target, error) {
			at := place{Target: s.target, Driver: s.driver, Root: root, Options: p.values}
			if s.run.Kill > 0 {
				return at.apart(ctx, inject, s.run.Seed)
			}
			return at.open(ctx, inject)
		}
		all = append(all, e)
	}
	for name := range strings.SplitSeq(s.peers, ",") {
		if s.peers == "" {
			break
		}
		who := peers[name](s.driver)
		all = append(all, entrant{name: who, peer: true, open: func(ctx context.Context, root string, inject *faults.Injector) (target.Target, error) {
			return place{Target: who, Driver: s.driver, Root: root}.open(ctx, inject)
		}})
	}
	return all
}

// peers are the targets that peers are on a driver. containerd's snapshotter has no
// driver; beside one that costs nothing its database stands for it.
var peers = map[string]func(driver string) string{
	"moby": func(string) string { return "moby" },
	"containerd": func(driver string) string {
		if driver == "null" {
			return "metastore"
		}
		return "overlayfs"
	},
}

// common are the operations that all peers can do. Snapshots go at the end of their
// families, since some go with leases and some by call.
var common = []string{"prepare", "view", "commit", "stat", "usage", "mounts", "mount", "release"}

// contest runs every entrant once a round, so that what the machine does meanwhile
// is not taken for a difference between them; who begins changes from round to
// round. It ends early with ctx, with a violation or an undecided history, and with
// an error; what there is by then is returned in any case.
func (s *settings) contest(ctx context.Context, root string) ([]*report.Contender, error) {
	entrants := s.entrants()
	contenders := make([]*report.Contender, len(entrants))
	for i, e := range entrants {
		contenders[i] = &report.Contender{Name: e.name}
	}
	n := 0
	for round := range s.rounds {
		for i := range entrants {
			i = (i + round) % len(entrants)
			n++
			dir := filepath.Join(root, fmt.Sprint(n))
			name := ""
			if total := s.rounds * len(entrants); total > 1 {
				name = fmt.Sprintf("%d/%d %s", n, total, entrants[i].name)
			}
			result, err := s.one(ctx, entrants[i], dir, name, n == 1)
			if result != nil {
				contenders[i].Rounds = append(contenders[i].Rounds, result)
			}
			if err != nil || ctx.Err() != nil || len(result.Verdict.Violations) > 0 || result.Verdict.Undecided > 0 {
				return contenders, err
			}
		}
	}
	return contenders, nil
}

// one opens an entrant in dir, drives it, closes it and looks at what it left. Its
// progress is shown under the name. Where the first cannot be opened it is the
// command line, or the machine, that is wrong.
func (s *settings) one(ctx context.Context, e entrant, dir, name string, first bool) (result *metrics.Result, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	debug.FreeOSMemory() // nobody is charged for the garbage of the one before
	if kind, size := s.fileSystem(); kind != "" {
		unmount, failed := faces.MountLoop(dir, kind, size)
		if failed != nil {
			return nil, fmt.Errorf("%w: %w", failed, errUsage)
		}
		defer func() { err = errors.Join(err, unmount()) }()
	}
	c := s.run
	c.Lenient = e.peer && !c.Check
	if s.fullDisk > 0 {
		c.Fill = func() (func() error, error) { return faces.Fill(dir) }
	}
	c.Faults = faults.New(s.rates, c.Seed)
	c.Faults.Calm(true) // a target that does not open is none
	t, err := e.open(ctx, dir, c.Faults)
	c.Faults.Calm(false)
	if err != nil {
		if first {
			err = fmt.Errorf("%w: %w", err, errUsage)
		}
		return nil, err
	}
	progress := report.NewProgress(os.Stderr, name, c.Operations, c.Duration)
	c.Progress = progress.Sample
	c.Interval = interval(c.Duration)
	if s.trace != "" {
		result = trace.Replay(ctx, t, s.events, trace.Options{Speed: s.speed, Clients: c.Clients, Lenient: e.peer})
		result.Seed = c.Seed
	} else {
		result = run.Run(ctx, t, c)
	}
	progress.End()
	result.Interrupted = ctx.Err() != nil
	result.Options = e.options
	c.Faults.Calm(true)
	err = t.Close()
	for _, wrong := range after(context.WithoutCancel(ctx), t) {
		result.Verdict.Violations = append(result.Verdict.Violations, metrics.Violation{Seed: c.Seed, Message: wrong, After: result.Elapsed})
	}
	if err != nil {
		err = fmt.Errorf("close: %w", err)
	}
	return result, err
}

// interval is that between samples of a run that takes so long, 0 where nobody
// knows: some hundreds of them, for the lines of a report.
func interval(d time.Duration) time.Duration {
	if d <= 0 {
		return 250 * time.Millisecond
	}
	return min(max(d/200, 100*time.Millisecond), 5*time.Second)
}

// fileSystem is the kind of file system that a target is to have of its own, "" for
// none, and its size in bytes.
func (s *settings) fileSystem() (kind string, size int64) {
	if kind, size = "ext4", int64(s.fullDisk)<<20; s.driver == "btrfs" {
		kind = "btrfs"
	}
	switch {
	case size > 0:
		return kind, size
	case kind == "btrfs":
		return kind, 4 << 30
	}
	return "", 0
}

// after looks at what a target has left when it is closed.
func after(ctx context.Context, t target.Target) []string {
	if a, ok := t.(target.Audited); ok {
		return a.AuditClosed(ctx)
	}
	return nil
}

// judge is the error that violations and undecided histories come to.
func judge(contenders []*report.Contender) error {
	violations, undecided := 0, uint64(0)
	for _, c := range contenders {
		for _, r := range c.Rounds {
			violations += len(r.Verdict.Violations)
			undecided += r.Verdict.Undecided
		}
	}
	switch {
	case violations > 0:
		return fmt.Errorf("%d violations", violations)
	case undecided > 0:
		return fmt.Errorf("%d histories took too long to check", undecided)
	}
	return nil
}
