package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// wanted is the part of each package's mutants that are to be caught, in percent.
const wanted = 90

// tally counts mutants.
type tally struct{ all, caught, accepted int }

func (t *tally) add(r *result) {
	t.all++
	switch {
	case r.By != "":
		t.caught++
	case r.Reason != "":
		t.accepted++
	}
}

func (t tally) percent() float64 { return 100 * float64(t.caught) / float64(t.all) }

// report prints what became of the mutants. whole says that they are all there are, so
// that the part of them that is caught can be judged.
func report(out io.Writer, all []*result, whole bool) error {
	counts := map[string]map[kind]*tally{}
	var folders []string
	for _, r := range all {
		if counts[r.Package] == nil {
			counts[r.Package] = map[kind]*tally{"all": {}}
			folders = append(folders, r.Package)
		}
		if counts[r.Package][r.Kind] == nil {
			counts[r.Package][r.Kind] = &tally{}
		}
		counts[r.Package][r.Kind].add(r)
		counts[r.Package]["all"].add(r)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "package\tkind\tmutants\tcaught\tsurvived\twith a reason\tpercent caught\t")
	var wrong []string
	for _, folder := range folders {
		for _, k := range append(slices.Clone(kinds), "all") {
			if t := counts[folder][k]; t != nil {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%.1f\t\n", folder, k, t.all, t.caught, t.all-t.caught, t.accepted, t.percent())
			}
		}
		if t := counts[folder]["all"]; whole && t.percent() < wanted {
			wrong = append(wrong, fmt.Sprintf("%s: %.1f percent are caught, fewer than %d", folder, t.percent(), wanted))
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	survived := slices.DeleteFunc(slices.Clone(all), func(r *result) bool { return r.By != "" })
	slices.SortFunc(survived, func(a, b *result) int { return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Name, b.Name)) })
	unlisted := 0
	for _, r := range survived {
		fmt.Fprintf(out, "\n%s: %s\n", r.At, r.Name)
		switch {
		case r.Reason != "":
			fmt.Fprintf(out, "\t%s\n", r.Reason)
			continue
		case !r.Reached:
			fmt.Fprint(out, "\tSURVIVES, and no test comes by\n")
		default:
			fmt.Fprint(out, "\tSURVIVES\n")
		}
		unlisted++
	}
	if unlisted > 0 {
		wrong = append(wrong, fmt.Sprintf("%d survive that have no reason in survivors.txt", unlisted))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%w: %s", errNotCaught, strings.Join(wrong, "; "))
	}
	return nil
}
