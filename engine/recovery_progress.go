package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
)

// progressInterval is how often a recovery that takes long says how far it is.
const progressInterval = 2 * time.Second

// progress tells the log how far a recovery is. It is told of by one goroutine.
type progress struct {
	what  atomic.Pointer[string]
	steps atomic.Int64
	total atomic.Int64
	ended context.CancelFunc
	done  sync.WaitGroup
}

func newProgress(ctx context.Context, what string) *progress {
	p := &progress{}
	p.what.Store(&what)
	ended, cancel := context.WithCancel(ctx)
	p.ended = cancel
	p.done.Go(func() {
		tick := time.NewTicker(progressInterval)
		defer tick.Stop()
		for {
			select {
			case <-ended.Done():
				return
			case <-tick.C:
				l := log.G(ctx)
				if total := p.total.Load(); total > 0 {
					l = l.WithField("done", p.steps.Load()).WithField("of", total)
				}
				l.Infof("opening snapshots: %s", *p.what.Load())
			}
		}
	})
	return p
}

// stage begins another part of the work, of so many steps.
func (p *progress) stage(what string, total int) {
	p.steps.Store(0)
	p.total.Store(int64(total))
	p.what.Store(&what)
}

func (p *progress) step() { p.steps.Add(1) }

// stop waits until nothing is logged any more.
func (p *progress) stop() {
	p.ended()
	p.done.Wait()
}
