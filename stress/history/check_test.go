package history

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/graphsnap/graphsnap/stress/model"
)

// script makes a history of operations that follow one another.
func script(steps ...Operation) []Operation {
	for i := range steps {
		steps[i].Call, steps[i].Return = int64(2*i+1), int64(2*i+2)
	}
	return steps
}

func op(in model.Input, class model.Class) Operation {
	return Operation{Input: in, Output: model.Output{Class: class}}
}

func stat(key int8, s model.Snapshot) Operation {
	return Operation{Input: model.Input{Kind: model.Stat, Key: key}, Output: model.Output{Snapshot: s}}
}

var four = &model.Model{Keys: 4, Handles: 2, Leased: true}

func prepare(key, on int8) model.Input {
	return model.Input{Kind: model.Prepare, Key: key, On: on, Lease: model.None, Handle: model.None}
}

func TestCheckTellsRightFromWrong(t *testing.T) {
	absent := model.Input{Kind: model.Stat, Key: 0}
	lease := model.Input{Kind: model.AddLease, Key: 0, Lease: 1}
	end := model.Input{Kind: model.EndLease, Lease: 1}
	commit := model.Input{Kind: model.Commit, Key: 0, On: 1, Lease: model.None}
	mounts := model.Input{Kind: model.Mounts, Key: 0, Handle: 0}
	mount := Operation{Input: model.Input{Kind: model.Mount, Handle: 0}, Output: model.Output{Writable: true}}
	active := model.Snapshot{Kind: model.Active, Parent: model.None}
	update := model.Input{Kind: model.Update, Key: 0, Labels: [2]byte{7, 0}}
	for name, c := range map[string]struct {
		steps []Operation
		want  Verdict
	}{
		"what was made is there":              {script(op(prepare(0, -1), model.OK), stat(0, active)), Linearizable},
		"what was never leased stays":         {script(op(prepare(0, -1), model.OK), op(absent, model.NotFound)), Violated},
		"a lease that ended lets it go":       {script(op(lease, model.OK), op(prepare(0, -1), model.OK), op(end, model.OK), op(absent, model.NotFound)), Linearizable},
		"a lease keeps it":                    {script(op(lease, model.OK), op(prepare(0, -1), model.OK), op(absent, model.NotFound)), Violated},
		"what is gone stays gone":             {script(op(lease, model.OK), op(prepare(0, -1), model.OK), op(end, model.OK), op(absent, model.NotFound), stat(0, active)), Violated},
		"a hold keeps it":                     {script(op(lease, model.OK), op(prepare(0, -1), model.OK), op(mounts, model.OK), mount, op(end, model.OK), op(absent, model.NotFound)), Violated},
		"a parent outlives its child":         {script(op(lease, model.OK), op(prepare(0, -1), model.OK), op(commit, model.OK), op(prepare(2, 1), model.OK), op(end, model.OK), op(model.Input{Kind: model.Stat, Key: 1}, model.NotFound)), Violated},
		"an update is not lost":               {script(op(prepare(0, -1), model.OK), Operation{Input: update, Output: model.Output{Snapshot: model.Snapshot{Kind: model.Active, Parent: -1, Labels: [2]byte{7, 0}}}}, stat(0, active)), Violated},
		"what failed did not happen":          {script(op(prepare(0, -1), model.Failed), stat(0, active)), Violated},
		"what is unknown may have happened":   {script(op(prepare(0, -1), model.Unknown), stat(0, active)), Linearizable},
		"or not":                              {script(op(prepare(0, -1), model.Unknown), op(absent, model.NotFound)), Linearizable},
		"a restart ends what was kept for it": {script(op(prepare(0, -1), model.OK), op(model.Input{Kind: model.Restart}, model.OK), op(absent, model.NotFound)), Linearizable},
		"a lease that came back in time":      {script(op(lease, model.OK), op(prepare(0, -1), model.OK), op(end, model.OK), op(model.Input{Kind: model.AddLease, Key: 0, Lease: 2}, model.OK), stat(0, active), op(absent, model.NotFound)), Violated},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Check(four, c.steps, time.Minute); got != c.want {
				t.Errorf("got %d, want %d:\n%s", got, c.want, strings.Join(Lines(c.steps), "\n"))
			}
		})
	}
}

func TestCheckKnowsTheLayersOfImages(t *testing.T) {
	m := &model.Model{Keys: 3, Image: true, Leased: true}
	const image = 2
	committed := model.Snapshot{Kind: model.Committed, Parent: model.None}
	labelled := model.Snapshot{Kind: model.Committed, Parent: model.None, Labels: [2]byte{7, 1}}
	there, absent := stat(image, committed), op(model.Input{Kind: model.Stat, Key: image}, model.NotFound)
	walked, missed := there, absent
	walked.Input.Walk, missed.Input.Walk = true, true
	untag := op(model.Input{Kind: model.Untag, Key: image}, model.OK)
	lease := op(model.Input{Kind: model.AddLease, Key: image, Lease: 1}, model.OK)
	end := op(model.Input{Kind: model.EndLease, Lease: 1}, model.OK)
	lapsed := Operation{Input: lease.Input, Output: model.Output{Lapsed: true}}
	child := op(prepare(0, image), model.OK)
	update := Operation{Input: model.Input{Kind: model.Update, Key: image, Whole: true, Labels: labelled.Labels}, Output: model.Output{Snapshot: labelled}}
	refused := op(update.Input, model.Precondition)
	refused.Output.Snapshot = model.Snapshot{}
	layer := func(depth byte) Operation {
		return Operation{Input: model.Input{Kind: model.EnsureLayer, Key: image}, Output: model.Output{Layer: model.ImageLayer, Depth: depth}}
	}
	for name, c := range map[string]struct {
		steps []Operation
		want  Verdict
	}{
		"an image has its layer":             {script(there, layer(1), op(prepare(image, -1), model.Exists)), Linearizable},
		"which does not go":                  {script(absent), Violated},
		"nor stands on something":            {script(layer(2)), Violated},
		"nobody takes its key":               {script(op(prepare(image, -1), model.OK)), Violated},
		"nor its name":                       {script(op(prepare(0, -1), model.OK), op(model.Input{Kind: model.Commit, Key: 0, On: image}, model.OK)), Violated},
		"it can be a parent":                 {script(child, stat(0, model.Snapshot{Kind: model.Active, Parent: image})), Linearizable},
		"it is not active":                   {script(op(model.Input{Kind: model.Commit, Key: image, On: 1}, model.Precondition)), Linearizable},
		"a layer without a tag may go":       {script(untag, there, absent, op(prepare(image, -1), model.OK)), Linearizable},
		"and does not come back":             {script(untag, absent, there), Violated},
		"a lease keeps it":                   {script(lease, untag, absent), Violated},
		"until it ends":                      {script(lease, untag, end, absent), Linearizable},
		"a lease that may not have borrowed": {script(Operation{Input: lease.Input, Output: model.Output{Beside: true}}, untag, absent), Linearizable},
		"a lease that ends first":            {script(lapsed, end, missed, update), Linearizable},
		"and one that ended long after":      {script(lease, end, missed, update), Violated},
		"a child keeps it":                   {script(child, untag, absent), Violated},
		"labels need somebody who borrows":   {script(refused, lease, update, stat(image, labelled)), Linearizable},
		"who was there":                      {script(lease, refused), Violated},
		"and was not":                        {script(update), Violated},
		"labels stay while it is borrowed":   {script(lease, update, there), Violated},
		"and go with that":                   {script(lease, update, end, there), Linearizable},
		"a new child borrows it anew":        {script(lease, update, end, child, there), Linearizable},
		"a walk passes what is borrowed":     {script(missed, lease, walked), Linearizable},
		"and nothing else":                   {script(walked), Violated},
		"a child that failed borrows it too": {script(op(prepare(0, -1), model.OK), op(prepare(0, image), model.Exists), walked, there), Linearizable},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Check(m, c.steps, time.Minute); got != c.want {
				t.Errorf("got %d, want %d:\n%s", got, c.want, strings.Join(Lines(c.steps), "\n"))
			}
		})
	}
}

func TestShrinkLeavesWhatIsWrong(t *testing.T) {
	active := model.Snapshot{Kind: model.Active, Parent: model.None}
	var steps []Operation
	for range 30 {
		steps = append(steps, op(model.Input{Kind: model.Stat, Key: 3}, model.NotFound))
	}
	steps = append(steps, op(prepare(3, -1), model.OK), op(prepare(0, -1), model.OK))
	for range 30 {
		steps = append(steps, stat(3, active))
	}
	steps = append(steps, op(model.Input{Kind: model.Stat, Key: 0}, model.NotFound), stat(3, active))
	short := Shrink(four, script(steps...), time.Minute)
	if len(short) != 2 || Check(four, short, time.Minute) != Violated {
		t.Errorf("shrunk to\n%s", strings.Join(Lines(short), "\n"))
	}
	path := filepath.Join(t.TempDir(), "picture.html")
	if err := Draw(four, short, time.Minute, path); err != nil {
		t.Fatal(err)
	}
	if picture, _ := os.ReadFile(path); !strings.Contains(string(picture), "Prepare(k0") {
		t.Error("the picture does not show the operations")
	}
}
