package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
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
	if s.scripts {
		return s.play(ctx, root, out)
	}
	all := &report.Report{Command: again(args), Machine: report.ThisMachine(root)}
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

// again is the command with args, in a build like this one.
func again(args []string) string {
	words := []string{"go run -race"}
	if crashpoint.Enabled {
		words = append(words, "-tags crashpoints")
	}
	return strings.Join(append(append(words, "./stress"), args...), " ")
}

// files are what a report is written to, nil where one is not wanted.
type files struct{ json, html *os.File }

func (s *settings) create() (f files, err error) {
	if s.json != "" {
		f.json, err = os.Create(s.json)
	}
	if s.html != "" && err == nil {
		f.html, err = os.Create(s.html)
	}
	return f, err
}

func (f files) close() {
	for _, file := range []*os.File{f.json, f.html} {
		if file != nil {
			_ = file.Close()
		}
	}
}

// write writes the report to all of them, whatever becomes of one.
func (f files) write(r *report.Report, out io.Writer) error {
	errs := []error{r.WriteText(out)}
	write := func(file *os.File, to func(io.Writer) error) {
		if file == nil {
			return
		}
		if err := to(file); err != nil {
			errs = append(errs, fmt.Errorf("write %s: %w", file.Name(), err))
		}
	}
	write(f.json, r.WriteJSON)
	write(f.html, r.WriteHTML)
	return errors.Join(errs...)
}
