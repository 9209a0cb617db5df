//go:build crashpoints

package adapter

// Processes that die at each crash point, or within the calls of a graph driver, and what
// the next one finds.
//
// A first process tells which points an operation passes. For each of them, before
// and after, and each time it is passed, another one does the same and kills itself
// there. The process after it, before its own operation, compares what it finds with
// what the world was before the operation and after it (crashpoints_compare_test.go).

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// crashOrder is the variable of the environment that says what a process is to do.
const crashOrder = "GRAPHSNAP_CRASHPOINT"

type assignment struct {
	Driver, Root string
	Scene        string // "" for none: only look at what the last one left
	Opening      bool   // die while the site is opened that Scene left, not in Scene
	Calls        bool   // moments are system calls, and the one who watches kills
	At           moment // zero to be told of all
}

// moment is the Nth time that a crash point is passed, or a system call of that name
// made, from 1.
type moment struct {
	Point string
	Done  bool // after the call
	Nth   int
}

func (m moment) side() string {
	if m.Done {
		return "after " + m.Point
	}
	return "before " + m.Point
}

// Files that a process leaves beside the site for the next ones.
const (
	fileScene    = "scene"        // the name of what was done last
	fileBefore   = "before.json"  // the world before it
	fileAfter    = "after.json"   // and after it, as it was when nobody died
	fileMoments  = "moments.json" // what was passed then
	fileAnswered = "answered"     // the operation was
	fileMissed   = "missed"       // the moment to die did not come
	fileOver     = "over"         // what it was to do is done
)

// TestKilledAtEachCrashPoint needs the tag crashpoints, see `make crash`.
func TestKilledAtEachCrashPoint(t *testing.T) {
	if os.Geteuid() != 0 {
		cannot(t, "graph drivers mount, which needs root")
	}
	var mu sync.Mutex
	reached := map[string]int{}
	total, systemCalls := 0, 0
	t.Run("on", func(t *testing.T) {
		for _, driver := range append(slices.Clone(drivers), "btrfs") {
			t.Run(driver, func(t *testing.T) {
				k := &killer{site: siteInMemory(t, driver), died: map[string]int{}}
				t.Parallel()
				for _, sc := range scenes {
					k.operation(t, sc)
					k.calls(t, sc)
				}
				for _, sc := range ends {
					k.recovery(t, sc)
					k.callsOfRecovery(t, sc)
				}
				k.process(t, assignment{}) // looks at what the last one left
				t.Logf("%d combinations of operation, crash point and occurrence; %d of operation and system call in the driver's home; %d kills", k.combinations, k.systemCalls, k.kills)
				if k.systemCalls == 0 {
					t.Error("no process died before a system call")
				}
				mu.Lock()
				defer mu.Unlock()
				total += k.combinations
				systemCalls += k.systemCalls
				for point, n := range k.died {
					reached[point] += n
				}
			})
		}
	})
	t.Logf("%d combinations of driver, operation, crash point and occurrence; %d of driver, operation and system call in the driver's home", total, systemCalls)
	if t.Failed() {
		return
	}
	for _, point := range crashPoints(t) {
		if point == "db.Compact" || point == "db.SyncAll" {
			continue // of a large database: stress/powerloss ends it at every system call
		}
		for _, done := range []bool{false, true} {
			if side := (moment{Point: point, Done: done}).side(); reached[side] == 0 {
				t.Errorf("no process died %s", side)
			}
		}
	}
}

func (s *site) note(file string) string { return filepath.Join(filepath.Dir(s.root), file) }

// siteInMemory makes a site on which a sync costs nothing. To who kills processes it
// makes no difference: what they wrote is in the page cache.
func siteInMemory(t *testing.T, driver string) *site {
	t.Helper()
	s := bareSite(t, driver)
	must(t, os.Mkdir(s.path("tmp"), 0o700))
	if driver == "btrfs" {
		must(t, os.Mkdir(s.path(driver), 0o700))
		mountImage(t, s.note("disk"), s.path(driver), 512, "mkfs.btrfs", "-q")
	}
	return s
}

// bareSite makes an empty directory in memory, and a place for notes beside it.
func bareSite(t *testing.T, driver string) *site {
	t.Helper()
	memory, err := os.MkdirTemp("", "graphsnap-crash-")
	must(t, err)
	memory, err = filepath.EvalSymlinks(memory)
	must(t, err)
	must(t, unix.Mount("none", memory, "tmpfs", 0, "mode=0700"))
	t.Cleanup(func() { must(t, errors.Join(unix.Unmount(memory, unix.MNT_DETACH), os.Remove(memory))) })
	s := &site{driver: driver, root: filepath.Join(memory, "site")}
	must(t, os.Mkdir(s.root, 0o700))
	t.Cleanup(func() { s.remove(t) })
	return s
}

// synced has all that is on the site's file system survive a power loss.
func (s *site) synced() error {
	f, err := os.Open(s.root)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

// crashPoints reads the names of all points from the source.
func crashPoints(t *testing.T) (points []string) {
	t.Helper()
	for _, folder := range []string{"../engine", "../mounts", "../persist", "."} {
		for _, e := range entries(t, folder) {
			if strings.HasSuffix(e.Name(), "_test.go") || !strings.HasSuffix(e.Name(), ".go") {
				continue
			}
			source, err := os.ReadFile(filepath.Join(folder, e.Name()))
			must(t, err)
			for _, m := range regexp.MustCompile(`crashpoint\.Before\("([^"]+)"\)`).FindAllSubmatch(source, -1) {
				points = append(points, string(m[1]))
			}
		}
	}
	if len(points) < 30 {
		t.Errorf("only %d crash points in the source: %q", len(points), points)
	}
	return points
}

// killer has processes die on one site.
type killer struct {
	*site
	died                map[string]int // how often, by moment.side
	combinations, kills int
	systemCalls         int      // before which processes died
	last                string   // what the latest process did
	came                []moment // that the one who watched it saw
	disk                string   // where the power goes with each process, a file
}

// process runs a process, which kills itself where it has a scene.
func (k *killer) process(t *testing.T, o assignment) {
	t.Helper()
	o.Driver, o.Root = k.driver, k.root
	text, err := json.Marshal(o)
	must(t, err)
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessThatDiesAtACrashPoint$", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), crashOrder+"="+string(text), "TMPDIR="+k.path("tmp"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	var w *watcher
	if o.Calls {
		var inProcess *os.File
		w, inProcess = k.watch(t, o)
		cmd.ExtraFiles = []*os.File{inProcess} // telling
		must(t, cmd.Start())
		must(t, inProcess.Close())
		go w.run(cmd.Process.Pid)
		err = cmd.Wait()
	} else {
		err = cmd.Run()
	}
	now := fmt.Sprintf("%q, to be killed %s (%d)", o.Scene, o.At.side(), o.At.Nth)
	if o.Opening {
		now = "recovery from " + now
	}
	var exit *exec.ExitError
	died := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if died != (o.Scene != "") || !died && err != nil {
		t.Fatalf("%s\non what this left: %s\n%v\n%s", now, k.last, err, &said)
	}
	if w != nil {
		must(t, <-w.ended)
		k.came = w.all
	}
	if k.disk != "" && died {
		k.losePower(t)
	}
	k.last = now
}

// killed is process with a moment to die at, and tells whether that came.
func (k *killer) killedAt(t *testing.T, o assignment) bool {
	t.Helper()
	k.process(t, o)
	if _, err := os.Stat(k.note(fileMissed)); err == nil {
		return false
	}
	k.kills++
	return true
}

// moments returns what a process passed that was to tell.
func (k *killer) moments(t *testing.T, o assignment) (all []moment) {
	t.Helper()
	k.process(t, o)
	if o.Calls {
		return k.came
	}
	readJSON(t, k.note(fileMoments), &all)
	return all
}

// tries is how often a process is given the chance to pass a moment. What goes on in
// the background may take another turn once.
const tries = 5

// operation has processes die everywhere in sc.
func (k *killer) operation(t *testing.T, sc scene) {
	t.Helper()
	for _, at := range k.moments(t, assignment{Scene: sc.name}) {
		for try := 1; !k.killedAt(t, assignment{Scene: sc.name, At: at}); try++ {
			if try == tries {
				t.Logf("%q: %s (%d) came once and not again", sc.name, at.side(), at.Nth)
				k.combinations--
				k.died[at.side()]--
				break
			}
		}
		k.combinations++
		k.died[at.side()]++
	}
}

// recovery has processes die everywhere in the recovery from what sc leaves: up to
// three times at the same moment, and then each a moment later than the one before.
func (k *killer) recovery(t *testing.T, sc scene) {
	t.Helper()
	leave := assignment{Scene: sc.name}
	open := assignment{Scene: sc.name, Opening: true}
	k.process(t, leave)
	all := k.moments(t, open)
	for _, open.At = range all {
		for try := 1; try <= tries; try++ {
			k.process(t, leave)
			if k.killedAt(t, open) {
				k.combinations++
				k.died[open.At.side()]++
				for again := 2; again <= 3 && k.killedAt(t, open); again++ {
				}
				break
			}
		}
	}
	k.process(t, leave)
	for _, open.At = range all {
		if !k.killedAt(t, open) {
			break
		}
	}
}
