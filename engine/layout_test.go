package engine

import (
	"testing"
	"unsafe"
)

// TestStatReadsOneLine checks that what Stat tells of a snapshot that was loaded lies
// in one line of a processor's cache, in memory that begins with one. Only the phase
// lies before it, so that a processor fetches both at once.
func TestStatReadsOneLine(t *testing.T) {
	const line = 64
	var l loaded
	in := unsafe.Offsetof(l.body)
	first, last := unsafe.Offsetof(l.state)+unsafe.Offsetof(l.state.body), in+unsafe.Offsetof(l.body.labels)
	if first/line != last/line || in+unsafe.Offsetof(l.body.kind) < first || last > in+unsafe.Offsetof(l.body.usage) {
		t.Errorf("what Stat reads lies at %d to %d", first, last)
	}
	if n := unsafe.Sizeof(l); n > 320 || n <= 288 { // the sizes of the runtime's that are multiples of a line
		t.Errorf("a snapshot takes %d bytes", n)
	}
}
