package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A fault may make a loop that never ends, with memory or a file that grows. These
// bound what it takes before it is ended, in bytes.
const (
	maxMemory = 16 << 30 // of addresses, which Go reserves freely
	maxFile   = 1 << 30
	maxOutput = 1 << 20 // kept
)

// outcome is how a test binary ended.
type outcome struct {
	passed bool
	by     string // the test that failed, or what ended it instead
	output string
	took   time.Duration
	cost   time.Duration // of processors, without processes that tests start and kill
}

var failedTest = regexp.MustCompile(`(?m)^\s*--- FAIL: ([^/\s]+)`)

// run runs tests one after the other, until one fails or they take longer than limit
// together, with the environment changed, in a temporary directory of their own.
func (b *binary) run(ctx context.Context, tests []string, limit time.Duration, env ...string) (outcome, error) {
	dir, err := os.MkdirTemp(scratch(), "mutate-")
	if errors.Is(err, syscall.ENOSPC) { // another fault makes files without end
		dir, err = os.MkdirTemp("", "mutate-")
	}
	if err != nil {
		return outcome{}, err
	}
	defer clearUp(dir)
	// The tests' own limit makes them say where they hang; the other is for those in
	// which not even that works.
	ctx, cancel := context.WithTimeout(ctx, limit+5*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, b.path, "-test.run", "^("+strings.Join(tests, "|")+")$", "-test.failfast",
		"-test.count=1", "-test.timeout", limit.String())
	c.Dir = b.dir
	c.Env = append(append(os.Environ(), "TMPDIR="+dir), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Second // processes that tests start may hold the output open
	var out bounded
	c.Stdout, c.Stderr = &out, &out
	began := time.Now()
	if err := c.Start(); err != nil {
		return outcome{}, err
	}
	for resource, limit := range map[int]uint64{unix.RLIMIT_AS: maxMemory, unix.RLIMIT_FSIZE: maxFile} {
		_ = unix.Prlimit(c.Process.Pid, resource, &unix.Rlimit{Cur: limit, Max: limit}, nil) // it may have ended
	}
	var hangs atomic.Bool
	watched, done := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		if untilIdle(watched, c.Process.Pid) {
			hangs.Store(true)
			_ = c.Cancel()
		}
	})
	err = c.Wait()
	done()
	watch.Wait()
	_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // what they started
	o := outcome{passed: err == nil || errors.Is(err, exec.ErrWaitDelay), output: out.String(), took: time.Since(began)}
	o.cost = c.ProcessState.UserTime() + c.ProcessState.SystemTime()
	switch failed := failedTest.FindStringSubmatch(o.output); {
	case o.passed:
	case hangs.Load() || ctx.Err() != nil || strings.Contains(o.output, "panic: test timed out after"):
		o.by = "hangs"
	case failed != nil:
		o.by = failed[1]
	case strings.Contains(o.output, "panic: ") || strings.Contains(o.output, "fatal error: "):
		o.by = "panics"
	default:
		o.by = err.Error()
	}
	return o, nil
}

// scratch is where files of tests go: memory, if there is enough.
func scratch() string {
	const memory, enough = "/dev/shm", 1 << 30
	var st unix.Statfs_t
	if unix.Access(memory, unix.W_OK) == nil && unix.Statfs(memory, &st) == nil && st.Bavail*uint64(st.Bsize) >= enough {
		return memory
	}
	return os.TempDir()
}

// clearUp removes the directory, and what a test that was ended has mounted below it.
func clearUp(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range strings.Split(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			_ = unix.Unmount(fields[4], unix.MNT_DETACH)
		}
	}
	_ = os.RemoveAll(dir)
}

// tests lists the tests of the binary that match.
func (b *binary) tests(ctx context.Context, match string) ([]string, error) {
	c := exec.CommandContext(ctx, b.path, "-test.list", match)
	c.Dir = b.dir
	out, err := c.Output()
	if err != nil {
		return nil, err
	}
	var tests []string
	for _, line := range strings.Fields(string(out)) {
		if strings.HasPrefix(line, "Test") || strings.HasPrefix(line, "Fuzz") {
			tests = append(tests, line)
		}
	}
	return tests, nil
}

func on(m *mutant) string { return environmentOn + "=" + strconv.Itoa(m.number) }

// bounded keeps the first part of what is written to it.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); room > 0 {
		_, _ = b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
