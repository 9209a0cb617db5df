package main

// Real clients of `graphsnapd snapshotter`: Debian's containerd and stock buildkitd.

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// withClients skips where `make test-containerd` does not ask for real clients, for
// which packages and time are needed that make test does without.
func withClients(t *testing.T) {
	t.Helper()
	requireRoot(t)
	if os.Getenv("GRAPHSNAP_CONTAINERD") == "" {
		t.Skip("run by make test-containerd")
	}
}

// clientDaemon is a daemon that uses the service.
type clientDaemon struct {
	t       *testing.T
	command []string
	cmd     *exec.Cmd
	log     *logBuffer
	ended   chan struct{}
	ready   func() error
}

func startClient(t *testing.T, ready func() error, command ...string) *clientDaemon {
	t.Helper()
	c := &clientDaemon{t: t, command: command, log: &logBuffer{}, ready: ready}
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Logf("log of %s:\n%s", filepath.Base(command[0]), c.log)
		}
	})
	c.start()
	return c
}

func (c *clientDaemon) start() {
	c.t.Helper()
	c.cmd = exec.Command(c.command[0], c.command[1:]...)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	// Without Pdeathsig: containers' shims are to outlive containerd. What is left of
	// a test that was killed .ci/with-scratch finds.
	if err := c.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan struct{})
	c.ended = ended
	go func() {
		_ = c.cmd.Wait()
		close(ended)
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := c.ready()
		if err == nil {
			return
		}
		select {
		case <-ended:
			c.t.Fatalf("%s ended:\n%s", c.command[0], c.log)
		default:
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s is not ready: %v\n%s", c.command[0], err, c.log)
		}
	}
}

func (c *clientDaemon) stop() {
	c.t.Helper()
	if c.cmd == nil || c.cmd.Process == nil {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.ended:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.ended
		c.t.Errorf("%s did not end within %v of SIGTERM", c.command[0], patience)
	}
}

func output(command ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%v: %w\n%s%s", command, err, out, stderr.String())
	}
	return string(out), err
}

// TestContainerdOnSnapshots: import, unpack, run, also while the service and containerd
// are started anew, and remove; then nothing is left.
func TestContainerdOnSnapshots(t *testing.T) {
	withClients(t)
	for _, driver := range []string{"overlay2", "vfs", "btrfs"} {
		t.Run(driver, func(t *testing.T) {
			dir := testRootFor(t, driver)
			image := filepath.Join(dir, "image.tar")
			const name = "docker.io/library/graphsnap-test:latest"
			code, stderr := runToEnd(t, graphsnapd("build", writeContext(t, dir, "context", `FROM scratch
COPY bin/ /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir /tmp && echo made > /file && rm /bin/vi
`), "--root", filepath.Join(dir, "build"), "-o", "type=oci,dest="+image+",name="+name))
			if code != 0 {
				t.Fatalf("build of the image: exit code %d\n%s", code, stderr)
			}
			s := startSnapshots(t, dir, driver)
			socket := filepath.Join(dir, "containerd.sock")
			// Which root of a user namespace can reach.
			state, err := os.MkdirTemp("/tmp", "graphsnapd-state-")
			if err == nil {
				err = os.Chmod(state, 0o711)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.RemoveAll(state); err != nil {
					t.Error(err)
				}
			})
			config := filepath.Join(dir, "containerd.toml")
			writeFile(t, config, fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[proxy_plugins.graphsnap]
  type = "snapshot"
  address = %q
`, filepath.Join(dir, "containerd"), state, socket, s.socket), 0o644)
			ctr := func(args ...string) (string, error) {
				return output(append([]string{"ctr", "--address", socket}, args...)...)
			}
			must := func(args ...string) string {
				t.Helper()
				out, err := ctr(args...)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			containerd := startClient(t, func() error { return second(ctr("version")) }, "containerd", "--log-level", "warn", "--config", config)

			must("images", "import", "--snapshotter", "graphsnap", image)
			_, err = ctr("run", "--rm", "--snapshotter", "graphsnap", name, "fails-"+filepath.Base(dir), "/bin/ls", "/bin/vi")
			if err == nil {
				t.Error("what a layer removed is there")
			}
			// The runtime knows containers of all containerds by their names.
			lasting := "lasting-" + filepath.Base(dir)
			t.Cleanup(func() {
				_ = exec.Command("ctr", "--address", socket, "task", "delete", "--force", lasting).Run()
				_ = exec.Command("runc", "--root", "/run/containerd/runc/default", "delete", "--force", lasting).Run()
			})
			if out := must("run", "--rm", "--snapshotter", "graphsnap", name, "first-"+filepath.Base(dir), "/bin/cat", "/file"); out != "made\n" {
				t.Errorf("a container prints %q", out)
			}
			// containerd changes the owners in a snapshot of its own. With labels a new
			// one does too; an old one leaves it to us, who do not and say so.
			for i, labels := range [][]string{nil, {"--remap-labels"}} {
				args := append([]string{"run", "--rm", "--snapshotter", "graphsnap", "--uidmap", "0:100000:65536", "--gidmap", "0:200000:65536"}, labels...)
				out, err := ctr(append(args, name, fmt.Sprint("mapped-", i, filepath.Base(dir)), "/bin/sh", "-c",
					"cat /proc/self/uid_map && touch /new && stat -c %u:%g / /file /new")...)
				switch fields := strings.Fields(out); {
				case err != nil && labels != nil && strings.Contains(err.Error(), "graphsnapd snapshotter --remap-ids"):
				case err != nil:
					t.Error(err)
				case !slices.Equal(fields, []string{"0", "100000", "65536", "0:0", "0:0", "0:0"}):
					t.Errorf("a container with mapped IDs, %q, prints %q", labels, fields)
				}
			}
			must("run", "--detach", "--snapshotter", "graphsnap", name, lasting, "/bin/sleep", "86400")
			for i, restart := range []func(){
				func() { s.stop(); s.start() },
				func() { s.kill(); s.start() },
				func() { containerd.stop(); containerd.start() },
			} {
				must("task", "exec", "--exec-id", fmt.Sprint("write", i), lasting, "/bin/sh", "-c", fmt.Sprintf("echo %d >> /tmp/log", i))
				restart()
				// containerd tries to connect again after a while.
				s.waitFor("containerd's answer about snapshots", func() bool {
					return second(ctr("snapshots", "--snapshotter", "graphsnap", "list")) == nil
				})
				if out := must("task", "exec", "--exec-id", fmt.Sprint("read", i), lasting, "/bin/tail", "-n1", "/tmp/log"); out != fmt.Sprintln(i) {
					t.Errorf("after restart %d the container reads %q", i, out)
				}
				if out := must("run", "--rm", "--snapshotter", "graphsnap", name, fmt.Sprint("after-", i, filepath.Base(dir)), "/bin/cat", "/file"); out != "made\n" {
					t.Errorf("a container after restart %d prints %q", i, out)
				}
			}
			must("task", "kill", "--signal", "KILL", lasting)
			s.waitFor("the end of the task", func() bool { return second(ctr("task", "delete", lasting)) == nil })
			must("containers", "delete", lasting)
			must("images", "remove", "--sync", name)
			s.checkNothingLeft()
		})
	}
}

// TestBuildkitdOnSnapshots: stock buildkitd builds the demo, then 50 builds at once
// while either side is started anew; prune leaves nothing. The service has its socket
// from one who keeps it, so no build notices that it was stopped in order and started.
func TestBuildkitdOnSnapshots(t *testing.T) {
	withClients(t)
	const version = "v0.34.2"
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			dir := testRoot(t)
			s := newSnapshots(t, dir, driver)
			s.keepSocket()
			s.run()
			name := driver
			if driver == "overlay2" {
				name = "overlayfs" // which switches BuildKit's fast paths on
			}
			c := &testDaemon{t: t, socket: filepath.Join(dir, "buildkitd.sock")}
			buildkitd := startClient(t, func() error { return second(c.buildctl(version, "debug", "workers")) },
				buildkitBinary(t, version, "cmd/buildkitd"),
				"--root", filepath.Join(dir, "buildkitd"), "--addr", "unix://"+c.socket, "--config", filepath.Join(dir, "none.toml"),
				"--containerd-worker=false", "--oci-worker-net", "host", "--oci-worker-gc=false",
				"--oci-worker-snapshotter", name, "--oci-worker-proxy-snapshotter-path", s.socket)

			demo := demoContext(t, dir)
			secret := filepath.Join(dir, "token")
			writeFile(t, secret, "open sesame", 0o600)
			for i := range 2 {
				dest := filepath.Join(dir, fmt.Sprint("demo", i))
				c.mustBuildctl(version, buildArgs(demo, "--secret", "id=token,src="+secret, "--output", "type=local,dest="+dest)...)
				if got := readFile(t, filepath.Join(dest, "out/all")); !strings.Contains(got, "made in a stage of its own\n1\n2\n3\n") {
					t.Errorf("demo: /out/all is %q", got)
				}
			}

			buildBesideRestarts(t, s, dir, []restart{
				{"the service, in order", func() { s.stop(); s.start() }, true},
				{"the service, in order again", func() { s.stop(); s.start() }, true},
				// What this costs may show after the next restart only.
				{"the service, killed", func() { s.kill(); s.start() }, false},
				{"buildkitd", func() { buildkitd.stop(); buildkitd.start() }, false},
			}, func(context, dest string) error {
				return second(c.buildctl(version, buildArgs(context, "--output", "type=local,dest="+dest)...))
			})
			s.waitFor("an empty home of the driver", func() bool {
				_, err := c.buildctl(version, "prune", "--all")
				return err == nil && len(s.left()) == 0
			})
			buildkitd.stop()
			points, err := mountsBelow(dir)
			if err != nil || len(points) > 0 {
				t.Errorf("mounts after the end of buildkitd: %q (%v)", points, err)
			}
		})
	}
}
