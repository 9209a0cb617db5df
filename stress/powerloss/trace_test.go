package powerloss

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// traced are the system calls by which a process changes files, or makes changes
// durable, and those that say which file a descriptor is. strace passes over names
// that the architecture does not have.
const traced = "?open,openat,close,write,pwrite64,lseek,?truncate,ftruncate,fallocate,copy_file_range,?sendfile," +
	"fsync,fdatasync,syncfs,sync,sync_file_range," +
	"?rename,renameat,renameat2,?unlink,unlinkat,?rmdir,?mkdir,mkdirat,?symlink,symlinkat,?link,linkat"

// call is one system call that succeeded. began and ended are lines of the trace: what
// ended before another began happened before it.
type call struct {
	name         string
	args         []string
	result       int
	began, ended int
}

// trace runs this test binary as the process that role names, below strace, and
// returns its system calls in the order in which they ended. The process finds args
// in its environment (process).
func trace(t *testing.T, role string, args ...string) []call {
	t.Helper()
	out := filepath.Join(t.TempDir(), "trace")
	cmd := exec.Command("strace", append([]string{
		"-f", "-y", "-xx", "-s", "100000000", "--seccomp-bpf", "-o", out, "-e", "trace=" + traced, "-e", "signal=none",
	}, os.Args[0])...)
	cmd.Env = append(os.Environ(), roleEnv+"="+role, argsEnv+"="+strings.Join(args, "\n"))
	if said, err := cmd.CombinedOutput(); err != nil {
		if errors.Is(err, exec.ErrNotFound) && os.Getenv("CI") != "true" {
			t.Skip("strace is not installed")
		}
		t.Fatalf("process %s: %v\n%s", role, err, said)
	}
	f, err := os.Open(out)
	must(t, err)
	defer f.Close()
	calls, err := parse(bufio.NewReader(f))
	must(t, err)
	if len(calls) == 0 {
		t.Fatal("strace told of no system call")
	}
	return calls
}

// exited stands for a call that has no result, since the process ended first. It may
// have been made or not.
const exited = "exited"

// parse reads what strace writes. A call during which other threads made calls takes
// two lines:
//
//	17 fsync(5</file> <unfinished ...>
//	17 <... fsync resumed>) = 0
func parse(r *bufio.Reader) (calls []call, err error) {
	begun := map[string]call{} // by thread, of which args is one string yet
	for n := 0; ; n++ {
		line, err := r.ReadString('\n')
		if err != nil {
			break
		}
		thread, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if !ok {
			return nil, fmt.Errorf("line %d: %.80q", n, line)
		}
		rest = strings.TrimLeft(rest, " ")
		c := call{began: n, ended: n}
		if strings.HasPrefix(rest, "+++") || strings.HasPrefix(rest, "---") {
			continue
		}
		if resumed, ok := strings.CutPrefix(rest, "<... "); ok {
			_, after, _ := strings.Cut(resumed, " resumed>")
			c = begun[thread]
			c.ended = n
			if len(c.args) != 1 {
				return nil, fmt.Errorf("line %d: nothing to resume: %.80q", n, line)
			}
			rest = c.args[0] + after
		} else if before, ok := strings.CutSuffix(rest, "<unfinished ...>"); ok {
			c.args = []string{strings.TrimSuffix(before, " ")}
			begun[thread] = c
			continue
		}
		name, rest, ok := strings.Cut(rest, "(")
		end := strings.LastIndex(rest, ") ") // the result is aligned with spaces
		if !ok || end < 0 {
			return nil, fmt.Errorf("line %d: %.80q", n, line)
		}
		result := strings.TrimLeft(strings.TrimLeft(rest[end+1:], " ")[1:], " ")
		if strings.HasPrefix(result, "-1") {
			continue
		}
		if strings.HasPrefix(result, "?") { // the process ended in it
			calls = append(calls, call{name: exited, began: n, ended: n})
			continue
		}
		digits, _, _ := strings.Cut(result, "<")
		digits, _, _ = strings.Cut(digits, " ")
		if c.result, err = strconv.Atoi(digits); err != nil {
			return nil, fmt.Errorf("line %d: result %q", n, result)
		}
		c.name, c.args = name, strings.Split(rest[:end], ", ")
		calls = append(calls, c)
	}
	slices.SortStableFunc(calls, func(a, b call) int { return a.at() - b.at() })
	return calls, nil
}

// at is the moment of the call. A descriptor is free for others as soon as its close
// has begun.
func (c *call) at() int {
	if c.name == "close" {
		return c.began
	}
	return c.ended
}

// str is an argument that is a string, fd one that is a descriptor, number any other.
func (c *call) str(i int) string {
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Trim(c.args[i], `"`), `\x`, ""))
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d is no string: %.80q", c.name, i, c.args[i]))
	}
	return string(b)
}

func (c *call) fd(i int) int {
	n, _, _ := strings.Cut(c.args[i], "<")
	fd, err := strconv.Atoi(n)
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d is no descriptor: %.80q", c.name, i, c.args[i]))
	}
	return fd
}

func (c *call) number(i int) int {
	n, err := strconv.Atoi(c.args[i])
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d is no number: %.80q", c.name, i, c.args[i]))
	}
	return n
}

// path is the path that a directory descriptor and the name after it make.
func (c *call) path(i int) string {
	name := c.str(i + 1)
	if filepath.IsAbs(name) {
		return name
	}
	_, dir, _ := strings.Cut(c.args[i], "<")
	dir, _, _ = strings.Cut(dir, ">")
	b, err := hex.DecodeString(strings.ReplaceAll(dir, `\x`, ""))
	if err != nil {
		panic(fmt.Sprintf("%s: argument %d is no directory: %.80q", c.name, i, c.args[i]))
	}
	return filepath.Join(string(b), name)
}
