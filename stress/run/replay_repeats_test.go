//go:build crashpoints

package run

import (
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// TestASeedThatFailsRepeats replays seeds of an engine with a bug until one fails, and
// then that one.
func TestASeedThatFailsRepeats(t *testing.T) {
	binary := plant(t, planted["a commit visible before it is durable"])
	replay := func(what string) string {
		cmd := exec.Command(binary, "-test.run=^TestReplays$")
		cmd.Env = append(os.Environ(), what)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	printed := regexp.MustCompile(seedEnv + "=[0-9]+")
	said := replay(seedsEnv + "=300")
	seed := printed.FindString(said)
	if seed == "" {
		t.Fatalf("no seed failed: %s", said)
	}
	const times = 5
	for i := range times {
		if said := replay(seed); printed.FindString(said) != seed {
			t.Errorf("%s failed, and not in replay %d of %d: %s", seed, i+1, times, said)
		}
	}
	t.Log(seed)
}
