package persist

// No bbolt before the pages were looked at.
//
// bbolt maps the file and believes it. Where a page is not what it should be it
// panics, in a goroutine of its own too, where nobody can recover, or reads beyond the
// end of the file, which kills the process, or, worst, uses a page for something else
// that is in use. So every Open reads all of the file first (pages.go), and a damaged one
// is refused: it takes somebody's decision to go on without what is lost. The pages are
// looked at where they lie in the page cache, where the load after it needs them anyway;
// it takes 0.12 microseconds for each snapshot.

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	bolterrors "go.etcd.io/bbolt/errors"
)

// openSound opens the file of a database for bbolt, locked, unless it is damaged.
func openSound(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(10 * time.Millisecond) {
		if err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		if time.Now().After(deadline) {
			err = bolterrors.ErrTimeout
			break
		}
	}
	if err == nil {
		err = sound(f)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// sound returns an error that says why bbolt must not see the file.
func sound(f *os.File) error {
	return withMapping(f, func(m mapping) error {
		if len(m) == 0 {
			return nil // bbolt makes a database of it
		}
		r, _, err := readPages(m, int64(len(m)), false)
		if err != nil || len(r.damage) == r.mild {
			return err
		}
		return fmt.Errorf("it is damaged, and was left as it is (graphsnapd check tells what can be saved): %s: %w", strings.Join(r.damage, "; "), errdefs.ErrDataLoss)
	})
}
