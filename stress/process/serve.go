package process

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/log"
	"github.com/moby/sys/reexec"

	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/target"
)

// order is what the process is told when it starts.
type order struct {
	Settings string
	Faults   faults.Rates
	Seed     uint64
}

// Register makes processes of that name have the target that open opens. main and
// TestMain have to call reexec.Init after it, and return where that answers true.
func Register(name string, open func(ctx context.Context, settings string, f *faults.Injector) (target.Target, error)) {
	reexec.Register(name, func() {
		if err := serve(open); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	})
}

// server is the target's side. The methods that net/rpc is to call are exported.
type server struct {
	t        target.Target
	injector *faults.Injector

	mu         sync.Mutex
	last       uint64
	mountables map[uint64]target.Mountable
	releases   map[uint64]func() error
}

func serve(open func(context.Context, string, *faults.Injector) (target.Target, error)) error {
	var o order
	if err := json.Unmarshal([]byte(os.Args[1]), &o); err != nil {
		return err
	}
	_ = log.SetLevel("panic") // what is injected is logged otherwise
	socket := os.NewFile(3, "socket")
	conn, err := net.FileConn(socket)
	if err != nil {
		return err
	}
	_ = socket.Close()
	s := &server{injector: faults.New(o.Faults, o.Seed), mountables: map[uint64]target.Mountable{}, releases: map[uint64]func() error{}}
	s.injector.Calm(true)
	if s.t, err = open(context.Background(), o.Settings, s.injector); err != nil {
		return err
	}
	all := rpc.NewServer()
	if err := all.RegisterName("Target", s); err != nil {
		return err
	}
	all.ServeConn(conn) // until the other side closes it, or died
	return nil
}

// Do makes a call of the target.
func (s *server) Do(r Request, a *Answer) error {
	s.injector.Calm(r.Calm)
	ctx := context.Background()
	if r.Left != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Left)
		defer cancel()
	}
	a.Failed = failure(s.do(ctx, r, a))
	return nil
}

func (s *server) do(ctx context.Context, r Request, a *Answer) (err error) {
	t, labels := s.t, snapshots.WithLabels(r.Labels)
	switch r.Call {
	case "traits":
		a.Traits = t.Traits()
	case "prepare":
		err = t.Prepare(ctx, r.Key, r.On, labels)
	case "view":
		var m target.Mountable
		if m, err = t.View(ctx, r.Key, r.On, labels); err == nil {
			a.Handle = s.keep(func(n uint64) { s.mountables[n] = m })
		}
	case "commit":
		err = t.Commit(ctx, r.On, r.Key, labels)
	case "stat":
		a.Info, err = t.Stat(ctx, r.Key)
	case "update":
		a.Info, err = t.Update(ctx, snapshots.Info{Name: r.Key, Labels: r.Labels}, r.Paths...)
	case "usage":
		a.Usage, err = t.Usage(ctx, r.Key)
	case "walk":
		err = t.Walk(ctx, func(_ context.Context, i snapshots.Info) error { a.Infos = append(a.Infos, i); return nil }, r.Paths...)
	case "mounts":
		var m target.Mountable
		if m, err = t.Mounts(ctx, r.Key); err == nil {
			a.Handle = s.keep(func(n uint64) { s.mountables[n] = m })
		}
	case "mount":
		s.mu.Lock()
		m := s.mountables[r.Handle]
		s.mu.Unlock()
		var release func() error
		var how []mount.Mount
		if how, release, err = m.Mount(); err == nil {
			a.Mounts, a.Handle = how, s.keep(func(n uint64) { s.releases[n] = release })
		}
	case "release":
		s.mu.Lock()
		release := s.releases[r.Handle]
		s.mu.Unlock()
		err = release()
	case "remove":
		err = t.Remove(ctx, r.Key)
	case "ensure-layer":
		a.Lines, err = t.EnsureLayer(ctx, r.Key)
	case "pull":
		a.Text, err = t.Pull(ctx, r.Key)
	case "untag":
		err = t.Untag(ctx, r.Key)
	case "create-lease":
		err = t.CreateLease(ctx, r.Lease)
	case "add-lease":
		err = t.AddLease(ctx, r.Lease, r.Key)
	case "remove-lease":
		err = t.RemoveLease(ctx, r.Lease, r.Key)
	case "end-lease":
		err = t.EndLease(ctx, r.Lease, r.Expire)
	case "audit":
		if x, ok := t.(target.Audited); ok {
			a.Lines = x.Audit(ctx)
		}
	case "close":
		err = t.Close()
		if x, ok := t.(target.Audited); ok {
			a.Lines = x.AuditClosed(ctx)
		}
	default:
		err = fmt.Errorf("no call %q", r.Call)
	}
	return err
}

func (s *server) keep(as func(uint64)) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	as(s.last)
	return s.last
}
