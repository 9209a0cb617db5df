package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestBadCommandLinesAreOneLine(t *testing.T) {
	for line, want := range map[string]string{
		"-nonsense":                            "nonsense",
		"-clients 0":                           "-clients",
		"-workload none":                       "there are mixed",
		"-weights stat=x":                      "stat=x",
		"-keys none":                           "distribution",
		"-driver zfs":                          "there are null",
		"-target none":                         "no target",
		"-fault driver.error=2":                "PROBABILITY",
		"-fault driver.eror=0.1":               "there are driver.error",
		"-fault longest=1":                     "DURATION",
		"-json /nowhere/report.json -ops 1":    "/nowhere/report.json",
		"-root /proc/1 -ops 1":                 "/proc/1",
		"-sweep batch":                         "OPTION=VALUE",
		"-sweep nothing=1":                     "driver-parallelism",
		"-sweep batch=0":                       `"0" is not a number`,
		"-sweep batch=1,1":                     "twice",
		"-sweep batch=1 -sweep batch=2":        "already",
		"-sweep sync-on-commit=maybe":          "neither",
		"-sweep grace=soon":                    "duration",
		"-rounds -1":                           "-rounds",
		"-trace /nowhere.gz":                   "/nowhere.gz",
		"-trace main_test.go":                  "main_test.go",
		"-speed -1":                            "-speed",
		"-peer podman":                         "there are moby",
		"-peer moby -sweep batch=1":            "-peer goes with no",
		"-scripts -target containerd":          "scripts are for",
		"-target moby -fault cancel=0.5":       "faults are for graphsnap",
		"-fault layers.error=0.1 -kill 1s":     "layer store",
		"-full-disk 1":                         "at least",
		"spare":                                "spare",
		"-target buildkit -restart 1s -ops 10": "restart",
	} {
		var out bytes.Buffer
		err := command(context.Background(), strings.Fields(line), &out)
		if !errors.Is(err, errUsage) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestARunThatIsInterruptedIsReported(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	path := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	if err := command(ctx, []string{"-ops", "100000000", "-clients", "8", "-json", path, "-root", t.TempDir()}, &out); err != nil {
		t.Fatal(err)
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Contenders []struct {
			Rounds []struct {
				Interrupted bool
				Verdict     struct{ Histories int }
			}
		}
	}
	if err := json.Unmarshal(written, &report); err != nil || !report.Contenders[0].Rounds[0].Interrupted || report.Contenders[0].Rounds[0].Verdict.Histories == 0 {
		t.Errorf("%v: %+v", err, report)
	}
	if !strings.Contains(out.String(), "no violation; seed") {
		t.Error(out.String())
	}
}
