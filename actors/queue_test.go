package actors

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
)

// The queue against the plainest thing that could do the same: a slice of what is
// in, a slice of who waits.
func TestQueueAgainstModel(t *testing.T) {
	type item struct {
		n    int
		owed bool
	}
	refusal := errors.New("refused")
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		q := queue[int]{bound: 1 + r.IntN(9)}
		var in []item
		var line []*waiter[int]
		sent := func() (n int) {
			for _, i := range in {
				if !i.owed {
					n++
				}
			}
			return n
		}
		for step := range 400 {
			switch r.IntN(9) {
			case 0, 1, 2:
				if w := q.offer(step); w != nil {
					if sent() < q.bound {
						t.Fatal(seed, step, "waits though there is room")
					}
					line = append(line, w)
				} else {
					if sent() >= q.bound || len(line) > 0 {
						t.Fatal(seed, step, "got in though it is full")
					}
					in = append(in, item{n: step})
				}
			case 3:
				q.push(step, true)
				in = append(in, item{step, true})
			case 4:
				if len(line) > 0 {
					i := r.IntN(len(line))
					if !q.line.leave(line[i]) || q.line.leave(line[i]) {
						t.Fatal(seed, step, "leaves the line once")
					}
					line = slices.Delete(line, i, i+1)
				}
			case 5:
				if r.IntN(20) == 0 {
					q.refuseLine(refusal)
					for _, w := range line {
						if <-w.decided; w.err != refusal || q.line.leave(w) {
							t.Fatal(seed, step, "turned away with", w.err)
						}
					}
					line = nil
				}
			default:
				m, ok := q.pop()
				if ok != (len(in) > 0) || ok && m != in[0].n {
					t.Fatal(seed, step, "popped", m, ok, "want", in)
				}
				if !ok {
					break
				}
				in = in[1:]
				for len(line) > 0 && sent() < q.bound {
					if <-line[0].decided; line[0].err != nil || q.line.leave(line[0]) {
						t.Fatal(seed, step, "let in with", line[0].err)
					}
					in = append(in, item{n: line[0].m})
					line = line[1:]
				}
			}
			if q.n != len(in) || q.sent != sent() || (q.line.first == nil) != (len(line) == 0) || (q.line.last == nil) != (len(line) == 0) {
				t.Fatal(seed, step, "holds", q.n, q.sent, "want", len(in), sent(), "with", len(line), "in the line")
			}
		}
		for range in {
			q.pop()
		}
		for i := range q.items {
			if len(line) == 0 && q.items[i] != (entry[int]{}) {
				t.Fatal(seed, "what was popped is kept alive")
			}
		}
	}
}
