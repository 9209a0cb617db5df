package main

import (
	"bytes"
	"context"
	"strings"
	"testing"
)

// TestScriptsFindWhatStockDoes plays the scripts on graphsnap, which keeps every
// promise, and on the snapshotter inside dockerd 28.5.2.
func TestScriptsFindWhatStockDoes(t *testing.T) {
	ctx := context.Background()
	for _, target := range []string{"engine", "buildkit"} {
		var out bytes.Buffer
		if err := command(ctx, []string{"-scripts", "-target", target, "-root", t.TempDir()}, &out); err != nil {
			t.Errorf("%s: %v\n%s", target, err, &out)
		}
	}
	var out bytes.Buffer
	if err := command(ctx, []string{"-scripts", "-target", "moby", "-root", t.TempDir()}, &out); err == nil {
		t.Error("the snapshotter of dockerd keeps all promises")
	}
	for _, promise := range []string{
		"a snapshot outlives the first of two leases that end", "a parent outlives its children", "a mounted snapshot outlives its lease",
		"a view is read-only", "a view is a snapshot", "a committed snapshot is not mounted", "Walk passes every snapshot", "labels are kept",
		"Update changes labels", "a key is prepared once", "a name is taken once",
	} {
		if !strings.Contains(out.String(), "VIOLATED  "+promise+"\n") {
			t.Errorf("it keeps the promise that %s:\n%s", promise, &out)
		}
	}
}

// TestWorkloadsFindWhatStockDoes drives it as any other target.
func TestWorkloadsFindWhatStockDoes(t *testing.T) {
	var out bytes.Buffer
	err := command(context.Background(), []string{"-target", "moby", "-ops", "5000", "-clients", "8", "-root", t.TempDir(), "-pictures", t.TempDir()}, &out)
	if err == nil || !strings.Contains(out.String(), "VIOLATION") {
		t.Errorf("%v\n%s", err, &out)
	}
}

func TestPeersGetTheSameLoad(t *testing.T) {
	var out bytes.Buffer
	err := command(context.Background(), []string{"-peer", "moby,containerd", "-ops", "300", "-clients", "4", "-rounds", "2", "-root", t.TempDir()}, &out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"buildkit", "moby", "metastore", "operations a second", "p50 of prepare", "p99 of commit"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, &out)
		}
	}
}
