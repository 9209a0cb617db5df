package history

import (
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/graphsnap/graphsnap/stress/model"
)

// Operation is one call. Call and Return are ticks of a clock that all clients of a
// run share; they tell which operations were over before others began.
type Operation struct {
	Client       int
	Input        model.Input
	Output       model.Output
	Call, Return int64
}

// Forever is the Return of an operation that nobody knows to have ended.
const Forever = math.MaxInt64

// Clock is the clock of a run. Ticks are unique.
type Clock struct{ ticks atomic.Int64 }

// Now returns the next tick.
func (c *Clock) Now() int64 { return c.ticks.Add(1) }

// History is what was done to a family. Clients add to it concurrently.
type History struct {
	Family string
	Model  *model.Model

	mu         sync.Mutex
	operations []Operation
	open       []Operation // nobody knows whether they happened, or will
}

// Add records operations.
func (h *History) Add(o ...Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.operations = append(h.operations, o...)
}

// Suspend records operations that ended and may have happened, or still will: what is
// on disk of them shows when the target is opened again.
func (h *History) Suspend(o ...Operation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = append(h.open, o...)
}

// Settle says that the suspended operations have happened by the tick, or never will.
func (h *History) Settle(tick int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, o := range h.open {
		o.Return = tick
		h.operations = append(h.operations, o)
	}
	h.open = nil
}

// Operations returns what was recorded, by the time of the call.
func (h *History) Operations() []Operation {
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortFunc(h.operations, func(a, b Operation) int { return int(min(1, max(-1, a.Call-b.Call))) })
	return h.operations
}

// Lines writes operations for people, one a line, in the order of their calls.
func Lines(operations []Operation) []string {
	lines := make([]string, len(operations))
	for i, o := range operations {
		end := fmt.Sprint(o.Return)
		if o.Return == Forever {
			end = "never"
		}
		lines[i] = fmt.Sprintf("%6d to %-6s client %d: %s", o.Call, end, o.Client, model.Describe(o.Input, o.Output))
	}
	return lines
}
