package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/reexec"
)

// asProgram makes a process with this test's binary the program itself.
const asProgram = "GRAPHSNAP_STRESS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	if reexec.Init() {
		return
	}
	os.Exit(m.Run())
}

func program(args ...string) (_ *exec.Cmd, out, errs *bytes.Buffer) {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	out, errs = &bytes.Buffer{}, &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, errs
	return cmd, out, errs
}

func TestWhatCannotBeginEndsWithTwoAndALine(t *testing.T) {
	root := t.TempDir()
	for line, want := range map[string]string{
		"-nonsense":                           "nonsense",
		"-report /nowhere/report.html":        "/nowhere/report.html",
		"-json /nowhere/report.json":          "/nowhere/report.json",
		"-driver btrfs -ops 10 -root " + root: "mkfs.btrfs",
	} {
		cmd, out, errs := program(strings.Fields(line)...)
		cmd.Env = append(cmd.Env, "PATH=/nowhere") // no mkfs there
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 2 {
			t.Errorf("%s: %v", line, err)
		}
		message := errs.String()
		if out.Len() > 0 || strings.Count(message, "\n") != 1 || !strings.HasPrefix(message, "stress: ") || !strings.Contains(message, want) {
			t.Errorf("%s: %q on stderr, %q on stdout", line, message, out)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}

// TestInterruptEndsInOrderAndReports interrupts a sweep in its first run.
func TestInterruptEndsInOrderAndReports(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	page, values := filepath.Join(dir, "report.html"), filepath.Join(dir, "report.json")
	cmd, out, _ := program("-ops", "100000000", "-clients", "8", "-sweep", "batch=1,64", "-check", "-root", root, "-report", page, "-json", values)
	cmd.Stderr = nil
	progress, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewReader(progress)
	if first, err := lines.ReadString('\n'); err != nil || !strings.Contains(first, "1/6 batch=1: ") {
		t.Fatalf("%q, %v", first, err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(lines)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, rest)
	}
	if !strings.Contains(out.String(), "no violation; seed") {
		t.Errorf("the table: %s", out)
	}
	for path, want := range map[string]string{page: "by a signal", values: `"Interrupted":true`} {
		written, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(written), want) || strings.Contains(string(written), "batch=64") && path == values {
			t.Errorf("%s does not tell of an interrupted run of the first point alone: %v", path, err)
		}
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("%v is left (%v)", left, err)
	}
}
