package engine

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// driverSlot makes a call of the driver when fewer than WithDriverParallelism are
// under way. The end of ctx ends the wait, not the call.
func (e *Engine) driverSlot(ctx context.Context, name, graphID string, call func() error) error {
	if err := e.driverCalls.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("waiting for the driver: %w", context.Cause(ctx))
	}
	defer e.driverCalls.Release(1)
	return protect(name, graphID, call)
}

// protect turns a panic of the driver into an error, so that it ends one
// operation and not the daemon.
func protect(call, graphID string, f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			log.L.WithField("graphID", graphID).Errorf("graph driver %s panicked: %v\n%s", call, cause, debug.Stack())
			err = fmt.Errorf("graph driver %s of %q panicked: %v: %w", call, graphID, cause, errdefs.ErrInternal)
		}
	}()
	return f()
}

// untilClose returns ctx with the end of the engine as a further end.
func (e *Engine) untilClose(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.ctx, func() { cancel(errClosed) })
	return ctx, func(cause error) {
		stop()
		cancel(cause)
	}
}
