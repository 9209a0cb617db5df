package actors

import (
	"sync"
	"sync/atomic"
)

// Gate counts the operations under way, so that closing can wait for them. The
// zero Gate is open.
type Gate struct {
	// Twice the number inside, plus one once closed. Being one word it is decided
	// at one instant who got in before Close, and who was the last to leave.
	state atomic.Int64

	once  sync.Once
	empty chan struct{} // made before the gate is closed, closed when it is empty
}

const (
	closedGate = 1
	oneInside  = 2
)

// Enter admits an operation, which must Leave. It answers false once the gate is
// closed.
func (g *Gate) Enter() bool {
	for {
		s := g.state.Load()
		if s&closedGate != 0 {
			return false
		}
		if g.state.CompareAndSwap(s, s+oneInside) {
			return true
		}
	}
}

// enterOwed admits what somebody inside still needs: it answers false only when
// the gate is closed and empty. That is final, since nobody gets in then.
func (g *Gate) enterOwed() bool {
	for {
		s := g.state.Load()
		if s == closedGate {
			return false
		}
		if g.state.CompareAndSwap(s, s+oneInside) {
			return true
		}
	}
}

// Leave ends an operation that was admitted.
func (g *Gate) Leave() {
	if g.state.Add(-oneInside) == closedGate {
		close(g.empty)
	}
}

// Closed tells whether Enter refuses.
func (g *Gate) Closed() bool { return g.state.Load()&closedGate != 0 }

func (g *Gate) inside() int { return int(g.state.Load() / oneInside) }

// Close refuses further operations and waits until those inside have left.
// Closing twice is fine: both wait.
func (g *Gate) Close() {
	g.once.Do(func() {
		g.empty = make(chan struct{})
		if g.state.Or(closedGate) == 0 {
			close(g.empty)
		}
	})
	<-g.empty
}
