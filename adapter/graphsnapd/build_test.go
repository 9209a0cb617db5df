package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBuildOnce: on each driver one command builds, a second one finds
// everything cached, neither leaves a mount, and a daemon on the same root prunes
// it all.
func TestBuildOnce(t *testing.T) {
	for _, driver := range knownDrivers {
		t.Run(driver, func(t *testing.T) {
			root := testRootFor(t, driver)
			dir := demoContext(t, root)
			secret := filepath.Join(root, "token")
			writeFile(t, secret, "open sesame", 0o600)
			build := func(dest string) string {
				code, stderr := runToEnd(t, graphsnapd("build", dir, "--root", filepath.Join(root, "root"), "--driver", driver,
					"--secret", "id=token,src="+secret, "-o", "type=local,dest="+filepath.Join(root, dest), "--progress", "plain"))
				if code != 0 {
					t.Fatalf("exit code %d:\n%s", code, stderr)
				}
				if got := readFile(t, filepath.Join(root, dest, "out", "all")); got != demoOutput {
					t.Errorf("/out/all is %q, want %q", got, demoOutput)
				}
				if points, err := mountsBelow(root); err != nil || len(points) > 0 {
					t.Errorf("mounts left: %q, %v", points, err)
				}
				return stderr
			}
			if stderr := build("first"); strings.Contains(stderr, "CACHED") {
				t.Errorf("cached steps in the first build:\n%s", stderr)
			}
			if stderr := build("second"); strings.Count(stderr, "CACHED") != 9 {
				t.Errorf("not all 9 steps cached in the second build:\n%s", stderr)
			}
			startDaemon(t, root, driver).pruneAll(buildctlVersions[0])
		})
	}
}

// TestBuildOnceFlags covers the flags that change what is built.
func TestBuildOnceFlags(t *testing.T) {
	requireRoot(t)
	root := testRoot(t)
	dir := writeContext(t, root, "context", "FROM scratch\n")
	file := filepath.Join(root, "elsewhere", "My.Dockerfile")
	writeFile(t, file, `FROM scratch AS early
COPY bin/ /bin/
ARG GREETING
RUN ["/bin/busybox", "sh", "-c", "echo $GREETING > /greeting; cat /proc/uptime > /when"]
FROM early
RUN ["/bin/busybox", "false"]
`, 0o644)
	out := filepath.Join(root, "out")
	build := func(more ...string) (int, string) {
		return runToEnd(t, graphsnapd(append([]string{"build", "--root", filepath.Join(root, "root"), "-f", file, "--build-arg", "GREETING=hello",
			"-o", "type=local,dest=" + out, "--progress", "plain", dir}, more...)...))
	}
	if code, stderr := build("--target", "early"); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, stderr)
	}
	if got := readFile(t, filepath.Join(out, "greeting")); got != "hello\n" {
		t.Errorf("/greeting is %q, want the build argument", got)
	}
	when := readFile(t, filepath.Join(out, "when"))
	if code, stderr := build("--target", "early", "--no-cache"); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, stderr)
	}
	if readFile(t, filepath.Join(out, "when")) == when {
		t.Error("--no-cache took the step from the cache")
	}
	code, stderr := build()
	if last := lastLine(stderr); code != exitFailure || !strings.HasPrefix(last, "graphsnapd: build: ") || !strings.Contains(last, "exit code: 1") {
		t.Errorf("failing step: exit code %d, want %d and a line saying so:\n%s", code, exitFailure, stderr)
	}
}

// TestBuildOnceInterrupted: a signal cancels the build, and the mounts go.
func TestBuildOnceInterrupted(t *testing.T) {
	requireRoot(t)
	root := testRoot(t)
	dir := writeContext(t, root, "context", sleeper)
	cmd := graphsnapd("build", dir, "--root", filepath.Join(root, "root"), "--progress", "plain")
	log := &logBuffer{}
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	deadline := time.After(patience)
	for running := false; !running; {
		points, err := mountsBelow(filepath.Join(root, "root", "runc-overlay2", "executor"))
		running = err == nil && len(points) > 0
		select {
		case err := <-ended:
			t.Fatalf("ended before the step ran: %v\n%s", err, log)
		case <-deadline:
			t.Fatalf("the step did not run:\n%s", log)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-deadline:
		_ = cmd.Process.Kill()
		t.Fatalf("did not end after SIGINT:\n%s", log)
	}
	if code := cmd.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(lastLine(log.String()), "interrupt") {
		t.Errorf("exit code %d, want %d and a line that names the signal:\n%s", code, exitFailure, log)
	}
	if points, err := mountsBelow(root); err != nil || len(points) > 0 {
		t.Errorf("mounts left: %q, %v", points, err)
	}
}
