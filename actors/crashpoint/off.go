//go:build !crashpoints

package crashpoint

// Before is called right before what point names.
func Before(point string) {}

// After is called when what point names has returned, with whatever result.
func After(point string) {}
