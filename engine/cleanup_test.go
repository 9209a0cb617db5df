package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// Cleanup returns when what can be deleted is, says what could not be, does not wait
// for what is held, and is no reason for Close to wait.
func TestCleanup(t *testing.T) { synctest.Test(t, cleanUp) }

func cleanUp(t *testing.T) {
	ctx := t.Context()
	h := openWithoutLeases(t)
	for _, key := range []string{"a", "busy", "held"} {
		must(t, h.Prepare(ctx, key, ""))
	}
	must(t, h.Cleanup(ctx)) // nothing

	deleting, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	h.driver.before = func(call, id string) error {
		if call == "Remove" && id == "a" {
			once.Do(func() { close(deleting) })
			<-goOn
		}
		if call == "Remove" && id == "busy" {
			return errors.New("device or resource busy")
		}
		return nil
	}
	must(t, h.Remove(ctx, "a"))
	<-deleting
	given, cancel := context.WithCancel(ctx)
	done := make(chan error, 2)
	go func() { done <- h.Cleanup(given) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	go func() { done <- h.Cleanup(ctx) }()
	time.Sleep(time.Minute) // of the bubble: it looks many times
	select {
	case err := <-done:
		t.Errorf("it returned while a directory is being deleted: %v", err)
	default:
	}
	close(goOn)
	must(t, <-done)
	if h.driver.Exists("a") {
		t.Error("the directory is there")
	}

	m, err := h.Mounts(ctx, "held")
	must(t, err)
	_, release, err := m.Mount()
	must(t, err)
	must(t, h.Remove(ctx, "held"))
	must(t, h.Cleanup(ctx))
	must(t, release())
	eventually(t, "the directory goes", h.gone("held"))

	must(t, h.Remove(ctx, "busy"))
	eventually(t, "it could not be deleted", func() bool { return h.Pending().Failed == 1 })
	if err := h.Cleanup(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("one cannot be deleted: %v", err)
	}
	h.driver.calm()
	eventually(t, "the directory goes", h.gone("busy"))
	must(t, h.Cleanup(ctx))

	must(t, h.Close())
	if err := h.Cleanup(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("after Close: %v", err)
	}
	if err := h.Remove(ctx, "a"); !errdefs.IsUnavailable(err) {
		t.Errorf("Remove after Close: %v", err)
	}
}
