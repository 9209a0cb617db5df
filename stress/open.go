package main

import (
	"context"
	"encoding/json"

	"github.com/graphsnap/graphsnap/stress/faces"
	"github.com/graphsnap/graphsnap/stress/faults"
	"github.com/graphsnap/graphsnap/stress/process"
	"github.com/graphsnap/graphsnap/stress/target"
)

// place is a target to be opened.
type place struct {
	Target  string
	Driver  string
	Root    string
	Outlive bool              // what is in memory elsewhere outlives the process
	Options map[string]string // of the engine
}

// processName is that of a process with a target.
const processName = "graphsnap-stress-target"

func init() {
	process.Register(processName, func(ctx context.Context, settings string, f *faults.Injector) (target.Target, error) {
		var p place
		if err := json.Unmarshal([]byte(settings), &p); err != nil {
			return nil, err
		}
		return p.open(ctx, f)
	})
}

func (p place) open(ctx context.Context, f *faults.Injector) (target.Target, error) {
	real := p.Target != "engine"
	if f.Hooked(real) {
		f.Hook(real)
	}
	options := tuned(p.Options)
	switch {
	case p.Outlive && !real:
		return target.OpenPersistent(ctx, target.NewNull(false, f.Driver), p.Root, options...)
	case !real:
		return target.OpenEngine(ctx, target.NewNull(false, f.Driver), p.Root, options...)
	}
	return faces.OpenBuildKit(ctx, p.Driver, p.Root, options...)
}

// apart opens the target in a process of its own.
func (p place) apart(ctx context.Context, f *faults.Injector, seed uint64) (target.Target, error) {
	p.Outlive = true
	settings, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return process.Open(ctx, processName, string(settings), f, seed)
}
