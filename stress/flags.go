package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/run"
	"github.com/graphsnap/graphsnap/stress/trace"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// smallest is the least file system for -full-disk in MiB: less has no room for the
// databases and a directory for each snapshot.
const smallest = 48

// settings are the command line.
type settings struct {
	run      run.Config
	target   string
	driver   string
	root     string
	json     string
	html     string
	workload string
	weights  string
	keys     string
	faults   string
	fullDisk int
	rates    faults.Rates
	sweep    sweep
	rounds   int
	peers    string
	scripts  bool
	trace    string
	events   []trace.Event
	speed    float64
	debug    bool
}

func parse(args []string, out io.Writer) (*settings, error) {
	s := &settings{}
	f := flag.NewFlagSet("stress", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&s.target, "target", "", "`what` is driven: "+strings.Join(targets, ", ")+"; engine for the driver null, else buildkit, and beside peers")
	f.StringVar(&s.driver, "driver", "null", "graph `driver`: null (in memory), vfs, overlay2 or btrfs (on a loop device)")
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
	f.DurationVar(&s.run.Kill, "kill", 0, "longest time between two kills of the target, which has a process of its own then; 0: none")
	f.IntVar(&s.fullDisk, "full-disk", 0, "put everything on a file system of so many `MiB`, which is full every now and then; 0: do not")
	f.StringVar(&s.faults, "fault", "", "`list` of faults with their probabilities, such as driver.error=0.01,cancel=0.05,longest=5ms: "+strings.Join(faults.Names(), ", "))
	f.Var(&s.sweep, "sweep", "run with each of the values of an engine option, `OPTION=VALUE,VALUE`; with all combinations where it is repeated.\nHistories are not checked then, unless -check is given")
	f.StringVar(&s.peers, "peer", "", "`list` of moby and containerd, which get the same load in turn with the target, restricted to what all of them can do.\nHistories are not checked then, unless -check is given")
	f.StringVar(&s.trace, "trace", "", "in place of the workload replay a recorded `file`, such as stress/testdata/demo.trace.gz, and compare what is answered")
	f.Float64Var(&s.speed, "speed", 1, "how many times as fast as it was recorded a trace is replayed; 0: as fast as it goes")
	f.BoolVar(&s.scripts, "scripts", false, "in place of the workload play short histories, each of which asks for one promise, and list what was not kept")
	f.IntVar(&s.rounds, "rounds", 0, "how often each point of a sweep, and each peer, is run; 0: 3 times, or once where there is one only")
	f.StringVar(&s.json, "json", "", "write the result to `file` as JSON, with every sample")
	f.StringVar(&s.html, "report", "", "write the result to `file`, one page of HTML with plots")
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
	checkGiven := false
	f.Visit(func(given *flag.Flag) { checkGiven = checkGiven || given.Name == "check" })
	return s, s.complete(checkGiven)
}

// complete checks what flags alone do not, and fills in what was not given.
func (s *settings) complete(checkGiven bool) (err error) {
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
	if s.rates, err = faults.Parse(s.faults); err != nil {
		return err
	}
	if s.peers != "" {
		if err := s.run.Workload.Restrict(common); err != nil {
			return err
		}
	}
	if s.trace != "" {
		if s.events, err = readTrace(s.trace); err != nil {
			return err
		}
	}
	if s.target == "" {
		if s.target = "buildkit"; s.driver == "null" && s.peers == "" && !s.scripts {
			s.target = "engine"
		}
	}
	for name := range strings.SplitSeq(s.peers, ",") {
		if s.peers != "" && peers[name] == nil {
			return fmt.Errorf("no peer %q, there are moby and containerd", name)
		}
	}
	switch {
	case s.rounds < 0:
		return errors.New("-rounds is at least 1")
	case s.fullDisk < 0 || s.fullDisk > 0 && s.fullDisk < smallest:
		return fmt.Errorf("-full-disk is at least %d", smallest)
	case s.run.Clients < 1:
		return errors.New("-clients is at least 1")
	case !slices.Contains(drivers, s.driver):
		return fmt.Errorf("no driver %q, there are %s", s.driver, strings.Join(drivers, ", "))
	case !slices.Contains(targets, s.target):
		return fmt.Errorf("no target %q, there are %s", s.target, strings.Join(targets, ", "))
	case (s.target == "buildkit" || s.target == "moby") && s.driver == "null" && s.run.Restart+s.run.Kill > 0:
		return fmt.Errorf("the directories of the driver null do not outlive a restart of the target %s", s.target)
	case slices.Contains(targets[3:], s.target) && s.rates.Any():
		return errors.New("faults are for graphsnap")
	case s.rates.Layers.Any() && s.target != "buildkit" && (s.target != "engine" || s.driver != "null" || s.run.Kill > 0):
		return errors.New("faults of the layer store are for targets that have one: buildkit, and engine on the driver null without -kill")
	case s.peers != "" && (s.rates.Any() || s.run.Restart+s.run.Kill > 0 || len(s.sweep) > 0 || s.scripts):
		return errors.New("-peer goes with no faults, restarts, sweeps or scripts")
	case s.trace != "" && (s.rates.Any() || s.run.Restart+s.run.Kill > 0 || s.scripts):
		return errors.New("-trace goes with no faults, restarts or scripts")
	case s.speed < 0:
		return errors.New("-speed is not negative")
	case s.scripts && s.target != "buildkit" && s.target != "moby" && s.target != "engine":
		return errors.New("scripts are for the targets engine, buildkit and moby, whose snapshots go with their leases")
	case !crashpoint.Enabled && s.rates.Hooked(real(s.target, s.driver)):
		return errors.New("a build with -tags crashpoints has faults of the database, and of what is not in memory")
	}
	if s.run.Duration <= 0 && s.run.Operations == 0 {
		s.run.Operations = 100_000
	}
	for s.run.Seed == 0 {
		s.run.Seed = rand.Uint64()
	}
	if !checkGiven {
		s.run.Check = len(s.sweep) == 0 && s.peers == "" // it takes a good deal of the machine
	}
	if s.rounds == 0 {
		if s.rounds = 1; len(s.sweep) > 0 || s.peers != "" {
			s.rounds = 3
		}
	}
	return nil
}

func readTrace(path string) ([]trace.Event, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	events, err := trace.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return events, nil
}
