package main

import (
	"slices"
	"strings"
	"testing"
)

const raceHeading = "WARNING: DATA RACE\n"

// checkRaces fails for the data races in a daemon's output that are ours: where
// one of the two accesses, or the standard library's on its behalf, was made by
// code of this module. BuildKit has races of its own, which show up here too.
func checkRaces(t *testing.T, log string) {
	t.Helper()
	if !strings.Contains(log, raceHeading) {
		return
	}
	for _, report := range racesIn(log, moduleRoot(t), goEnv(t, "GOROOT")) {
		t.Errorf("data race in the daemon:\n%s", report)
	}
}

// racesIn returns the reports in log of races in the module at root.
func racesIn(log, root, goroot string) (reports []string) {
	for _, report := range strings.Split(log, raceHeading)[1:] {
		report, _, _ = strings.Cut(report, "==================")
		if slices.ContainsFunc(strings.Split(report, "\n\n"), func(section string) bool {
			return strings.HasPrefix(accessor(section, goroot), root+"/")
		}) {
			reports = append(reports, report)
		}
	}
	return reports
}

// accessor returns the file that a section of a report blames for an access, ""
// for the other sections. The race detector prints a heading and pairs of lines,
// function and file, innermost call first; the standard library acts for others.
func accessor(section, goroot string) string {
	heading, stack, _ := strings.Cut(strings.TrimSpace(section), "\n")
	if !strings.Contains(heading, " by ") {
		return ""
	}
	for line := range strings.Lines(stack) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "/") && !strings.HasPrefix(line, goroot+"/") {
			return line
		}
	}
	return ""
}

func TestRacesIn(t *testing.T) {
	access := func(kind string, files ...string) string {
		section := kind + " at 0x01 by goroutine 7:\n"
		for _, file := range files {
			section += "  pkg.Func()\n      " + file + ":12 +0x34\n"
		}
		return section + "\n"
	}
	log := func(accesses ...string) string {
		return "some line\n==================\n" + raceHeading + strings.Join(accesses, "") +
			"Goroutine 7 (running) created at:\n  pkg.Start()\n      /mod/engine/a.go:1 +0x1\n==================\nanother line\n"
	}
	for name, c := range map[string]struct {
		log  string
		want int
	}{
		"none":               {"all is well\n", 0},
		"in a dependency":    {log(access("Read", "/go/pkg/x.go", "/mod/main.go"), access("Previous write", "/goroot/map.go", "/go/pkg/x.go")), 0},
		"first is ours":      {log(access("Write", "/mod/engine/a.go"), access("Previous write", "/go/pkg/x.go")), 1},
		"second is ours":     {log(access("Read", "/go/pkg/x.go"), access("Previous write", "/goroot/map.go", "/mod/engine/a.go")), 1},
		"both, counted once": {log(access("Read", "/mod/a.go"), access("Previous write", "/mod/b.go")), 1},
		"two reports":        {log(access("Read", "/mod/a.go")) + log(access("Write", "/mod/a.go")), 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := racesIn(c.log, "/mod", "/goroot"); len(got) != c.want {
				t.Errorf("%d races of ours, want %d: %q", len(got), c.want, got)
			}
		})
	}
}
