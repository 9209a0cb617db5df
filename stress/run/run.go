package run

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// Config says what a run does.
type Config struct {
	Workload workload.Workload
	Clients  int
	// Operations and Duration end the run, whichever comes first; not positive: no
	// end. Families that were begun are finished.
	Operations uint64
	Duration   time.Duration
	// Families ends the run after so many, 0: no end.
	Families uint64
	Seed     uint64

	Check bool // histories, and the target at checkpoints
	// Checkpoint is the time between two looks at the target. Not positive: only at
	// the end.
	Checkpoint time.Duration
	// Restart is the time between two restarts, between the calls of clients. Not
	// positive: none.
	Restart time.Duration
	// Kill is the longest time between two kills, in the middle of calls, of a target
	// that can be killed. Not positive: none.
	Kill time.Duration
	// Faults are those that somebody injects into what the target stands on, and
	// cancelled contexts. Nil: none. After those of the database the target is
	// restarted.
	Faults *faults.Injector
	// Fill leaves no room on the target's disk, and returns what makes room again. It
	// is called every now and then. Nil: never.
	Fill func() (room func() error, err error)
	// Rough says that calls may be refused with ErrUnavailable, since the disk is
	// full at times or the target restarts.
	Rough bool
	// Lenient says that errors which nothing explains are counted, and are no
	// violations: the target is a peer, which is measured.
	Lenient bool
	// Pause is the longest time that a client waits between two operations. Not
	// positive: none.
	Pause time.Duration
	// Pictures is the directory for drawings of violations, "" for none.
	Pictures string

	// Progress is called with every sample, each Interval, a second if not
	// positive.
	Progress func(metrics.Sample)
	Interval time.Duration
}

const (
	checkers   = 2
	checkLimit = 10 * time.Second
)

// everybody is more than the clients of any run: a weight of this keeps all out.
const everybody = 1 << 30

type runner struct {
	config   Config
	target   target.Target
	recorder *metrics.Recorder
	clock    history.Clock
	gate     *semaphore.Weighted // calls hold 1, a restart or a look all
	round    atomic.Uint64       // restarts
	dead     atomic.Bool         // killed, and not restarted yet
	refusals chan struct{}       // the target refuses changes until it is opened again
	families atomic.Uint64       // that were begun
	stop     context.CancelFunc

	full sync.Mutex // held while the disk is full
	// pulling is held by who pulls an image: a layer store that is killed amid that
	// leaves a directory behind, as dockerd does.
	pulling sync.RWMutex

	mu       sync.Mutex
	open     map[*family]bool
	verdict  metrics.Verdict
	checking atomic.Int64
	began    time.Time
}

// Run drives t until the end that c sets, the end of ctx, or the first violation.
// The target stays open.
func Run(ctx context.Context, t target.Target, c Config) *metrics.Result {
	r := newRunner(t, c)
	c = r.config
	ctx, r.stop = context.WithCancel(ctx)
	defer r.stop()
	if c.Duration > 0 {
		timer := time.AfterFunc(c.Duration, r.stop)
		defer timer.Stop()
	}

	// What runs beside the clients ends with them and not with ctx: a family that is
	// cut off is checked all the same.
	beside, endBeside := context.WithCancel(context.WithoutCancel(ctx))
	var besides, samplers sync.WaitGroup
	measured, endMeasured := context.WithCancel(beside)
	every(measured, &samplers, max(c.Interval, 0), time.Second, r.sample)
	if c.Restart > 0 {
		every(beside, &besides, c.Restart, 0, func() { r.restart(beside) })
	}
	if c.Kill > 0 {
		besides.Go(func() { r.kills(beside) })
	}
	if c.Fill != nil {
		besides.Go(func() { r.fills(beside) })
	}
	besides.Go(func() { r.mend(beside) })
	if c.Checkpoint > 0 {
		every(beside, &besides, c.Checkpoint, 0, func() { r.look(beside) })
	}
	finished := make(chan *history.History, 4*checkers)
	var checks sync.WaitGroup
	for range checkers {
		checks.Go(func() {
			for h := range finished {
				r.check(h)
			}
		})
	}
	var groups errgroup.Group
	for g := range max(1, c.Clients/c.Workload.Group) {
		groups.Go(func() error { r.group(ctx, g, finished); return nil })
	}
	_ = groups.Wait()
	elapsed := time.Since(r.began)
	left := directories(t)
	endMeasured()
	samplers.Wait()
	r.sample()
	close(finished)
	checks.Wait()
	endBeside()
	besides.Wait()
	r.look(context.WithoutCancel(ctx))

	traits := t.Traits()
	result := &metrics.Result{
		Target: traits.Name, Driver: traits.Driver, Workload: c.Workload.Name, Seed: c.Seed, Clients: c.Clients,
		Elapsed: elapsed, Directories: left, Faults: c.Faults.Counts(), Restarts: int(r.round.Load()),
	}
	r.recorder.Fill(result)
	if d, ok := t.(target.Counting); ok {
		result.DriverCalls = maps.Clone(d.DriverCalls())
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	result.Verdict = r.verdict
	result.Verdict.Checking = time.Duration(r.checking.Load())
	return result
}

func newRunner(t target.Target, c Config) *runner {
	if c.Faults == nil {
		c.Faults = faults.New(faults.Rates{}, 0)
	}
	c.Rough = c.Rough || c.Restart > 0 || c.Kill > 0 || c.Fill != nil
	c.Clients = max(1, c.Clients)
	c.Workload.Group = min(c.Workload.Group, c.Clients)
	c.Workload.Image = c.Workload.Image && t.Traits().Layers
	return &runner{
		config: c, target: t, recorder: metrics.NewRecorder(c.Clients),
		gate: semaphore.NewWeighted(everybody), open: map[*family]bool{}, began: time.Now(),
		refusals: make(chan struct{}, 1),
	}
}

// directories counts those of the driver, nil where t does not tell.
func directories(t target.Target) *int {
	d, ok := t.(target.Counting)
	if !ok {
		return nil
	}
	all, err := d.Directories()
	if err != nil {
		return nil
	}
	n := len(all)
	return &n
}

// every calls f again and again until ctx ends.
func every(ctx context.Context, g *sync.WaitGroup, d, otherwise time.Duration, f func()) {
	if d <= 0 {
		d = otherwise
	}
	g.Go(func() {
		ticker := time.NewTicker(d)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				f()
			}
		}
	})
}

// enter begins a call. A call that has begun is waited for whatever becomes of ctx.
func (r *runner) enter(ctx context.Context) error {
	return r.gate.Acquire(context.WithoutCancel(ctx), 1)
}

func (r *runner) leave() { r.gate.Release(1) }

// ended tells whether no family is to be begun any more.
func (r *runner) ended(ctx context.Context) bool {
	return ctx.Err() != nil || r.config.Operations > 0 && r.recorder.Done() >= r.config.Operations
}

// group is a number of clients that share one family after another.
func (r *runner) group(ctx context.Context, number int, finished chan<- *history.History) {
	w := &r.config.Workload
	for !r.ended(ctx) {
		n := r.families.Add(1)
		if r.config.Families > 0 && n > r.config.Families {
			return
		}
		// A family is finished in order though the run ends meanwhile.
		calls := context.WithoutCancel(ctx)
		f := r.newFamily(calls, w, fmt.Sprintf("f%d", n))
		if f == nil {
			return
		}
		r.mu.Lock()
		r.open[f] = true
		r.mu.Unlock()
		clients := make([]*client, w.Group)
		var g sync.WaitGroup
		for i := range clients {
			c := f.newClient(number*w.Group+i, w.NewChooser(r.config.Seed, n<<16|uint64(i)))
			clients[i] = c
			g.Go(func() {
				for range w.Steps {
					if ctx.Err() != nil {
						break
					}
					if r.config.Pause > 0 {
						time.Sleep(1 + time.Duration(c.Int64N(int64(r.config.Pause))))
					}
					c.step(calls)
				}
				c.letGo(calls)
			})
		}
		g.Wait()
		f.end(calls, clients[0])
		f.history.Settle(history.Forever)
		r.mu.Lock()
		delete(r.open, f)
		r.mu.Unlock()
		if r.config.Check {
			finished <- f.history
		}
	}
}

// check has porcupine look at a history.
func (r *runner) check(h *history.History) {
	operations := h.Operations()
	began := time.Now()
	verdict := history.Check(h.Model, operations, checkLimit)
	r.checking.Add(int64(time.Since(began)))
	r.mu.Lock()
	r.verdict.Histories++
	r.verdict.Operations += uint64(len(operations))
	if verdict == history.Undecided {
		r.verdict.Undecided++
	}
	r.mu.Unlock()
	if verdict != history.Violated {
		return
	}
	short := history.Shrink(h.Model, operations, checkLimit/2)
	picture := ""
	if r.config.Pictures != "" {
		picture = filepath.Join(r.config.Pictures, "violation-"+h.Family+".html")
		if err := history.Draw(h.Model, short, checkLimit/2, picture); err != nil {
			picture = ""
		}
	}
	r.violation(h.Family, "no order of these operations explains what they answered", history.Lines(short), picture)
}

// violation keeps what was found and ends the run, of a target that is no peer.
func (r *runner) violation(family, message string, lines []string, picture string) {
	if r.config.Lenient {
		return
	}
	r.stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.verdict.Violations = append(r.verdict.Violations, metrics.Violation{
		Seed: r.config.Seed, Group: family, Message: message, History: lines, Picture: picture, After: time.Since(r.began),
	})
}

// violated tells whether something was found already, which the target may be the worse
// for.
func (r *runner) violated() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.verdict.Violations) > 0
}

// look compares what the target consists of, while no call is under way.
func (r *runner) look(ctx context.Context) {
	t, ok := r.target.(target.Audited)
	if !ok || !r.config.Check || r.violated() || r.gate.Acquire(ctx, everybody) != nil {
		return
	}
	defer r.gate.Release(everybody)
	before := r.config.Faults.Calm(true)
	defer r.config.Faults.Calm(before)
	r.full.Lock() // what is to be removed finds room
	defer r.full.Unlock()
	if r.dead.Load() || r.config.Faults.Database.Any() {
		r.reopen(ctx) // perhaps nobody was told yet that changes are refused
	}
	wrong := t.Audit(ctx)
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	r.verdict.Census++
	r.mu.Unlock()
	for _, message := range wrong {
		r.violation("", message, nil, "")
	}
}

func (r *runner) sample() {
	if r.enter(context.Background()) != nil { // not beside a restart
		return
	}
	defer r.leave()
	var stats *engine.Stats
	if t, ok := r.target.(target.Telling); ok {
		s := t.Stats()
		stats = &s
	}
	s := r.recorder.Sample(stats)
	if r.config.Progress != nil {
		r.config.Progress(s)
	}
}
