package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"syscall"

	"github.com/containerd/log"
	"github.com/moby/sys/reexec"
)

func main() {
	if reexec.Init() { // overlay2 mounts in a process of its own where paths are long
		return
	}
	_ = log.SetLevel("panic") // the peers log every snapshot and every opening
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	rows := flag.String("rows", "", "run the rows that match this regular expression, all by default")
	rounds := flag.Int("rounds", 10, "rounds of each row")
	file := flag.String("json", "", "write the results to this file")
	dir := flag.String("dir", "", "where to work, a new directory below $TMPDIR by default")
	smoke := flag.Bool("smoke", false, "tiny sizes and one round, to see that everything works; the figures mean nothing")
	child := flag.String("open", "", "open this snapshotter, say what that took, and end; for this command's own use")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if *child != "" {
		return openAndTell(ctx, *child, *dir)
	}
	match, err := regexp.Compile(*rows)
	if err != nil {
		return err
	}
	root := *dir
	if root == "" {
		if root, err = os.MkdirTemp("", "bench-"); err != nil {
			return err
		}
		defer os.RemoveAll(root)
	}
	s := &site{root: root, smoke: *smoke}
	if *smoke {
		*rounds = 1
	}
	r := report{Machine: thisMachine(root), Rounds: *rounds}
	for _, row := range allRows {
		if !match.MatchString(row.name) {
			continue
		}
		result, err := row.run(ctx, s, *rounds)
		if err != nil {
			return fmt.Errorf("row %s: %w", row.name, err)
		}
		result.print(os.Stdout)
		r.Rows = append(r.Rows, result)
	}
	r.across()
	r.print(os.Stdout)
	if *file == "" {
		return nil
	}
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(*file, append(b, '\n'), 0o644)
}
