package persist

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// A file that somebody cuts while it is open is an error of each call that meets the
// missing pages, and not the end of the process: neither a Write nor Close panics.
func TestFileThatIsCutWhileItIsOpen(t *testing.T) {
	for _, pages := range []int{0, 1, 2, 4} {
		for _, written := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d pages, written to afterwards: %v", pages, written), func(t *testing.T) {
				data, err := os.ReadFile(realistic(t, 300, true))
				if err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(t.TempDir(), "snapshots.db")
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				db, err := Open(context.Background(), path, Options{})
				if err != nil {
					t.Fatal(err)
				}
				if err := db.Write(context.Background(), Put(active("one", ""))); err != nil {
					t.Fatal(err)
				}
				if err := os.Truncate(path, int64(pages*os.Getpagesize())); err != nil {
					t.Fatal(err)
				}
				if written {
					if err := db.Write(context.Background(), Put(active("two", ""))); err == nil {
						t.Error("the Write succeeded")
					}
					if err := db.Write(context.Background(), Put(active("three", ""))); err == nil {
						t.Error("the Write after it succeeded")
					}
				}
				if err := db.Close(); err == nil && !written {
					t.Error("Close says that the file is whole")
				}
			})
		}
	}
}
