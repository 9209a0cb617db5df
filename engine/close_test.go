package engine

import (
	"testing"
	"testing/synctest"

	"github.com/graphsnap/graphsnap/actors"
)

// Close waits for the owners of leases and of settings, which write.
func TestCloseWaitsForEveryOwner(t *testing.T) {
	for name, stall := range map[string]func(e *Engine, wait func()){
		"leases":   func(e *Engine, wait func()) { e.leases.Owe("busy", &claimsStall{wait: wait}) },
		"settings": func(e *Engine, wait func()) { e.namespaces.Owe("busy", &namesStall{wait: wait}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t)
				goOn := make(chan struct{})
				stall(h.Engine, func() { <-goOn })
				closed := make(chan error, 1)
				go func() { closed <- h.Close() }()
				synctest.Wait()
				select {
				case <-closed:
					t.Error("Close returned while an owner was at work")
				default:
				}
				close(goOn)
				must(t, <-closed)
			})
		})
	}
}

type claimsStall struct {
	actors.Reply[done]
	wait func()
}

func (m *claimsStall) Handle(*actors.Owner[claims]) { m.wait() }

type namesStall struct {
	actors.Reply[done]
	wait func()
}

func (m *namesStall) Handle(*actors.Owner[[]string]) { m.wait() }
