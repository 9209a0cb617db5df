package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/run"
)

// play plays the scripts on the target and lists which promises it keeps, with the
// history of each that it does not.
func (s *settings) play(ctx context.Context, root string, out io.Writer) (err error) {
	t, err := place{Target: s.target, Driver: s.driver, Root: root}.open(ctx, faults.New(faults.Rates{}, 0))
	if err != nil {
		return fmt.Errorf("%w: %w", err, errUsage)
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	broken := 0
	judged := run.Play(ctx, t, s.run)
	for _, j := range judged {
		if len(j.Violations) == 0 {
			fmt.Fprintf(out, "kept      %s\n", j.Promise)
			continue
		}
		broken++
		fmt.Fprintf(out, "VIOLATED  %s\n", j.Promise)
		for _, v := range j.Violations {
			for _, line := range v.History {
				fmt.Fprintf(out, "          %s\n", line)
			}
			if len(v.History) == 0 {
				fmt.Fprintf(out, "          %s\n", v.Message)
			}
		}
	}
	if broken > 0 {
		return fmt.Errorf("%d of %d promises are not kept", broken, len(judged))
	}
	return nil
}
