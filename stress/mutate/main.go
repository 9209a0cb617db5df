package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

//go:embed survivors.txt
var survivors string

// errNotCaught is that tests let pass what they should not.
var errNotCaught = errors.New("mutants survive")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, ".", survivors, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	packages string
	run      string
	json     string
	sample   int
	parallel int
}

// command is the command, run in the root of a module, with the mutants that may
// survive.
func command(ctx context.Context, root, accepted string, args []string, out io.Writer) error {
	var s settings
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	flags.StringVar(&s.packages, "packages", "actors,persist,mounts,engine", "folders to plant faults in, with commas between")
	flags.StringVar(&s.run, "run", "", "only faults of which the line that the report has of them matches the `regexp`")
	flags.StringVar(&s.json, "json", "", "write what became of each fault to `FILE` too")
	flags.IntVar(&s.sample, "sample", 0, "no more than `N` faults, spread over packages and kinds, always the same of the same source")
	flags.IntVar(&s.parallel, "parallel", 2, "`N` runs of tests at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(s.run)
	if err != nil {
		return err
	}
	reasons, err := parseReasons(accepted)
	if err != nil {
		return err
	}
	if root, err = filepath.Abs(root); err != nil {
		return err
	}
	sources, err := find(root, strings.Split(s.packages, ","))
	if err != nil {
		return err
	}
	build := filepath.Join(root, ".build", "mutate")
	if err := os.MkdirAll(build, 0o755); err != nil {
		return err
	}
	known, err := loadResults(filepath.Join(build, "results.json"))
	if err != nil {
		return err
	}
	chosen := choose(sources, match, s.sample)
	var all []*result
	for _, source := range sources {
		t := &trial{root: root, build: build, source: source, known: known, parallel: s.parallel}
		results, err := t.try(ctx, chosen[source.folder])
		if err != nil {
			return err
		}
		all = append(all, results...)
	}
	for _, r := range all {
		r.Reason = reasons[r.Name]
	}
	if s.json != "" {
		text, err := json.MarshalIndent(all, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(s.json, text, 0o644); err != nil {
			return err
		}
	}
	whole := s.sample == 0 && s.run == ""
	return errors.Join(report(out, all, whole), stale(reasons, sources))
}
