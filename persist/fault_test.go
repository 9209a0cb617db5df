package persist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// faultEnv makes the test binary a process that writes to the database it names below
// strace, which has system calls fail.
const faultEnv = "GRAPHSNAP_PERSIST_FAULT"

const faultWrites = 4

// writeWithFaults tells of each write whether it was acknowledged (ok), never was
// (noroom), is not known to be durable (unknown) or was refused since, and then how
// many records it reads.
func writeWithFaults(path string) {
	ctx := context.Background()
	db, err := open(ctx, path, Options{Boot: "run"}, func(e env) env {
		durable := e.commit
		e.commit = func(tx *bolt.Tx) error {
			runtime.LockOSThread() // strace counts for each thread
			return durable(tx)
		}
		return e
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for i := range faultWrites {
		switch err := db.Write(ctx, Put(active(fmt.Sprint("k", i), ""))); {
		case err == nil:
			fmt.Println("ok")
		case !errdefs.IsUnavailable(err):
			fmt.Println("wrong class:", err)
		case errors.Is(err, ErrNoRoom):
			fmt.Println("noroom")
		case errors.Is(err, ErrIndeterminate):
			fmt.Println("unknown")
		default:
			fmt.Println("refused")
		}
	}
	n := 0
	err = db.Load(func(Record) error { n++; return nil }, func(Removal) error { return nil }, nil)
	fmt.Println("read", n, err)
	os.Exit(0)
}

// P9: every sync and every write of a page fails in turn, of a real file. After a
// failed sync nothing is written any more and reads go on, and Open writes a full copy;
// where there was no room, the same process goes on. Where the first transaction of a
// process does not come to its meta page there is nothing to copy: pages that were not
// written are pages that nothing refers to.
func TestEachSyncAndEachPageFailsInTurn(t *testing.T) {
	for _, fault := range []string{"fdatasync:error=EIO", "pwrite64:error=EIO", "pwrite64:error=ENOSPC"} {
		t.Run(fault, func(t *testing.T) {
			outcomes := map[string]int{}
			for n := 1; ; n++ {
				said := failAt(t, fault, n)
				outcomes[said]++
				if t.Failed() {
					t.Fatalf("at call %d: %s", n, said)
				}
				if said == strings.Repeat("ok ", faultWrites) {
					if n < 2*faultWrites {
						t.Errorf("%d calls only", n-1)
					}
					break
				}
			}
			t.Log(outcomes)
		})
	}
}

func failAt(t *testing.T, fault string, n int) string {
	t.Helper()
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	s.openIn("run")
	s.write(Put(active("before", "")))
	s.close()
	inode := s.inode()

	call, _, _ := strings.Cut(fault, ":")
	cmd := exec.Command("strace", "-f", "-o", os.DevNull, "-e", "trace="+call, "-e", "signal=none",
		"-e", fmt.Sprintf("inject=%s:when=%d", fault, n), os.Args[0])
	cmd.Env = append(os.Environ(), faultEnv+"="+s.path)
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		cannot(t, "strace is not installed")
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	words := strings.Split(string(bytes.TrimSpace(out)), "\n")
	read := words[len(words)-1]
	words = words[:len(words)-1]

	s.openIn("run")
	defer s.close()
	if copied := s.inode() != inode; copied != (s.Ended() == Died) {
		t.Errorf("ended %v, copied %v", s.Ended(), copied)
	} else if !copied && words[0] == "ok" {
		t.Error("it was not copied")
	}
	records := s.load().records
	hurt, acknowledged := false, 1
	for i, word := range words {
		_, there := records[fmt.Sprint("k", i)]
		switch word {
		case "ok":
			acknowledged++
			if !there || hurt {
				t.Errorf("write %d was acknowledged, is there: %v, after a failure: %v", i, there, hurt)
			}
		case "unknown":
			if hurt {
				t.Error("not the first failure is told as such")
			}
			hurt = true
		case "refused":
			if there || !hurt {
				t.Errorf("write %d was refused, is there: %v, after a failure: %v", i, there, hurt)
			}
		case "noroom":
			if there || !strings.HasSuffix(fault, "ENOSPC") {
				t.Errorf("write %d found no room, is there: %v", i, there)
			}
		default:
			t.Errorf("write %d: %s", i, word)
		}
	}
	// A transaction that is not known to be durable may be seen, or not.
	if read != fmt.Sprintf("read %d <nil>", acknowledged) && !(hurt && read == fmt.Sprintf("read %d <nil>", acknowledged+1)) {
		t.Errorf("%d records were acknowledged: %s", acknowledged, read)
	}
	s.write(Put(active("after", "")))
	return strings.Join(words, " ") + " "
}
