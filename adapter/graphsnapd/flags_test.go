package main

import (
	"strings"
	"testing"
)

// TestBadCommandLine: a command line that cannot be understood ends with code 2
// and one line that says what is wrong with it.
func TestBadCommandLine(t *testing.T) {
	for _, c := range []struct {
		args string
		want string
	}{
		{"--bogus", "bogus"},
		{"serve", `unexpected argument "serve"`},
		{"--root=", "--root cannot be empty"},
		{"--addr /run/x.sock", "unix:///run/x.sock"},
		{"--addr ftp://x", `protocol "ftp"`},
		{"--addr unix://", "no place"},
		{"--group no-such-group-here", "no-such-group-here"},
		{"--driver-opt size", "KEY=VALUE"},
		{"--oci-worker-labels x", "KEY=VALUE"},
		{"--oci-worker-platform a/b/c/d", "a/b/c/d"},
		{"--oci-max-parallelism -1", "negative"},
		{"--oci-max-parallelism x", "oci-max-parallelism"},
		{"--oci-worker-gc-keepstorage 1,2,3,4", "more than three"},
		{"--oci-worker-gc-keepstorage 1,x", `"x"`},
		{"--allow-insecure-entitlement everything", "everything"},
		{"--log-format xml", "xml"},
		{"build", "exactly one CONTEXT"},
		{"build a b", "exactly one CONTEXT"},
		{"build /no/such/directory", "/no/such/directory"},
		{"build testdata", "Dockerfile"},
		{"build testdata/demo --output type=", "--output"},
		{"build testdata/demo --build-arg x", "KEY=VALUE"},
		{"build testdata/demo --secret foo=bar", "--secret"},
		{"build testdata/demo --progress fancy", "--progress"},
		{"build testdata/demo --nope", "nope"},
		{"check --nope", "nope"},
		{"check everything", `unexpected argument "everything"`},
		{"check --format xml", "xml"},
		{"check --root=", "--root cannot be empty"},
		{"check --root /a --dockerd-root /b", "cannot both"},
		{"check --dockerd-root=", "--dockerd-root cannot be empty"},
		{"check --driver nope", `unknown graph driver "nope"`},
		{"check --driver-opt size", "KEY=VALUE"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, stderr := runToEnd(t, graphsnapd(strings.Fields(c.args)...))
			if code != exitUsage || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, want %d and one line with %q:\n%s", code, exitUsage, c.want, stderr)
			}
		})
	}
}

func TestGCLimits(t *testing.T) {
	gc, err := gcFrom("10,20,30")
	if err != nil || gc.GCReservedSpace.Bytes != 10e6 || gc.GCMinFreeSpace.Bytes != 20e6 || gc.GCMaxUsedSpace.Bytes != 30e6 {
		t.Errorf(`limits of "10,20,30": %+v, %v`, gc, err)
	}
	off := false
	if gc.GC = &off; gcPolicy(gc, "/") != nil {
		t.Error("a policy although collection is switched off")
	}
	on := true
	gc.GC = &on
	policy := gcPolicy(gc, "/")
	if len(policy) == 0 || policy[len(policy)-1].MaxUsedSpace != 30e6 {
		t.Errorf("policy for 30 MB: %+v", policy)
	}
}
