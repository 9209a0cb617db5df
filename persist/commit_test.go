package persist

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// gate is an env whose commits wait for the test.
type gate struct {
	arrived chan struct{} // a commit begins
	release chan error    // it goes on, or fails with what was sent
	begun   atomic.Int64  // transactions
	closed  atomic.Bool   // commits wait no longer
}

func newGate() *gate {
	return &gate{arrived: make(chan struct{}), release: make(chan error)}
}

func (g *gate) change(e env) env {
	begin, commit := e.begin, e.commit
	e.begin = func() (*bolt.Tx, error) {
		g.begun.Add(1)
		return begin()
	}
	e.commit = func(tx *bolt.Tx) error {
		if !g.closed.Load() {
			g.arrived <- struct{}{}
			if err := <-g.release; err != nil {
				_ = tx.Rollback()
				return err
			}
		}
		return commit(tx)
	}
	return e
}

// openGated opens a database behind a gate, in a file of the test.
func openGated(t *testing.T, o Options) (*store, *gate) {
	t.Helper()
	g := newGate()
	s := &store{t: t, path: filepath.Join(t.TempDir(), "snapshots.db")}
	db, err := open(context.Background(), s.path, o, g.change)
	if err != nil {
		t.Fatal(err)
	}
	s.DB = db
	t.Cleanup(func() { _ = s.Close() })
	return s, g
}

// writes starts a Write per message and waits until all are queued.
func (s *store) writes(ctx context.Context, messages ...[]Mutation) []chan error {
	before := s.Stats().Queued
	results := make([]chan error, len(messages))
	for i, m := range messages {
		results[i] = make(chan error, 1)
		go func() { results[i] <- s.Write(ctx, m...) }()
	}
	for s.Stats().Queued < before+len(messages) {
		runtime.Gosched()
	}
	return results
}

// stall has the actor hang in the commit of a message of its own.
func (s *store) stall(g *gate, m ...Mutation) chan error {
	done := make(chan error, 1)
	go func() { done <- s.Write(context.Background(), m...) }()
	<-g.arrived
	return done
}

func TestBatchFormsWhileTheLastIsSynced(t *testing.T) {
	s, g := openGated(t, Options{})
	first := s.stall(g, Put(active("first", "")))
	var messages [][]Mutation
	want := []Record{active("first", "")}
	for i := range 100 {
		r := active(fmt.Sprint("k", i), "")
		want = append(want, r)
		messages = append(messages, []Mutation{Put(r)})
	}
	results := s.writes(context.Background(), messages...)
	select {
	case err := <-results[0]:
		t.Fatalf("answered before its transaction was durable: %v", err)
	default:
	}
	g.release <- nil
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	<-g.arrived
	g.release <- nil
	for _, r := range results {
		if err := <-r; err != nil {
			t.Fatal(err)
		}
	}
	if n := g.begun.Load(); n != 2 {
		t.Errorf("%d transactions for a message and a hundred that came during its fsync, want 2", n)
	}
	if st := s.Stats(); st.Transactions != 2 || st.Messages != 101 || st.Mutations != 101 || st.Queued != 0 || st.Committing <= 0 {
		t.Errorf("stats: %+v", st)
	}
	s.wantRecords(want...)
}

func TestBatchIsBounded(t *testing.T) {
	s, g := openGated(t, Options{Batch: 3})
	first := s.stall(g, Put(active("first", "")))
	var messages [][]Mutation
	for i := range 7 {
		messages = append(messages, []Mutation{Put(active(fmt.Sprint("k", i), ""))})
	}
	results := s.writes(context.Background(), messages...)
	g.closed.Store(true)
	g.release <- nil
	for _, r := range append(results, first) {
		if err := <-r; err != nil {
			t.Fatal(err)
		}
	}
	if n := g.begun.Load(); n != 1+3 {
		t.Errorf("%d transactions for 1 and 7 messages in batches of 3", n)
	}
}

func TestMessageIsAllOrNothingAndFailsAlone(t *testing.T) {
	s, g := openGated(t, Options{})
	first := s.stall(g, Put(active("k", "")))
	results := s.writes(context.Background(),
		[]Mutation{Put(active("a", ""))},
	)
	results = append(results, s.writes(context.Background(),
		[]Mutation{Delete("k"), Put(active("half", "")), Commit(committed("n", "absent", ""), "absent")},
		[]Mutation{Commit(committed("m", "never", ""), "never")},
	)...)
	results = append(results, s.writes(context.Background(),
		[]Mutation{Put(active("b", "")), Commit(committed("n", "k", ""), "k")},
	)...)
	g.closed.Store(true)
	g.release <- nil
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	for i, fails := range []bool{false, true, true, false} {
		if err := <-results[i]; fails != errdefs.IsNotFound(err) || !fails && err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if s.Err() != nil {
		t.Errorf("degraded: %v", s.Err())
	}
	s.wantRecords(active("a", ""), active("b", ""), committed("n", "k", ""))
}

// bbolt panics where a page is not what it should be, as it does in a transaction
// that ended.
func TestPanicInATransactionFailsItsMessageAlone(t *testing.T) {
	g := newGate()
	path := filepath.Join(t.TempDir(), "snapshots.db")
	db, err := open(context.Background(), path, Options{}, func(e env) env {
		e = g.change(e)
		begin := e.begin
		e.begin = func() (*bolt.Tx, error) {
			tx, err := begin()
			if g.begun.Load() == 2 {
				_ = tx.Rollback()
			}
			return tx, err
		}
		return e
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &store{DB: db, t: t, path: path}
	first := s.stall(g, Put(active("first", "")))
	meets := s.writes(context.Background(), []Mutation{Put(active("meets it", ""))})
	neighbour := s.writes(context.Background(), []Mutation{Put(active("neighbour", ""))})
	g.closed.Store(true)
	g.release <- nil
	if err := errors.Join(<-first, <-neighbour[0]); err != nil {
		t.Error(err)
	}
	if err := <-meets[0]; err == nil || !strings.Contains(err.Error(), "panic") {
		t.Errorf("got %v", err)
	}
	s.wantRecords(active("first", ""), active("neighbour", ""))
	s.close()
}

func TestWriteIsRefusedOnceCancelled(t *testing.T) {
	s, g := openGated(t, Options{Mailbox: 1})
	first := s.stall(g, Put(active("first", "")))
	ctx, cancel := context.WithCancel(context.Background())
	queued := s.writes(ctx, []Mutation{Put(active("queued", ""))})
	waiting := make(chan error, 1)
	go func() { waiting <- s.Write(ctx, Put(active("waiting", ""))) }()
	cancel()
	if err := <-waiting; !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "snapshot database") {
		t.Errorf("a Write that waited for room: %v", err)
	}
	select {
	case err := <-queued[0]:
		t.Errorf("a queued Write did not wait for its outcome: %v", err)
	default:
	}
	g.closed.Store(true)
	g.release <- nil
	for _, r := range append(queued, first) {
		if err := <-r; err != nil {
			t.Error(err)
		}
	}
	s.wantRecords(active("first", ""), active("queued", ""))
}

func TestLaterRidesInOrder(t *testing.T) {
	s, g := openGated(t, Options{Idle: time.Hour})
	creating := active("k", "")
	creating.Creating = true
	g.closed.Store(true)
	s.write(Put(creating))
	s.Later(Put(active("k", "")))
	s.Later(Delete("never there"), Put(active("l", "")))
	s.Later(Commit(committed("n", "absent", ""), "absent")) // is dropped, and nobody is harmed
	s.Later(Put(Record{Key: ""}))                           // likewise
	s.write(Commit(committed("n", "k", ""), "k"))
	if n := s.Stats().Transactions; n != 2 {
		t.Errorf("%d transactions, want 2", n)
	}
	s.Later(Put(active("at close", "")))
	s.reopen()
	s.wantRecords(committed("n", "k", ""), active("l", ""), active("at close", ""))
}

func TestDroppedLaterIsLeftOut(t *testing.T) {
	s, g := openGated(t, Options{Idle: time.Hour})
	g.closed.Store(true)
	var none *Deferred
	none.Drop()
	dropped := s.Later(Put(active("dropped", "")))
	s.Later(Put(active("kept", "")))
	dropped.Drop()
	late := s.Later(Put(active("late", "")))
	s.write(Put(active("written", "")))
	late.Drop() // it is durable
	if n := s.Stats().Messages; n != 3 {
		t.Errorf("%d messages were made durable, want 3", n)
	}
	s.reopen()
	s.wantRecords(active("kept", ""), active("late", ""), active("written", ""))
}

func TestWriteOfNothingIsABarrier(t *testing.T) {
	s := newStore(t)
	s.write()
	if n := s.Stats().Transactions; n != 0 {
		t.Errorf("%d transactions for nothing", n)
	}
	s.Later(Put(active("k", "")))
	s.write()
	if st := s.Stats(); st.Transactions != 1 || st.Messages != 1 {
		t.Errorf("stats: %+v", st)
	}
}

func TestLaterGetsATransactionAfterIdle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	synctest.Test(t, func(t *testing.T) {
		db, err := Open(context.Background(), path, Options{Idle: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		db.Later(Put(active("a", "")))
		time.Sleep(30 * time.Second)
		db.Later(Put(active("b", "")))
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if n := db.Stats().Transactions; n != 0 {
			t.Errorf("%d transactions before the time is over", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if st := db.Stats(); st.Transactions != 1 || st.Messages != 2 {
			t.Errorf("after the time is over: %+v", st)
		}
		db.Later(Put(active("c", "")))
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		db.Later(Put(active("too late", "")))
	})
	s := &store{t: t, path: path}
	s.open()
	defer s.close()
	if got := s.load().records; len(got) != 3 {
		t.Errorf("records: %v", got)
	}
}

func TestFailedCommitIsIndeterminateAndFinal(t *testing.T) {
	s, g := openGated(t, Options{})
	first := s.stall(g, Put(active("a", "")))
	queued := s.writes(context.Background(), []Mutation{Put(active("b", ""))})
	g.release <- errors.New("input/output error")
	err := <-first
	if !errdefs.IsUnavailable(err) || !errors.Is(err, ErrIndeterminate) || !strings.Contains(err.Error(), "input/output error") || !strings.Contains(err.Error(), s.path) {
		t.Errorf("the batch that failed: %v", err)
	}
	s.Later(Put(active("c", "")))
	for _, err := range []error{<-queued[0], s.Write(context.Background(), Put(active("d", ""))), s.Write(context.Background()), s.Err()} {
		if !errdefs.IsUnavailable(err) || errors.Is(err, ErrIndeterminate) || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("after it: %v", err)
		}
	}
	if n := g.begun.Load(); n != 1 {
		t.Errorf("%d transactions, the one that failed is to be the last", n)
	}
	s.close()
	s.open()
	s.wantRecords()
}

func TestPanicInCommitIsAFailedCommit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	db, err := open(context.Background(), path, Options{}, func(e env) env {
		e.commit = func(*bolt.Tx) error { panic("page 7 is not a page") }
		return e
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Write(context.Background(), Put(active("a", ""))); !errors.Is(err, ErrIndeterminate) || !strings.Contains(err.Error(), "page 7") {
		t.Errorf("got %v", err)
	}
	if err := db.Close(); err != nil { // does not wait for the lock of the transaction
		t.Error(err)
	}
}

func TestBeginThatFailsIsNotIndeterminate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshots.db")
	db, err := open(context.Background(), path, Options{}, func(e env) env {
		e.begin = func() (*bolt.Tx, error) { return nil, bolterrors.ErrInvalidMapping }
		return e
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := db.Write(context.Background(), Put(active("a", ""))); !errdefs.IsUnavailable(err) || errors.Is(err, ErrIndeterminate) {
			t.Errorf("got %v", err)
		}
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
