package dockerd

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// moby/moby#39547, moby/moby#40858: prune takes from a build what it is about to
// use. 20 builds run while `system prune` and `builder prune` do without a pause,
// and while the tag that they build on goes from one image to another, and tags of
// both are made and removed, but for one of each.
func TestMoby39547PruneBesideBuilds(t *testing.T) {
	t.Run(stock, func(t *testing.T) {
		d := newHost(t, "overlay2").start(stock)
		// Whether it fails is a matter of luck: it is here for the comparison.
		for _, err := range pruneBesideBuilds(d) {
			t.Log(err)
		}
		if left := d.prune(); len(left) > 0 {
			t.Logf("left after everything was pruned: %q", left)
		}
	})
	t.Run(graphsnap, func(t *testing.T) {
		d := newHost(t, "overlay2").start(graphsnap)
		for _, err := range pruneBesideBuilds(d) {
			t.Error(err)
		}
		d.checkNothingLeft()
	})
}

// prunedUntagged tells whether a build failed since its image was pruned in the
// moment between its creation and its tag. That happens in dockerd's exporter
// (builder/builder-next/exporter/mobyexporter), on nothing that a snapshotter has
// a hand in.
func prunedUntagged(err error) bool {
	return err != nil && strings.Contains(err.Error(), "ERROR: failed to build: failed to solve: failed to get digest sha256:") &&
		strings.Contains(err.Error(), "/imagedb/content/")
}

// TestLastTagGoesBesideBuilds removes the only tag of a base image while builds
// start on it. They may fail, for dockerd looks at the layers a moment before it
// takes them, but must say of what, and leave nothing.
func TestLastTagGoesBesideBuilds(t *testing.T) {
	d := newHost(t, "overlay2").start(graphsnap)
	// Where it is not found, it must not be found elsewhere either.
	const image = "registry.invalid/base"
	baseDir := d.context("base", base, nil)
	failed := 0
	for round := range 5 {
		d.build(baseDir, "-t", image)
		d.must("builder", "prune", "-af")
		var wait sync.WaitGroup
		errs := make([]error, 4)
		for i := range errs {
			dir := d.context(fmt.Sprint("build-", i), fmt.Sprintf("FROM %s\nRUN sleep 0.2; echo %d %d >/made\nRUN sleep 0.2; cat /made\n", image, round, i), nil)
			wait.Go(func() { _, errs[i] = d.tryBuild(dir, "-t", fmt.Sprint("built-", i)) })
		}
		time.Sleep(time.Duration(300*(round+1)) * time.Millisecond)
		d.must("rmi", image)
		wait.Wait()
		for i, err := range errs {
			if err == nil {
				d.must("run", "--rm", "--network", "none", fmt.Sprint("built-", i), "cat", "/made")
				continue
			}
			failed++
			_, message, _ := strings.Cut(err.Error(), "ERROR: failed to build:")
			t.Log(message)
			if !strings.Contains(message, "sha256:") && !strings.Contains(message, "base") {
				t.Errorf("the error names neither layer nor image: %v", err)
			}
		}
	}
	t.Logf("%d builds failed", failed)
	d.checkNothingLeft()
}

func pruneBesideBuilds(d *dockerd) (failed []error) {
	const builds = 20
	for _, name := range []string{"base-a", "base-b"} {
		d.build(d.context(name, base+"RUN echo "+name+" >/name\n", nil), "-t", name)
	}
	d.must("tag", "base-a", "base")
	stop := make(chan struct{})
	beside := func(do func(i int) error) func() error {
		var err error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for i := 0; err == nil; i++ {
				select {
				case <-stop:
					return
				default:
				}
				err = do(i)
			}
		}()
		return func() error { <-done; return err }
	}
	prunes := 0
	pruned := beside(func(int) error {
		prunes++
		if _, err := d.run("system", "prune", "-f"); err != nil {
			return err
		}
		_, err := d.run("builder", "prune", "-af")
		return err
	})
	retagged := beside(func(i int) error {
		other := fmt.Sprint("base:", i)
		for _, command := range [][]string{
			{"tag", "base", other}, {"tag", []string{"base-a", "base-b"}[i%2], "base"}, {"rmi", other},
		} {
			if _, err := d.run(command...); err != nil {
				return err
			}
		}
		return nil
	})

	var wait sync.WaitGroup
	var again atomic.Int32
	errs := make([]error, builds)
	for i := range builds {
		dir := d.context(fmt.Sprint("build-", i), fmt.Sprintf(`FROM base AS one
RUN echo %[1]d >/one
FROM base AS two
COPY file /two
RUN cat /two >/three
FROM base
COPY --from=one /one /one
COPY --from=two /two /three /
RUN cat /one /two /three >/all
`, i), map[string]string{"file": fmt.Sprint("file ", i, "\n")})
		wait.Go(func() {
			for {
				_, errs[i] = d.tryBuild(dir, "-t", fmt.Sprint("built-", i))
				if !prunedUntagged(errs[i]) {
					return
				}
				again.Add(1)
			}
		})
	}
	wait.Wait()
	close(stop)
	for _, err := range append(errs, pruned(), retagged()) {
		if err != nil {
			failed = append(failed, err)
		}
	}
	for i := range builds {
		if errs[i] != nil {
			continue
		}
		want := fmt.Sprintf("%d\nfile %d\nfile %d\n", i, i, i)
		if got, err := d.run("run", "--rm", "--network", "none", fmt.Sprint("built-", i), "cat", "/all"); err != nil || got != want {
			failed = append(failed, fmt.Errorf("image %d holds %q, %v, want %q", i, got, err, want))
		}
	}
	d.t.Logf("%d prunes beside %d builds, of which %d went again", prunes, builds, again.Load())
	return failed
}
