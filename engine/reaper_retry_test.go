package engine

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
)

// A snapshot whose directory could not be unmounted is removed when it can be,
// though nothing else happens to it.
func TestRemovalThatFailedIsTriedAgain(t *testing.T) {
	ctx := context.Background()
	h := open(t)
	l := Lease{"ns", "l"}
	h.lease(l, "key")
	must(t, h.Prepare(ctx, "key", ""))
	m, err := h.Mounts(ctx, "key")
	must(t, err)
	_, release, err := m.Mount()
	must(t, err)
	var refused atomic.Int32
	h.driver.mu.Lock()
	h.driver.before = func(call, _ string) error {
		if call == "Put" && refused.Add(1) <= 2 { // by the release, and by the removal
			return fmt.Errorf("busy: %w", errdefs.ErrUnavailable) // as if the database refused
		}
		return nil
	}
	h.driver.mu.Unlock()
	if release() == nil {
		t.Error("the driver's error is lost")
	}
	h.endLease(l)
	eventually(t, "the snapshot goes", func() bool { return h.absent("key") && !h.driver.Exists("key") })
	if n := refused.Load(); n < 3 {
		t.Errorf("the driver was asked %d times: the removal never failed", n)
	}
}
