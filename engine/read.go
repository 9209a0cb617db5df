package engine

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
)

// lookup returns what key names. It takes no lock and waits for nobody, but for a
// layer that a lease names and that was not borrowed yet.
func (e *Engine) lookup(ctx context.Context, key string) (*body, error) {
	if b := e.keys.Load(key).visible(); b != nil && !e.closed.Load() && ctx.Err() == nil {
		return b, nil
	}
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("snapshot %q: %w", abridged(key), context.Cause(ctx))
	case e.closed.Load():
		return nil, fmt.Errorf("snapshot %q: %w", abridged(key), errClosed)
	}
	if err := checkKey("key", key); err != nil {
		return nil, err
	}
	if l := e.lender(key); l != nil {
		if s := e.keys.Load(key); s != nil && len(s.leases) > 0 {
			if !e.gate.Enter() {
				return nil, errClosed
			}
			defer e.gate.Leave()
			return e.borrowLayer(ctx, key, false)
		}
		return e.borrowedBody(l), nil
	}
	return nil, errNotFound(key)
}

// Stat returns what is known of key. It does not block, also while key itself is
// being committed, measured or mounted. The caller may change the labels.
//
// Errors: ErrNotFound, ErrInvalidArgument for a key that cannot be,
// ErrUnavailable after Close, and the cause of a ctx that has ended.
func (e *Engine) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	b, err := e.lookup(ctx, key)
	if err != nil {
		return info, fmt.Errorf("stat: %w", err)
	}
	b.tell(key, &info)
	return info, nil
}

// Walk calls fn for every snapshot that one of the filters matches, or for every
// snapshot where there are none, in no order. The filters are containerd's, on
// name, parent, kind and labels. Nothing is locked meanwhile: fn may call the
// engine, and what it is told was true at some moment of the call. A snapshot that
// is there throughout is passed exactly once, also where a Commit moves it from
// its key to a name meanwhile: then under one of the two.
//
// Errors: ErrInvalidArgument for a filter that does not parse, ErrUnavailable
// after Close, the cause of ctx, and what fn returns, which ends the walk.
func (e *Engine) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := filters.ParseAll(fs...)
	if err != nil {
		return fmt.Errorf("walk: filter: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if e.closed.Load() {
		return errClosed
	}
	found, err := e.collect(ctx, filter)
	if err != nil {
		return err
	}
	for i := range found {
		if ctx.Err() != nil {
			return errWalkEnded(ctx)
		}
		if err := fn(ctx, found[i].body.info(found[i].key)); err != nil {
			return err
		}
	}
	return nil
}

func errWalkEnded(ctx context.Context) error { return fmt.Errorf("walk: %w", context.Cause(ctx)) }

// walked is one snapshot that a walk found. It adapts it to filters.
type walked struct {
	key  string
	body *body
}

// Field implements filters.Adaptor.
func (w *walked) Field(path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	switch path[0] {
	case "name":
		return w.key, true
	case "parent":
		return w.body.parent, w.body.parent != ""
	case "kind":
		switch w.body.kind {
		case snapshots.KindActive:
			return "active", true
		case snapshots.KindView:
			return "view", true
		case snapshots.KindCommitted:
			return "committed", true
		}
	case "labels":
		v, ok := w.body.labels[strings.Join(path[1:], ".")]
		return v, ok
	}
	return "", false
}

// sieve keeps what a filter lets through. What it is given waits until there is some
// more: that of several is then fetched from memory at once, see actors.Owners.Range.
type sieve struct {
	filter  filters.Filter
	waiting [32]walked
	n       int
	passed  []walked

	labels int // of all that was given, which nobody asks for: to count them is to fetch them
}

// add answers whether those that waited were sieved.
func (s *sieve) add(w walked) bool {
	s.waiting[s.n] = w
	if s.n++; s.n < len(s.waiting) {
		return false
	}
	s.sift()
	return true
}

func (s *sieve) sift() {
	for i := range s.waiting[:s.n] {
		s.labels += len(s.waiting[i].body.labels)
	}
	for i := range s.waiting[:s.n] {
		if s.filter.Match(&s.waiting[i]) {
			s.passed = append(s.passed, s.waiting[i])
		}
	}
	s.n = 0
}

// collect passes over all keys, takes what the filter lets through, and then mends
// what the commits did that happened meanwhile: such a snapshot may have been met
// under both of its keys, or under neither. The directory tells that it is the same.
func (e *Engine) collect(ctx context.Context, filter filters.Filter) ([]walked, error) {
	before := e.commits.settled()
	sieve := sieve{filter: filter}
	e.keys.Range(func(key string, s *state) bool {
		b := s.visible()
		return b == nil || !sieve.add(walked{key, b}) || ctx.Err() == nil
	})
	if ctx.Err() != nil {
		return nil, errWalkEnded(ctx)
	}
	sieve.sift()
	moved := map[string]*moving{}
	for c := before.next.Load(); c != nil; c = c.next.Load() {
		moved[c.flip.body.graphID] = c
	}
	if len(moved) == 0 {
		return sieve.passed, nil
	}
	found := sieve.passed
	once := found[:0]
	names := make(map[string]struct{}, len(found))
	passed := make(map[string]struct{}, len(moved))
	for _, w := range found {
		if _, ok := moved[w.body.graphID]; ok && w.body.owned() {
			if _, again := passed[w.body.graphID]; again {
				continue
			}
			passed[w.body.graphID] = struct{}{}
		}
		names[w.key] = struct{}{}
		once = append(once, w)
	}
	// One that the filter did not let through under its key may pass under its name.
	sieve.passed = once
	for graphID, c := range moved {
		_, met := passed[graphID]
		_, taken := names[c.name]
		if met || taken {
			continue
		}
		if b := e.keys.Load(c.name).visible(); b != nil && b.serial == c.flip.body.serial {
			sieve.add(walked{c.name, b})
		}
	}
	sieve.sift()
	return sieve.passed, nil
}

// moving is an entry in the log of commits: a snapshot that a flip moves to name.
type moving struct {
	name string
	flip *flip
	next atomic.Pointer[moving]
}

// commitLog lets a walk see the commits that happen during it. An entry is
// appended before its flip. The list is known from the last entry up to which all
// flips are done; a walk that began there holds on to the entries it needs, and
// those that nobody holds on to are garbage.
type commitLog struct{ from atomic.Pointer[moving] }

func newCommitLog() *commitLog {
	l := &commitLog{}
	l.from.Store(&moving{})
	return l
}

// settled returns an entry that is followed by every flip that is not done.
func (l *commitLog) settled() *moving {
	for {
		from := l.from.Load()
		next := from.next.Load()
		if next == nil || !next.flip.done.Load() {
			return from
		}
		l.from.CompareAndSwap(from, next)
	}
}

// append adds a flip that is about to be done.
func (l *commitLog) append(name string, f *flip) {
	entry := &moving{name: name, flip: f}
	for last := l.settled(); ; {
		if last.next.CompareAndSwap(nil, entry) {
			return
		}
		last = last.next.Load()
	}
}
