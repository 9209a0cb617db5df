package run

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// handlesEach is how many handles a client has.
const handlesEach = 2

// client does one thing after another to a family.
type client struct {
	*family
	*workload.Chooser
	number  int
	handles [handlesEach]*handle
}

func (f *family) newClient(number int, c *workload.Chooser) *client {
	cl := &client{family: f, Chooser: c, number: number}
	for i := range cl.handles {
		cl.handles[i] = &handle{number: int8(number%f.w.Group*handlesEach + i)}
	}
	return cl
}

// call is one call of the target: it is measured and recorded. do returns how it
// ended.
func (c *client) call(ctx context.Context, in model.Input, do func(context.Context) (model.Output, error)) (model.Output, error) {
	if c.r.enter(ctx) != nil {
		return model.Output{Class: model.Failed}, context.Canceled
	}
	defer c.r.leave()
	ctx, cancel := c.r.hurry(ctx, c.Chooser)
	defer cancel()
	switch in.Kind {
	case model.Prepare, model.View:
		defer c.use(in.On)()
		defer c.use(in.Key)()
	case model.Mounts, model.AddLease: // under a lease that is refused in the end a layer is borrowed too
		defer c.use(in.Key)()
	case model.EndLease, model.RemoveLease:
		defer c.lapses[in.Lease].enter()()
	}
	end := c.r.recorder.Begin(c.number, strings.ToLower(in.Kind.String()))
	began := c.r.clock.Now()
	out, err := do(ctx)
	over := c.r.clock.Now()
	out.Class = c.classify(in, err)
	end(out.Class.String(), out.Class == model.Failed || out.Class == model.Unknown)
	if c.r.config.Check {
		o := history.Operation{Client: c.number % c.w.Group, Input: in, Output: out, Call: began, Return: over}
		if out.Class == model.Unknown {
			o.Client += 2 * c.w.Group // it may go on beside the client's next
			c.history.Suspend(o)
		} else {
			c.history.Add(o)
		}
	}
	return out, err
}

// classify maps an error. One that nothing explains is a violation itself.
func (c *client) classify(in model.Input, err error) model.Class {
	fails := c.r.config.Faults.Database.Any() || c.r.config.Fill != nil // the database
	if fails && errdefs.IsUnavailable(err) && !errors.Is(err, persist.ErrNoRoom) {
		c.r.refused()
	}
	switch {
	case err == nil:
		return model.OK
	case in.Kind == model.EnsureLayer && errors.Is(err, context.DeadlineExceeded):
		return model.Failed // it waited for a mount
	case errors.Is(err, persist.ErrIndeterminate) && fails:
		return model.Unknown
	case errors.Is(err, target.ErrDied) && c.r.config.Kill > 0:
		return model.Unknown
	case c.r.config.Fill != nil && strings.Contains(err.Error(), syscall.ENOSPC.Error()):
		return model.Failed // some of what is below hands on the text alone
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, faults.ErrInjected), errdefs.IsInternal(err):
		if !c.r.config.Faults.Any() {
			break
		}
		return model.Failed
	case errdefs.IsNotFound(err):
		return model.NotFound
	case errdefs.IsAlreadyExists(err):
		return model.Exists
	case errdefs.IsFailedPrecondition(err):
		return model.Precondition
	case errdefs.IsUnavailable(err), errdefs.IsAborted(err):
		if c.r.config.Faults.Any() || c.r.config.Rough {
			return model.Failed
		}
	}
	c.r.violation(c.name, fmt.Sprintf("%s: %v", model.Describe(in, model.Output{}), err), nil, "")
	return model.Failed
}

// hurry returns ctx, which for some calls ends early.
func (r *runner) hurry(ctx context.Context, c *workload.Chooser) (context.Context, context.CancelFunc) {
	if !c.Chance(r.config.Faults.Cancel) {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, 1+time.Duration(c.Int64N(int64(max(time.Millisecond, r.config.Faults.Longest)))))
}
