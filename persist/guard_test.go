package persist

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// databases are files as processes left them (testdata/README). bbolt draws where it
// puts pages, so they were written once.
func databases(t testing.TB) (all [][]byte) {
	t.Helper()
	names, err := filepath.Glob("testdata/*.db.gz")
	if err != nil || len(names) < 7 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		packed, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		unpacked, err := gzip.NewReader(packed)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(unpacked)
		if err := errors.Join(err, packed.Close()); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// mutate changes a file as edits say, six bytes each: where, in three bytes, what to
// do, and with what. The last bit of the first one says whether the sums of the meta
// pages are made to fit.
func mutate(file, edits []byte) []byte {
	file = bytes.Clone(file)
	fits := len(edits) > 0 && edits[0]&1 != 0
	for len(edits) > 0 {
		e := edits[:min(6, len(edits))]
		edits = edits[len(e):]
		if len(e) < 6 || len(file) == 0 {
			break
		}
		at := int(e[1]) | int(e[2])<<8 | int(e[3])<<16
		at %= len(file)
		switch e[4] % 6 {
		case 0:
			file[at] ^= 1 << (e[5] % 8)
		case 1:
			file[at] = e[5]
		case 2: // a small number, where pages have them
			at &^= 7
			if at+8 <= len(file) {
				binary.NativeEndian.PutUint64(file[at:], uint64(e[5]))
			}
		case 3:
			file = file[:at]
		case 4: // a page in place of another
			from := int(e[5]) * 4096
			at &^= 4095
			if from+4096 <= len(file) && at+4096 <= len(file) {
				copy(file[at:at+4096], bytes.Clone(file[from:from+4096]))
			}
		case 5: // a sector that was not written
			at &^= 511
			clear(file[at:min(at+512, len(file))])
		}
	}
	for _, at := range []int{0, 4096} {
		if fits && at+pageHeader+metaSize <= len(file) {
			meta := file[at+pageHeader:][:metaSize]
			sum := fnv.New64a()
			_, _ = sum.Write(meta[:metaSize-8])
			binary.NativeEndian.PutUint64(meta[metaSize-8:], sum.Sum64())
		}
	}
	return file
}

// FuzzOpenMutated opens real databases that were damaged. Either that is said, and
// the file is left as it was, or the database can be read, written to, and opened again.
func FuzzOpenMutated(f *testing.F) {
	_ = log.SetLevel("panic")
	files := databases(f)
	for i := range files {
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{1, 32, 0, 0, 2, 3})        // the root of the first meta page
		f.Add(uint8(i), []byte{1, 26, 0, 0, 2, 32})       // the size of pages
		f.Add(uint8(i), []byte{0, 8, 0x20, 0, 1, 1})      // the kind of a page
		f.Add(uint8(i), []byte{0, 0, 0x40, 0, 4, 3})      // a page twice
		f.Add(uint8(i), []byte{0, 0, 0x30, 0, 3, 0})      // cut
		f.Add(uint8(i), []byte{0, 0x12, 0x30, 0, 1, 255}) // an element beyond its page
	}
	path := filepath.Join(f.TempDir(), "snapshots.db")
	f.Fuzz(func(t *testing.T, which uint8, edits []byte) {
		before := mutate(files[int(which)%len(files)], edits)
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		for round := range 2 {
			db, err := Open(context.Background(), path, Options{Boot: "another"})
			if err != nil {
				after, read := os.ReadFile(path)
				if read != nil || round > 0 || !bytes.Equal(before, after) || !errdefs.IsDataLoss(err) {
					t.Fatalf("in round %d, changed %v: %v", round, !bytes.Equal(before, after), err)
				}
				return
			}
			n := 0
			err = db.Load(func(Record) error { n++; return nil }, func(Removal) error { return nil }, nil)
			if err == nil {
				_, _ = db.Setting("names")
				err = db.Write(context.Background(), Put(active("new", "")), Delete("k000"), Commit(committed("name", "new", ""), "new"))
			}
			// What was written may stumble over a record that was garbled, but over no page.
			if errors.Is(err, errdefs.ErrDataLoss) || db.Err() != nil {
				t.Errorf("in round %d, %d records: %v", round, n, err)
			}
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

// What FuzzOpenMutated looks for, with edits that are drawn.
func TestOpenOfADamagedDatabase(t *testing.T) {
	files := databases(t)
	path := filepath.Join(t.TempDir(), "snapshots.db")
	random := rand.New(rand.NewPCG(1, 2))
	refused, opened := 0, 0
	for range 400 {
		edits := make([]byte, 6*(1+random.IntN(3)))
		for i := range edits {
			edits[i] = byte(random.Uint32())
		}
		if err := os.WriteFile(path, mutate(files[random.IntN(len(files))], edits), 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(t.Context(), path, Options{Boot: "another"})
		if err != nil {
			refused++
			if !errdefs.IsDataLoss(err) {
				t.Errorf("%v: %v", edits, err)
			}
			continue
		}
		opened++
		if err := db.Load(func(Record) error { return nil }, func(Removal) error { return nil }, nil); err != nil {
			t.Errorf("%v: %v", edits, err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("%v: %v", edits, err)
		}
	}
	if refused < 50 || opened < 50 {
		t.Errorf("%d files were refused, %d opened", refused, opened)
	}
}
