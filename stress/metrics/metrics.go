package metrics

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/graphsnap/graphsnap/engine"
)

// Latencies are recorded in nanoseconds up to longest, with three digits; what
// takes longer counts as that.
const longest = 10 * time.Minute

// NewHistogram returns an empty histogram of latencies in nanoseconds.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(int64(time.Microsecond), int64(longest), 3)
}

// Operation is what was measured of one kind of call.
type Operation struct {
	Count     uint64
	Errors    map[string]uint64 // by class, such as "not found"
	Latencies *hdrhistogram.Histogram
}

// MarshalJSON writes percentiles of the latencies, in nanoseconds.
func (o *Operation) MarshalJSON() ([]byte, error) {
	percentiles := map[string]int64{}
	for _, q := range []float64{50, 90, 99, 99.9, 100} {
		percentiles[fmt.Sprint(q)] = o.Latencies.ValueAtQuantile(q)
	}
	return json.Marshal(struct {
		Count       uint64
		Errors      map[string]uint64
		Mean        float64
		Percentiles map[string]int64
	}{o.Count, o.Errors, o.Latencies.Mean(), percentiles})
}

// Classes writes the errors by class, the most frequent first.
func (o *Operation) Classes() string {
	classes := slices.SortedFunc(maps.Keys(o.Errors), func(a, b string) int {
		return cmp.Or(cmp.Compare(o.Errors[b], o.Errors[a]), cmp.Compare(a, b))
	})
	for i, class := range classes {
		classes[i] = fmt.Sprintf("%d %s", o.Errors[class], class)
	}
	return strings.Join(classes, ", ")
}

// Sample is the state of a run at one moment.
type Sample struct {
	At         time.Duration // since the run began
	Operations uint64        // ended so far
	Errors     uint64        // of those, with an error that the model does not expect of a healthy target: faults
	P99        time.Duration // of the operations since the last sample
	InFlight   int
	Engine     *engine.Stats // nil where the target does not tell
	Goroutines int
	Heap       uint64 // bytes in use
	Memory     uint64 // bytes that the runtime has from the system
}

// Verdict is what the checker says.
type Verdict struct {
	Histories  uint64 // components that were checked
	Operations uint64 // in them
	Undecided  uint64 // histories whose check did not end in time
	Violations []Violation
	Checking   time.Duration // processor time of the checker, all goroutines together
	Census     uint64        // comparisons of engine, driver, leases and database
}

// Violation is a history that no order of its operations explains, or an
// invariant that does not hold.
type Violation struct {
	Seed    uint64
	Group   string   // the family of keys
	Message string   // what is wrong
	History []string // the shortest history found, one operation a line; empty for an invariant
	Picture string   // path of porcupine's drawing, "" for none
	After   time.Duration
}

// Result is all that is known of a run.
type Result struct {
	Target   string // engine, buildkit, containerd, or a peer's name
	Driver   string
	Workload string
	Seed     uint64
	Clients  int
	Options  map[string]string // engine options that a sweep set, as on the command line

	Began       time.Time
	Elapsed     time.Duration // until the last call ended
	Interrupted bool          // by a signal: the rest is what there is
	Operations  map[string]*Operation
	Samples     []Sample
	DriverCalls map[string]uint64 // where the driver counts them
	Directories *int              // that the driver had when the last call ended, nil where it does not tell
	Faults      map[string]uint64 // injected, by kind
	Restarts    int
	Verdict     Verdict
}

// Total returns how many operations ended.
func (r *Result) Total() (n uint64) {
	for _, o := range r.Operations {
		n += o.Count
	}
	return n
}

// Latencies returns those of all operations together.
func (r *Result) Latencies() *hdrhistogram.Histogram {
	all := NewHistogram()
	for _, o := range r.Operations {
		all.Merge(o.Latencies)
	}
	return all
}

// Recorder collects what clients measure. It is safe for concurrent use: each
// client records into a shard of its own.
type Recorder struct {
	began  time.Time
	shards []*shard
	done   atomic.Uint64
	errors atomic.Uint64
	flying atomic.Int64

	mu      sync.Mutex
	samples []Sample
}

type shard struct {
	mu         sync.Mutex
	operations map[string]*Operation
	recent     *hdrhistogram.Histogram // since the last sample
}

// NewRecorder returns a Recorder for clients.
func NewRecorder(clients int) *Recorder {
	r := &Recorder{began: time.Now()}
	for range max(1, min(clients, 64)) {
		r.shards = append(r.shards, &shard{operations: map[string]*Operation{}, recent: NewHistogram()})
	}
	return r
}

// Begin says that client begins a call, and returns what ends it. The class is ""
// for success; fault says that the error is not one that a healthy target answers.
func (r *Recorder) Begin(client int, operation string) (end func(class string, fault bool)) {
	r.flying.Add(1)
	began := time.Now()
	return func(class string, fault bool) {
		took := min(time.Since(began), longest)
		r.flying.Add(-1)
		r.done.Add(1)
		if fault {
			r.errors.Add(1)
		}
		s := r.shards[client%len(r.shards)]
		s.mu.Lock()
		defer s.mu.Unlock()
		o := s.operations[operation]
		if o == nil {
			o = &Operation{Errors: map[string]uint64{}, Latencies: NewHistogram()}
			s.operations[operation] = o
		}
		o.Count++
		if class != "" {
			o.Errors[class]++
		}
		// The bounds of the histogram hold it.
		_ = o.Latencies.RecordValue(int64(took))
		_ = s.recent.RecordValue(int64(took))
	}
}

// Done is the number of operations that ended.
func (r *Recorder) Done() uint64 { return r.done.Load() }

// Sample takes a sample, keeps it and returns it.
func (r *Recorder) Sample(stats *engine.Stats) Sample {
	recent := NewHistogram()
	for _, s := range r.shards {
		s.mu.Lock()
		recent.Merge(s.recent)
		s.recent.Reset()
		s.mu.Unlock()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	sample := Sample{
		At:         time.Since(r.began),
		Operations: r.done.Load(),
		Errors:     r.errors.Load(),
		P99:        time.Duration(recent.ValueAtQuantile(99)),
		InFlight:   int(r.flying.Load()),
		Engine:     stats,
		Goroutines: runtime.NumGoroutine(),
		Heap:       m.HeapInuse,
		Memory:     m.Sys,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples = append(r.samples, sample)
	return sample
}

// Fill writes what was recorded into the result.
func (r *Recorder) Fill(into *Result) {
	into.Began = r.began
	into.Operations = map[string]*Operation{}
	for _, s := range r.shards {
		s.mu.Lock()
		for name, o := range s.operations {
			all := into.Operations[name]
			if all == nil {
				all = &Operation{Errors: map[string]uint64{}, Latencies: NewHistogram()}
				into.Operations[name] = all
			}
			all.add(o)
		}
		s.mu.Unlock()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	into.Samples = slices.Clone(r.samples)
}

func (o *Operation) add(other *Operation) {
	o.Count += other.Count
	for class, n := range other.Errors {
		o.Errors[class] += n
	}
	o.Latencies.Merge(other.Latencies)
}

// Names returns the names of the operations in order.
func (r *Result) Names() []string { return slices.Sorted(maps.Keys(r.Operations)) }
