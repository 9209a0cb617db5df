package engine

import (
	"runtime/debug"
	"testing"
)

// TestCollectorIsRestored checks that what the process had set holds again after an
// engine has loaded, with another one beside it, that more than we ask for is left
// alone, and so is what is set meanwhile.
func TestCollectorIsRestored(t *testing.T) {
	get := func() int {
		now := debug.SetGCPercent(100)
		debug.SetGCPercent(now)
		return now
	}
	defer debug.SetGCPercent(get())
	for _, c := range []struct{ set, during int }{{50, loadingPercent}, {1000, 1000}, {-1, -1}} {
		debug.SetGCPercent(c.set)
		first, second := relaxCollector(), relaxCollector()
		second()
		if now := get(); now != c.during {
			t.Errorf("%d was set, %d is while one loads", c.set, now)
		}
		first()
		if now := get(); now != c.set {
			t.Errorf("%d was set, %d is afterwards", c.set, now)
		}
	}
	debug.SetGCPercent(100)
	restore := relaxCollector()
	debug.SetGCPercent(70)
	restore()
	if now := get(); now != 70 {
		t.Errorf("70 was set meanwhile, %d is afterwards", now)
	}
}
