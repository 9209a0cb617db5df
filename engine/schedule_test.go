package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// TestScheduleOfManyClients lets clients do everything at random to few keys, with
// a driver that is slow, fails and panics and callers that give up. Within
// synctest a deadlock is fatal, and time passes only when everybody waits, so that
// one seed is one mixture of orders. What must hold in between each client checks
// by what it is answered; in the end memory, disk and database must agree.
func TestScheduleOfManyClients(t *testing.T) {
	for bounds, opts := range map[string][]Option{"default": nil, "one": everyBoundOne} {
		for _, copies := range []bool{false, true} {
			for seed := range uint64(15) {
				t.Run(fmt.Sprintf("%s/copies=%v/%d", bounds, copies, seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { manyClients(t, seed, copies, opts) })
				})
			}
		}
	}
}

func manyClients(t *testing.T, seed uint64, copies bool, opts []Option) {
	opts = append([]Option{WithLeaseSweep(300 * time.Millisecond), WithGrace(time.Second)}, opts...)
	h := open(t, opts...)
	h.driver.copies = copies
	h.driver.before = chaos(seed)
	var clients sync.WaitGroup
	for n := range 12 {
		clients.Go(func() {
			c := &client{h: h, n: n, rand: rand.New(rand.NewPCG(seed, uint64(n)))}
			for range 60 {
				c.step()
			}
			c.letGo()
		})
	}
	clients.Wait()
	h.driver.calm()
	// Everything is unleased or was never leased; directories that could not be
	// deleted are retried for up to a minute.
	time.Sleep(3 * time.Minute)
	synctest.Wait()
	if n := h.Engine.leases.Running() + h.keys.Running(); n != 0 {
		t.Errorf("%d owners run though nothing happens", n)
	}
	h.finish()
}

// chaos makes a tenth of the driver's calls fail, some panic, and all take time.
func chaos(seed uint64) func(call, id string) error {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 1<<32))
	return func(call, id string) error {
		mu.Lock()
		d, dice := time.Duration(r.IntN(20))*time.Millisecond, r.IntN(100)
		mu.Unlock()
		time.Sleep(d)
		switch {
		case dice < 8:
			return fmt.Errorf("%s of %q: the disk is in a bad mood: %w", call, id, errdefs.ErrInternal)
		case dice < 10 && call != "Put" && call != "Get":
			panic("the driver lost its head")
		}
		return nil
	}
}

// client does one thing after the other.
type client struct {
	h        *harness
	n        int
	rand     *rand.Rand
	releases []func() error
	leases   []Lease
	keys     int
}

// some returns a key that this or another client may know.
func (c *client) some() string { return fmt.Sprintf("k%d", c.rand.IntN(10)) }

func (c *client) step() {
	ctx := context.Background()
	if c.rand.IntN(5) == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(c.rand.IntN(30))*time.Millisecond)
		defer cancel()
	}
	h := c.h
	var err error
	switch c.rand.IntN(12) {
	case 0, 1:
		err = h.Prepare(ctx, c.some(), "")
	case 2, 3:
		err = h.Prepare(ctx, c.some(), c.some())
	case 4:
		_, err = h.View(ctx, c.some(), c.some())
	case 5, 6:
		err = h.Commit(ctx, c.some(), c.some())
	case 7:
		_, err = h.Usage(ctx, c.some())
	case 8:
		err = c.mount(ctx)
	case 9:
		err = c.release()
	case 10:
		err = c.lend(ctx)
	case 11:
		c.unlend()
	}
	switch {
	case err == nil, errors.Is(err, context.DeadlineExceeded),
		errdefs.IsNotFound(err), errdefs.IsAlreadyExists(err),
		errdefs.IsFailedPrecondition(err), errdefs.IsInternal(err), errdefs.IsAborted(err):
	default:
		h.t.Errorf("client %d: %v", c.n, err)
	}
}

func (c *client) mount(ctx context.Context) error {
	m, err := c.h.Mounts(ctx, c.some())
	if err != nil {
		return err
	}
	_, release, err := m.Mount()
	if err == nil {
		c.releases = append(c.releases, release)
	}
	return err
}

func (c *client) release() error {
	if len(c.releases) == 0 {
		return nil
	}
	release := c.releases[0]
	c.releases = c.releases[1:]
	return release()
}

func (c *client) lend(ctx context.Context) error {
	l := Lease{"ns", fmt.Sprintf("l%d-%d", c.n, c.keys)}
	key := c.some()
	c.keys++
	err := c.h.AddLease(ctx, l, key, func() error {
		if c.rand.IntN(10) == 0 {
			return errdefs.ErrInternal
		}
		c.h.leases.add(l, key)
		return nil
	})
	if err == nil {
		c.leases = append(c.leases, l)
	}
	return err
}

func (c *client) unlend() {
	if len(c.leases) > 0 {
		l := c.leases[0]
		c.leases = c.leases[1:]
		c.h.leases.drop(l)
		if c.rand.IntN(4) > 0 { // else it expires
			c.h.EndLease(l)
		}
	}
}

func (c *client) letGo() {
	for len(c.releases) > 0 {
		_ = c.release() // what the driver failed to unmount Close unmounts
	}
	for len(c.leases) > 0 {
		c.unlend()
	}
}
