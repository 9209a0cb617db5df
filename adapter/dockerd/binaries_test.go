package dockerd

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Versions of the stock clients: BuildKit's is the one that dockerd 28.5.2
// contains, buildx the one that Docker shipped with it.
const (
	buildctlVersion = "v0.25.2"
	buildxVersion   = "v0.29.1"
)

func buildctl(t testing.TB) string {
	return client(t, "github.com/moby/buildkit", buildctlVersion, "./cmd/buildctl", "buildctl")
}

func buildx(t testing.TB) string {
	return client(t, "github.com/docker/buildx", buildxVersion, "./cmd/buildx", "docker-buildx")
}

// top is the directory of go.mod.
var top = sync.OnceValues(func() (string, error) {
	out, err := output(exec.Command("go", "env", "GOMOD"))
	return filepath.Dir(strings.TrimSpace(out)), err
})

func topDir(t testing.TB) string {
	t.Helper()
	dir, err := top()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var built struct {
	sync.Mutex
	done bool
	err  error
}

// daemonBinary is the path of one of the two daemons. They are brought up to
// date once per run of the tests, so that nobody tests an old one.
func daemonBinary(t testing.TB, name string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if !built.done {
		// Not through output: the first time, it compiles all of dockerd.
		build := exec.Command(filepath.Join(topDir(t), "adapter/dockerd/build"))
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		built.done, built.err = true, build.Run()
	}
	if built.err != nil {
		t.Fatalf("adapter/dockerd/build: %v", built.err)
	}
	return filepath.Join(topDir(t), "bin", name)
}

// TestOnlyTheSnapshotterIsReplaced compares what the two daemons were built of.
func TestOnlyTheSnapshotterIsReplaced(t *testing.T) {
	read := func(name string) (deps map[string]string, settings map[string]string) {
		info, err := buildinfo.ReadFile(daemonBinary(t, name))
		if err != nil {
			t.Fatal(err)
		}
		deps, settings = map[string]string{}, map[string]string{}
		for _, dep := range info.Deps {
			deps[dep.Path] = dep.Version
		}
		for _, setting := range info.Settings {
			settings[setting.Key] = setting.Value
		}
		return deps, settings
	}
	stockDeps, stockSettings := read(stock)
	deps, settings := read(graphsnap)
	if _, ok := deps["github.com/graphsnap/graphsnap"]; !ok {
		t.Error("graphsnap is not in it")
	}
	delete(deps, "github.com/graphsnap/graphsnap")
	if diff := cmp.Diff(stockDeps, deps); diff != "" {
		t.Errorf("modules of stock dockerd (-) and of graphsnap's (+):\n%s", diff)
	}
	if diff := cmp.Diff(stockSettings, settings); diff != "" {
		t.Errorf("settings of stock dockerd (-) and of graphsnap's (+):\n%s", diff)
	}
}

var clients sync.Mutex

// client is the path of a stock client. It is built from its own module, with
// that module's dependencies, once per checkout.
func client(t testing.TB, module, version, pkg, name string) string {
	t.Helper()
	clients.Lock()
	defer clients.Unlock()
	binary := filepath.Join(topDir(t), ".build", name+"-"+version)
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	out, err := output(exec.Command("go", "mod", "download", "-json", module+"@"+version))
	if err != nil {
		t.Fatal(err)
	}
	var source struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &source); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", binary, pkg)
	build.Dir = source.Dir
	build.Env = append(os.Environ(), "GOFLAGS=-mod=readonly -buildvcs=false", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s %s: %v\n%s", module, version, err, out)
	}
	return binary
}
