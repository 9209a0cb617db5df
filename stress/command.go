package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/run"
	"github.com/graphsnap/graphsnap/stress/target"
)

// command is the whole program. out gets the table.
func command(ctx context.Context, args []string, out io.Writer) error {
	s, err := parse(args, out)
	if err != nil {
		return err
	}
	if !s.debug {
		_ = log.SetLevel("panic") // what is injected is logged otherwise
	}
	var report *os.File
	if s.json != "" {
		// Now, so that nobody waits for a run that cannot be reported.
		if report, err = os.Create(s.json); err != nil {
			return fmt.Errorf("%w: %w", err, errUsage)
		}
		defer report.Close()
	}
	root, err := os.MkdirTemp(s.root, "graphsnap-stress-")
	if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	defer os.RemoveAll(root)
	if s.run.Pictures == "" {
		s.run.Pictures = os.TempDir()
	}
	s.run.Faults.Calm(true) // a target that does not open is none
	t, err := s.open(ctx, root)
	s.run.Faults.Calm(false)
	if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	s.run.Progress = func(m metrics.Sample) {
		fmt.Fprintf(os.Stderr, "%8v  %d operations, p99 %v, %d in flight, %d faults\n", m.At.Round(time.Second), m.Operations, m.P99.Round(time.Microsecond), m.InFlight, m.Errors)
	}
	s.run.Interval = 5 * time.Second
	result := run.Run(ctx, t, s.run)
	result.Interrupted = ctx.Err() != nil
	s.run.Faults.Calm(true)
	closing := t.Close()
	for _, wrong := range after(context.WithoutCancel(ctx), t) {
		result.Verdict.Violations = append(result.Verdict.Violations, metrics.Violation{Seed: s.run.Seed, Message: wrong, After: result.Elapsed})
	}
	table(out, result, args)
	if report != nil {
		if err := json.NewEncoder(report).Encode(result); err != nil {
			return fmt.Errorf("write %s: %w", s.json, err)
		}
	}
	switch v := result.Verdict; {
	case closing != nil:
		return fmt.Errorf("close: %w", closing)
	case len(v.Violations) > 0:
		return fmt.Errorf("%d violations", len(v.Violations))
	case v.Undecided > 0:
		return fmt.Errorf("%d histories took too long to check", v.Undecided)
	}
	return nil
}

// after looks at what a target has left when it is closed.
func after(ctx context.Context, t target.Target) []string {
	if a, ok := t.(target.Audited); ok {
		return a.AuditClosed(ctx)
	}
	return nil
}
