package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

// A call that finds its key about to be taken waits for what becomes of that.
// Answered ErrAlreadyExists, BuildKit would go on to use what then never was.
func TestTakenIsNotAnsweredBeforeItIsDecided(t *testing.T) {
	for _, fails := range []bool{true, false} {
		ctx := context.Background()
		h := open(t)
		begun, goOn := make(chan struct{}), make(chan struct{})
		h.driver.before = func(call, id string) error {
			if call == "Create" && id == "key" {
				close(begun)
				<-goOn
				if fails {
					return errors.New("no space")
				}
			}
			return nil
		}
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { first <- h.Prepare(ctx, "key", "") }()
		<-begun
		h.driver.calm()
		go func() { second <- h.Prepare(ctx, "key", "") }()
		given, cancel := context.WithCancel(ctx)
		third := make(chan error, 1)
		go func() { _, err := h.View(given, "key", ""); third <- err }()
		cancel()
		if err := <-third; !errors.Is(err, context.Canceled) {
			t.Errorf("a call that gives up while it waits: %v", err)
		}
		close(goOn)
		if err := <-first; (err != nil) != fails {
			t.Errorf("the first: %v", err)
		}
		if err := <-second; fails && err != nil || !fails && !errdefs.IsAlreadyExists(err) {
			t.Errorf("the second, after the first failed %v: %v", fails, err)
		}
	}
}

func TestCommitWaitsForTheNameToBeDecided(t *testing.T) {
	ctx := context.Background()
	h := furnished(t)
	must(t, h.Prepare(ctx, "other", ""))
	goOn := h.block("work")
	given, cancel := context.WithCancel(ctx)
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- h.Commit(given, "name", "work") }()
	eventually(t, "the name is reserved", func() bool { return h.keys.Load("name") != nil })
	go func() { second <- h.Commit(ctx, "name", "other") }()
	cancel() // the owner finds it cancelled when it comes to write
	goOn()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	must(t, <-second)
}
