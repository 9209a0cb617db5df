package process

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/graphsnap/graphsnap/persist"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/target"
)

// Request is one call of the target. Fields that the call has no use for are zero.
type Request struct {
	Call   string
	Key    string
	On     string // the parent, or what Commit names
	Lease  string
	Expire bool
	Labels map[string]string
	Paths  []string
	Handle uint64        // of a mountable, or of a mount to release
	Left   time.Duration // until the caller's context ends, 0 for ever
	Calm   bool          // nothing is to be injected from now on
}

// Answer is what the target answered.
type Answer struct {
	Info   snapshots.Info
	Infos  []snapshots.Info
	Usage  snapshots.Usage
	Handle uint64
	Mounts []mount.Mount
	Text   string
	Lines  []string
	Traits target.Traits
	Failed *Failure
}

// Failure is an error on its way.
type Failure struct {
	Text   string
	Causes []int // which of causes it wraps
}

// causes are the errors that callers look for.
var causes = []error{
	errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition, errdefs.ErrUnavailable, errdefs.ErrAborted,
	errdefs.ErrInvalidArgument, errdefs.ErrInternal, errdefs.ErrNotImplemented, context.Canceled, context.DeadlineExceeded,
	persist.ErrIndeterminate, persist.ErrNoRoom, faults.ErrInjected, syscall.ENOSPC,
}

func failure(err error) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Text: err.Error()}
	for i, cause := range causes {
		if errors.Is(err, cause) {
			f.Causes = append(f.Causes, i)
		}
	}
	return f
}

// arrived is the error on the other side.
type arrived struct{ *Failure }

func (f *Failure) err() error {
	if f == nil {
		return nil
	}
	return arrived{f}
}

func (e arrived) Error() string { return e.Text }

func (e arrived) Unwrap() []error {
	var all []error
	for _, i := range e.Causes {
		all = append(all, causes[i])
	}
	return all
}
