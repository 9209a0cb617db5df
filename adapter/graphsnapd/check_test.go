package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphsnap/graphsnap/adapter"
)

// unique is a build of which the result tells whether it came from the cache.
const unique = "FROM scratch\nCOPY bin/ /bin/\nRUN [\"/bin/busybox\", \"cp\", \"/proc/sys/kernel/random/uuid\", \"/id\"]\n"

// check runs `graphsnapd check` on the daemon's root.
func (d *testDaemon) check(args ...string) (code int, stdout, stderr string) {
	d.t.Helper()
	cmd := graphsnapd(append([]string{"check", "--root", d.root, "--driver", d.driver}, args...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	code, stderr = runToEnd(d.t, cmd)
	return code, out.String(), stderr
}

func (d *testDaemon) wantConsistent() {
	d.t.Helper()
	if code, out, stderr := d.check(); code != 0 || !strings.Contains(out, "consistent: ") || stderr != "" {
		d.t.Errorf("exit code %d, want 0 and that all is consistent:\n%s%s", code, out, stderr)
	}
	code, out, _ := d.check("--format", "json")
	var result checkResult
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != 0 || !result.Consistent || result.Findings == nil {
		d.t.Errorf("exit code %d, %v:\n%s", code, err, out)
	}
}

// wantSound expects nothing but what the next start mends: a daemon may end between the
// moment when the last lease of a snapshot goes and its removal.
func (d *testDaemon) wantSound() {
	d.t.Helper()
	code, out, stderr := d.check("--format", "json")
	var result checkResult
	if err := json.Unmarshal([]byte(out), &result); err != nil || (code == 0) != result.Consistent {
		d.t.Errorf("exit code %d, %v:\n%s%s", code, err, out, stderr)
	}
	for _, f := range result.Findings {
		if !f.Note && f.Remedy != adapter.RemedyStart {
			d.t.Errorf("found: %v", f)
		}
	}
}

// id builds and returns what the build wrote.
func (d *testDaemon) id(root, dir string) string {
	d.t.Helper()
	dest, err := os.MkdirTemp(root, "result-")
	if err != nil {
		d.t.Fatal(err)
	}
	d.mustBuildctl(buildctlVersions[0], buildArgs(dir, "--output", "type=local,dest="+dest)...)
	return readFile(d.t, filepath.Join(dest, "id"))
}

func TestCheck(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs", "btrfs"} {
		t.Run(driver, func(t *testing.T) {
			root := testRootFor(t, driver)
			d := startDaemon(t, root, driver)
			dir := writeContext(t, root, "context", unique)
			built := d.id(root, dir)
			lock := filepath.Join(d.root, "graphsnapd.lock")
			if code, _, stderr := d.check("--repair"); code != exitFailure || !strings.Contains(stderr, lock) {
				t.Errorf("check of a running daemon: exit code %d, want %d and an error that names %s:\n%s", code, exitFailure, lock, stderr)
			}
			d.terminate()
			d.wantSound()

			// A page of the database is garbled, and something is in the driver's home.
			home := filepath.Join(d.home(), map[string]string{"vfs": "dir", "btrfs": "subvolumes"}[driver])
			stray := filepath.Join(home, "stray")
			if driver != "btrfs" { // it would take a subvolume
				if err := os.Mkdir(stray, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			database := filepath.Join(d.root, "runc-"+driver, "snapshots.db")
			data := []byte(readFile(t, database))
			data[20] ^= 1 // of the first meta page
			writeFile(t, database, string(data), 0o600)
			code, out, stderr := d.check()
			if code != exitFailure || !strings.Contains(out, "damaged path ") || !strings.Contains(stderr, "inconsistencies") || strings.Count(stderr, "\n") != 1 {
				t.Errorf("exit code %d, want %d:\n%s%s", code, exitFailure, out, stderr)
			}
			if got := []byte(readFile(t, database)); !bytes.Equal(got, data) {
				t.Error("check changed the database")
			}
			_, out, _ = d.check("--repair", "--format", "json")
			var result checkResult
			if err := json.Unmarshal([]byte(out), &result); err != nil || result.Backup != database+".backup-1" || len(result.Repaired) != 1 {
				t.Errorf("%v:\n%s", err, out)
			}
			if got := []byte(readFile(t, result.Backup)); !bytes.Equal(got, data) {
				t.Error("the backup is not what the database was")
			}
			// What the directory is might be known from the backup, so it goes with a
			// second repair.
			if code, out, stderr = d.check("--repair"); code != 0 || driver != "btrfs" && !strings.Contains(out, "left: removing graph ID \"stray\"") {
				t.Errorf("exit code %d, want 0:\n%s%s", code, out, stderr)
			}

			again := startDaemon(t, root, driver)
			if id := again.id(root, dir); id != built {
				t.Errorf("built %q, want %q from the cache", id, built)
			}
			again.waitFor("the end of the stray directory", func() bool { _, err := os.Lstat(stray); return err != nil })
			again.pruneAll(buildctlVersions[0])
			again.terminate()
			again.wantConsistent()
		})
	}
}

// What a daemon leaves that was killed in the middle of a build is mended by the next
// start, as the report says.
func TestCheckAfterKill(t *testing.T) {
	for _, driver := range []string{"overlay2", "vfs"} {
		t.Run(driver, func(t *testing.T) {
			root := testRootFor(t, driver)
			d := startDaemon(t, root, driver)
			result := startSleeper(t, d, root)
			d.kill()
			<-result
			code, out, stderr := d.check("--format", "json")
			var r checkResult
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("exit code %d: %v\n%s%s", code, err, out, stderr)
			}
			unclean := false
			for _, f := range r.Findings {
				unclean = unclean || f.Kind == "unclean-stop"
				if !f.Note && f.Remedy != adapter.RemedyStart {
					t.Errorf("found: %v", f)
				}
			}
			if !unclean {
				t.Errorf("that the daemon was killed is not told:\n%s", out)
			}
			again := startDaemon(t, root, driver)
			dir := writeContext(t, root, "after", unique)
			again.id(root, dir)
			again.pruneAll(buildctlVersions[0]) // which waits for what no lease names
			again.terminate()
			again.wantConsistent()
		})
	}
}

// dockerd keeps the same files elsewhere, and shares the driver's home with images and
// containers: what nobody names there is told, and left.
func TestCheckOfADockerdRoot(t *testing.T) {
	root := testRootFor(t, "overlay2")
	d := startDaemon(t, root, "overlay2")
	d.id(root, writeContext(t, root, "context", unique))
	d.pruneAll(buildctlVersions[0])
	d.terminate()
	data, builder := filepath.Join(root, "docker"), filepath.Join(d.root, "runc-overlay2")
	if err := os.MkdirAll(filepath.Join(data, "image", "overlay2", "layerdb"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"buildkit": builder, "overlay2": d.home()} {
		if err := os.Symlink(target, filepath.Join(data, name)); err != nil {
			t.Fatal(err)
		}
	}
	if code, stderr := runToEnd(t, graphsnapd("check", "--dockerd-root", data)); code != 0 {
		t.Errorf("exit code %d:\n%s", code, stderr)
	}
	if err := os.Mkdir(filepath.Join(d.home(), "stray"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := graphsnapd("check", "--dockerd-root", data, "--repair")
	var out bytes.Buffer
	cmd.Stdout = &out
	if code, _ := runToEnd(t, cmd); code != exitFailure || !strings.Contains(out.String(), "left: directory-unnamed graph ID \"stray\"") || strings.Contains(out.String(), "backup") {
		t.Errorf("exit code %d:\n%s", code, &out)
	}
}

func TestCheckWithoutDatabase(t *testing.T) {
	root := testRoot(t)
	code, stderr := runToEnd(t, graphsnapd("check", "--root", root))
	if code != exitFailure || !strings.Contains(stderr, filepath.Join(root, "runc-overlay2", "snapshots.db")) {
		t.Errorf("exit code %d, want %d:\n%s", code, exitFailure, stderr)
	}
	if code, stderr = runToEnd(t, graphsnapd("check", "--dockerd-root", root)); code != exitFailure || !strings.Contains(stderr, filepath.Join(root, "buildkit", "snapshots.db")) {
		t.Errorf("exit code %d, want %d:\n%s", code, exitFailure, stderr)
	}
	if entries, err := os.ReadDir(root); err != nil || len(entries) > 0 {
		t.Errorf("check made something: %v %v", entries, err)
	}
}
