package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildxRemote runs the commands of the README for several machines: docker's buildx
// plugin builds on a daemon that asks for certificates, which lets nobody else in.
func TestBuildxRemote(t *testing.T) {
	withClients(t)
	root := testRoot(t)
	d, addr, ca := startWithTLS(t, root)
	config := filepath.Join(root, "docker")
	plugins := filepath.Join(config, "cli-plugins")
	if err := os.MkdirAll(plugins, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(buildxBinary(t), filepath.Join(plugins, "docker-buildx")); err != nil {
		t.Fatal(err)
	}
	buildx := func(args ...string) (string, error) {
		cmd := exec.Command("docker", append([]string{"buildx"}, args...)...)
		cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+config)
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("docker buildx %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return string(out), err
	}
	create := func(name, client string) {
		t.Helper()
		_, err := buildx("create", "--name", name, "--driver", "remote", "--driver-opt",
			fmt.Sprintf("cacert=%s,cert=%s,key=%s", ca.file("ca"), ca.file(client), ca.file(client+"-key")), "tcp://"+addr)
		if err != nil {
			t.Fatal(err)
		}
	}
	create("farm", "client")
	create("strangers", "other-client")

	out, err := buildx("inspect", "farm")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "running") || !strings.Contains(out, ownBuildKit(t)) {
		t.Errorf("buildx says of the daemon:\n%s\nwant that it is running %s", out, ownBuildKit(t))
	}
	dest := filepath.Join(root, "out")
	if _, err := buildx("build", "--builder", "farm", "--output", "type=local,dest="+dest, parallelContexts(t, root)[0]); err != nil {
		t.Fatal(err)
	}
	checkParallel(t, 0, 0, dest)
	out, err = buildx("inspect", "strangers")
	if err == nil && strings.Contains(out, "running") {
		t.Errorf("buildx with a certificate of another CA was let in:\n%s", out)
	}
	if _, err := buildx("prune", "--builder", "farm", "--all", "--force"); err != nil {
		t.Error(err)
	}
	d.pruneAll(buildctlVersions[0])
}
