package main

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
)

// TestFiftyBuildsBesidePrune runs 50 builds at once on one daemon while prune
// never stops. Steps are shared between some of the builds and the same step
// text occurs in all of them, so that prune meets records that are being made,
// used and looked up.
func TestFiftyBuildsBesidePrune(t *testing.T) {
	const builds = 50
	root := testRoot(t)
	d := startDaemon(t, root, "overlay2")
	contexts := parallelContexts(t, root)

	done := make(chan struct{})
	var pruner sync.WaitGroup
	pruner.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			if _, err := d.buildctl(buildctlVersions[n%len(buildctlVersions)], "prune", "--all"); err != nil {
				t.Errorf("prune %d: %v", n, err)
				return
			}
		}
	})
	var running sync.WaitGroup
	for i := range builds {
		running.Go(func() {
			version := buildctlVersions[i%len(buildctlVersions)]
			dest := filepath.Join(root, fmt.Sprint("out", i))
			if _, err := d.buildctl(version, buildArgs(contexts[i%len(contexts)], "--output", "type=local,dest="+dest)...); err != nil {
				t.Errorf("build %d: %v", i, err)
				return
			}
			checkParallel(t, i, i%len(contexts), dest)
		})
	}
	running.Wait()
	close(done)
	pruner.Wait()
	if t.Failed() {
		return
	}
	d.pruneAll(buildctlVersions[0])
}

// parallelContexts writes contexts of builds that have some steps in common.
func parallelContexts(t *testing.T, root string) (contexts []string) {
	t.Helper()
	for i := range 10 {
		contexts = append(contexts, writeContext(t, root, fmt.Sprint("context", i), fmt.Sprintf(`FROM scratch AS base
COPY bin/ /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
FROM base AS left
RUN --mount=type=cache,target=/cache echo left %d > /left
FROM base
RUN echo right %d > /right
COPY --link --from=left /left /left
RUN cat /left /right > /both
`, i, i)))
	}
	return contexts
}

// checkParallel looks at what build made of the context n, in dest.
func checkParallel(t *testing.T, build, n int, dest string) {
	t.Helper()
	if got, want := readFile(t, filepath.Join(dest, "both")), fmt.Sprintf("left %d\nright %d\n", n, n); got != want {
		t.Errorf("build %d: /both is %q, want %q", build, got, want)
	}
}
