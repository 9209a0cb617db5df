package faults

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Rates say what is injected.
type Rates struct {
	Driver   Calls
	Layers   Calls
	Database Calls
	// Cancel is the probability with which a client's context ends early.
	Cancel float64
	// Longest is the longest delay, and the longest time to a context's end.
	Longest time.Duration
}

// Calls are probabilities of what becomes of one call, from 0 to 1 together.
type Calls struct {
	Error float64
	Panic float64
	Delay float64 // beside the others
	Full  float64 // it finds no room on the disk; of the database only
}

// Any tells whether something is injected at all.
func (c Calls) Any() bool { return c != Calls{} }

// Any tells whether something is injected at all.
func (r Rates) Any() bool {
	return r.Driver.Any() || r.Layers.Any() || r.Database.Any() || r.Cancel > 0
}

// Hooked tells whether crash points are to inject some of it; real says that the driver
// and the layer store are not in memory.
func (r Rates) Hooked(real bool) bool {
	return r.Database.Any() || real && (r.Driver.Any() || r.Layers.Any())
}

// field is a probability by the name that it has in a list.
type field struct {
	name  string
	value *float64
}

func (r *Rates) fields() []field {
	var all []field
	for _, part := range []struct {
		name string
		*Calls
	}{{"driver", &r.Driver}, {"layers", &r.Layers}, {"database", &r.Database}} {
		all = append(all, field{part.name + ".error", &part.Error}, field{part.name + ".panic", &part.Panic}, field{part.name + ".delay", &part.Delay})
	}
	return append(all, field{"database.full", &r.Database.Full}, field{"cancel", &r.Cancel})
}

// Names are those that a list may have.
func Names() []string {
	var names []string
	for _, f := range new(Rates).fields() {
		names = append(names, f.name)
	}
	return append(names, "longest")
}

// Parse reads a list such as "driver.error=0.01,cancel=0.05,longest=10ms". What it
// does not name is 0, the longest delay 5 ms.
func Parse(list string) (Rates, error) {
	r := Rates{Longest: 5 * time.Millisecond}
	if list == "" {
		return r, nil
	}
	fields := r.fields()
	for part := range strings.SplitSeq(list, ",") {
		name, text, _ := strings.Cut(part, "=")
		if name == "longest" {
			d, err := time.ParseDuration(text)
			if err != nil || d <= 0 {
				return r, fmt.Errorf("fault %q is not longest=DURATION", part)
			}
			r.Longest = d
			continue
		}
		at := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
		if at < 0 {
			return r, fmt.Errorf("no fault %q, there are %s", name, strings.Join(Names(), ", "))
		}
		p, err := strconv.ParseFloat(text, 64)
		if err != nil || !(p >= 0 && p <= 1) {
			return r, fmt.Errorf("fault %q is not %s=PROBABILITY, from 0 to 1", part, name)
		}
		*fields[at].value = p
	}
	return r, nil
}
