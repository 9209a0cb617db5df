package history

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/graphsnap/graphsnap/stress/model"
)

// Verdict is what Check found.
type Verdict uint8

// Verdicts.
const (
	Linearizable Verdict = iota
	Violated
	Undecided // not in time
)

func porcupineModel(m *model.Model) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return []string{m.Initial()} },
		Step: func(states, in, out any) (bool, any) {
			before := states.([]string)
			if len(before) == 1 {
				after := m.Step(before[0], in.(model.Input), out.(model.Output))
				return len(after) > 0, after
			}
			var after []string
			for _, s := range before {
				for _, n := range m.Step(s, in.(model.Input), out.(model.Output)) {
					if !slices.Contains(after, n) {
						after = append(after, n)
					}
				}
			}
			slices.Sort(after)
			return len(after) > 0, after
		},
		Equal: func(a, b any) bool { return slices.Equal(a.([]string), b.([]string)) },
		DescribeOperation: func(in, out any) string {
			return model.Describe(in.(model.Input), out.(model.Output))
		},
		DescribeState: func(states any) string {
			var all []string
			for _, s := range states.([]string) {
				all = append(all, m.DescribeState(s))
			}
			return strings.Join(all, " or ")
		},
	}
}

func convert(operations []Operation) []porcupine.Operation {
	all := make([]porcupine.Operation, len(operations))
	for i, o := range operations {
		all[i] = porcupine.Operation{ClientId: o.Client, Input: o.Input, Output: o.Output, Call: o.Call, Return: o.Return}
	}
	return all
}

// Check tells whether the operations are linearizable, within limit.
func Check(m *model.Model, operations []Operation, limit time.Duration) Verdict {
	switch porcupine.CheckOperationsTimeout(porcupineModel(m), convert(operations), limit) {
	case porcupine.Ok:
		return Linearizable
	case porcupine.Illegal:
		return Violated
	}
	return Undecided
}

// Draw writes porcupine's picture of the operations, an HTML file, to path.
func Draw(m *model.Model, operations []Operation, limit time.Duration, path string) error {
	pm := porcupineModel(m)
	_, info := porcupine.CheckOperationsVerbose(pm, convert(operations), limit)
	if err := porcupine.VisualizePath(pm, info, path); err != nil {
		return fmt.Errorf("draw a history: %w", err)
	}
	return nil
}

// Shrink returns a shorter history that is violated as well, as short as it finds
// within limit. Nothing is left out that could make the rest look wrong: the end is
// cut off, where operations under way may have happened or not, and operations go
// that change nothing, whatever they answered.
func Shrink(m *model.Model, operations []Operation, limit time.Duration) []Operation {
	deadline := time.Now().Add(limit)
	violated := func(o []Operation) bool {
		left := time.Until(deadline)
		return left > 0 && Check(m, o, left) == Violated
	}
	changing := func(o Operation) bool { return changes(m, o) }
	// The shortest prefix that is wrong, by bisection: one that is wrong stays so
	// however it goes on.
	returns := make([]int64, len(operations))
	for i, o := range operations {
		returns[i] = o.Return
	}
	slices.Sort(returns)
	low, high := 0, len(returns)-1
	for low < high {
		mid := (low + high) / 2
		if violated(prefix(m, operations, returns[mid])) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if cut := prefix(m, operations, returns[high]); violated(cut) {
		operations = cut
	}
	for size := max(1, len(operations)/4); size >= 1; size /= 2 {
		for i := 0; i < len(operations); {
			end := min(i+size, len(operations))
			if slices.ContainsFunc(operations[i:end], changing) && size > 1 || changing(operations[i]) {
				i++
				continue
			}
			without := slices.Delete(slices.Clone(operations), i, end)
			if violated(without) {
				operations = without
			} else {
				i = end
			}
		}
	}
	return dropOthers(m, operations, violated)
}

// changes tells whether the model's state may depend on the operation.
func changes(m *model.Model, o Operation) bool {
	switch o.Input.Kind {
	case model.Stat, model.Usage:
		return false
	case model.AddLease, model.Untag:
		return true
	case model.Prepare, model.View:
		if m.IsImage(o.Input.On) {
			return true // the layer was borrowed, for a while
		}
	case model.EnsureLayer: // which reads as much as it changes
		return o.Output.Class == model.OK
	}
	switch o.Output.Class {
	case model.OK, model.Unknown:
		return true
	case model.Failed: // made, and not undone at once
		return o.Input.Kind == model.Prepare || o.Input.Kind == model.View
	}
	return false
}

// prefix returns what was known at the end of the tick.
func prefix(m *model.Model, operations []Operation, end int64) []Operation {
	var p []Operation
	for _, o := range operations {
		switch {
		case o.Call > end:
			continue
		case o.Return > end:
			if !changes(m, o) {
				continue
			}
			o.Return, o.Output = Forever, model.Output{Class: model.Unknown}
		}
		p = append(p, o)
	}
	return p
}

// dropOthers leaves out the operations on keys that have nothing to do with those
// of the last operation: they share no parent, name, lease or handle.
func dropOthers(m *model.Model, operations []Operation, violated func([]Operation) bool) []Operation {
	linked := make([]int, m.Keys) // union-find
	for i := range linked {
		linked[i] = i
	}
	root := func(k int8) int {
		r := int(k)
		for linked[r] != r {
			r = linked[r]
		}
		return r
	}
	join := func(a, b int8) {
		if a >= 0 && b >= 0 {
			linked[root(a)] = root(b)
		}
	}
	leaseKey, handleKey := map[int8]int8{}, map[int8]int8{}
	for _, o := range operations {
		in := o.Input
		if in.Kind == model.Prepare || in.Kind == model.View || in.Kind == model.Commit {
			join(in.Key, in.On)
		}
		if in.Kind == model.AddLease {
			if k, ok := leaseKey[in.Lease]; ok {
				join(in.Key, k)
			}
			leaseKey[in.Lease] = in.Key
		}
		if in.Kind == model.Mounts || in.Kind == model.View && in.Handle != model.None {
			if k, ok := handleKey[in.Handle]; ok {
				join(in.Key, k)
			}
			handleKey[in.Handle] = in.Key
		}
	}
	best := operations
	for k := range int8(m.Keys) {
		var part []Operation
		for _, o := range operations {
			on := o.Input.Key
			switch o.Input.Kind {
			case model.Mount, model.Release:
				on = handleKey[o.Input.Handle]
			case model.EndLease:
				var named bool
				if on, named = leaseKey[o.Input.Lease]; !named {
					continue
				}
			case model.Restart:
				part = append(part, o)
				continue
			}
			if on >= 0 && root(on) == root(k) {
				part = append(part, o)
			}
		}
		if len(part) < len(best) && violated(part) {
			best = part
		}
	}
	return best
}
