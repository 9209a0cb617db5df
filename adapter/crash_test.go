package adapter

// Processes that are killed under load, and what the next one finds.

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/docker/docker/daemon/graphdriver"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/engine"
)

// lastCrash returns what tells, at the end of a round, whether it was the last for a
// driver: there are ten, or what the environment asks for, as many as
// GRAPHSNAP_CRASH_ROUNDS=1000 says or for as long as GRAPHSNAP_CRASH_DURATION=1h does,
// for all drivers together.
func lastCrash(t *testing.T, drivers int) func(round int) bool {
	t.Helper()
	if text := os.Getenv("GRAPHSNAP_CRASH_DURATION"); text != "" {
		d, err := time.ParseDuration(text)
		must(t, err)
		end := time.Now().Add(d / time.Duration(drivers))
		return func(int) bool { return time.Now().After(end) }
	}
	rounds := 10
	if text := os.Getenv("GRAPHSNAP_CRASH_ROUNDS"); text != "" {
		var err error
		rounds, err = strconv.Atoi(text)
		must(t, err)
	}
	return func(round int) bool { return round >= rounds-1 }
}

// P1 and P2: a process under a mixed load of 32 clients is killed, again and again
// on what the last one left. What it had acknowledged is there with its contents,
// and nothing is on disk or mounted that no record names.
func TestKilledUnderLoad(t *testing.T) {
	all := append(slices.Clone(drivers), "btrfs", "fuse-overlayfs")
	for _, driver := range all {
		t.Run(driver, func(t *testing.T) {
			s := newSite(t, driver)
			if driver == "btrfs" {
				must(t, os.Mkdir(s.path(driver), 0o700))
				mountDisk(t, s.path(driver), 512, "mkfs.btrfs", "-q")
			}
			d := s.openDriver(t)
			stranger := s.putStranger(t, d)
			strangers := s.mounts(t)
			acknowledged := 0
			isLast := lastCrash(t, len(all))
			for round, last := 0, false; !last; round++ {
				s.killed(t, round)
				j := s.journal(t)
				last = isLast(round)
				empty := last || round%5 == 4 || pointersChecked()
				s.reopened(t, d, strangers, j, empty)
				stranger(t)
				if empty {
					acknowledged += j.lines
				}
				if t.Failed() {
					t.Fatalf("in round %d", round)
				}
				if last {
					t.Logf("killed %d times; %d operations were acknowledged, none was lost", round+1, acknowledged)
				}
			}
		})
	}
}

// pointersChecked tells whether the race detector's build checks pointers. Then
// overlay2 cannot be opened on a home of more than 50 directories: what reads it,
// SupportsDType of containerd's continuity v0.4.5, points beyond its buffer.
func pointersChecked() bool {
	info, ok := debug.ReadBuildInfo()
	return !ok || slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// killed runs a process under load and kills it at some moment.
func (s *site) killed(t *testing.T, round int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestProcessToBeKilled$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), crashRoot+"="+s.root, crashDriver+"="+s.driver, crashRound+"="+fmt.Sprint(round))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != underLoad {
		fmt.Fprintln(&said, lines.Text())
	}
	// The moment is part of the test, not a wait for something.
	time.Sleep(time.Duration(rand.IntN(500)) * time.Millisecond)
	must(t, cmd.Process.Kill())
	for lines.Scan() {
		fmt.Fprintln(&said, lines.Text())
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("the process ended before it was killed: %v\n%s", err, &said)
	}
}

// putStranger makes a directory with a mount in the driver's home that are nobody's
// business here, as those of a container are. It returns the check that both are
// left alone.
func (s *site) putStranger(t *testing.T, d graphdriver.Driver) func(t *testing.T) {
	t.Helper()
	const id = "container"
	must(t, d.Create(id, "", nil))
	s.foreign = append(s.foreign, id)
	point := s.path(s.driver, id, "merged")
	must(t, os.MkdirAll(point, 0o700))
	must(t, unix.Mount("none", point, "tmpfs", 0, "size=64k"))
	must(t, os.WriteFile(filepath.Join(point, "running"), nil, 0o600))
	t.Cleanup(func() {
		must(t, unix.Unmount(point, unix.MNT_DETACH))
		if s.driver != "overlay2" {
			must(t, os.RemoveAll(s.path(s.driver, id)))
		}
	})
	return func(t *testing.T) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(point, "running")); err != nil {
			t.Errorf("a container's mount was touched: %v", err)
		}
	}
}

// reopened is the process after the one that was killed: it compares what it finds
// with the journal, and then, where last, ends all leases and finds nothing left.
func (s *site) reopened(t *testing.T, d graphdriver.Driver, strangers []string, j *journal, last bool) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	p, err := s.start(t, Opt{GraphDriver: d, Engine: []engine.Option{engine.WithGrace(0)}})
	must(t, err)
	if points := s.mounts(t); !slices.Equal(points, strangers) {
		t.Errorf("mounted after Open: %q", points)
	}
	for key, want := range j.snapshots {
		if want.ended {
			continue
		}
		s.checkSnapshot(t, p, key, want)
	}
	eventually(t, "what was removed is deleted", func() bool { return p.snap.engine.Pending().Directories == 0 })
	if last {
		all, err := p.prevLM.List(inNamespace())
		must(t, err)
		for _, l := range all {
			must(t, p.lm.Delete(inNamespace(), l))
		}
		eventually(t, "no snapshot is left", func() bool { return len(p.walked(t)) == 0 })
		eventually(t, "no directory is left", func() bool { return len(s.directories(t)) == 1 && len(s.links(t)) <= 1 })
		must(t, os.Remove(s.path("journal")))
	}
	p.close(t)
	if err := goleak.Find(before); err != nil {
		t.Errorf("goroutines after Close: %v", err)
	}
	if points := s.mounts(t); !slices.Equal(points, strangers) {
		t.Errorf("mounted after Close: %q", points)
	}
	s.checkRecords(t)
}

func (s *site) checkSnapshot(t *testing.T, p *process, key string, want snapshotWas) {
	t.Helper()
	info, err := p.snap.Stat(inNamespace(), key)
	if errdefs.IsNotFound(err) && want.committing != "" {
		// Its Commit was asked for and not answered: it may have happened.
		if info, err = p.snap.Stat(inNamespace(), want.committing); err == nil && info.Parent != want.parent {
			t.Errorf("%q has the parent %q, not %q", want.committing, info.Parent, want.parent)
		}
		want.kind, want.label = snapshots.KindCommitted, ""
	}
	if err != nil {
		t.Errorf("%q was acknowledged: %v", key, err)
		return
	}
	switch {
	case info.Parent != want.parent || info.Kind != want.kind:
		t.Errorf("%q is %v on %q, was acknowledged as %v on %q", key, info.Kind, info.Parent, want.kind, want.parent)
	case info.Labels["label"] != want.label && want.label != "":
		t.Errorf("%q has the label %q, acknowledged was %q", key, info.Labels["label"], want.label)
	}
	if want.file != "" {
		path := s.path(s.driver, want.graphID, "diff", want.file)
		switch s.driver {
		case "vfs":
			path = s.path(s.driver, "dir", want.graphID, want.file)
		case "btrfs":
			path = s.path(s.driver, "subvolumes", want.graphID, want.file)
		}
		if content, err := os.ReadFile(path); err != nil || string(content) != contentOf(want.file) {
			t.Errorf("%q has %q in it, %v", key, content, err)
		}
	}
}

const (
	crashRoot   = "GRAPHSNAP_CRASH_ROOT"
	crashDriver = "GRAPHSNAP_CRASH_DRIVER"
	crashRound  = "GRAPHSNAP_CRASH_ROUND"
	underLoad   = "under load"
)

// TestProcessToBeKilled is the process that TestKilledUnderLoad kills.
func TestProcessToBeKilled(t *testing.T) {
	root := os.Getenv(crashRoot)
	if root == "" {
		t.Skip("it has to be killed: TestKilledUnderLoad runs it")
	}
	s := &site{driver: os.Getenv(crashDriver), root: root}
	p := s.open(t, engine.WithGrace(0))
	f, err := os.OpenFile(s.path("journal"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	fmt.Println(underLoad)
	for i := range 32 {
		c := &loader{p: p, journal: f, name: fmt.Sprintf("%s.%d", os.Getenv(crashRound), i)}
		go func() {
			for n := 0; ; n++ {
				if err := c.build(n); err != nil {
					fmt.Println(err)
					os.Exit(1)
				}
			}
		}()
	}
	select {}
}

// loader is one client. It builds on what it built before, one snapshot after the other.
type loader struct {
	p       *process
	journal *os.File
	name    string
	leases  []leases.Lease
	parents []string // names whose leases it has not ended
}

// tell writes a line at one stroke. An empty parent is a word too.
func (c *loader) tell(what, key, x, lease string) error {
	_, err := fmt.Fprintf(c.journal, "%s %s %s %s\n", what, key, x, lease)
	return err
}

func (c *loader) build(n int) error {
	p, id := c.p, fmt.Sprintf("%s.%d", c.name, n)
	l, err := p.lm.Create(inNamespace(), leases.WithID("lease-"+id))
	if err != nil {
		return err
	}
	ctx := leases.WithLease(inNamespace(), l.ID)
	key, name, parent := "key-"+id, "name-"+id, ""
	if len(c.parents) > 0 && rand.IntN(4) > 0 {
		parent = c.parents[rand.IntN(len(c.parents))]
	}
	if err := p.snap.Prepare(ctx, key, parent); err != nil {
		return err
	}
	if err := c.tell("prepared", key, parent, l.ID); err != nil {
		return err
	}
	if _, err := p.snap.Update(ctx, snapshots.Info{Name: key, Labels: map[string]string{"label": id}}, "labels.label"); err != nil {
		return err
	}
	if err := c.tell("labelled", key, id, l.ID); err != nil {
		return err
	}
	m, err := p.snap.Mounts(ctx, key)
	if err != nil {
		return err
	}
	mounts, release, err := m.Mount()
	if err != nil {
		return err
	}
	file := "file-" + id
	if err := os.WriteFile(filepath.Join(mounts[0].Source, file), []byte(contentOf(file)), 0o600); err != nil {
		return err
	}
	if rand.IntN(4) > 0 {
		if err := release(); err != nil {
			return err
		}
	} else {
		defer release() // across the Commit
	}
	if err := c.tell("wrote", key, file, l.ID); err != nil {
		return err
	}
	if rand.IntN(5) == 0 {
		return nil // it stays active
	}
	if err := c.tell("committing", key, name, l.ID); err != nil {
		return err
	}
	if err := p.snap.Commit(ctx, name, key, snapshots.WithLabels(map[string]string{"label": name})); err != nil {
		return err
	}
	if err := c.tell("committed", key, name, l.ID); err != nil {
		return err
	}
	if rand.IntN(3) == 0 {
		v, err := p.snap.View(ctx, "view-"+id, name)
		if err != nil {
			return err
		}
		if err := c.tell("viewed", "view-"+id, name, l.ID); err != nil {
			return err
		}
		_, release, err := v.Mount()
		if err != nil {
			return err
		}
		defer release()
	}
	c.leases, c.parents = append(c.leases, l), append(c.parents, name)
	if rand.IntN(3) > 0 {
		return nil
	}
	// Whether what stands on the name keeps it or not: its own lease does no more.
	i := rand.IntN(len(c.leases))
	ended := c.leases[i]
	c.leases, c.parents = slices.Delete(c.leases, i, i+1), slices.Delete(c.parents, i, i+1)
	if err := c.tell("ending", "-", "-", ended.ID); err != nil {
		return err
	}
	return p.lm.Delete(inNamespace(), ended)
}
