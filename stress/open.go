package main

import (
	"context"
	"encoding/json"
	"path/filepath"

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
	Outlive bool // what is in memory elsewhere outlives the process
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
	switch {
	case p.Outlive && !real:
		return target.OpenPersistent(ctx, target.NewNull(false, f.Driver), p.Root)
	case !real:
		return target.OpenEngine(ctx, target.NewNull(false, f.Driver), p.Root)
	}
	return faces.OpenBuildKit(ctx, p.Driver, filepath.Join(p.Root, "buildkit"))
}

func (s *settings) open(ctx context.Context, root string) (target.Target, error) {
	p := place{Target: s.target, Driver: s.driver, Root: root, Outlive: s.run.Kill > 0}
	if s.run.Kill <= 0 {
		return p.open(ctx, s.run.Faults)
	}
	settings, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return process.Open(ctx, processName, string(settings), s.run.Faults, s.run.Seed)
}
