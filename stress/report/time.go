package report

import (
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/stress/metrics"
)

// points is how many of a line there are at most: more than a line on paper can show
// only make the file large.
const points = 160

// thin merges neighbouring samples until there are no more than n. Counters are those
// of the last of them, everything else is the greatest.
func thin(samples []metrics.Sample, n int) []metrics.Sample {
	each := (len(samples) + n - 1) / n
	if each < 2 {
		return samples
	}
	var merged []metrics.Sample
	for begin := 0; begin < len(samples); begin += each {
		part := samples[begin:min(begin+each, len(samples))]
		all := part[len(part)-1]
		if all.Engine != nil {
			stats := *all.Engine
			all.Engine = &stats
		}
		for _, s := range part {
			all.P99 = max(all.P99, s.P99)
			all.InFlight = max(all.InFlight, s.InFlight)
			all.Goroutines = max(all.Goroutines, s.Goroutines)
			all.Heap = max(all.Heap, s.Heap)
			all.Memory = max(all.Memory, s.Memory)
			if all.Engine == nil || s.Engine == nil {
				continue
			}
			all.Engine.Database.Queued = max(all.Engine.Database.Queued, s.Engine.Database.Queued)
			all.Engine.Keys = max(all.Engine.Keys, s.Engine.Keys)
			all.Engine.KeysQueue = max(all.Engine.KeysQueue, s.Engine.KeysQueue)
			all.Engine.MountsQueue = max(all.Engine.MountsQueue, s.Engine.MountsQueue)
			all.Engine.Pending.Directories = max(all.Engine.Pending.Directories, s.Engine.Pending.Directories)
		}
		merged = append(merged, all)
	}
	return merged
}

// overTime makes a line of what of tells of each sample and the one before it, which
// at first is the zero Sample; it answers false where there is no point.
func overTime(r *metrics.Result, of func(now, before metrics.Sample) (float64, bool)) plotter.XYs {
	var line plotter.XYs
	var before metrics.Sample
	for _, now := range thin(r.Samples, points) {
		if v, ok := of(now, before); ok {
			line = append(line, plotter.XY{X: now.At.Seconds(), Y: v})
		}
		before = now
	}
	return line
}

// shortest is the time below which two samples are too close to tell a rate.
const shortest = 20 * time.Millisecond

func throughput(now, before metrics.Sample) (float64, bool) {
	d := now.At - before.At
	return float64(now.Operations-before.Operations) / d.Seconds(), d >= shortest
}

func faultRate(now, before metrics.Sample) (float64, bool) {
	d := now.At - before.At
	return float64(now.Errors-before.Errors) / d.Seconds(), d >= shortest
}

func p99(now, before metrics.Sample) (float64, bool) {
	return float64(now.P99), now.Operations > before.Operations
}

func goroutines(now, _ metrics.Sample) (float64, bool) { return float64(now.Goroutines), true }
func heap(now, _ metrics.Sample) (float64, bool)       { return float64(now.Heap) / (1 << 20), true }
func memory(now, _ metrics.Sample) (float64, bool)     { return float64(now.Memory) / (1 << 20), true }
func inFlight(now, _ metrics.Sample) (float64, bool)   { return float64(now.InFlight), true }

// told is of with what the engine tells: of now, and of before as far as that is the
// same engine, whose counters began anew where it was restarted in between.
func told(of func(now, before engine.Stats) (float64, bool)) func(now, before metrics.Sample) (float64, bool) {
	return func(now, before metrics.Sample) (float64, bool) {
		if now.Engine == nil {
			return 0, false
		}
		var was engine.Stats
		if before.Engine != nil && before.Engine.Database.Transactions <= now.Engine.Database.Transactions {
			was = *before.Engine
		}
		return of(*now.Engine, was)
	}
}

var (
	batch = told(func(now, before engine.Stats) (float64, bool) {
		v := now.MeanBatch(before)
		return v, v > 0
	})
	transaction = told(func(now, before engine.Stats) (float64, bool) {
		v := now.MeanCommit(before)
		return float64(v), v > 0
	})
	databaseQueue = gauge(func(s engine.Stats) int { return s.Database.Queued })
	keysQueue     = gauge(func(s engine.Stats) int { return s.KeysQueue })
	mountsQueue   = gauge(func(s engine.Stats) int { return s.MountsQueue })
	owners        = gauge(func(s engine.Stats) int { return s.Keys })
	deletions     = gauge(func(s engine.Stats) int { return s.Pending.Directories })
)

func gauge(of func(engine.Stats) int) func(now, before metrics.Sample) (float64, bool) {
	return told(func(now, _ engine.Stats) (float64, bool) { return float64(of(now)), true })
}

var (
	seconds = axis{label: "seconds"}
	count   = axis{most: 4} // no fractions at the ticks
)

// timeCharts show how one run went.
func timeCharts(r *metrics.Result) []chart {
	charts := []chart{
		{title: "Throughput", wide: true, x: seconds, y: axis{label: "operations a second"}, curves: []curve{
			{"operations", overTime(r, throughput)},
		}},
		{title: "99th percentile of all operations", x: seconds, y: axis{unit: Nanoseconds, log: true}, curves: []curve{
			{"p99", overTime(r, p99)},
		}},
		{title: "Calls under way", x: seconds, y: count, curves: []curve{{"calls", overTime(r, inFlight)}}},
		{title: "Batches of the persistence actor", note: "messages that shared a transaction, mean", x: seconds, curves: []curve{
			{"messages", overTime(r, batch)},
		}},
		{title: "Time of a transaction", note: "until it is durable, two fsyncs included; mean", x: seconds, y: axis{unit: Nanoseconds}, curves: []curve{
			{"transaction", overTime(r, transaction)},
		}},
		{title: "Mailboxes", note: "messages that wait", x: seconds, y: count, curves: []curve{
			{"owners of keys, together", overTime(r, keysQueue)},
			{"persistence actor", overTime(r, databaseQueue)},
			{"table of mounts", overTime(r, mountsQueue)},
		}},
		{title: "Directories to delete", note: "whose removal is durable", x: seconds, y: count, curves: []curve{{"directories", overTime(r, deletions)}}},
		{title: "Goroutines", x: seconds, y: count, curves: []curve{
			{"all", overTime(r, goroutines)},
			{"owners of keys at work", overTime(r, owners)},
		}},
		{title: "Memory", x: seconds, y: axis{label: "MiB"}, curves: []curve{
			{"from the system", overTime(r, memory)},
			{"heap in use", overTime(r, heap)},
		}},
	}
	if len(r.Faults) > 0 {
		charts[0].curves = append(charts[0].curves, curve{"of them failed by a fault", overTime(r, faultRate)})
	}
	return charts
}

// overlays show how the typical runs of several contenders went.
func overlays(contenders []*Contender) []chart {
	of := func(what func(now, before metrics.Sample) (float64, bool)) (curves []curve) {
		for _, c := range contenders {
			curves = append(curves, curve{c.Name, overTime(c.Typical(), what)})
		}
		return curves
	}
	return []chart{
		{title: "Throughput", wide: true, x: seconds, y: axis{label: "operations a second"}, curves: of(throughput)},
		{title: "99th percentile of all operations", x: seconds, y: axis{unit: Nanoseconds, log: true}, curves: of(p99)},
		{title: "Calls under way", x: seconds, y: count, curves: of(inFlight)},
		{title: "Batches of the persistence actor", note: "messages that shared a transaction, mean", x: seconds, curves: of(batch)},
		{title: "Time of a transaction", note: "until it is durable, mean", x: seconds, y: axis{unit: Nanoseconds}, curves: of(transaction)},
		{title: "Messages to the persistence actor", note: "that wait", x: seconds, y: count, curves: of(databaseQueue)},
		{title: "Messages to owners of keys", note: "that wait, together", x: seconds, y: count, curves: of(keysQueue)},
		{title: "Directories to delete", note: "whose removal is durable", x: seconds, y: count, curves: of(deletions)},
		{title: "Goroutines", x: seconds, y: count, curves: of(goroutines)},
		{title: "Heap in use", x: seconds, y: axis{label: "MiB"}, curves: of(heap)},
	}
}
