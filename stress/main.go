package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"

	"github.com/graphsnap/graphsnap/stress/faces"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/run"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// errUsage is wrapped by what is wrong with the command line or with the machine.
var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		fmt.Fprintln(os.Stderr, "stress:", strings.TrimSuffix(err.Error(), ": "+errUsage.Error()))
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	run      run.Config
	target   string
	driver   string
	root     string
	json     string
	workload string
	weights  string
	keys     string
	rates    faults.Rates
	debug    bool
}

func parse(args []string, out io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("stress", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.target, "target", "", "`what` is driven: engine or buildkit; engine for the driver null, else buildkit")
	f.StringVar(&s.driver, "driver", "null", "graph `driver`: null (in memory), vfs, overlay2 or btrfs")
	f.StringVar(&s.workload, "workload", "mixed", "one of "+strings.Join(workload.Names(), ", "))
	f.StringVar(&s.weights, "weights", "", "changes of the workload's weights, such as `stat=50,walk=0`")
	f.StringVar(&s.keys, "keys", "", "`distribution` of keys: uniform, zipf, hot, deep or wide")
	f.IntVar(&s.run.Clients, "clients", 64, "clients")
	f.DurationVar(&s.run.Duration, "duration", 0, "end after that long")
	f.Uint64Var(&s.run.Operations, "ops", 0, "end after so many operations; 100000 where neither is given")
	f.Uint64Var(&s.run.Seed, "seed", 0, "of all choices; 0: a random one")
	f.BoolVar(&s.run.Check, "check", true, "check every history, and the target at checkpoints")
	f.DurationVar(&s.run.Checkpoint, "checkpoint", 0, "how often the target is looked at; 0: at the end")
	f.DurationVar(&s.run.Restart, "restart", 0, "how often the target is restarted; 0: never")
	f.Float64Var(&s.rates.Error, "fault-error", 0, "probability that a call of the driver fails (driver null)")
	f.Float64Var(&s.rates.Panic, "fault-panic", 0, "probability that it panics (driver null)")
	f.Float64Var(&s.rates.Delay, "fault-delay", 0, "probability that it takes long (driver null)")
	f.Float64Var(&s.rates.Cancel, "fault-cancel", 0, "probability that the context of a call ends early")
	f.DurationVar(&s.rates.Longest, "fault-longest", 5*time.Millisecond, "the longest delay")
	f.StringVar(&s.json, "json", "", "write the result as JSON to `file`")
	f.StringVar(&s.run.Pictures, "pictures", "", "`directory` for drawings of violations; a temporary one where there are any")
	f.StringVar(&s.root, "root", "", "`directory` for everything on disk, emptied afterwards; a temporary one")
	f.BoolVar(&s.debug, "debug", false, "let the engine log")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(out)
			f.PrintDefaults()
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", err, errUsage)
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: %w", f.Arg(0), errUsage)
	}
	return s, s.complete()
}

// complete checks what flags alone do not.
func (s *settings) complete() (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", err, errUsage)
		}
	}()
	if s.run.Workload, err = workload.Get(s.workload); err != nil {
		return err
	}
	if s.weights != "" {
		if err := s.run.Workload.Weigh(s.weights); err != nil {
			return err
		}
	}
	if s.keys != "" {
		if err := s.run.Workload.Distribute(s.keys); err != nil {
			return err
		}
	}
	for name, p := range map[string]float64{"-fault-error": s.rates.Error, "-fault-panic": s.rates.Panic, "-fault-delay": s.rates.Delay, "-fault-cancel": s.rates.Cancel} {
		if p < 0 || p > 1 {
			return fmt.Errorf("%s is a probability, from 0 to 1", name)
		}
	}
	if s.target == "" {
		if s.target = "buildkit"; s.driver == "null" {
			s.target = "engine"
		}
	}
	switch {
	case s.run.Clients < 1:
		return errors.New("-clients is at least 1")
	case s.driver != "null" && s.driver != "vfs" && s.driver != "overlay2" && s.driver != "btrfs":
		return fmt.Errorf("no driver %q, there are null, vfs, overlay2 and btrfs", s.driver)
	case s.target != "engine" && s.target != "buildkit":
		return fmt.Errorf("no target %q, there are engine and buildkit", s.target)
	case s.target == "engine" && s.driver != "null":
		return fmt.Errorf("the target engine has the driver null only")
	case s.target == "buildkit" && s.driver == "null" && s.run.Restart > 0:
		return errors.New("the directories of the driver null do not outlive a restart of the target buildkit")
	case s.target == "buildkit" && s.rates.Error+s.rates.Panic+s.rates.Delay > 0:
		return errors.New("faults of the driver are for the target engine")
	}
	if s.run.Duration <= 0 && s.run.Operations == 0 {
		s.run.Operations = 100_000
	}
	for s.run.Seed == 0 {
		s.run.Seed = rand.Uint64()
	}
	s.run.Faults = faults.New(s.rates, s.run.Seed)
	return nil
}

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
	t, err := s.open(ctx, root)
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

func (s *settings) open(ctx context.Context, root string) (target.Target, error) {
	if s.target == "engine" {
		return target.OpenEngine(ctx, target.NewNull(false, s.run.Faults.Before), root)
	}
	return faces.OpenBuildKit(ctx, s.driver, filepath.Join(root, "buildkit"))
}

// after looks at what a target has left when it is closed.
func after(ctx context.Context, t target.Target) []string {
	if a, ok := t.(target.Audited); ok {
		return a.AuditClosed(ctx)
	}
	return nil
}

func table(out io.Writer, r *metrics.Result, args []string) {
	fmt.Fprintf(out, "target %s, driver %s, workload %s, %d clients: %d operations in %v, %.0f a second\n",
		r.Target, r.Driver, r.Workload, r.Clients, r.Total(), r.Elapsed.Round(time.Millisecond), float64(r.Total())/r.Elapsed.Seconds())
	fmt.Fprintf(out, "%-12s %10s %12s %12s %12s  %s\n", "operation", "count", "p50", "p99", "max", "errors")
	for _, name := range r.Names() {
		o := r.Operations[name]
		at := func(q float64) time.Duration {
			return time.Duration(o.Latencies.ValueAtQuantile(q)).Round(time.Microsecond)
		}
		fmt.Fprintf(out, "%-12s %10d %12v %12v %12v  %s\n", name, o.Count, at(50), at(99), at(100), errorCounts(o.Errors))
	}
	v := r.Verdict
	fmt.Fprintf(out, "%d histories of %d operations checked in %v, %d undecided, %d looks at the whole, %d restarts, faults %v\n",
		v.Histories, v.Operations, v.Checking.Round(time.Millisecond), v.Undecided, v.Census, r.Restarts, r.Faults)
	if len(v.Violations) == 0 {
		fmt.Fprintf(out, "no violation; seed %d\n", r.Seed)
		return
	}
	shortest := v.Violations[0]
	for _, x := range v.Violations {
		if len(x.History) > 0 && (len(shortest.History) == 0 || len(x.History) < len(shortest.History)) {
			shortest = x
		}
	}
	fmt.Fprintf(out, "VIOLATION after %v: %s %s\n", shortest.After.Round(time.Millisecond), shortest.Group, shortest.Message)
	for _, line := range shortest.History {
		fmt.Fprintln(out, line)
	}
	if shortest.Picture != "" {
		fmt.Fprintf(out, "picture: %s\n", shortest.Picture)
	}
	fmt.Fprintf(out, "again: go run -race ./stress %s -seed %d\n", strings.Join(args, " "), r.Seed)
}

func errorCounts(errors map[string]uint64) string {
	var parts []string
	for _, class := range []string{"not found", "already exists", "failed precondition", "fault", "outcome unknown"} {
		if n := errors[class]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, class))
		}
	}
	return strings.Join(parts, ", ")
}
