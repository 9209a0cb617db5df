package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// goEnv asks the go command for a setting.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatalf("go env %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// moduleRoot is the directory of go.mod.
func moduleRoot(t *testing.T) string {
	t.Helper()
	return filepath.Dir(goEnv(t, "GOMOD"))
}

// buildctlBinary is the stock client of a BuildKit version.
func buildctlBinary(t *testing.T, version string) string {
	t.Helper()
	return buildkitBinary(t, version, "cmd/buildctl")
}

// buildkitBinary is a command of a BuildKit version.
func buildkitBinary(t *testing.T, version, pkg string) string {
	t.Helper()
	return moduleBinary(t, "github.com/moby/buildkit", version, pkg, filepath.Base(pkg))
}

// buildxBinary is the plugin that Docker 28.5.2 shipped with its client.
func buildxBinary(t *testing.T) string {
	t.Helper()
	return moduleBinary(t, "github.com/docker/buildx", "v0.29.1", "cmd/buildx", "docker-buildx")
}

var moduleLock sync.Mutex

// moduleBinary builds a command from its own module, with that module's own
// dependencies, once per checkout.
func moduleBinary(t *testing.T, path, version, pkg, name string) string {
	t.Helper()
	moduleLock.Lock()
	defer moduleLock.Unlock()
	binary := filepath.Join(moduleRoot(t), ".build", name+"-"+version)
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		t.Fatal(err)
	}
	download := exec.Command("go", "mod", "download", "-json", path+"@"+version)
	out, err := download.Output()
	if err != nil {
		t.Fatalf("download %s %s: %v\n%s", path, version, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", binary, "./"+pkg)
	build.Dir = module.Dir
	build.Env = append(os.Environ(), "GOFLAGS=-mod=readonly -buildvcs=false", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s of %s %s: %v\n%s", pkg, path, version, err, out)
	}
	return binary
}

// demoContext copies testdata/demo and the machine's static busybox into a new
// build context, which no test needs a network for.
func demoContext(t *testing.T, root string) string {
	t.Helper()
	dir := filepath.Join(root, "context")
	if err := os.CopyFS(dir, os.DirFS("testdata/demo")); err != nil {
		t.Fatal(err)
	}
	addBusybox(t, dir)
	return dir
}

func addBusybox(t *testing.T, dir string) {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v: install busybox-static, or run make setup", err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "bin", "busybox"), string(binary), 0o755)
}

// writeContext makes a build context of a Dockerfile and busybox.
func writeContext(t *testing.T, root, name, dockerfile string) string {
	t.Helper()
	dir := filepath.Join(root, name)
	addBusybox(t, dir)
	writeFile(t, filepath.Join(dir, "Dockerfile"), dockerfile, 0o644)
	return dir
}

func writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}
