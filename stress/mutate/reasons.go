package main

import (
	"fmt"
	"slices"
	"strings"
)

// parseReasons reads a list of mutants that may survive: the name of each, and below
// it, indented, why. Lines that begin with # are remarks.
func parseReasons(text string) (map[string]string, error) {
	reasons := map[string]string{}
	name := ""
	for i, line := range strings.Split(text, "\n") {
		said := strings.TrimSpace(line)
		switch {
		case said == "" || strings.HasPrefix(line, "#"):
		case line == strings.TrimLeft(line, " \t"):
			if name != "" && reasons[name] == "" {
				return nil, fmt.Errorf("line %d of the survivors: there is no reason for %s", i+1, name)
			}
			if _, again := reasons[said]; again {
				return nil, fmt.Errorf("line %d of the survivors: twice: %s", i+1, said)
			}
			name = said
			reasons[name] = ""
		case name == "":
			return nil, fmt.Errorf("line %d of the survivors: a reason for nothing", i+1)
		default:
			reasons[name] = strings.TrimSpace(reasons[name] + " " + said)
		}
	}
	if name != "" && reasons[name] == "" {
		return nil, fmt.Errorf("the survivors: there is no reason for %s", name)
	}
	return reasons, nil
}

// stale returns an error where a reason is for a mutant of one of the packages that is
// not there.
func stale(reasons map[string]string, sources []*source) error {
	var gone []string
	for name := range reasons {
		for _, s := range sources {
			if strings.HasPrefix(name, s.folder+" ") && !slices.ContainsFunc(s.mutants, func(m *mutant) bool { return m.name() == name }) {
				gone = append(gone, name)
			}
		}
	}
	slices.Sort(gone)
	if len(gone) > 0 {
		return fmt.Errorf("survivors.txt has reasons for what is not there:\n%s", strings.Join(gone, "\n"))
	}
	return nil
}
