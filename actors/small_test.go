package actors

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHandover()
		if got := h.Take(); len(got) != 0 || h.Len() != 0 {
			t.Error("took", got)
		}
		for range 3 {
			h.Put("a")
			h.Put("b")
		}
		if h.Len() != 2 {
			t.Error(h.Len(), "waiting")
		}
		<-h.Ready()
		h.Put("c") // after the token was taken, before the keys are
		got := h.Take()
		slices.Sort(got)
		if !slices.Equal(got, []string{"a", "b", "c"}) {
			t.Error("took", got)
		}
		h.Put("a")
		<-h.Ready()
		if got := h.Take(); !slices.Equal(got, []string{"a"}) {
			t.Error("took", got)
		}
		w := begin(func() (int, error) { <-h.Ready(); return len(h.Take()), nil })
		if w.done() {
			t.Error("ready, and nothing was put")
		}
		h.Put("d")
		synctest.Wait()
		if v, _ := w.result(); v != 1 {
			t.Error("put a key:", w)
		}
	})
}

func TestNames(t *testing.T) {
	n := NewNames()
	n.Free("never taken")
	if !n.Take("a") || !n.Take("b") || n.Take("a") {
		t.Error("a name is in use once")
	}
	n.Free("a")
	if !n.Take("a") || n.Take("b") {
		t.Error("freeing a name freed another, or none")
	}
	n.Reserve(1000)
	if n.Take("a") || !n.Take("c") {
		t.Error("making room changed which names are in use")
	}
	var winners atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 200 {
				if n.Take(fmt.Sprint(i)) {
					winners.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if winners.Load() != 200 {
		t.Error(winners.Load(), "took 200 names")
	}
}
