package main

import (
	"cmp"
	"crypto/sha256"
	"regexp"
	"slices"
)

// choose returns the mutants to try, by folder: those that match, of them no more than
// limit if it is not 0. Which these are depends on nothing but what they are, so an
// edit changes few of them.
func choose(sources []*source, match *regexp.Regexp, limit int) map[string][]*mutant {
	var groups [][]*mutant // a package's of one kind, in an order that is as good as any
	for _, s := range sources {
		for _, k := range kinds {
			var group []*mutant
			for _, m := range s.mutants {
				if m.kind == k && match.MatchString(m.at()+" "+m.name()) {
					group = append(group, m)
				}
			}
			slices.SortFunc(group, func(a, b *mutant) int {
				x, y := sha256.Sum256([]byte(a.name())), sha256.Sum256([]byte(b.name()))
				return cmp.Compare(string(x[:]), string(y[:]))
			})
			groups = append(groups, group)
		}
	}
	chosen, n := map[string][]*mutant{}, 0
	for i, more := 0, true; more; i++ {
		more = false
		for _, group := range groups {
			if i < len(group) && (limit == 0 || n < limit) {
				m := group[i]
				chosen[m.folder] = append(chosen[m.folder], m)
				n, more = n+1, true
			}
		}
	}
	return chosen
}
