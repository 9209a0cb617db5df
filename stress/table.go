package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
	"github.com/graphsnap/graphsnap/stress/metrics"
)

func table(out io.Writer, r *metrics.Result, args []string) {
	fmt.Fprintf(out, "target %s, driver %s, workload %s, %d clients: %d operations in %v, %.0f a second\n",
		r.Target, r.Driver, r.Workload, r.Clients, r.Total(), r.Elapsed.Round(time.Millisecond), float64(r.Total())/r.Elapsed.Seconds())
	fmt.Fprintf(out, "%-12s %10s %12s %12s %12s  %s\n", "operation", "count", "p50", "p99", "max", "errors")
	for _, name := range r.Names() {
		o := r.Operations[name]
		at := func(q float64) time.Duration {
			return time.Duration(o.Latencies.ValueAtQuantile(q)).Round(time.Microsecond)
		}
		fmt.Fprintf(out, "%-12s %10d %12v %12v %12v  %s\n", name, o.Count, at(50), at(99), at(100), errorCounts(o.Errors))
	}
	v := r.Verdict
	fmt.Fprintf(out, "%d histories of %d operations checked in %v, %d undecided, %d looks at the whole, %d restarts, faults %v\n",
		v.Histories, v.Operations, v.Checking.Round(time.Millisecond), v.Undecided, v.Census, r.Restarts, r.Faults)
	if len(v.Violations) == 0 {
		fmt.Fprintf(out, "no violation; seed %d\n", r.Seed)
		return
	}
	shortest := v.Violations[0]
	for _, x := range v.Violations {
		if len(x.History) > 0 && (len(shortest.History) == 0 || len(x.History) < len(shortest.History)) {
			shortest = x
		}
	}
	fmt.Fprintf(out, "VIOLATION after %v: %s %s\n", shortest.After.Round(time.Millisecond), shortest.Group, shortest.Message)
	for _, line := range shortest.History {
		fmt.Fprintln(out, line)
	}
	if shortest.Picture != "" {
		fmt.Fprintf(out, "picture: %s\n", shortest.Picture)
	}
	tags := ""
	if crashpoint.Enabled {
		tags = "-tags crashpoints "
	}
	fmt.Fprintf(out, "again: go run -race %s./stress %s -seed %d\n", tags, strings.Join(args, " "), r.Seed)
}

func errorCounts(errors map[string]uint64) string {
	var parts []string
	for _, class := range []string{"not found", "already exists", "failed precondition", "fault", "outcome unknown"} {
		if n := errors[class]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, class))
		}
	}
	return strings.Join(parts, ", ")
}
