package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCaches carries a cache of each kind into an empty daemon, where layers
// are then unpacked from blobs instead of being built.
func TestCaches(t *testing.T) {
	const dockerfile = `FROM scratch
COPY bin/ /bin/
RUN ["/bin/busybox", "sh", "-c", "cat /proc/sys/kernel/random/uuid > /made"]
RUN ["/bin/busybox", "cp", "/made", "/copy"]
`
	for kind, cache := range map[string]struct{ export, from string }{
		"local":    {"type=local,mode=max,dest=DIR/cache", "type=local,src=DIR/cache"},
		"registry": {"type=registry,mode=max,ref=HOST/demo:cache", "type=registry,ref=HOST/demo:cache"},
		"inline":   {"type=inline", "type=registry,ref=HOST/demo:latest"},
	} {
		t.Run(kind, func(t *testing.T) {
			root := testRoot(t)
			host := startRegistry(t)
			place := strings.NewReplacer("DIR", root, "HOST", host).Replace
			version := buildctlVersions[0]
			dir := writeContext(t, root, "context", dockerfile)
			build := func(d *testDaemon, dir, dest string, more ...string) string {
				d.mustBuildctl(version, buildArgs(dir, append(more, "--output", "type=local,dest="+filepath.Join(root, dest))...)...)
				return readFile(t, filepath.Join(root, dest, "copy"))
			}

			first := startDaemon(t, filepath.Join(root, "1"), "overlay2")
			made := build(first, dir, "out1")
			first.mustBuildctl(version, buildArgs(dir, "--export-cache", place(cache.export),
				"--output", place("type=image,name=HOST/demo:latest,push=true"))...)
			first.terminate()

			second := startDaemon(t, filepath.Join(root, "2"), "overlay2")
			if got := build(second, dir, "out2", "--import-cache", place(cache.from)); got != made {
				t.Errorf("built with an imported cache: %q, want %q, which the first daemon made", got, made)
			}
			second.pruneAll(version)

			// Pulled as a base, the same layers come by another way.
			base := writeContext(t, root, "base", place("FROM HOST/demo:latest\nRUN [\"/bin/busybox\", \"touch\", \"/more\"]\n"))
			if got := build(second, base, "out3"); got != made {
				t.Errorf("built on the pushed image: %q, want %q, which the first daemon made", got, made)
			}
			second.pruneAll(version)
		})
	}
}

// TestFrontendImage builds with a frontend that runs in a container and speaks
// to the daemon through the gateway, as "# syntax=docker/dockerfile" does.
func TestFrontendImage(t *testing.T) {
	root := testRoot(t)
	version := buildctlVersions[0]
	d := startDaemon(t, root, "overlay2")
	image := startRegistry(t) + "/frontend"
	binary, err := os.ReadFile(buildkitBinary(t, version, "frontend/dockerfile/cmd/dockerfile-frontend"))
	if err != nil {
		t.Fatal(err)
	}
	frontend := filepath.Join(root, "frontend")
	writeFile(t, filepath.Join(frontend, "frontend"), string(binary), 0o755)
	writeFile(t, filepath.Join(frontend, "Dockerfile"), "FROM scratch\nCOPY frontend /\nENTRYPOINT [\"/frontend\"]\n", 0o644)
	d.mustBuildctl(version, buildArgs(frontend, "--output", "type=image,push=true,name="+image)...)

	dir := writeContext(t, root, "context", "# syntax="+image+"\nFROM scratch\nCOPY --link bin/ /bin/\nRUN [\"/bin/busybox\", \"touch\", \"/made\"]\n")
	d.mustBuildctl(version, buildArgs(dir, "--output", "type=local,dest="+filepath.Join(root, "out"))...)
	readFile(t, filepath.Join(root, "out", "made"))
	d.pruneAll(version)
}

// TestSSH checks that a step gets an agent's socket when it asks for one.
func TestSSH(t *testing.T) {
	requireRoot(t)
	root := testRoot(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, "key.pem")
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
	dir := writeContext(t, root, "context", "FROM scratch\nCOPY bin/ /bin/\n"+
		"RUN --mount=type=ssh [\"/bin/busybox\", \"sh\", \"-c\", \"test -S $SSH_AUTH_SOCK\"]\n")
	code, stderr := runToEnd(t, graphsnapd("build", dir, "--root", filepath.Join(root, "root"), "--ssh", "default="+file, "--progress", "plain"))
	if code != 0 {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
}
