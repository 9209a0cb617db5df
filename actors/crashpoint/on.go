//go:build crashpoints

package crashpoint

import "sync/atomic"

// Enabled tells whether the build has crash points.
const Enabled = true

var hook atomic.Pointer[func(point string, done bool) error]

// Hook has f called at every crash point that is reached from now on, with done
// where the call has returned. f is called by several goroutines at once, and may
// keep one for ever, or panic. Its error is that of the call, unless done.
func Hook(f func(point string, done bool) error) { hook.Store(&f) }

// Before is called right before what point names. After an error that is not called,
// and has failed with it.
func Before(point string) error { return reach(point, false) }

// After is called when what point names has returned, with whatever result.
func After(point string) { _ = reach(point, true) }

func reach(point string, done bool) error {
	if f := hook.Load(); f != nil {
		return (*f)(point, done)
	}
	return nil
}
