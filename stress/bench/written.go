package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// written is what this process has had written to disk.
type written struct {
	bytes        uint64
	transactions uint64 // of the database at path
}

func writtenSoFar(path string) (w written, err error) {
	if w.transactions, err = lastTransaction(path); err != nil {
		return w, err
	}
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return w, err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "write_bytes: "); ok {
			w.bytes, err = strconv.ParseUint(strings.TrimSpace(v), 10, 64)
		}
	}
	return w, err
}

// lastTransaction reads the number of the last transaction from the header of a
// bbolt database, which somebody may have open. bbolt writes the first two pages in
// turn; each holds, after 16 bytes of every page's own, magic, version, page size,
// flags (4 bytes each), the root bucket (16), the list of free pages, the end of
// the file (8 each) and the transaction (8), in the order of bytes of the machine.
func lastTransaction(path string) (last uint64, err error) {
	f, err := os.Open(path)
	if os.IsNotExist(err) {
		return 0, nil // of a database that is made by the first transaction
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const magic = 0xED0CDAED
	page := make([]byte, 80)
	size := int64(os.Getpagesize())
	for at := range int64(2) {
		if _, err := f.ReadAt(page, at*size); err != nil {
			return 0, err
		}
		if binary.NativeEndian.Uint32(page[16:]) != magic {
			return 0, fmt.Errorf("%s: page %d is not a header of bbolt's", path, at)
		}
		last = max(last, binary.NativeEndian.Uint64(page[64:]))
	}
	return last, nil
}

// since returns what was written per operation.
func (w written) since(before written, operations int) map[string]float64 {
	return map[string]float64{
		"fsyncs/op":     2 * float64(w.transactions-before.transactions) / float64(operations),
		"bytes written": float64(w.bytes-before.bytes) / float64(operations),
	}
}
