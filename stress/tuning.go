package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/graphsnap/graphsnap/engine"
)

// tunable are the options of the engine under the names that a sweep calls them by.
// They answer nil for a value that leaves the engine as it is.
var tunable = map[string]func(value string) (engine.Option, error){
	"write-queue":         bound(engine.WithWriteQueue),
	"batch":               bound(engine.WithBatch),
	"driver-parallelism":  bound(engine.WithDriverParallelism),
	"scan-parallelism":    bound(engine.WithScanParallelism),
	"removal-parallelism": bound(engine.WithRemovalParallelism),
	"sync-on-commit":      toggle(engine.WithSyncOnCommit),
	"grace":               span(engine.WithGrace),
	"lease-sweep":         span(engine.WithLeaseSweep),
}

func bound(with func(int) engine.Option) func(string) (engine.Option, error) {
	return func(value string) (engine.Option, error) {
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 {
			return nil, errors.New("is not a number from 1 up")
		}
		return with(n), nil
	}
}

func toggle(with func() engine.Option) func(string) (engine.Option, error) {
	return func(value string) (engine.Option, error) {
		switch value {
		case "true":
			return with(), nil
		case "false":
			return nil, nil
		}
		return nil, errors.New("is neither true nor false")
	}
}

func span(with func(time.Duration) engine.Option) func(string) (engine.Option, error) {
	return func(value string) (engine.Option, error) {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return nil, errors.New("is not a duration, such as 30s")
		}
		return with(d), nil
	}
}

// sweep is the values that options of the engine are given, from repeated flags.
type sweep []swept

type swept struct {
	option string
	values []string
}

// String implements flag.Value.
func (s *sweep) String() string { return "" }

// Set implements flag.Value.
func (s *sweep) Set(arg string) error {
	option, list, ok := strings.Cut(arg, "=")
	if !ok {
		return errors.New("it is not OPTION=VALUE,VALUE")
	}
	parse, ok := tunable[option]
	if !ok {
		return fmt.Errorf("the engine has no option %q, it has %s", option, strings.Join(slices.Sorted(maps.Keys(tunable)), ", "))
	}
	if slices.ContainsFunc(*s, func(have swept) bool { return have.option == option }) {
		return fmt.Errorf("%s is swept already", option)
	}
	values := strings.Split(list, ",")
	for i, value := range values {
		if _, err := parse(value); err != nil {
			return fmt.Errorf("%q %w", value, err)
		}
		if slices.Contains(values[:i], value) {
			return fmt.Errorf("%q is there twice", value)
		}
	}
	*s = append(*s, swept{option, values})
	return nil
}

// point is one value for each option of a sweep.
type point struct {
	name   string            // as on the command line, "" without a sweep
	values map[string]string // nil without a sweep
}

// tuned returns the options of the engine that have these values, which Set has parsed.
func tuned(values map[string]string) (all []engine.Option) {
	for option, value := range values {
		if o, _ := tunable[option](value); o != nil {
			all = append(all, o)
		}
	}
	return all
}

// grid returns the points of the sweep, the last option changing fastest: the one
// point without options where nothing is swept.
func (s sweep) grid() []point {
	points := []point{{}}
	for _, each := range s {
		var next []point
		for _, p := range points {
			for _, value := range each.values {
				more := point{
					name:   strings.TrimSpace(p.name + " " + each.option + "=" + value),
					values: map[string]string{each.option: value},
				}
				maps.Copy(more.values, p.values)
				next = append(next, more)
			}
		}
		points = next
	}
	return points
}
