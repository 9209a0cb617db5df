package report

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/graphsnap/graphsnap/stress/metrics"
)

// Lines are written that far apart where there is no terminal.
const lineInterval = 5 * time.Second

// Progress shows how a run goes on. Its calls are made one after another.
type Progress struct {
	name       string
	operations uint64
	duration   time.Duration

	// On a terminal a bar, else lines on out.
	bar  *progressbar.ProgressBar
	out  io.Writer
	next time.Duration // when a line is due

	before metrics.Sample
}

// NewProgress shows on out, as a bar if that is a terminal, a run that ends after so
// many operations or so long, whichever comes first; 0 is no limit. The name is
// shown before everything else, "" for none.
func NewProgress(out io.Writer, name string, operations uint64, duration time.Duration) *Progress {
	p := &Progress{name: name, operations: operations, duration: duration, out: out}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.bar = progressbar.NewOptions(1000,
			progressbar.OptionSetWriter(f), progressbar.OptionSetWidth(12), progressbar.OptionClearOnFinish(),
			progressbar.OptionUseANSICodes(true), progressbar.OptionSetElapsedTime(false))
	}
	return p
}

// Sample shows what was measured by now.
func (p *Progress) Sample(s metrics.Sample) {
	rate := 0.0
	if d := s.At - p.before.At; d > 0 {
		rate = float64(s.Operations-p.before.Operations) / d.Seconds()
	}
	if p.bar != nil {
		p.before = s
		p.bar.Describe(p.short(s, rate))
		_ = p.bar.Set(p.permille(s)) // a bar that cannot be drawn does not end the run
		return
	}
	if s.At < p.next {
		return
	}
	p.before, p.next = s, s.At+lineInterval
	fmt.Fprintf(p.out, "%s%6s  %d operations, %s, p99 %s, %d under way%s, %d faults\n",
		p.prefix(), s.At.Round(time.Second), s.Operations, PerSecond.Format(rate), duration(s.P99), s.InFlight, queues(s), s.Errors)
}

// End leaves the terminal as if there had been no bar.
func (p *Progress) End() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}

// short is what fits before a bar on 100 columns. The queues are those of the
// persistence actor, the mounts, and the owners of keys together.
func (p *Progress) short(s metrics.Sample, rate float64) string {
	text := fmt.Sprintf("%s%s p99 %s", p.prefix(), PerSecond.Format(rate), duration(s.P99))
	if e := s.Engine; e != nil {
		text += fmt.Sprintf(" queues %d·%d·%d", e.Database.Queued, e.MountsQueue, e.KeysQueue)
	}
	if s.Errors > 0 {
		text += fmt.Sprintf(" faults %d", s.Errors)
	}
	return text
}

func queues(s metrics.Sample) string {
	e := s.Engine
	if e == nil {
		return ""
	}
	return fmt.Sprintf(", queues: %d database, %d mounts, %d keys", e.Database.Queued, e.MountsQueue, e.KeysQueue)
}

func (p *Progress) prefix() string {
	if p.name == "" {
		return ""
	}
	return p.name + ": "
}

func (p *Progress) permille(s metrics.Sample) int {
	part := 0.0
	if p.operations > 0 {
		part = float64(s.Operations) / float64(p.operations)
	}
	if p.duration > 0 {
		part = max(part, float64(s.At)/float64(p.duration))
	}
	return int(1000 * min(part, 0.999)) // the end is another's to tell
}
