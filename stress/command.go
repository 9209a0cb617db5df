package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/report"
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
	// Now, so that nobody waits for a run that cannot be reported.
	files, err := s.create()
	if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	defer files.close()
	root, err := os.MkdirTemp(s.root, "graphsnap-stress-")
	if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	defer os.RemoveAll(root)
	if s.run.Pictures == "" {
		s.run.Pictures = os.TempDir()
	}
	s.run.Progress = func(m metrics.Sample) {
		fmt.Fprintf(os.Stderr, "%8v  %d operations, p99 %v, %d in flight, %d faults\n", m.At.Round(time.Second), m.Operations, m.P99.Round(time.Microsecond), m.InFlight, m.Errors)
	}
	s.run.Interval = 5 * time.Second
	all := &report.Report{Command: strings.Join(args, " "), Machine: report.ThisMachine(root)}
	all.Contenders, err = s.contest(ctx, root)
	if all.Drop(); len(all.Contenders) == 0 {
		return err
	}
	if writing := files.write(all, out); err == nil {
		err = writing
	}
	if err == nil {
		err = judge(all.Contenders)
	}
	return err
}

// files are what a report is written to.
type files struct {
	json *os.File // nil for none
}

func (s *settings) create() (f files, err error) {
	if s.json != "" {
		f.json, err = os.Create(s.json)
	}
	return f, err
}

func (f files) close() {
	if f.json != nil {
		_ = f.json.Close()
	}
}

// write writes the report to all of them, whatever becomes of one.
func (f files) write(r *report.Report, out io.Writer) error {
	err := r.WriteText(out)
	if f.json != nil {
		if failed := r.WriteJSON(f.json); err == nil && failed != nil {
			err = fmt.Errorf("write %s: %w", f.json.Name(), failed)
		}
	}
	return err
}
