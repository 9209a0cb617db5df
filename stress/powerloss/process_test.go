package powerloss

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/log"
	"github.com/moby/sys/reexec"
)

// With these in the environment the test binary is a process that is recorded: what
// it does, and in which directory.
const (
	roleEnv = "GRAPHSNAP_POWERLOSS_ROLE"
	argsEnv = "GRAPHSNAP_POWERLOSS_ARGS"
)

// roles are the processes that are recorded. What they write to standard output is
// what they acknowledge.
var roles = map[string]func(root string, args []string) error{}

func TestMain(m *testing.M) {
	if reexec.Init() { // of overlay2
		return
	}
	if role := os.Getenv(roleEnv); role != "" {
		args := strings.Split(os.Getenv(argsEnv), "\n")
		if err := roles[role](args[0], args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	log.L.Logger.SetOutput(io.Discard) // losses are many, and each is logged
	os.Exit(m.Run())
}

// acknowledge writes a line at one stroke.
func acknowledge(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
