//go:build crashpoints

package crashpoint

import "sync/atomic"

var hook atomic.Pointer[func(point string, done bool)]

// Hook has f called at every crash point that is reached from now on, with done
// where the call has returned. f is called by several goroutines at once, and may
// keep one for ever.
func Hook(f func(point string, done bool)) { hook.Store(&f) }

// Before is called right before what point names.
func Before(point string) { reach(point, false) }

// After is called when what point names has returned, with whatever result.
func After(point string) { reach(point, true) }

func reach(point string, done bool) {
	if f := hook.Load(); f != nil {
		(*f)(point, done)
	}
}
