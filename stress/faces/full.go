package faces

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
)

// Fill leaves no room on the file system of dir, but for what somebody frees meanwhile,
// and returns what makes room again.
func Fill(dir string) (room func() error, err error) {
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	// Small pieces at the end: what is left is less than the smallest.
	for _, piece := range []int64{1 << 20, 4096, 512} {
		for err == nil {
			_, err = io.CopyN(f, zeros{}, piece)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			return nil, errors.Join(err, f.Close(), os.Remove(name))
		}
		err = nil
	}
	return func() error { return os.Remove(name) }, f.Close()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
