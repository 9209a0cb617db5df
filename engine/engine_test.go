package engine

import (
	"context"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
)

func TestLifeOfASnapshot(t *testing.T) {
	ctx := context.Background()
	h := open(t, WithGrace(time.Hour))
	l := Lease{"ns", "l"}
	h.lease(l, "key")
	h.lease(l, "name")
	must(t, h.Prepare(ctx, "key", ""))
	m, err := h.Mounts(ctx, "key")
	must(t, err)
	must(t, h.Commit(ctx, "name", "key", snapshots.WithLabels(map[string]string{"a": "b"})))
	if !h.absent("key") {
		t.Error("key is there after commit")
	}
	mounts, release, err := m.Mount()
	must(t, err)
	if mounts[0].Source != "/memory/key" {
		t.Error(mounts)
	}
	info, err := h.Stat(ctx, "name")
	must(t, err)
	if info.Kind != snapshots.KindCommitted || info.Labels["a"] != "b" {
		t.Error(info)
	}
	_, err = h.View(ctx, "view", "name")
	must(t, err)
	h.lease(Lease{"ns", "v"}, "view")
	h.endLease(l)
	h.endLease(Lease{"ns", "v"})
	eventually(t, "view gone", func() bool { return h.absent("view") })
	if h.absent("name") {
		t.Error("name went while mounted")
	}
	must(t, release())
	must(t, release())
	eventually(t, "name gone", func() bool { return h.absent("name") })
	eventually(t, "directory gone", func() bool { return !h.driver.Exists("key") })
}
