package main

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// demoOutput is what the demo's final image holds in /out/all.
const demoOutput = "made in a stage of its own\n1\n2\n3\nhello from the build context\n"

// tarFile returns the content of one file of a tar.
func tarFile(t *testing.T, path, name string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("%s holds no %s", path, name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(header.Name, "./") == name {
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
	}
}

// TestStockBuildctl goes with each stock client through what its users do:
// build with every exporter, look at workers, logs and disk usage, prune.
func TestStockBuildctl(t *testing.T) {
	for _, version := range buildctlVersions {
		t.Run(version, func(t *testing.T) {
			root := testRoot(t)
			d := startDaemon(t, root, "overlay2")
			dir := demoContext(t, root)
			secret := filepath.Join(root, "token")
			writeFile(t, secret, "open sesame", 0o600)
			out := func(name string) string { return filepath.Join(root, name) }
			build := func(more ...string) error {
				_, err := d.buildctl(version, buildArgs(dir, append(more, "--secret", "id=token,src="+secret)...)...)
				return err
			}

			if workers := d.mustBuildctl(version, "debug", "workers", "-v"); !strings.Contains(workers, "graphsnap.driver") ||
				!strings.Contains(workers, "overlay2") {
				t.Errorf("debug workers does not name the driver:\n%s", workers)
			}

			ref := out("ref")
			for _, output := range []string{
				"type=local,dest=" + out("local"),
				"type=tar,dest=" + out("rootfs.tar"),
				"type=oci,dest=" + out("oci.tar"),
				"type=docker,name=demo,dest=" + out("docker.tar"),
				"type=image,name=demo",
			} {
				if err := build("--output", output, "--ref-file", ref); err != nil {
					t.Fatalf("output %s: %v", output, err)
				}
			}
			if got := readFile(t, filepath.Join(out("local"), "out", "all")); got != demoOutput {
				t.Errorf("local output: /out/all is %q, want %q", got, demoOutput)
			}
			if _, err := os.Lstat(filepath.Join(out("local"), "out", "numbers")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("local output: /out/numbers: %v, want it removed by the last step", err)
			}
			if got := tarFile(t, out("rootfs.tar"), "out/all"); got != demoOutput {
				t.Errorf("tar output: /out/all is %q, want %q", got, demoOutput)
			}
			if got := tarFile(t, out("oci.tar"), "oci-layout"); !strings.Contains(got, "imageLayoutVersion") {
				t.Errorf("oci output: oci-layout is %q", got)
			}
			if got := tarFile(t, out("docker.tar"), "manifest.json"); !strings.Contains(got, "demo:latest") {
				t.Errorf("docker output: manifest.json is %q", got)
			}

			logs := d.mustBuildctl(version, "debug", "logs", strings.TrimSpace(readFile(t, ref)))
			if !strings.Contains(logs, "load build definition") {
				t.Errorf("debug logs of the last build:\n%s", logs)
			}
			if histories := d.mustBuildctl(version, "debug", "histories"); strings.Count(histories, "\n") < 5 {
				t.Errorf("debug histories lists fewer than the 5 builds:\n%s", histories)
			}

			if usage := d.mustBuildctl(version, "du", "-v"); !strings.Contains(usage, "COPY --from=words") ||
				!strings.Contains(usage, "exec.cachemount") {
				t.Errorf("du does not tell the steps and the cache mount:\n%s", usage)
			}
			d.pruneAll(version)
			if usage := d.mustBuildctl(version, "du"); strings.Contains(usage, "\tfalse") || strings.Contains(usage, "\ttrue") {
				t.Errorf("du after prune --all:\n%s", usage)
			}

			if err := build("--output", "type=local,dest="+out("again")); err != nil {
				t.Fatalf("build after prune --all: %v", err)
			}
			if got := readFile(t, filepath.Join(out("again"), "out", "all")); got != demoOutput {
				t.Errorf("after prune --all: /out/all is %q, want %q", got, demoOutput)
			}
		})
	}
}

// TestFailedStep checks that a step's failure reaches the client with its exit
// code, and that the daemon builds on.
func TestFailedStep(t *testing.T) {
	root := testRoot(t)
	d := startDaemon(t, root, "overlay2")
	version := buildctlVersions[0]
	bad := writeContext(t, root, "bad", "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"sh\", \"-c\", \"exit 7\"]\n")
	if _, err := d.buildctl(version, buildArgs(bad)...); err == nil || !strings.Contains(err.Error(), "exit code: 7") {
		t.Errorf("build whose step exits with 7: %v", err)
	}
	good := writeContext(t, root, "good", "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"true\"]\n")
	d.mustBuildctl(version, buildArgs(good)...)
	d.pruneAll(version)
}
