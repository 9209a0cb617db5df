package powerloss

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/graphsnap/graphsnap/persist"
)

func init() {
	roles["writes"] = writes
}

// writes is a process that opens the database in this run of the machine or another,
// makes some batches, and closes it in order or not.
func writes(root string, args []string) error {
	ctx := context.Background()
	boot, series, end := args[0], args[1], args[2]
	db, err := persist.Open(ctx, filepath.Join(root, "snapshots.db"), persist.Options{Boot: boot})
	if err != nil {
		return err
	}
	acknowledge("opened")
	for i, batch := range batches(series) {
		batch = append(batch, persist.Set("last", fmt.Sprintf("%s %d", series, i)))
		if err := db.Write(ctx, batch...); err != nil {
			return err
		}
		acknowledge("%s %d", series, i)
	}
	if end != "closed" {
		return nil // as if killed: nothing is written any more
	}
	if err := db.Close(); err != nil {
		return err
	}
	acknowledge("closed")
	return nil
}

// batches are small and large, of new records and changed ones, and of removals of
// so many that pages become free and are used again.
func batches(series string) (all [][]persist.Mutation) {
	active := func(key string, label int) persist.Mutation {
		r := persist.Record{Key: key, Kind: persist.Active, GraphID: key, Creating: label == 0, Created: 10}
		if label > 0 {
			r.Labels = map[string]string{"label": strings.Repeat("x", label)}
		}
		return persist.Put(r)
	}
	name := func(n int) string { return fmt.Sprintf("%s-%d", series, n) }
	all = append(all, []persist.Mutation{active(name(0), 0)}, []persist.Mutation{active(name(0), 10)})
	var many, gone []persist.Mutation
	for i := range 200 {
		many = append(many, active(name(100+i), 300), persist.Alias(name(200+i), "sha256:"+strings.Repeat("a", 64)))
		gone = append(gone, persist.Remove(name(100+i), name(100+i)))
	}
	return append(all,
		many,
		[]persist.Mutation{active(name(1), 20_000)}, // of several pages
		[]persist.Mutation{persist.Commit(persist.Record{Key: name(10), Kind: persist.Committed, GraphID: name(0), Created: 10}, name(0))},
		gone,
		[]persist.Mutation{persist.Delete(name(1)), active(name(2), 5000)},
		[]persist.Mutation{persist.Put(persist.Record{Key: name(3), Kind: persist.View, Parent: name(10), Created: 10})},
		[]persist.Mutation{persist.Put(persist.Record{Key: name(4), Kind: persist.Active, GraphID: name(5), Created: 10}), persist.Removed(name(100))},
	)
}

// state is what a database holds, comparable, "" where there is none.
func state(ctx context.Context, root string) (string, error) {
	path := filepath.Join(root, "snapshots.db")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	db, err := persist.Open(ctx, path, persist.Options{Boot: "after the power loss"})
	if err != nil {
		return "", err
	}
	var lines []string
	err = db.Load(
		func(r persist.Record) error { lines = append(lines, fmt.Sprintf("%+v", r)); return nil },
		func(r persist.Removal) error { lines = append(lines, fmt.Sprintf("removal %+v", r)); return nil },
		func(l persist.Leftover) {
			lines = append(lines, fmt.Sprintf("leftover %+v", l))
			if l.Oddity != persist.Aliased {
				err = fmt.Errorf("%q is odd: %d, %w", l.Key, l.Oddity, l.Err)
			}
		},
	)
	slices.Sort(lines)
	if last, ok := db.Setting("last"); ok {
		lines = append(lines, "last "+last)
	}
	if beside, _ := filepath.Glob(path + "?*"); len(beside) > 0 {
		err = errors.Join(err, fmt.Errorf("%q are left", beside))
	}
	return strings.Join(lines, "\n"), errors.Join(err, db.Close())
}

// sound has bbolt look for pages that are lost, or used twice.
func sound(root string) error {
	db, err := bolt.Open(filepath.Join(root, "snapshots.db"), 0o600, &bolt.Options{ReadOnly: true, PreLoadFreelist: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.View(func(tx *bolt.Tx) (err error) {
		for broken := range tx.Check() {
			err = errors.Join(err, broken)
		}
		return err
	})
}

// inMemory mounts a file system that takes images quickly.
func inMemory(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1g"); err != nil {
		if os.Getenv("CI") != "true" {
			t.Skip("cannot mount a tmpfs: ", err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// P1 of the database, whatever the power loss leaves of the writes of a commit: the
// state is that before or after a batch, and never one before what was acknowledged.
func TestDatabaseAfterAPowerLoss(t *testing.T) {
	root := inMemory(t)
	for _, c := range []struct{ name, boot, series, end string }{
		{"created and closed", "first", "a", "closed"},
		{"killed", "first", "b", "killed"},
		{"copied after the kill, and killed", "first", "c", "killed"},
		{"copied and closed", "first", "d", "closed"},
		{"another run of the machine, killed", "second", "e", "killed"},
		{"not copied after a restart of the machine", "third", "f", "closed"},
	} {
		t.Run(c.name, func(t *testing.T) { // each on what the one before left
			r := record(t, root, "writes", c.boot, c.series, c.end)
			after, err := state(t.Context(), cutDatabase(t, r))
			must(t, err)
			if !strings.Contains(after, c.series+"-10") {
				t.Errorf("the process left the state %.200q", after)
			}
		})
		if t.Failed() {
			return
		}
	}
}

// The same while Open writes anew what is mostly free pages.
func TestDatabaseWithoutItsFreePagesAfterAPowerLoss(t *testing.T) {
	root := inMemory(t)
	path := filepath.Join(root, "snapshots.db")
	db, err := persist.Open(t.Context(), path, persist.Options{Boot: "first"})
	must(t, err)
	var pruned []persist.Mutation
	for i := range 20 { // each of a megabyte
		r := persist.Record{Key: fmt.Sprint("large-", i), Kind: persist.Active, Labels: map[string]string{}}
		r.GraphID = r.Key
		for l := range 250 {
			r.Labels[fmt.Sprint(l)] = strings.Repeat("x", 4000)
		}
		must(t, db.Write(t.Context(), persist.Put(r)))
		pruned = append(pruned, persist.Delete(r.Key))
	}
	must(t, db.Write(t.Context(), append(batches("kept")[2], pruned...)...))
	must(t, db.Close())
	before, err := os.Stat(path)
	must(t, err)

	dir := cutDatabase(t, record(t, root, "writes", "first", "g", "closed"))
	after, err := os.Stat(filepath.Join(dir, "snapshots.db"))
	must(t, err)
	if after.Size() > before.Size()/8 {
		t.Errorf("of %d bytes %d are left", before.Size(), after.Size())
	}
	if got, err := state(t.Context(), dir); err != nil || !strings.Contains(got, "kept-100") || !strings.Contains(got, "g-10") {
		t.Errorf("the process left the state %.200q, %v", got, err)
	}
}

// cutDatabase checks every moment of a recording. It returns a directory with what
// was there at the last.
func cutDatabase(t *testing.T, r *recording) string {
	t.Helper()
	random := rand.New(rand.NewPCG(1, uint64(len(r.ops))))
	dir := inMemory(t)
	commits := r.commits(t, dir)
	moments := r.moments()
	images := 0
	for _, m := range moments {
		allowed := commits.at(m.at)
		m.images(powerlosses(64), random, func(fates []fate) {
			images++
			must(t, m.image(fates, random).layOut(dir))
			got, err := state(t.Context(), dir)
			switch {
			case err != nil:
				t.Fatalf("%s: %v", m.describe(fates), err)
			case !slices.Contains(allowed, got):
				t.Fatalf("%s: the state is neither that before the batch nor that after it:\n%s", m.describe(fates), got)
			case got == "" || images%4 != 0:
				return
			}
			if err := errors.Join(sound(dir), goesOn(dir)); err != nil {
				t.Fatalf("%s: %v", m.describe(fates), err)
			}
		})
	}
	t.Logf("%d images of %d writes and changes of directories, %d syncs, %d commits", images, len(r.ops), len(r.syncs), len(commits))
	must(t, moments[len(moments)-1].full().layOut(dir))
	return dir
}

// commit is a write of the page that makes a transaction the last one, and the state
// that it leaves.
type commit struct {
	ended, durable int
	state          string
}

type commits []commit

// commits finds the states that the database had, and checks that each was
// acknowledged only when it was durable.
func (r *recording) commits(t *testing.T, dir string) commits {
	t.Helper()
	is := func(o *op) bool { // a page of bbolt's that bears its magic
		return o.file != nil && o.off <= os.Getpagesize() && len(o.data) >= os.Getpagesize() && bytes.Equal(o.data[16:20], []byte{0xed, 0xda, 0x0c, 0xed})
	}
	at := func(ended, durable int) commit {
		m := moment{recording: r, at: ended}
		must(t, m.full().layOut(dir))
		s, err := state(t.Context(), dir)
		must(t, err)
		return commit{ended, durable, s}
	}
	all := commits{at(-1, -1)}
	for _, o := range r.ops {
		if is(o) {
			all = append(all, at(o.ended, o.durable))
		}
	}
	for _, a := range r.acks {
		if states := all.at(a.ended); strings.Contains(a.line, " ") && (len(states) != 1 || !strings.HasSuffix(states[0], "last "+a.line)) {
			t.Errorf("%q was acknowledged before it was durable", a.line)
		}
	}
	return all
}

// at are the states that the database may have at a moment: that of the last commit
// which was durable, and those after it.
func (c commits) at(at int) (states []string) {
	for _, c := range c {
		if c.durable <= at {
			states = states[:0]
		}
		if c.ended <= at {
			states = append(states, c.state)
		}
	}
	return states
}

func (m *moment) describe(fates []fate) string {
	var s strings.Builder
	fmt.Fprintf(&s, "power lost after %d acknowledgements", len(m.acknowledged()))
	for i, p := range m.pending {
		o := m.ops[p]
		fmt.Fprintf(&s, "\n  %s of %d bytes at %d: %s", o.what, len(o.data), o.off, [...]string{"lost", "kept", "torn"}[fates[i]])
	}
	return s.String()
}

// goesOn writes to the database that is there, and reads it back.
func goesOn(root string) error {
	ctx := context.Background()
	path := filepath.Join(root, "snapshots.db")
	db, err := persist.Open(ctx, path, persist.Options{Boot: "later"})
	if err != nil {
		return err
	}
	err = db.Write(ctx, persist.Put(persist.Record{Key: "later", Kind: persist.Active, GraphID: "later"}))
	if err = errors.Join(err, db.Close(), sound(root)); err != nil {
		return err
	}
	s, loaded := state(ctx, root)
	if loaded == nil && !strings.Contains(s, "Key:later") {
		return errors.New("what was written later is gone")
	}
	return errors.Join(err, loaded)
}
