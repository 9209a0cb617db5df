//go:build crashpoints

package adapter

// Machines that lose their power at a crash point, and what is found on the disk.
//
// The whole site lies on a file system of its own, on a disk that is a file. A process
// is killed at a crash point. What that disk had got of the file system by then, which is
// what was synced and little more, is copied and mounted in place of the first one: what
// was in the page cache alone is gone. File systems order what they write in their own
// ways, so this is what real ones leave; package powerloss of stress/ grants less.

import (
	"bytes"
	"errors"
	"maps"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPowerLostAtEachCrashPoint needs the tag crashpoints, see `make crash-power`.
func TestPowerLostAtEachCrashPoint(t *testing.T) {
	if os.Geteuid() != 0 {
		cannot(t, "graph drivers mount, which needs root")
	}
	for driver, mkfs := range map[string][]string{
		"overlay2": {"mkfs.ext4", "-q", "-F"},
		"vfs":      {"mkfs.ext4", "-q", "-F"},
		"btrfs":    {"mkfs.btrfs", "-q"},
	} {
		t.Run(driver, func(t *testing.T) {
			k := &killer{site: bareSite(t, driver), died: map[string]int{}}
			k.disk = k.note("disk of the machine")
			mountImage(t, k.disk, k.root, 256, mkfs...)
			t.Cleanup(func() { must(t, k.unmountAll(t)) }) // btrfs mounts its home on itself
			must(t, errors.Join(os.Mkdir(k.path("tmp"), 0o700), os.Mkdir(k.path(driver), 0o700), k.synced()))
			t.Parallel()
			for _, sc := range scenes {
				if !sc.layers {
					k.powerLost(t, sc)
				}
			}
			for _, sc := range ends {
				if !sc.layers && !sc.anew {
					k.powerLostInRecovery(t, sc)
				}
			}
			k.process(t, assignment{})
			t.Logf("%d combinations of operation, crash point and occurrence", k.combinations)
		})
	}
}

// powerLost has the power go after each crash point of sc, and after its end.
func (k *killer) powerLost(t *testing.T, sc scene) {
	t.Helper()
	for _, at := range k.moments(t, assignment{Scene: sc.name}) {
		if !at.Done { // else the disk has what it had after the one before
			continue
		}
		for try := 1; try <= tries; try++ {
			if k.killedAt(t, assignment{Scene: sc.name, At: at}) {
				k.combinations++
				break
			}
		}
	}
}

// powerLostInRecovery has the power go where sc ends, and then after each crash point
// in the recovery from that.
func (k *killer) powerLostInRecovery(t *testing.T, sc scene) {
	t.Helper()
	leave := assignment{Scene: sc.name}
	open := assignment{Scene: sc.name, Opening: true}
	k.process(t, leave)
	for _, open.At = range k.moments(t, open) {
		if !open.At.Done {
			continue
		}
		for try := 1; try <= tries; try++ {
			k.process(t, leave)
			if k.killedAt(t, open) {
				k.combinations++
				break
			}
		}
	}
}

// losePower puts what the disk has in the place of what the file system shows, as in
// another run of the machine.
func (k *killer) losePower(t *testing.T) {
	t.Helper()
	later := k.disk + ".later"
	must(t, copyAtOneMoment(later, k.disk))
	must(t, errors.Join(k.unmountAll(t), unix.Unmount(k.root, 0), os.Rename(later, k.disk)))
	if out, err := exec.Command("mount", "-o", "loop", k.disk, k.root).CombinedOutput(); err != nil {
		t.Fatalf("what the power loss left cannot be mounted: %v: %s", err, out)
	}
	db, err := os.ReadFile(k.path("snapshots.db"))
	must(t, err)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	boot = bytes.TrimSpace(boot)
	db = bytes.ReplaceAll(db, boot, bytes.Repeat([]byte{'-'}, len(boot)))
	must(t, os.WriteFile(k.path("snapshots.db"), db, 0o600))
}

// unmountAll unmounts what is mounted below the site's file system.
func (k *killer) unmountAll(t *testing.T) (err error) {
	for _, point := range k.mounts(t) {
		err = errors.Join(err, unix.Unmount(point, 0))
	}
	return err
}

// copyAtOneMoment copies a file that the kernel may still write to, as it was at some
// moment: until two copies are the same.
func copyAtOneMoment(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	st, err := r.Stat()
	if err != nil {
		return err
	}
	last, err := readSparse(r)
	for again := (sparse)(nil); err == nil; last = again {
		if again, err = readSparse(r); maps.EqualFunc(last, again, bytes.Equal) {
			break
		}
	}
	if err != nil {
		return err
	}
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	err = w.Truncate(st.Size())
	for at, data := range last {
		_, failed := w.WriteAt(data, at)
		err = errors.Join(err, failed)
	}
	return errors.Join(err, w.Close())
}

// sparse is what a file holds between its holes, by where that begins.
type sparse map[int64][]byte

func readSparse(f *os.File) (sparse, error) {
	all := sparse{}
	for end := int64(0); ; {
		begin, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return all, nil
		}
		if err == nil {
			end, err = f.Seek(begin, unix.SEEK_HOLE)
		}
		if err != nil {
			return nil, err
		}
		all[begin] = make([]byte, end-begin)
		if _, err := f.ReadAt(all[begin], begin); err != nil {
			return nil, err
		}
	}
}
