package actors

// queue is a first-in first-out queue with a bound on the messages that were
// sent, none on those that were owed, and a line of senders waiting for room.
// It has no lock: its user holds one around every call.
//
// There is a line only while the queue holds as many sent messages as it may. So
// a queue without messages has no line, and whoever joins the line is let in by
// the receiver's pops.
type queue[M any] struct {
	bound   int
	items   []entry[M] // a ring; its length is a power of two
	head, n int
	sent    int // how many of the items count against the bound
	line    line[M]
}

type entry[M any] struct {
	m    M
	owed bool
}

func (q *queue[M]) at(i int) *entry[M] { return &q.items[(q.head+i)&(len(q.items)-1)] }

func (q *queue[M]) push(m M, owed bool) {
	if q.n == len(q.items) {
		grown := make([]entry[M], max(4, 2*q.n))
		for i := range q.n {
			grown[i] = *q.at(i)
		}
		q.items, q.head = grown, 0
	}
	*q.at(q.n) = entry[M]{m, owed}
	q.n++
	if !owed {
		q.sent++
	}
}

// offer enqueues m or, where the queue is full, puts its sender in the line.
func (q *queue[M]) offer(m M) *waiter[M] {
	if q.sent < q.bound { // so there is no line that m would overtake
		q.push(m, false)
		return nil
	}
	return q.line.join(m)
}

func (q *queue[M]) pop() (m M, ok bool) {
	if q.n == 0 {
		return m, false
	}
	e := *q.at(0)
	*q.at(0) = entry[M]{}
	q.head = (q.head + 1) & (len(q.items) - 1)
	q.n--
	if e.owed {
		return e.m, true
	}
	q.sent--
	if w := q.line.first; w != nil {
		q.push(w.m, false)
		q.line.decide(w, nil)
	}
	return e.m, true
}

// refuseLine turns everybody in the line away.
func (q *queue[M]) refuseLine(err error) {
	for q.line.first != nil {
		q.line.decide(q.line.first, err)
	}
}
