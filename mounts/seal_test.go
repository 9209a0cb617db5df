package mounts

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/semaphore"
)

// counter is a freed that counts.
type counter struct{ n atomic.Int32 }

func (c *counter) freed() { c.n.Add(1) }

func (c *counter) want(t *testing.T, n int32) {
	t.Helper()
	if got := c.n.Load(); got != n {
		t.Fatalf("freed was called %d times, want %d", got, n)
	}
}

func TestP4SealRefusesLaterAcquires(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*Table)
		want func(error) bool
	}{
		{"Unseal", func(table *Table) { table.Unseal("x") }, func(err error) bool { return err == nil }},
		{"Forget", func(table *Table) { table.Forget("x") }, errdefs.IsNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newFake()
				table := open(t, d, Options{})
				if err := table.Seal(t.Context(), "x", nil); err != nil {
					t.Fatal(err)
				}
				wantHeld(t, table, Entry{ID: "x", State: Sealed})
				ctx, cancel := context.WithCancel(t.Context())
				cancelled := acquiring(ctx, table, "x")
				a, b := acquiring(t.Context(), table, "x"), acquiring(t.Context(), table, "x")
				synctest.Wait()
				cancel()
				wantCancelled(t, cancelled)
				pending(t, a)
				d.wantCalls(t, "x", 0, 0)

				c.end(table)
				var holds []*Hold
				for _, o := range []outcome{<-a, <-b} {
					if !c.want(o.err) {
						t.Errorf("Acquire: %v", o.err)
					}
					if o.hold != nil {
						holds = append(holds, o.hold)
					}
				}
				mustRelease(t, holds...)
				wantHeld(t, table)
				// The next one asks the driver.
				mustRelease(t, mustAcquire(t, table, "x", false))
			})
		})
	}
}

func TestSealRefusedWhileHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newFake()
		table := open(t, d, Options{})
		a, b := mustAcquire(t, table, "x", false), mustAcquire(t, table, "x", false)
		var replaced, freed counter
		wantSealRefused(t, table, "x", replaced.freed)
		wantSealRefused(t, table, "x", freed.freed)
		wantSealRefused(t, table, "x", nil)
		mustRelease(t, a)
		synctest.Wait()
		freed.want(t, 0)
		mustRelease(t, b)
		synctest.Wait()
		freed.want(t, 1)
		mustRelease(t, mustAcquire(t, table, "x", false))
		synctest.Wait()
		freed.want(t, 1)
		replaced.want(t, 0)
	})
}

// freed tells that a Seal would now be granted, however the last hold ended.
func TestFreedWhen(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		end  func(t *testing.T, table *Table, h *Hold, put gate)
	}{
		{"released", func(t *testing.T, table *Table, h *Hold, put gate) {
			released := doing(h.Release)
			put <- nil
			if err := <-released; err != nil {
				t.Fatal(err)
			}
		}},
		{"dropped", func(t *testing.T, table *Table, h *Hold, put gate) {
			dropped := doing(func() error { return table.Drop(ctx, "x") })
			put <- nil
			if err := <-dropped; err != nil {
				t.Fatal(err)
			}
		}},
		{"unmount failed", func(t *testing.T, table *Table, h *Hold, put gate) {
			released := doing(h.Release)
			put <- errFault
			if err := <-released; !errors.Is(err, errFault) {
				t.Fatal(err)
			}
			// The entry stays; what was told is not told again.
			again := doing((<-acquiring(ctx, table, "x")).hold.Release)
			put <- nil
			if err := <-again; err != nil {
				t.Fatal(err)
			}
		}},
		{"a Seal came meanwhile", func(t *testing.T, table *Table, h *Hold, put gate) {
			released := doing(h.Release)
			synctest.Wait()
			sealed := doing(func() error { return table.Seal(ctx, "x", nil) })
			synctest.Wait()
			put <- nil
			if err := <-released; err != nil {
				t.Fatal(err)
			}
			if err := <-sealed; err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
				a := acquiring(ctx, table, "x")
				get <- nil
				h := (<-a).hold
				var freed counter
				wantSealRefused(t, table, "x", freed.freed)
				freed.want(t, 0)
				c.end(t, table, h, put)
				synctest.Wait()
				freed.want(t, 1)
			})
		})
	}
	t.Run("not while another waits", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			a := acquiring(ctx, table, "x")
			get <- nil
			var freed counter
			wantSealRefused(t, table, "x", freed.freed)
			released := doing((<-a).hold.Release)
			synctest.Wait()
			b := acquiring(ctx, table, "x")
			synctest.Wait()
			wantSealRefused(t, table, "x", nil) // awaited
			put <- nil
			if err := <-released; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			freed.want(t, 0)
			get <- errFault // now nobody is left
			wantError(t, (<-b).err, func(err error) bool { return errors.Is(err, errFault) }, "the driver's")
			synctest.Wait()
			freed.want(t, 1)
		})
	})
}

func TestSealWhileMounting(t *testing.T) {
	t.Run("wanted", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			a := acquiring(t.Context(), table, "x")
			synctest.Wait()
			var freed counter
			wantSealRefused(t, table, "x", freed.freed)
			get <- nil
			released := doing((<-a).hold.Release)
			put <- nil
			if err := <-released; err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			freed.want(t, 1)
		})
	})
	for _, c := range []struct {
		name string
		get  error
	}{{"given up, mounts", nil}, {"given up, fails", errFault}} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
				ctx, cancel := context.WithCancel(t.Context())
				a := acquiring(ctx, table, "x")
				synctest.Wait()
				cancel()
				wantCancelled(t, a)
				sealed := doing(func() error { return table.Seal(t.Context(), "x", nil) })
				synctest.Wait()
				pending(t, sealed)
				behind := acquiring(t.Context(), table, "x")
				synctest.Wait()
				get <- c.get
				if c.get == nil {
					synctest.Wait()
					pending(t, sealed)
					put <- nil
				}
				if err := <-sealed; err != nil {
					t.Fatal(err)
				}
				pending(t, behind) // it did not share the failure either
				table.Forget("x")
				wantError(t, (<-behind).err, errdefs.IsNotFound, "not found")
			})
		})
	}
}

func TestSealWhileUnmounting(t *testing.T) {
	unmounting := func(t *testing.T, table *Table, get gate) <-chan error {
		t.Helper()
		a := acquiring(t.Context(), table, "x")
		get <- nil
		released := doing((<-a).hold.Release)
		synctest.Wait()
		return released
	}
	t.Run("waits for it", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			unmounting(t, table, get)
			sealed := doing(func() error { return table.Seal(t.Context(), "x", nil) })
			synctest.Wait()
			pending(t, sealed)
			put <- nil
			if err := <-sealed; err != nil {
				t.Fatal(err)
			}
			wantHeld(t, table, Entry{ID: "x", State: Sealed})
		})
	})
	t.Run("which fails", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			released := unmounting(t, table, get)
			sealed := doing(func() error { return table.Seal(t.Context(), "x", nil) })
			synctest.Wait()
			behind := acquiring(t.Context(), table, "x")
			synctest.Wait()
			put <- errFault
			for _, err := range []error{<-released, <-sealed} {
				if !errors.Is(err, errFault) {
					t.Errorf("error is %v", err)
				}
			}
			if o := <-behind; o.err != nil {
				t.Error(o.err)
			}
			d.wantCalls(t, "x", 1, 1)
		})
	})
	t.Run("given up", func(t *testing.T) {
		bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
			unmounting(t, table, get)
			ctx, cancel := context.WithCancel(t.Context())
			sealed := doing(func() error { return table.Seal(ctx, "x", nil) })
			synctest.Wait()
			behind := acquiring(t.Context(), table, "x")
			synctest.Wait()
			cancel()
			wantError(t, <-sealed, func(err error) bool { return errors.Is(err, context.Canceled) }, "context canceled")
			put <- nil
			get <- nil
			if o := <-behind; o.err != nil {
				t.Error(o.err)
			}
		})
	})
}

// A seal that is given up lets those behind it have the mount, if it stands.
func TestSealGivenUpBeforePut(t *testing.T) {
	turns := semaphore.NewWeighted(1)
	bubble(t, Options{Parallelism: turns}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		a := acquiring(t.Context(), table, "x")
		get <- nil
		hold := (<-a).hold
		if err := turns.Acquire(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		defer turns.Release(1)
		released := doing(hold.Release)
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		sealed := doing(func() error { return table.Seal(ctx, "x", nil) })
		synctest.Wait()
		behind := acquiring(t.Context(), table, "x")
		synctest.Wait()
		pending(t, behind)
		cancel()
		wantError(t, <-sealed, func(err error) bool { return errors.Is(err, context.Canceled) }, "context canceled")
		if o := <-behind; o.err != nil {
			t.Fatal(o.err)
		}
		if err := <-released; err != nil {
			t.Fatal(err)
		}
		d.wantCalls(t, "x", 1, 0)
	})
}

func TestSealTwice(t *testing.T) {
	bubble(t, Options{}, func(t *testing.T, table *Table, d *fakeDriver, get, put gate) {
		never := func() { t.Error("freed is called though Seal was not refused for a hold") }
		a := acquiring(t.Context(), table, "x")
		get <- nil
		doing((<-a).hold.Release)
		synctest.Wait()
		sealed := doing(func() error { return table.Seal(t.Context(), "x", never) })
		synctest.Wait()
		for range 2 { // while the first waits, and after
			wantError(t, table.Seal(t.Context(), "x", never), errdefs.IsAlreadyExists, "already exists")
			select {
			case put <- nil:
			default:
			}
			synctest.Wait()
		}
		if err := <-sealed; err != nil {
			t.Fatal(err)
		}
		table.Unseal("x")
		wantHeld(t, table)
		if err := table.Seal(t.Context(), "x", never); err != nil {
			t.Fatal(err)
		}
	})
}

func TestUnsealAndForgetWithoutSeal(t *testing.T) {
	d := newFake()
	table := open(t, d, Options{})
	table.Unseal("x")
	table.Forget("x")
	wantHeld(t, table)
	h := mustAcquire(t, table, "x", false)
	table.Unseal("x")
	table.Forget("x")
	wantHeld(t, table, Entry{ID: "x", State: Mounted, Holders: 1})
	mustRelease(t, h)
	d.wantCalls(t, "x", 1, 1)
}
