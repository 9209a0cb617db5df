package engine

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"time"

	"github.com/containerd/log"
)

// Pending tells of directories whose removal is durable and that are not deleted
// yet, since the driver could not or was not asked yet.
type Pending struct {
	Directories int // all of them
	Deleting    int // the driver is deleting them now
	Failed      int // the driver failed to delete them, once or more
}

// Pending returns how many directories are still to be deleted. It does not wait
// for the driver. After Close they are left to the next Open.
func (e *Engine) Pending() Pending {
	q := make(chan Pending, 1)
	select {
	case e.pending <- q:
		return <-q
	case <-e.ctx.Done():
		return Pending{Directories: e.leftovers.Len()}
	}
}

// retry hands a directory to those that are deleted in the background until it
// works. It never blocks.
func (r *reaper) retry(graphID string) { r.e.leftovers.Put(graphID) }

// leftover is a directory that is to be deleted.
type leftover struct {
	graphID  string
	failures int
	due      time.Time
	deleting bool
	again    bool // meanwhile it went, its graph ID was borne anew, and that is to go too
}

// leftovers is a heap of those that wait, by the time they are due.
type leftovers []*leftover

func (l leftovers) Len() int           { return len(l) }
func (l leftovers) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l leftovers) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *leftovers) Push(x any)        { *l = append(*l, x.(*leftover)) }
func (l *leftovers) Pop() any {
	old := *l
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*l = old[:len(old)-1]
	return last
}

// deleteLeftovers deletes directories that could not be deleted at once, and those
// of removals that an earlier process had begun, until ctx ends. It keeps the list
// and calls nobody: WithRemovalParallelism directories are deleted beside it at
// once, so that one that takes long holds up no other. One that fails is tried
// again later, less and less often. It returns when the driver has.
func (e *Engine) deleteLeftovers(ctx context.Context) {
	var (
		waiting  leftovers
		known    = map[string]*leftover{} // those waiting and those being deleted
		deleting = 0
		failed   = 0 // of those known
		limit    = max(1, e.options.removals)
	)
	type result struct {
		*leftover
		err error
	}
	results := make(chan result, limit)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		ended := ctx.Err() != nil // looked at once: it may end at any time
		for now := time.Now(); len(waiting) > 0 && deleting < limit && !ended && !now.Before(waiting[0].due); {
			l := heap.Pop(&waiting).(*leftover)
			l.deleting = true
			deleting++
			go func() {
				results <- result{l, protect("Remove", l.graphID, func() error { return e.deleteDirectory(l.graphID) })}
			}()
		}
		if ended && deleting == 0 {
			return
		}
		if len(waiting) > 0 && deleting < limit && !ended {
			timer.Reset(time.Until(waiting[0].due))
		}
		stop := ctx.Done()
		if ended {
			stop = nil // it is known; what is left is to wait for the driver
		}
		select {
		case <-stop:
		case <-timer.C:
		case q := <-e.pending:
			q <- Pending{Directories: e.leftovers.Len() + len(known), Deleting: deleting, Failed: failed}
		case <-e.leftovers.Ready():
			for _, id := range e.leftovers.Take() {
				if l := known[id]; l != nil {
					l.again = l.deleting
					continue
				}
				l := &leftover{graphID: id, due: time.Now()}
				known[id] = l
				heap.Push(&waiting, l)
			}
		case r := <-results:
			l := r.leftover
			deleting--
			l.deleting = false
			if r.err == nil {
				if l.failures > 0 {
					l.failures = 0
					failed--
				}
				if !l.again {
					delete(known, l.graphID)
					continue
				}
			}
			l.again, l.due = false, time.Now()
			if r.err != nil {
				if l.failures++; l.failures == 1 {
					failed++
				}
				l.due = l.due.Add(backoff(l.failures))
				log.G(ctx).WithError(r.err).WithField("graphID", l.graphID).WithField("failures", l.failures).
					Warn("the directory of a removed snapshot could not be deleted yet")
			}
			heap.Push(&waiting, l)
		}
	}
}

// backoff doubles from half a second to a minute and is spread over half of that,
// so that what failed together does not come back together.
func backoff(failures int) time.Duration {
	d := min(time.Minute, 250*time.Millisecond<<min(failures, 10))
	return d/2 + rand.N(d/2)
}
