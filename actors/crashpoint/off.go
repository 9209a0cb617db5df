//go:build !crashpoints

package crashpoint

// Enabled tells whether the build has crash points.
const Enabled = false

// Before is called right before what point names. After an error that is not called,
// and has failed with it.
func Before(point string) error { return nil }

// After is called when what point names has returned, with whatever result.
func After(point string) {}

// Hook does nothing here.
func Hook(f func(point string, done bool) error) {}
