// Package workload says what clients do: how often each operation, on which keys,
// in families of what size.
//
// It imports the standard library only.
package workload

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
)

// The operations that weights are given for. A mount is taken of a handle, which
// "mounts" or "view" made; "release" sometimes releases twice; "expire" ends a lease
// behind the lease manager's back; "untag" has the image let go of its layer.
var operations = []string{
	"prepare", "view", "commit", "stat", "update", "usage", "walk", "mounts", "mount", "release",
	"add-lease", "remove-lease", "end-lease", "expire", "remove", "ensure-layer", "untag",
}

// Distribution says which keys of a family are used.
type Distribution string

// The distributions.
const (
	Uniform Distribution = "uniform"
	Zipf    Distribution = "zipf"
	Hot     Distribution = "hot"  // most operations are on one key
	Deep    Distribution = "deep" // the parent is the key before, the name the key after
	Fan     Distribution = "wide" // all stand on the same few parents
)

// Workload is a mixture of operations.
type Workload struct {
	Name    string
	Weights map[string]int
	Keys    Distribution
	Family  int // keys in a family
	Group   int // clients that share a family
	Steps   int // of each client until the family is given up for the next one
	// Image says that a family has, beside its keys, the chain ID of a layer of an image
	// as a key. Its number is Family.
	Image bool
	// Leased is the probability with which a creation is under a lease.
	Leased float64
}

var everything = map[string]int{
	"prepare": 22, "view": 6, "commit": 12, "stat": 20, "update": 5, "usage": 3, "walk": 1, "mounts": 6, "mount": 8, "release": 8,
	"add-lease": 5, "remove-lease": 2, "end-lease": 3, "expire": 1, "remove": 1, "ensure-layer": 3, "untag": 1,
}

func but(changes map[string]int) map[string]int {
	w := maps.Clone(everything)
	maps.Copy(w, changes)
	return w
}

var workloads = []Workload{
	{Name: "mixed", Weights: everything, Keys: Uniform, Family: 8, Group: 4, Steps: 40, Image: true, Leased: 0.7},
	{Name: "zipf", Weights: everything, Keys: Zipf, Family: 12, Group: 4, Steps: 40, Image: true, Leased: 0.7},
	{Name: "hot-key", Weights: everything, Keys: Hot, Family: 6, Group: 4, Steps: 40, Image: true, Leased: 0.7},
	{Name: "deep-chains", Weights: but(map[string]int{"prepare": 30, "commit": 30, "end-lease": 1, "remove-lease": 0}), Keys: Deep, Family: 32, Group: 2, Steps: 80, Image: true, Leased: 0.9},
	{Name: "wide-fans", Weights: but(map[string]int{"prepare": 30, "view": 20}), Keys: Fan, Family: 16, Group: 4, Steps: 50, Image: true, Leased: 0.8},
	{Name: "mount-churn", Weights: but(map[string]int{"mounts": 20, "mount": 40, "release": 40}), Keys: Uniform, Family: 6, Group: 4, Steps: 40, Image: true, Leased: 0.7},
	{Name: "lease-churn", Weights: but(map[string]int{"add-lease": 30, "remove-lease": 20, "end-lease": 10}), Keys: Uniform, Family: 6, Group: 4, Steps: 40, Image: true, Leased: 0.9},
	{Name: "prune-storms", Weights: but(map[string]int{"prepare": 40, "end-lease": 14, "expire": 6}), Keys: Uniform, Family: 6, Group: 4, Steps: 30, Image: true, Leased: 1},
	{Name: "reads", Weights: but(map[string]int{"stat": 300, "usage": 60}), Keys: Uniform, Family: 8, Group: 4, Steps: 80, Image: true, Leased: 0.7},
	{Name: "writes", Weights: map[string]int{"prepare": 50, "commit": 50}, Keys: Uniform, Family: 16, Group: 1, Steps: 60, Image: true, Leased: 1},
	// All clients meet on four keys, in histories that are checked whole.
	{Name: "four-keys", Weights: everything, Keys: Uniform, Family: 4, Group: 8, Steps: 6, Image: true, Leased: 0.5},
}

// Names are those of the workloads that Get knows.
func Names() []string {
	var names []string
	for _, w := range workloads {
		names = append(names, w.Name)
	}
	return names
}

// Get returns the workload of that name.
func Get(name string) (Workload, error) {
	for _, w := range workloads {
		if w.Name == name {
			w.Weights = maps.Clone(w.Weights)
			return w, nil
		}
	}
	return Workload{}, fmt.Errorf("no workload %q, there are %s", name, strings.Join(Names(), ", "))
}

// Weigh changes weights as "prepare=10,stat=0" says.
func (w *Workload) Weigh(changes string) error {
	for part := range strings.SplitSeq(changes, ",") {
		name, value, ok := strings.Cut(part, "=")
		n, err := strconv.Atoi(value)
		if !ok || err != nil || n < 0 || !slices.Contains(operations, name) {
			return fmt.Errorf("weight %q is not OPERATION=NUMBER with one of the operations %s", part, strings.Join(operations, ", "))
		}
		w.Weights[name] = n
	}
	for _, n := range w.Weights {
		if n > 0 {
			return nil
		}
	}
	return fmt.Errorf("all weights are 0")
}

// Restrict leaves out all operations but those, leases and images.
func (w *Workload) Restrict(to []string) error {
	w.Leased, w.Image = 0, false
	left := 0
	for _, name := range operations {
		if !slices.Contains(to, name) {
			delete(w.Weights, name)
		}
		left += w.Weights[name]
	}
	if left == 0 {
		return fmt.Errorf("the workload has none of the operations %s", strings.Join(to, ", "))
	}
	return nil
}

// Distribute changes the distribution of keys.
func (w *Workload) Distribute(name string) error {
	all := []Distribution{Uniform, Zipf, Hot, Deep, Fan}
	if !slices.Contains(all, Distribution(name)) {
		return fmt.Errorf("no key distribution %q, there are %v", name, all)
	}
	w.Keys = Distribution(name)
	return nil
}

// Chooser makes the choices of one client.
type Chooser struct {
	*rand.Rand
	w     *Workload
	total int
	turn  int
	zipf  *rand.Zipf
}

// NewChooser returns a Chooser whose choices follow from seed and stream.
func (w *Workload) NewChooser(seed, stream uint64) *Chooser {
	c := &Chooser{Rand: rand.New(rand.NewPCG(seed, stream)), w: w}
	for _, n := range w.Weights {
		c.total += n
	}
	c.zipf = rand.NewZipf(c.Rand, 1.3, 1, uint64(w.Family-1))
	return c
}

// Chance answers true with probability p.
func (c *Chooser) Chance(p float64) bool { return c.Float64() < p }

// imageShare is the probability with which a key is that of the image.
const imageShare = 0.15

// image answers true with probability p where there is an image.
func (c *Chooser) image(p float64) bool { return c.w.Image && c.Chance(p) }

// Operation chooses the next operation.
func (c *Chooser) Operation() string {
	n := c.IntN(c.total)
	for _, name := range operations {
		if n -= c.w.Weights[name]; n < 0 {
			return name
		}
	}
	panic("weights changed meanwhile")
}

// Key chooses a key.
func (c *Chooser) Key() int8 {
	if c.image(imageShare) {
		return int8(c.w.Family)
	}
	switch c.w.Keys {
	case Zipf:
		return int8(c.zipf.Uint64())
	case Deep: // some operations on each pair in turn
		c.turn++
		return int8(c.turn/4*2%c.w.Family + min(1, c.turn%4/3))
	case Hot:
		if c.Chance(0.7) {
			return 0
		}
	}
	return int8(c.IntN(c.w.Family))
}

// Parent chooses what key is prepared on, -1 for nothing.
func (c *Chooser) Parent(key int8) int8 {
	lowest := c.w.Keys == Deep && key < 2
	switch {
	case c.w.Keys == Deep && !lowest:
		return key&^1 - 1 // a key and its name are a pair, and pairs stand on one another
	case lowest || c.Chance(0.3):
		if c.image(0.5) {
			return int8(c.w.Family)
		}
		return -1
	case c.w.Keys == Fan:
		return int8(c.IntN(2))
	}
	return int8(c.IntN(c.w.Family))
}

// Name chooses what key is committed as.
func (c *Chooser) Name(key int8) int8 {
	if c.w.Keys == Deep && int(key) < c.w.Family && !c.image(imageShare) {
		return key | 1
	}
	return c.Key()
}
