package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/reexec"

	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/target"
)

// Process is a target in a process of its own.
type Process struct {
	name     string
	settings string
	injector *faults.Injector // of the clients: its rates and its calm are the process's too
	seed     uint64

	traits target.Traits
	now    atomic.Pointer[incarnation]

	// Of Restart and Close, which are not called beside others.
	starts  uint64
	moments *rand.Rand
	left    []string // what Close found
}

// opening is the longest time that a process is given which is killed while it opens
// the target.
const opening = 50 * time.Millisecond

// incarnation is one process of them.
type incarnation struct {
	*rpc.Client
	cmd *exec.Cmd
}

// Open starts the process that Register has a target for, with settings for its open.
func Open(ctx context.Context, name, settings string, f *faults.Injector, seed uint64) (*Process, error) {
	p := &Process{name: name, settings: settings, injector: f, seed: seed, moments: rand.New(rand.NewPCG(seed, 1<<61))}
	if err := p.start(); err != nil {
		return nil, err
	}
	a, err := p.call(ctx, Request{Call: "traits"})
	if err != nil {
		return nil, errors.Join(err, p.end())
	}
	p.traits = a.Traits
	return p, nil
}

func (p *Process) start() error {
	p.starts++
	o, err := json.Marshal(order{Settings: p.settings, Faults: p.injector.Rates, Seed: p.seed + p.starts})
	if err != nil {
		return err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socket"), os.NewFile(uintptr(pair[1]), "socket")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return err
	}
	cmd := reexec.Command(p.name, string(o))
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		_ = conn.Close()
		return err
	}
	p.now.Store(&incarnation{rpc.NewClient(conn), cmd})
	return nil
}

// end waits for a process that was killed, or has nothing to do any more.
func (p *Process) end() error {
	i := p.now.Load()
	_ = i.Close() // is closed where it died
	err := i.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return err
}

// Kill implements target.Mortal.
func (p *Process) Kill() error { return p.now.Load().cmd.Process.Kill() }

// Restart implements target.Target. One that was not killed is closed in order; after
// one that was, the next is killed as well at times, before it answers anything.
func (p *Process) Restart(ctx context.Context) error {
	_, err := p.call(ctx, Request{Call: "close"})
	died := errors.Is(err, target.ErrDied)
	if died {
		err = nil
	}
	if err := errors.Join(err, p.end(), p.start()); err != nil {
		return err
	}
	for died && p.moments.IntN(3) == 0 {
		time.Sleep(time.Duration(p.moments.Int64N(int64(opening))))
		if err := errors.Join(p.Kill(), p.end(), p.start()); err != nil {
			return err
		}
	}
	_, err = p.call(ctx, Request{Call: "traits"}) // answered when it is open
	return err
}

// Close implements target.Target.
func (p *Process) Close() error {
	a, err := p.call(context.Background(), Request{Call: "close"})
	p.left = a.Lines
	return errors.Join(err, p.end())
}

// Audit implements target.Audited.
func (p *Process) Audit(ctx context.Context) []string {
	a, err := p.call(ctx, Request{Call: "audit"})
	if err != nil {
		return []string{err.Error()}
	}
	return a.Lines
}

// AuditClosed implements target.Audited.
func (p *Process) AuditClosed(context.Context) []string { return p.left }

// Traits implements target.Target.
func (p *Process) Traits() target.Traits { return p.traits }

func (p *Process) call(ctx context.Context, r Request) (a Answer, err error) {
	return p.now.Load().call(ctx, r, p.injector)
}

func (i *incarnation) call(ctx context.Context, r Request, f *faults.Injector) (a Answer, err error) {
	if deadline, ok := ctx.Deadline(); ok {
		r.Left = max(1, time.Until(deadline))
	}
	r.Calm = f.Calmed()
	if err := i.Client.Call("Target.Do", r, &a); err != nil {
		return a, fmt.Errorf("%s: %w: %w: %w", r.Call, err, target.ErrDied, errdefs.ErrUnavailable)
	}
	return a, a.Failed.err()
}

func labelled(opts []snapshots.Opt) map[string]string {
	var i snapshots.Info
	for _, o := range opts {
		_ = o(&i) // those of the harness set labels
	}
	return i.Labels
}

// Prepare implements target.Target.
func (p *Process) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) error {
	_, err := p.call(ctx, Request{Call: "prepare", Key: key, On: parent, Labels: labelled(opts)})
	return err
}

// View implements target.Target.
func (p *Process) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (target.Mountable, error) {
	return p.mountable(ctx, Request{Call: "view", Key: key, On: parent, Labels: labelled(opts)})
}

// Commit implements target.Target.
func (p *Process) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	_, err := p.call(ctx, Request{Call: "commit", Key: key, On: name, Labels: labelled(opts)})
	return err
}

// Stat implements target.Target.
func (p *Process) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	a, err := p.call(ctx, Request{Call: "stat", Key: key})
	return a.Info, err
}

// Update implements target.Target.
func (p *Process) Update(ctx context.Context, info snapshots.Info, paths ...string) (snapshots.Info, error) {
	a, err := p.call(ctx, Request{Call: "update", Key: info.Name, Labels: info.Labels, Paths: paths})
	return a.Info, err
}

// Usage implements target.Target.
func (p *Process) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	a, err := p.call(ctx, Request{Call: "usage", Key: key})
	return a.Usage, err
}

// Walk implements target.Target.
func (p *Process) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	a, err := p.call(ctx, Request{Call: "walk", Paths: filters})
	for _, i := range a.Infos {
		if err == nil {
			err = fn(ctx, i)
		}
	}
	return err
}

// Mounts implements target.Target.
func (p *Process) Mounts(ctx context.Context, key string) (target.Mountable, error) {
	return p.mountable(ctx, Request{Call: "mounts", Key: key})
}

// Remove implements target.Target.
func (p *Process) Remove(ctx context.Context, key string) error {
	_, err := p.call(ctx, Request{Call: "remove", Key: key})
	return err
}

// EnsureLayer implements target.Target.
func (p *Process) EnsureLayer(ctx context.Context, key string) ([]string, error) {
	a, err := p.call(ctx, Request{Call: "ensure-layer", Key: key})
	return a.Lines, err
}

// Pull implements target.Target.
func (p *Process) Pull(ctx context.Context, image string) (string, error) {
	a, err := p.call(ctx, Request{Call: "pull", Key: image})
	return a.Text, err
}

// Untag implements target.Target.
func (p *Process) Untag(ctx context.Context, image string) error {
	_, err := p.call(ctx, Request{Call: "untag", Key: image})
	return err
}

// CreateLease implements target.Target.
func (p *Process) CreateLease(ctx context.Context, lease string) error {
	_, err := p.call(ctx, Request{Call: "create-lease", Lease: lease})
	return err
}

// AddLease implements target.Target.
func (p *Process) AddLease(ctx context.Context, lease, key string) error {
	_, err := p.call(ctx, Request{Call: "add-lease", Lease: lease, Key: key})
	return err
}

// RemoveLease implements target.Target.
func (p *Process) RemoveLease(ctx context.Context, lease, key string) error {
	_, err := p.call(ctx, Request{Call: "remove-lease", Lease: lease, Key: key})
	return err
}

// EndLease implements target.Target.
func (p *Process) EndLease(ctx context.Context, lease string, expire bool) error {
	_, err := p.call(ctx, Request{Call: "end-lease", Lease: lease, Expire: expire})
	return err
}

// mountable is one of the process that made it, and dies with it.
type mountable struct {
	of       *incarnation
	injector *faults.Injector
	handle   uint64
}

func (p *Process) mountable(ctx context.Context, r Request) (target.Mountable, error) {
	i := p.now.Load()
	a, err := i.call(ctx, r, p.injector)
	if err != nil {
		return nil, err
	}
	return &mountable{i, p.injector, a.Handle}, nil
}

// Mount implements target.Mountable.
func (m *mountable) Mount() ([]mount.Mount, func() error, error) {
	a, err := m.of.call(context.Background(), Request{Call: "mount", Handle: m.handle}, m.injector)
	if err != nil {
		return nil, nil, err
	}
	return a.Mounts, func() error {
		_, err := m.of.call(context.Background(), Request{Call: "release", Handle: a.Handle}, m.injector)
		return err
	}, nil
}
