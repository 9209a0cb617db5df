package persist

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

// crashEnv makes the test binary a process that writes to the database it names,
// tells what was acknowledged, and is killed.
const crashEnv = "GRAPHSNAP_PERSIST_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		writeUntilKilled(path)
	}
	if path := os.Getenv(faultEnv); path != "" {
		writeWithFaults(path)
	}
	os.Exit(m.Run())
}

func writeUntilKilled(path string) {
	ctx := context.Background()
	db, err := Open(ctx, path, Options{})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	told := make(chan string)
	for writer := range 8 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("k%d-%d", writer, i)
				if err := db.Write(ctx, Put(active(key, ""))); err != nil {
					panic(err)
				}
				told <- key
				name := committed(fmt.Sprintf("n%d-%d", writer, i), key, "")
				db.Later(Put(active("later-"+key, "")))
				if err := db.Write(ctx, Commit(name, key)); err != nil {
					panic(err)
				}
				told <- name.Key
			}
		}()
	}
	for key := range told {
		fmt.Println(key)
	}
}

// P1 as far as a test without a power switch sees it.
func TestWhatWasAcknowledgedIsThereAfterKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	acknowledged := map[string]bool{}
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acknowledged[lines.Text()] = true
			if n == 200 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed

		s := &store{t: t, path: path}
		s.open()
		c := s.load()
		for key := range acknowledged {
			name := "n" + key[1:]
			if _, ok := c.records[key]; !ok && (key[0] == 'n' || c.records[name].Kind != Committed) {
				t.Errorf("%s was acknowledged and is gone", key)
			}
			if _, ok := c.records["later-k"+key[1:]]; !ok && key[0] == 'n' {
				t.Errorf("%s is there and what was given to Later before it is not", key)
			}
		}
		if len(c.leftovers) != 0 {
			t.Errorf("leftovers: %v", c.leftovers)
		}
		acknowledged = map[string]bool{} // the next process uses the same keys
		var all []Mutation
		for key := range c.records {
			all = append(all, Delete(key))
		}
		s.write(all...)
		s.wantDockerdSees(buckets{})
		s.close()
	}
}

// P9 on a file system that is really full.
func TestFullDiskRefusesWritesAndLosesNothing(t *testing.T) {
	dir := smallDisk(t, "1m")
	s := &store{t: t, path: filepath.Join(dir, "snapshots.db")}
	s.open()
	acknowledged := map[string]bool{}
	var err error
	for i := 0; err == nil && i < 10_000; i++ {
		r := active(fmt.Sprint("k", i), "")
		r.Labels = map[string]string{"filler": strings.Repeat("x", 4096)}
		if err = s.Write(t.Context(), Put(r)); err == nil {
			acknowledged[r.Key] = true
		}
	}
	if !errdefs.IsUnavailable(err) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if s.Err() != nil {
		t.Errorf("the database was not hurt, and writes are refused: %v", s.Err())
	}
	want := func() {
		t.Helper()
		records := s.load().records
		for key := range acknowledged {
			if _, ok := records[key]; !ok {
				t.Errorf("%s was acknowledged and is gone", key)
			}
		}
		if len(records) != len(acknowledged) {
			t.Errorf("%d records, %d were acknowledged", len(records), len(acknowledged))
		}
	}
	want()
	if err := syscall.Mount("none", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	// Without a restart.
	s.write(Delete("k0"), Put(active("roomy", "")))
	delete(acknowledged, "k0")
	acknowledged["roomy"] = true
	want()
	s.reopen()
	want()
	s.close()
}
