package report

import (
	"fmt"
	"time"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/metrics"
)

// Unit says how a figure is written.
type Unit string

// The units.
const (
	Plain       Unit = ""
	PerSecond   Unit = "/s"
	Nanoseconds Unit = "ns"
	Bytes       Unit = "B"
)

// Measure is a figure of a run that contenders are compared by.
type Measure struct {
	Name string
	Unit Unit
	// More says that more is better.
	More bool
	// Of answers false where the run did not tell.
	Of func(*metrics.Result) (float64, bool) `json:"-"`
}

// Throughput is how many calls ended a second.
var Throughput = Measure{Name: "operations a second", Unit: PerSecond, More: true, Of: func(r *metrics.Result) (float64, bool) {
	s := r.Elapsed.Seconds()
	return float64(r.Total()) / s, s > 0
}}

// Measures are all that contenders are compared by beside their single operations.
// A peak is the greatest of the samples.
var Measures = []Measure{
	Throughput,
	latency("p50 of all", 50),
	latency("p99 of all", 99),
	{Name: "messages in a transaction", More: true, Of: func(r *metrics.Result) (float64, bool) {
		s := last(r)
		return s.MeanBatch(engine.Stats{}), s.Database.Transactions > 0
	}},
	{Name: "mean transaction", Unit: Nanoseconds, Of: func(r *metrics.Result) (float64, bool) {
		s := last(r)
		return float64(s.MeanCommit(engine.Stats{})), s.Database.Transactions > 0
	}},
	peak("peak of messages to the database", func(s *engine.Stats) float64 { return float64(s.Database.Queued) }),
	peak("peak of messages to owners of keys", func(s *engine.Stats) float64 { return float64(s.KeysQueue) }),
	peak("peak of messages to the mounts", func(s *engine.Stats) float64 { return float64(s.MountsQueue) }),
	peak("peak of owners at work", func(s *engine.Stats) float64 { return float64(s.Keys) }),
	peak("peak of directories to delete", func(s *engine.Stats) float64 { return float64(s.Pending.Directories) }),
	{Name: "directories left", Of: func(r *metrics.Result) (float64, bool) {
		if r.Directories == nil {
			return 0, false
		}
		return float64(*r.Directories), true
	}},
	{Name: "peak of goroutines", Of: func(r *metrics.Result) (float64, bool) {
		return most(r, func(s metrics.Sample) float64 { return float64(s.Goroutines) })
	}},
	{Name: "peak of the heap", Unit: Bytes, Of: func(r *metrics.Result) (float64, bool) {
		return most(r, func(s metrics.Sample) float64 { return float64(s.Heap) })
	}},
}

func latency(name string, q float64) Measure {
	return Measure{Name: name, Unit: Nanoseconds, Of: func(r *metrics.Result) (float64, bool) {
		return float64(r.Latencies().ValueAtQuantile(q)), r.Total() > 0
	}}
}

// LatencyOf is a percentile of one operation.
func LatencyOf(operation string, q float64) Measure {
	return Measure{Name: fmt.Sprintf("p%v of %s", q, operation), Unit: Nanoseconds, Of: func(r *metrics.Result) (float64, bool) {
		o := r.Operations[operation]
		if o == nil {
			return 0, false
		}
		return float64(o.Latencies.ValueAtQuantile(q)), true
	}}
}

func peak(name string, of func(*engine.Stats) float64) Measure {
	return Measure{Name: name, Of: func(r *metrics.Result) (float64, bool) {
		told := false
		n, _ := most(r, func(s metrics.Sample) float64 {
			if s.Engine == nil {
				return 0
			}
			told = true
			return of(s.Engine)
		})
		return n, told
	}}
}

func most(r *metrics.Result, of func(metrics.Sample) float64) (n float64, ok bool) {
	for _, s := range r.Samples {
		n = max(n, of(s))
	}
	return n, len(r.Samples) > 0
}

// last is what the engine told at the end, and nothing where it told nothing. The
// counters begin anew with every restart.
func last(r *metrics.Result) (s engine.Stats) {
	for _, sample := range r.Samples {
		if sample.Engine != nil {
			s = *sample.Engine
		}
	}
	return s
}

// Format writes a figure with three digits, and with the unit that suits it.
func (u Unit) Format(v float64) string {
	switch u {
	case Nanoseconds:
		for _, scale := range []struct {
			size float64
			name string
		}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
			if v >= scale.size {
				return digits(v/scale.size) + " " + scale.name
			}
		}
		return digits(v) + " ns"
	case Bytes:
		for _, scale := range []struct {
			size float64
			name string
		}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if v >= scale.size {
				return digits(v/scale.size) + " " + scale.name
			}
		}
		return digits(v) + " B"
	case PerSecond:
		return digits(v) + "/s"
	}
	return digits(v)
}

func digits(v float64) string {
	switch {
	case v >= 1e6:
		return digits(v/1e6) + "M"
	case v >= 1e5:
		return digits(v/1e3) + "k"
	case v >= 100, v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 0.01:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.2g", v)
}

// duration is how times of a run are written.
func duration(d time.Duration) string { return Nanoseconds.Format(float64(d)) }
