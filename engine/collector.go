package engine

import (
	"runtime/debug"
	"sync/atomic"
)

// loadingPercent is how much the heap may grow, in percent, before the garbage
// collector runs while snapshots are loaded. Nearly all that is allocated then stays:
// a collector that runs whenever the heap has doubled marks the same snapshots again
// and again, which was a third of what Open took. A limit of memory that is set holds
// nevertheless.
const loadingPercent = 400

// relaxed tells whether an engine has set it. The collector is one for all of the
// process; who loads beside that engine leaves it alone.
var relaxed atomic.Bool

// relaxCollector sets loadingPercent, where less is set, until restore is called.
func relaxCollector() (restore func()) {
	if !relaxed.CompareAndSwap(false, true) {
		return func() {}
	}
	before := debug.SetGCPercent(loadingPercent)
	if before < 0 || before > loadingPercent {
		debug.SetGCPercent(before)
	}
	return func() {
		if now := debug.SetGCPercent(before); now != loadingPercent {
			debug.SetGCPercent(now) // somebody else has set it meanwhile
		}
		relaxed.Store(false)
	}
}
