package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// TestScheduleOfLayers adds to what the clients of TestScheduleOfManyClients do that
// snapshots are made layers, that images come and go, and that leases and snapshots
// name their layers. At the end every reference belongs to a snapshot.
func TestScheduleOfLayers(t *testing.T) {
	for bounds, opts := range map[string][]Option{"default": nil, "one": everyBoundOne} {
		for _, faults := range []bool{false, true} {
			for seed := range uint64(6) {
				t.Run(fmt.Sprintf("%s/faults=%v/%d", bounds, faults, seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { manyExports(t, seed, faults, opts) })
				})
			}
		}
	}
}

func manyExports(t *testing.T, seed uint64, faults bool, opts []Option) {
	h := openWithLayers(t, append([]Option{WithLeaseSweep(300 * time.Millisecond), WithGrace(time.Second)}, opts...)...)
	for range 2 {
		moody := chaos(seed)
		h.driver.before = func(call, id string) (err error) {
			if strings.HasPrefix(id, "image-") {
				return nil // what comes of that is the layer store's business
			}
			if !faults {
				defer func() { _, err = recover(), nil }()
			}
			return moody(call, id)
		}
		var clients sync.WaitGroup
		for n := range 8 {
			clients.Go(func() {
				c := &layerClient{client: client{h: h, n: n, rand: rand.New(rand.NewPCG(seed, uint64(n)))}}
				for range 60 {
					c.step()
				}
				c.letGo()
				for _, l := range c.images {
					_ = h.layers.giveBack(l, 0)
				}
			})
		}
		clients.Wait()
		h.driver.calm()
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		h.checkTables()
		must(t, h.Close())
		h.layers.restart()
		h.reopen()
	}
	time.Sleep(3 * time.Minute)
	synctest.Wait()
	h.finish()
}

func openWithLayers(t *testing.T, opts ...Option) *harness {
	t.Helper()
	d := newMemoryDriver()
	h := &harness{t: t, driver: d, leases: newMemoryLeases(), layers: newMemoryLayers(d), root: t.TempDir(), opts: opts}
	h.reopen()
	t.Cleanup(h.finish)
	return h
}

type layerClient struct {
	client
	images []Layer
	pulls  int
	grown  int
}

// layer returns a chain ID that the layer store has, or had.
func (c *layerClient) layer() string {
	if ids := c.h.layers.chainIDs(); len(ids) > 0 {
		return ids[c.rand.IntN(len(ids))]
	}
	return digest.FromString("nothing").String()
}

func (c *layerClient) step() {
	h := c.h
	// Who exports waits for writers, which may be this client.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(c.rand.IntN(500))*time.Millisecond)
	defer cancel()
	var err error
	switch c.rand.IntN(20) {
	case 0, 1, 2:
		var l Layer
		if l, err = h.EnsureLayer(ctx, c.some()); err == nil && l == nil {
			h.t.Error("neither a layer nor an error")
		}
	case 3:
		var l Layer
		if l, err = h.layers.Get(c.layer()); err == nil {
			c.images = append(c.images, l)
		}
	case 4:
		if len(c.images) > 0 {
			_ = h.layers.giveBack(c.images[0], 0) // the driver may have failed
			c.images = c.images[1:]
		}
	case 5:
		err = h.Prepare(ctx, c.some(), c.layer())
	case 6:
		_, err = h.View(ctx, c.some(), c.layer())
	case 7:
		err = c.lendTo(ctx, c.layer())
	case 8:
		_, err = h.Update(ctx, snapshots.Info{Name: c.layer(), Labels: map[string]string{"a": "b"}})
	case 9:
		_, err = h.Stat(ctx, c.layer())
	case 10:
		c.pull()
	case 11, 12, 13, 14:
		err = c.grow(ctx)
	default:
		c.client.step()
	}
	switch {
	case err == nil, errors.Is(err, context.DeadlineExceeded),
		errdefs.IsNotFound(err), errdefs.IsAlreadyExists(err),
		errdefs.IsFailedPrecondition(err), errdefs.IsInternal(err), errdefs.IsAborted(err):
	default:
		h.t.Errorf("client %d: %v", c.n, err)
	}
}

func (c *layerClient) lendTo(ctx context.Context, key string) error {
	l := Lease{"ns", fmt.Sprintf("layer%d-%d", c.n, c.keys)}
	c.keys++
	err := c.h.AddLease(ctx, l, key, func() error { c.h.leases.add(l, key); return nil })
	if err == nil {
		c.leases = append(c.leases, l)
	}
	return err
}

// grow makes a committed snapshot on top of a snapshot or a layer.
func (c *layerClient) grow(ctx context.Context) error {
	c.grown++
	key := fmt.Sprintf("grown-%d-%d", c.n, c.grown)
	parent := c.some()
	if c.rand.IntN(3) == 0 {
		parent = c.layer()
	}
	if err := c.h.Prepare(ctx, key, parent); err != nil {
		return err
	}
	return c.h.Commit(ctx, c.some(), key)
}

// pull puts a layer of an image into the store.
func (c *layerClient) pull() {
	c.pulls++
	c.images = append(c.images, c.h.layers.image(fmt.Sprintf("image-%d-%d", c.n, c.pulls), ""))
}
