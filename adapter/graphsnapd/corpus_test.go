package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/graphsnap/graphsnap/adapter/corpus"
)

// ownBuildKit is the version of BuildKit that this binary contains.
func ownBuildKit(t testing.TB) string {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	if !ok {
		t.Fatal("no build info")
	}
	for _, m := range info.Deps {
		if m.Path == "github.com/moby/buildkit" {
			return m.Version
		}
	}
	t.Fatal("this binary does not contain BuildKit")
	return ""
}

// startStock runs the buildkitd of a version on a directory until the test ends. It
// has its own overlayfs snapshotter, unless args say otherwise.
func startStock(t *testing.T, root, version string, args ...string) *testDaemon {
	t.Helper()
	requireRoot(t)
	d := &testDaemon{
		t: t, root: filepath.Join(root, "root"), socket: filepath.Join(root, "sock"),
		log: &logBuffer{}, ended: make(chan struct{}),
	}
	writeFile(t, filepath.Join(root, "buildkitd.toml"), "", 0o600) // not the machine's
	d.cmd = exec.Command(buildkitBinary(t, version, "cmd/buildkitd"), append([]string{
		"--root", d.root, "--addr", "unix://" + d.socket, "--config", filepath.Join(root, "buildkitd.toml"),
		"--containerd-worker=false", "--oci-worker-binary", "runc", "--oci-worker-net", "host",
		"--oci-worker-snapshotter", "overlayfs", "--oci-worker-gc=false",
	}, args...)...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	d.start(d.endStock)
	return d
}

// endStock ends it as its users do. It then exits with 1, whatever happened.
func (d *testDaemon) endStock() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.ended:
	case <-time.After(patience):
		d.t.Errorf("buildkitd did not end within %v of SIGTERM", patience)
		d.kill()
	}
}

// corpusImage builds a case on d and reads the image.
func corpusImage(t *testing.T, d *testDaemon, version, context string, c corpus.Case) []corpus.Layer {
	t.Helper()
	dir, err := os.MkdirTemp("", "corpus-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	writeFile(t, filepath.Join(dir, "Dockerfile"), c.Dockerfile(), 0o644)
	image := filepath.Join(dir, "image.tar")
	d.mustBuildctl(version, "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context="+context, "--local", "dockerfile="+dir, "--output", "type=docker,name=corpus,dest="+image)
	layers, err := corpus.ReadImage(image)
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// TestCorpus builds every case of the corpus on graphsnapd and on stock buildkitd of
// the same version with its own snapshotter, and where that is the newest also on
// stock buildkitd with graphsnapd's snapshotter behind a socket: the images are the
// same byte by byte.
func TestCorpus(t *testing.T) {
	if os.Getenv("GRAPHSNAP_CORPUS") == "" {
		t.Skip("make corpus runs this")
	}
	version := ownBuildKit(t)
	root := testRoot(t)
	context := filepath.Join(root, "context")
	if err := corpus.WriteContext(context); err != nil {
		t.Fatal(err)
	}
	stock := startStock(t, filepath.Join(root, "stock"), version)
	ours := map[string]*testDaemon{
		"graphsnapd": startDaemon(t, filepath.Join(root, "ours"), "overlay2", "--oci-worker-net", "host", "--oci-worker-gc=false"),
	}
	if version == buildctlVersions[len(buildctlVersions)-1] {
		dir := filepath.Join(root, "proxied")
		s := startSnapshots(t, dir, "overlay2")
		ours["buildkitd on graphsnapd snapshotter"] = startStock(t, dir, version, "--oci-worker-proxy-snapshotter-path", s.socket)
	}
	for _, c := range corpus.Cases {
		t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
			stock.t = t
			want := corpusImage(t, stock, version, context, c)
			if len(want) < 5 {
				t.Errorf("an image of %d layers", len(want))
			}
			for name, d := range ours {
				d.t = t
				got := corpusImage(t, d, version, context, c)
				if difference := corpus.Compare(got, name, want, "buildkitd"); difference != "" {
					t.Error(difference)
				}
			}
		})
	}
	stock.t = t
	for name, d := range ours {
		d.t = t
		if !strings.Contains(d.mustBuildctl(version, "debug", "workers", "-v"), "overlayfs") {
			t.Errorf("%s does not call its snapshotter overlayfs", name)
		}
	}
	ours["graphsnapd"].pruneAll(version)
}
