package adapter

// What records say of themselves and of each other.

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/graphsnap/graphsnap/persist"
)

// checker collects what a check finds.
type checker struct {
	opt      CheckOpt
	x        *persist.Examination
	findings []Finding

	records  map[string]*persist.Record
	bearers  map[string][]*persist.Record // by graph ID; the first is whose it is
	removing map[string]bool              // graph IDs
	strays   map[string]bool              // graph IDs that something names which is no record
	children map[string][]string
	lost     map[string]bool // keys of snapshots that cannot be used
	layers   *layerFiles     // nil: there is no layer store
}

func (c *checker) found(f Finding) { c.findings = append(c.findings, f) }

func (c *checker) run(ctx context.Context) (err error) {
	if c.opt.LayerDB != "" {
		if c.layers, err = readLayerFiles(c.opt.LayerDB); err != nil {
			return err
		}
	}
	c.index()
	c.checkFile()
	c.checkShared()
	if err := c.checkDirectories(); err != nil {
		return err
	}
	c.checkParents()
	c.checkLayers()
	c.checkLeases(ctx)
	return nil
}

func (c *checker) index() {
	c.records, c.bearers = map[string]*persist.Record{}, map[string][]*persist.Record{}
	c.removing, c.children, c.lost, c.strays = map[string]bool{}, map[string][]string{}, map[string]bool{}, map[string]bool{}
	for i := range c.x.Records {
		r := &c.x.Records[i]
		c.records[r.Key] = r
		if r.Parent != "" {
			c.children[r.Parent] = append(c.children[r.Parent], r.Key)
		}
		switch {
		case r.GraphID == "":
		case !inside(r.GraphID):
			c.lost[r.Key] = true
			c.found(Finding{Kind: "outside", Key: r.Key, GraphID: r.GraphID, Remedy: RemedyRepair,
				Detail: "the directory of the snapshot would lie outside of the driver's home", mend: []persist.Mutation{persist.Delete(r.Key)}})
		default:
			c.bearers[r.GraphID] = append(c.bearers[r.GraphID], r)
		}
	}
	for _, id := range c.x.Removals {
		if !inside(id) {
			c.found(Finding{Kind: "outside", GraphID: id, Remedy: RemedyRepair,
				Detail: "what is to be deleted lies outside of the driver's home", mend: []persist.Mutation{persist.Removed(id)}})
			continue
		}
		c.removing[id] = true
	}
}

// inside tells whether a graph ID names something in the driver's home. dockerd made
// directories of keys that are paths.
func inside(graphID string) bool {
	clean := filepath.Clean(strings.TrimLeft(graphID, "/"))
	return filepath.IsLocal(clean) && clean != "." && clean != dirLinks
}

func (c *checker) checkFile() {
	for _, d := range c.x.Damage {
		c.found(Finding{Kind: "damaged", Path: c.x.Path, Detail: d, Remedy: RemedyRepair})
	}
	if c.x.Ended != persist.InOrder {
		c.found(Finding{Kind: "unclean-stop", Path: c.x.Path, Note: true, Remedy: RemedyStart,
			Detail: fmt.Sprintf("the last process that wrote to the database did not end in order: %v", c.x.Ended)})
	}
	for _, key := range c.x.Sized {
		c.found(Finding{Kind: "size-not-committed", Key: key, Note: true, Remedy: RemedyRepair, Detail: "a size is recorded of a snapshot that is not committed"})
	}
	for _, l := range c.x.Leftovers {
		c.checkLeftover(l)
	}
	for key, r := range c.records {
		if r.Creating && !c.unreadable(key) {
			c.found(Finding{Kind: "creating", Key: key, GraphID: r.GraphID, Remedy: RemedyStart, Detail: "its directory was not known to be whole when the last process ended"})
		}
	}
	for id := range c.removing {
		c.found(Finding{Kind: "removing", GraphID: id, Remedy: RemedyStart, Detail: "its directory was to be deleted when the last process ended"})
	}
}

func (c *checker) checkLeftover(l persist.Leftover) {
	f := Finding{Kind: "no-record", Key: l.Key, Remedy: RemedyRepair}
	switch l.Oddity {
	case persist.Orphan:
		f.GraphID = l.Key
		f.Detail = "the key was committed under a name that is not there"
	case persist.Broken:
		f.GraphID = l.Record.GraphID
		f.Detail = "the bucket is missing that holds the parent of the name: it cannot be used"
	case persist.Empty:
		f.Detail = "a bucket holds nothing that is known"
	case persist.Shadowed:
		f.GraphID = l.Record.GraphID
		f.Detail = "dockerd has recorded another snapshot of that key"
	case persist.Undecodable:
		f.Kind = "unreadable-record"
		f.Detail = fmt.Sprintf("it cannot be read: %v", l.Err)
		if l.Record.Key != "" {
			f.Detail = fmt.Sprintf("its labels and times cannot be read: %v", l.Err)
		}
	default:
		return // aliases are compared with the leases
	}
	// What it names was made by the engine, or by dockerd's snapshotter.
	if id := f.GraphID; id != "" && inside(id) && len(c.bearers[id]) == 0 && !c.removing[id] && !c.layers.uses(id) {
		c.strays[id] = true
		f.mend = []persist.Mutation{persist.Removing(id)}
	}
	c.found(f)
}

func (c *checker) unreadable(key string) bool {
	return slices.ContainsFunc(c.x.Leftovers, func(l persist.Leftover) bool { return l.Key == key && l.Oddity == persist.Undecodable })
}

// checkShared finds graph IDs that several records bear.
func (c *checker) checkShared() {
	for id, rr := range c.bearers {
		if len(rr) == 1 {
			continue
		}
		slices.SortFunc(rr, func(a, b *persist.Record) int {
			if a.Outranks(b) {
				return -1
			}
			return 1
		})
		// The bucket of one may be what holds the parent of the other, so the one that
		// stays is written anew.
		first := rr[0]
		for _, r := range rr[1:] {
			c.lost[r.Key] = true
			c.found(Finding{Kind: "shared-directory", Key: r.Key, GraphID: id, Remedy: RemedyRepair,
				Detail: fmt.Sprintf("the directory is that of %q", first.Key),
				mend:   []persist.Mutation{persist.Delete(r.Key), persist.Delete(first.Key), persist.Put(*first)}})
		}
	}
}

// checkParents finds snapshots that stand on nothing, or on themselves.
func (c *checker) checkParents() {
	for _, circle := range persist.Circles(maps.Keys(c.records), func(key string) string {
		if r := c.records[key]; r != nil {
			return r.Parent
		}
		return ""
	}) {
		for _, key := range circle {
			c.lose(key, "parent-circle", fmt.Sprintf("its parents lead back to it, over %d snapshots", len(circle)))
		}
	}
	for key, r := range c.records {
		p := c.records[r.Parent]
		switch {
		case r.Parent == "" || c.layers.has(r.Parent):
		case p == nil:
			c.lose(key, "parent-missing", fmt.Sprintf("there is no record of its parent %q", r.Parent))
		case p.Kind != persist.Committed && p.Kind != persist.Borrowed && !c.lost[key]:
			c.found(Finding{Kind: "parent-not-committed", Key: key, GraphID: r.GraphID, Remedy: RemedyNone,
				Detail: fmt.Sprintf("its parent %q is %v", r.Parent, p.Kind)})
		}
	}
	below := slices.Collect(maps.Keys(c.lost))
	for len(below) > 0 {
		parent := below[0]
		below = below[1:]
		for _, key := range c.children[parent] {
			if !c.lost[key] {
				c.lose(key, "parent-missing", fmt.Sprintf("it stands on %q, which cannot be used", parent))
				below = append(below, key)
			}
		}
	}
}

// lose tells of a snapshot that cannot be used. It is hidden at every start and goes
// when no lease names it any more; Repair removes it at once.
func (c *checker) lose(key, kind, detail string) {
	if c.lost[key] {
		return
	}
	c.lost[key] = true
	r := c.records[key]
	c.found(Finding{Kind: kind, Key: key, GraphID: r.GraphID, Detail: detail, Remedy: RemedyRepair, mend: c.removal(r)})
}

// removal is what makes a record go, and its directory at the next start.
func (c *checker) removal(r *persist.Record) []persist.Mutation {
	if r.GraphID == "" || r.Kind == persist.Borrowed || len(c.bearers[r.GraphID]) != 1 {
		return []persist.Mutation{persist.Delete(r.Key)}
	}
	return []persist.Mutation{persist.Remove(r.Key, r.GraphID)}
}
