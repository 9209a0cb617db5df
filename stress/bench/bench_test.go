package main

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		q, want float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 3, 2}, 0.5, 2.5},
		{[]float64{1, 2, 3, 4, 5}, 0.25, 2},
		{[]float64{7}, 0.99, 7},
		{nil, 0.5, 0},
	} {
		if got := quantile(c.samples, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile(%v, %v) = %v, want %v", c.samples, c.q, got, c.want)
		}
	}
}

// TestTurns checks that every contender is measured once a round, that another one
// begins each, and that the warm-up does not count.
func TestTurns(t *testing.T) {
	var turns []string
	contending := func(name string, value float64) contender {
		return one(name, func(context.Context) (figure, error) {
			turns = append(turns, name)
			return figure{value: value * float64(1+len(turns)/2)}, nil
		}, func() error { turns = append(turns, "close "+name); return nil })
	}
	r := row{
		open: func(context.Context, *site) ([]contender, error) {
			return []contender{contending("a", 2), contending("b", 1)}, nil
		},
		targets: []target{{of: "a", than: "b", most: 2.5}, {of: "a", than: "b", least: 2.5}, {of: "a", than: "nobody", most: 1}},
	}
	got, err := r.run(context.Background(), &site{}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "a", "b", "b", "a", "close b", "close a"}; !slices.Equal(turns, want) {
		t.Errorf("turns were %q, want %q", turns, want)
	}
	if n := len(got.find("a").Samples); n != 2 {
		t.Errorf("%d samples of 2 rounds", n)
	}
	if len(got.Verdicts) != 2 || got.Verdicts[0].Reached == got.Verdicts[1].Reached {
		t.Errorf("of two opposite targets one is reached, got %v", got.Verdicts)
	}
}

// TestFailing checks that what a contender says about an error is not lost, and
// that all are closed.
func TestFailing(t *testing.T) {
	closed := false
	r := row{open: func(context.Context, *site) ([]contender, error) {
		return []contender{one("a", func(context.Context) (figure, error) {
			return figure{}, errors.New("broken")
		}, func() error { closed = true; return nil })}, nil
	}}
	if _, err := r.run(context.Background(), &site{}, 1); err == nil || !strings.Contains(err.Error(), "a: broken") {
		t.Errorf("the error is %v", err)
	}
	if !closed {
		t.Error("not closed")
	}
}

func TestLastTransaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if n, err := lastTransaction(path); n != 0 || err != nil {
		t.Errorf("of a file that is not there: %d, %v", n, err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range 5 {
		before, err := lastTransaction(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Update(func(tx *bolt.Tx) error {
			_, err := tx.CreateBucket([]byte{byte(i)})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if after, err := lastTransaction(path); err != nil || after != before+1 {
			t.Errorf("transaction %d after %d, %v", after, before, err)
		}
	}
}

func TestKeys(t *testing.T) {
	seen := map[string]bool{}
	for i := int64(1); i < 10_000; i++ {
		for _, k := range []string{key(i), name(i)} {
			if len(k) != 25 || seen[k] {
				t.Fatalf("%q is not a new key of 25 characters", k)
			}
			seen[k] = true
		}
		if n, ok := number(key(i)); !ok || n != i {
			t.Fatalf("number(%q) = %d, %v", key(i), n, ok)
		}
		if _, ok := number(name(i)); ok {
			t.Fatalf("%q is taken for a key", name(i))
		}
	}
}
