package run

import (
	"context"
	"fmt"

	"github.com/graphsnap/graphsnap/stress/history"
	"github.com/graphsnap/graphsnap/stress/metrics"
	"github.com/graphsnap/graphsnap/stress/model"
	"github.com/graphsnap/graphsnap/stress/target"
	"github.com/graphsnap/graphsnap/stress/workload"
)

// Script is a short history of one client that asks for one promise.
type Script struct {
	Promise string
	Steps   []model.Input // keys, leases and handles are numbers within the script
}

// Judged is what became of a script.
type Judged struct {
	Script
	Violations []metrics.Violation // none where the promise was kept
}

const (
	scriptKeys   = 4
	scriptLeases = 2
)

func prepare(key, on int8) model.Input {
	return model.Input{Kind: model.Prepare, Key: key, On: on}
}

func view(key, on, handle int8) model.Input {
	return model.Input{Kind: model.View, Key: key, On: on, Handle: handle}
}

func commit(key, name int8) model.Input {
	return model.Input{Kind: model.Commit, Key: key, On: name}
}

func of(kind model.Kind, key int8) model.Input { return model.Input{Kind: kind, Key: key} }

func lease(kind model.Kind, lease, key int8) model.Input {
	return model.Input{Kind: kind, Lease: lease, Key: key}
}

// Scripts are those that Play plays, on targets whose snapshots go with their leases.
var Scripts = []Script{
	{"a snapshot outlives the first of two leases that end", []model.Input{
		lease(model.AddLease, 0, 0), lease(model.AddLease, 1, 0), prepare(0, model.None), lease(model.EndLease, 0, 0), of(model.Stat, 0),
	}},
	{"a parent outlives its children", []model.Input{
		lease(model.AddLease, 0, 1), prepare(0, model.None), commit(0, 1), lease(model.AddLease, 1, 2), prepare(2, 1), lease(model.EndLease, 0, 1), of(model.Stat, 1),
	}},
	{"a mounted snapshot outlives its lease", []model.Input{
		lease(model.AddLease, 0, 0), prepare(0, model.None), {Kind: model.Mounts, Key: 0, Handle: 0},
		{Kind: model.Mount, Handle: 0}, lease(model.EndLease, 0, 0), of(model.Stat, 0), {Kind: model.Release, Handle: 0},
	}},
	{"a view is read-only", []model.Input{
		prepare(0, model.None), commit(0, 1), view(2, 1, 0), {Kind: model.Mount, Handle: 0}, {Kind: model.Release, Handle: 0},
	}},
	{"a view is a snapshot", []model.Input{prepare(0, model.None), commit(0, 1), view(2, 1, 0), of(model.Stat, 2)}},
	{"a committed snapshot is not mounted", []model.Input{
		prepare(0, model.None), commit(0, 1), {Kind: model.Mounts, Key: 1, Handle: 0},
	}},
	{"Walk passes every snapshot", []model.Input{prepare(0, model.None), {Kind: model.Stat, Walk: true, Key: 0}}},
	{"labels are kept", []model.Input{
		{Kind: model.Prepare, Key: 0, On: model.None, Labels: [2]byte{7, 1}}, of(model.Stat, 0),
	}},
	{"Update changes labels", []model.Input{
		prepare(0, model.None), {Kind: model.Update, Key: 0, Whole: true, Labels: [2]byte{7, 1}}, of(model.Stat, 0),
	}},
	{"a key is prepared once", []model.Input{prepare(0, model.None), prepare(0, model.None)}},
	{"a name is taken once", []model.Input{prepare(0, model.None), commit(0, 2), prepare(1, model.None), commit(1, 2)}},
	{"a key is gone once it is committed", []model.Input{prepare(0, model.None), commit(0, 1), of(model.Stat, 0)}},
	{"a key that was committed may be used anew", []model.Input{prepare(0, model.None), commit(0, 1), prepare(0, 1)}},
	{"nothing stands on an active snapshot", []model.Input{prepare(0, model.None), prepare(1, 0)}},
	{"nothing stands on what is not there", []model.Input{prepare(1, 0)}},
	{"what is committed is not committed again", []model.Input{prepare(0, model.None), commit(0, 1), commit(1, 2)}},
	{"what is not there cannot be committed", []model.Input{commit(0, 1)}},
	{"a view cannot be committed", []model.Input{prepare(0, model.None), commit(0, 1), view(2, 1, 0), commit(2, 3)}},
}

// Play plays every script on t and has the checker look at each. It goes on after a
// violation. The target stays open.
func Play(ctx context.Context, t target.Target, c Config) []Judged {
	c.Clients, c.Check = 1, true
	c.Workload = workload.Workload{Name: "scripts", Family: scriptKeys, Group: 1, Weights: map[string]int{"stat": 1}}
	r := newRunner(t, c)
	r.stop = func() {}
	var all []Judged
	for i, s := range Scripts {
		r.verdict = metrics.Verdict{}
		f := r.newFamily(ctx, &r.config.Workload, fmt.Sprintf("s%d", i))
		cl := f.newClient(0, c.Workload.NewChooser(c.Seed, uint64(i)))
		for range scriptLeases {
			f.newLease(ctx)
		}
		for _, step := range s.Steps {
			cl.perform(ctx, step)
		}
		cl.letGo(ctx)
		if operations := f.history.Operations(); history.Check(f.history.Model, operations, checkLimit) != history.Linearizable {
			r.violation(f.name, "no order of these operations explains what they answered", history.Lines(operations), "")
		}
		all = append(all, Judged{s, r.verdict.Violations})
	}
	return all
}
