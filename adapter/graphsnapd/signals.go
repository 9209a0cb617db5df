package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// forceAfter is the number of signals after which the process no longer waits
// for the orderly end, so that a hung device cannot make it immortal.
const forceAfter = 3

// untilSignal returns a context that the first SIGTERM or SIGINT cancels, with
// the signal as its cause. Further signals change nothing until the third,
// which ends the process at once and leaves its mounts behind; the next start
// on the same root removes them.
func untilSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, forceAfter)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	go func() {
		for n := 1; ; n++ {
			s, ok := <-signals
			if !ok {
				return
			}
			cancel(fmt.Errorf("stopped by signal %q", s))
			if n == forceAfter {
				fmt.Fprintf(os.Stderr, "graphsnapd: %d signals, not waiting any longer\n", n)
				os.Exit(exitFailure)
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(signals)
		cancel(context.Canceled)
	}
}
