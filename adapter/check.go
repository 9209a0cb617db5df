package adapter

// Comparing all that is kept about snapshots while nobody keeps it: the database, the
// directories of the graph driver, mounts, the layer store and leases.
//
// # What is found
//
// Each finding has a kind and says who mends it: the next start, as part of what it
// does anyway; CheckReport.Repair; or nobody, which is left to whoever reads it. What
// is a note is no inconsistency.
//
//	of the file
//	  damaged                  pages that cannot be what they should be    repair
//	  unreadable-record        or a part of it                             repair
//	  no-record                a bucket that is none, or is shadowed       repair
//	  size-not-committed       (note) dockerd's; nobody trusts it          repair
//	  unclean-stop             (note) the last process did not end in order  start
//	of records
//	  shared-directory         two records bear one graph ID               repair
//	  parent-circle            the parents lead back to the snapshot       repair
//	  parent-missing           or lost                                     repair
//	  parent-not-committed                                                 nobody
//	  outside                  a graph ID that leads out of the home       repair
//	  creating, removing       intents that were not carried through       start
//	of directories
//	  directory-missing        of a name; all else is made anew            repair, start
//	  directory-broken         looked into at the next start               repair
//	  directory-unnamed        that no record names                        repair, nobody
//	  link-dangling            in l/, to nothing                           repair, nobody
//	  link-surplus             in l/, which its directory does not name    nobody
//	  mounted                  by a process that is dead                   start
//	  work-file                of an export that was cut off               start
//	of layers
//	  layer-gone               that is recorded                            start
//	  layer-directory-missing                                              nobody
//	of leases
//	  lease-unlisted           they cannot be read                         nobody
//	  snapshot-unleased        and nothing stands on it                    start
//	  alias-unleased           dockerd's, of a lease that is gone          start
//	  lease-unmet              (note) it names what is not there: BuildKit
//	                           leases first, and makes some only when asked
//
// Repair changes the database and nothing else: what is to be deleted on disk is
// recorded as a removal, which the next start carries through. Directories that no
// record names are ours where nobody else uses the driver's home; where a layer store
// shares it they may be anybody's.
//
// The first repair of a damaged file saves what can be read and does nothing more: it
// might be known from the copy what the rest belongs to. The next one does all else.

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"

	"github.com/graphsnap/graphsnap/persist"
)

// CheckOpt says what is compared.
type CheckOpt struct {
	// Database is the path of snapshots.db.
	Database string
	// Driver is the name of the graph driver, and Home its directory. The driver
	// itself is not started. The directories of drivers other than overlay2,
	// fuse-overlayfs, vfs and btrfs are not looked at.
	Driver, Home string
	// LayerDB is the directory of the layer store that shares the driver, "" where
	// there is none.
	LayerDB string
	// Leases lists the leases, in Namespace and those that the database knows of.
	// Nil: they are not compared.
	Leases    leases.Manager
	Namespace string
}

// Remedy says who mends what was found.
type Remedy string

const (
	RemedyStart  Remedy = "start"  // the next start of the daemon
	RemedyRepair Remedy = "repair" // CheckReport.Repair
	RemedyNone   Remedy = "none"   // nobody
)

// Finding is one thing that does not fit. Fields that do not apply are empty.
type Finding struct {
	Kind    string `json:"kind"`
	Key     string `json:"key,omitempty"`
	GraphID string `json:"graphID,omitempty"`
	Path    string `json:"path,omitempty"`
	Detail  string `json:"detail"`
	Remedy  Remedy `json:"remedy"`
	// Note says that it is no inconsistency.
	Note bool `json:"note,omitempty"`

	mend []persist.Mutation
}

// Same tells whether g is of the same kind and about the same thing.
func (f Finding) Same(g Finding) bool {
	return f.Kind == g.Kind && f.Key == g.Key && f.GraphID == g.GraphID && f.Path == g.Path
}

// String is one line.
func (f Finding) String() string {
	var b strings.Builder
	if f.Note {
		b.WriteString("note: ")
	}
	b.WriteString(f.Kind)
	for _, part := range []struct{ name, value string }{{"key", f.Key}, {"graph ID", f.GraphID}, {"path", f.Path}} {
		if part.value != "" {
			fmt.Fprintf(&b, " %s %q", part.name, part.value)
		}
	}
	fmt.Fprintf(&b, ": %s", strings.ReplaceAll(f.Detail, "\n", " "))
	switch f.Remedy {
	case RemedyStart:
		b.WriteString(" (the next start mends it)")
	case RemedyRepair:
		b.WriteString(" (repair mends it)")
	}
	return b.String()
}

// CheckReport is what Check found.
type CheckReport struct {
	Snapshots int       `json:"snapshots"` // that there are records of
	Findings  []Finding `json:"findings"`

	examined *persist.Examination
}

// Consistent tells whether there is nothing but notes.
func (r *CheckReport) Consistent() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Note })
}

// Repairable tells whether there is something for Repair to do.
func (r *CheckReport) Repairable() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Remedy == RemedyRepair })
}

// Check compares what opt names, and changes nothing. It blocks while it reads the
// database, the names in the driver's home and, for overlay drivers, the links and
// some small files of each snapshot.
//
// Errors: ErrNotFound where there is no database, ErrUnavailable, within a second,
// where a process has it open; those of the file system.
func Check(ctx context.Context, opt CheckOpt) (*CheckReport, error) {
	x, err := persist.Examine(ctx, opt.Database)
	if err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	c := &checker{opt: opt, x: x}
	if err := c.run(ctx); err != nil {
		return nil, fmt.Errorf("check: %w", err)
	}
	slices.SortStableFunc(c.findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(order(a.Kind), order(b.Kind)), cmp.Compare(a.Key, b.Key), cmp.Compare(a.GraphID, b.GraphID), cmp.Compare(a.Path, b.Path))
	})
	return &CheckReport{Snapshots: len(x.Records), Findings: c.findings, examined: x}, nil
}

// kinds are in the order in which they are reported: what may be the cause of others
// comes first.
var kinds = []string{
	"damaged", "unreadable-record", "no-record", "outside", "shared-directory", "parent-circle", "parent-missing", "parent-not-committed",
	"creating", "removing", "directory-missing", "directory-broken", "directory-unnamed", "link-dangling", "link-surplus", "mounted", "work-file",
	"layer-gone", "layer-directory-missing", "lease-unlisted", "snapshot-unleased", "alias-unleased", "lease-unmet", "size-not-committed", "unclean-stop",
}

func order(kind string) int { return slices.Index(kinds, kind) }

// Repair mends what can be mended in the database, and returns the path of the copy
// that it made of it before. The new database takes the place of the old one at one
// stroke; both are on disk then. It blocks while it writes.
//
// Errors: ErrUnavailable where a process has the database open, or had since Check;
// those of the file system. Nothing was changed then, but the copy may be there.
func (r *CheckReport) Repair(ctx context.Context) (backup string, err error) {
	var mend []persist.Mutation
	if len(r.examined.Damage) == 0 {
		for _, f := range r.Findings {
			mend = append(mend, f.mend...)
		}
	}
	return r.examined.Repair(ctx, mend...)
}
