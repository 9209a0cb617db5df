package dockerd

import (
	"slices"
	"strings"
	"testing"
)

// TestLiveRestore restarts dockerd under a running container, in order and by
// kill -9, with a build in the cache and everything else pruned beside it. Its
// mount, which the same driver made, is not graphsnap's to touch.
func TestLiveRestore(t *testing.T) {
	h := newHost(t, "overlay2")
	d := h.start(graphsnap, "--live-restore")
	d.build(h.context("base", base, nil), "-t", "base")
	d.must("run", "-d", "--network", "none", "--name", "runs", "base", "sleep", "1000000")
	pid := state(d)
	mount := strings.TrimSpace(d.must("inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", "runs"))
	check := func(when string) {
		t.Helper()
		points, err := h.mounts()
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(points, mount) {
			t.Fatalf("%s the container's mount %s is not among %q", when, mount, points)
		}
	}
	check("at first")
	for _, end := range []struct {
		name string
		end  func()
	}{{"SIGTERM", func() { d.stop() }}, {"SIGKILL", func() { d.crash() }}} {
		d.build(h.context("on", "FROM base\nRUN echo "+end.name+" >/made\n", nil), "-t", "on")
		end.end()
		check("after " + end.name)
		d = h.start(graphsnap, "--live-restore")
		check("after " + end.name + " and a start")
		if got := state(d); got != pid {
			t.Errorf("after %s and a start the container is %q, before %q", end.name, got, pid)
		}
		d.must("image", "rm", "on")
		d.must("builder", "prune", "-af")
		check("after prune")
		d.must("exec", "runs", "sh", "-c", "echo "+end.name+" >>/written && cat /written /bin/busybox >/dev/null")
	}
	if got := d.must("exec", "runs", "cat", "/written"); got != "SIGTERM\nSIGKILL\n" {
		t.Errorf("the container wrote %q", got)
	}
	d.checkNothingLeft()
}

func state(d *dockerd) string {
	d.t.Helper()
	return strings.TrimSpace(d.must("inspect", "--format", "{{.State.Status}} {{.State.Pid}}", "runs"))
}
