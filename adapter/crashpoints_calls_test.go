//go:build crashpoints

package adapter

// Processes that die within a call of the graph driver: before each system call that
// changes something in the driver's home, be it Docker's code that makes it or ours.
//
// The kernel stops such a system call and asks the test that watches the process
// (SECCOMP_RET_USER_NOTIF, seccomp(2)). So all threads are stopped in an order that
// one process knows, and what dies has not made the call.

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// systemCall is one that may change a file system, and how it says of what: path is
// the argument that is the last path, after a descriptor of a directory where at is
// set, or fd is one that is a descriptor.
type systemCall struct {
	name          string
	path, at, fd  int
	onlyWithFlags uint64 // it changes nothing without these in the argument after the path
}

const none = -1

func pathAt(name string, path int) systemCall {
	return systemCall{name: name, path: path, at: path - 1, fd: none}
}
func pathOnly(name string, path int) systemCall {
	return systemCall{name: name, path: path, at: none, fd: none}
}
func descriptor(name string, fd int) systemCall {
	return systemCall{name: name, path: none, fd: fd}
}

// systemCalls are those by number. Syncs are not among them: who is killed does not
// need them.
var systemCalls = func() map[uint32]systemCall {
	opening := pathAt("openat", 1)
	opening.onlyWithFlags = unix.O_CREAT
	all := map[uint32]systemCall{
		unix.SYS_OPENAT:          opening,
		unix.SYS_MKDIRAT:         pathAt("mkdirat", 1),
		unix.SYS_MKNODAT:         pathAt("mknodat", 1),
		unix.SYS_SYMLINKAT:       pathAt("symlinkat", 2),
		unix.SYS_LINKAT:          pathAt("linkat", 3),
		unix.SYS_UNLINKAT:        pathAt("unlinkat", 1),
		unix.SYS_RENAMEAT:        pathAt("renameat", 3),
		unix.SYS_RENAMEAT2:       pathAt("renameat2", 3),
		unix.SYS_FCHMODAT:        pathAt("fchmodat", 1),
		unix.SYS_FCHOWNAT:        pathAt("fchownat", 1),
		unix.SYS_UTIMENSAT:       pathAt("utimensat", 1),
		unix.SYS_MOVE_MOUNT:      pathAt("move_mount", 3),
		unix.SYS_MOUNT:           pathOnly("mount", 1),
		unix.SYS_UMOUNT2:         pathOnly("umount2", 0),
		unix.SYS_TRUNCATE:        pathOnly("truncate", 0),
		unix.SYS_SETXATTR:        pathOnly("setxattr", 0),
		unix.SYS_LSETXATTR:       pathOnly("lsetxattr", 0),
		unix.SYS_FSETXATTR:       descriptor("fsetxattr", 0),
		unix.SYS_FCHMOD:          descriptor("fchmod", 0),
		unix.SYS_FCHOWN:          descriptor("fchown", 0),
		unix.SYS_FTRUNCATE:       descriptor("ftruncate", 0),
		unix.SYS_FALLOCATE:       descriptor("fallocate", 0),
		unix.SYS_WRITE:           descriptor("write", 0),
		unix.SYS_PWRITE64:        descriptor("pwrite64", 0),
		unix.SYS_COPY_FILE_RANGE: descriptor("copy_file_range", 2),
		unix.SYS_SENDFILE:        descriptor("sendfile", 0),
		unix.SYS_IOCTL:           descriptor("ioctl", 0),
	}
	if runtime.GOARCH == "amd64" { // where Go still uses some that others do not have
		all[94] = pathOnly("lchown", 0)
		all[92] = pathOnly("chown", 0)
		all[90] = pathOnly("chmod", 0)
	}
	return all
}()

// btrfsMagic is the type of the ioctls that make and delete subvolumes, and clone files.
const btrfsMagic = 0x94

// telling is the descriptor on which a watched process says that it is, in its own
// numbering. It may be written to without being asked.
const telling = 3

// beWatched has the kernel ask whoever reads from telling before each system call.
func beWatched(t *testing.T) {
	t.Helper()
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(equal uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: equal, Jf: skip}
	}
	answer := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k}
	}
	// Of struct seccomp_data, little-endian: the number, and the first argument's lower half.
	const number, first = 0, 16
	program := []unix.SockFilter{
		load(number), unless(unix.SYS_WRITE, 4),
		load(first), unless(telling, 1), answer(unix.SECCOMP_RET_ALLOW),
		load(number),
	}
	for n := range systemCalls {
		program = append(program, unless(n, 1), answer(unix.SECCOMP_RET_USER_NOTIF))
	}
	program = append(program, answer(unix.SECCOMP_RET_ALLOW))
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_NEW_LISTENER | unix.SECCOMP_FILTER_FLAG_TSYNC |
		unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH | unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter)))
	if errno != 0 {
		t.Fatalf("seccomp: %v", errno)
	}
	_, err := unix.Write(telling, fmt.Appendf(nil, "%d\n", fd))
	must(t, err)
}

// watcher is asked by the kernel before system calls of a process.
type watcher struct {
	home  string // of the driver
	over  string // a file that is there when the process has ended what it was to do
	at    moment // to kill it at
	tells *os.File
	all   []moment // that have come
	nth   map[string]int
	ended chan error
}

func (k *killer) watch(t *testing.T, o assignment) (w *watcher, inProcess *os.File) {
	t.Helper()
	tells, inProcess, err := os.Pipe()
	must(t, err)
	return &watcher{
		home: k.path(k.driver), over: k.note(fileOver), at: o.At,
		tells: tells, nth: map[string]int{}, ended: make(chan error, 1),
	}, inProcess
}

// run answers until the process is dead, or has ended without being watched.
func (w *watcher) run(pid int) {
	w.ended <- func() error {
		defer w.tells.Close()
		var there int
		if n, err := fmt.Fscan(w.tells, &there); n == 0 {
			return fmt.Errorf("it never said that it is watched: %w", err)
		}
		process, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return err
		}
		defer unix.Close(process)
		asks, err := unix.PidfdGetfd(process, there, 0)
		if err != nil {
			return err
		}
		defer unix.Close(asks)
		for {
			p := []unix.PollFd{{Fd: int32(asks), Events: unix.POLLIN}}
			if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
				return err
			}
			if p[0].Revents&unix.POLLIN == 0 {
				if p[0].Revents&unix.POLLHUP != 0 {
					return nil
				}
				continue
			}
			if err := w.answer(asks, process); err != nil {
				return err
			}
		}
	}()
}

// As linux/seccomp.h has them.
type (
	question struct {
		id   uint64
		pid  uint32 // a thread's
		_    uint32
		nr   uint32
		_    uint32
		_    uint64
		args [6]uint64
	}
	answer struct {
		id    uint64
		_     int64
		_     int32
		flags uint32
	}
)

func (w *watcher) answer(asks, process int) error {
	var q question
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(asks), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&q))); errno != 0 {
		if errno == unix.ENOENT || errno == unix.EINTR {
			return nil // who asked died, or was interrupted and asks again
		}
		return fmt.Errorf("receive: %w", errno)
	}
	if name := w.concerns(&q); name != "" {
		if _, err := os.Stat(w.over); err != nil {
			w.nth[name]++
			m := moment{Point: name, Nth: w.nth[name]}
			w.all = append(w.all, m)
			if m == w.at {
				return unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0)
			}
		}
	}
	a := answer{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(asks), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&a))); errno != 0 && errno != unix.ENOENT {
		return fmt.Errorf("send: %w", errno)
	}
	return nil
}

// concerns returns the name of a system call that changes something in the driver's
// home, "" for any other.
func (w *watcher) concerns(q *question) string {
	c := systemCalls[q.nr]
	switch {
	case c.name == "ioctl" && q.args[1]>>8&0xff != btrfsMagic,
		c.onlyWithFlags != 0 && q.args[c.path+1]&c.onlyWithFlags == 0:
		return ""
	}
	of := func(what string) string {
		path, _ := os.Readlink(fmt.Sprintf("/proc/%d/%s", q.pid, what))
		return path
	}
	var path string
	if c.fd != none {
		path = of(fmt.Sprintf("fd/%d", q.args[c.fd]))
	} else if path = readString(int(q.pid), q.args[c.path]); !filepath.IsAbs(path) {
		dir := "cwd"
		if c.at != none && int32(q.args[c.at]) != unix.AT_FDCWD {
			dir = fmt.Sprintf("fd/%d", q.args[c.at])
		}
		path = filepath.Join(of(dir), path)
	}
	if path != w.home && !strings.HasPrefix(path, w.home+"/") {
		return ""
	}
	return c.name
}

// readString reads the string at an address of a process that waits. It is empty where
// the process is gone.
func readString(pid int, address uint64) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, unix.PathMax)
	n, _ := f.ReadAt(b, int64(address)) // less where the memory ends
	s, _, _ := bytes.Cut(b[:n], []byte{0})
	return string(s)
}

// calls has processes die before each system call in sc.
func (k *killer) calls(t *testing.T, sc scene) {
	t.Helper()
	for _, at := range k.moments(t, assignment{Scene: sc.name, Calls: true}) {
		for try := 1; try <= tries; try++ {
			if k.killedAt(t, assignment{Scene: sc.name, Calls: true, At: at}) {
				k.systemCalls++
				break
			}
		}
	}
}

// callsOfRecovery has processes die before each system call in the recovery from what
// sc leaves.
func (k *killer) callsOfRecovery(t *testing.T, sc scene) {
	t.Helper()
	leave := assignment{Scene: sc.name}
	open := assignment{Scene: sc.name, Opening: true, Calls: true}
	k.process(t, leave)
	for _, open.At = range k.moments(t, open) {
		for try := 1; try <= tries; try++ {
			k.process(t, leave)
			if k.killedAt(t, open) {
				k.systemCalls++
				break
			}
		}
	}
}
