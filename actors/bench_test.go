package actors

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// increment is what every benchmark of a question asks.
type increment struct {
	Reply[int]
	n int
}

func (m *increment) Handle(*Owner[int]) { m.Answer(m.n + 1) }

// BenchmarkAsk compares a question and its answer with the least that a hand-made
// owner costs: a goroutine that is asked through one unbuffered channel and
// answers through another. "busy" has a second asker at work, so that the owner
// hardly ever stops; "idle" goes round many keys, so that every question starts
// an owner.
func BenchmarkAsk(b *testing.B) {
	b.Run("channels/one-asker", func(b *testing.B) {
		ask, answer := make(chan int), make(chan int)
		go func() {
			for n := range ask {
				answer <- n + 1
			}
		}()
		defer close(ask)
		b.ReportAllocs()
		for b.Loop() {
			ask <- 1
			<-answer
		}
	})
	b.Run("channels/busy", func(b *testing.B) {
		type question struct {
			n      int
			answer chan int
		}
		ask := make(chan question)
		go func() {
			for q := range ask {
				q.answer <- q.n + 1
			}
		}()
		defer close(ask)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			answer := make(chan int)
			for pb.Next() {
				ask <- question{1, answer}
				<-answer
			}
		})
	})
	b.Run("owner/busy", func(b *testing.B) {
		o := NewOwners[int](Config{Name: "number", Mailbox: 64})
		o.Seed("key", new(int))
		defer o.Close()
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := Ask(context.Background(), o, "key", &increment{n: 1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
	b.Run("owner/one-asker", func(b *testing.B) {
		o := NewOwners[int](Config{Name: "number", Mailbox: 64})
		o.Seed("key", new(int))
		defer o.Close()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Ask(context.Background(), o, "key", &increment{n: 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("owner/idle", func(b *testing.B) {
		o := NewOwners[int](Config{Name: "number", Mailbox: 64})
		keys := someKeys(1024)
		for _, k := range keys {
			o.Seed(k, new(int))
		}
		defer o.Close()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := Ask(context.Background(), o, keys[i%len(keys)], &increment{n: 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("owner/absent", func(b *testing.B) {
		o := NewOwners[int](Config{Name: "number", Mailbox: 64})
		keys := someKeys(1024)
		defer o.Close()
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := Ask(context.Background(), o, keys[i%len(keys)], &increment{n: 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mailbox/one-asker", func(b *testing.B) {
		m := NewMailbox[*increment]("number", 64)
		go func() {
			var buf []*increment
			for more := true; more; {
				buf, more = m.Receive(buf[:0], 64)
				for _, q := range buf {
					q.Answer(q.n + 1)
				}
			}
		}()
		defer m.Close()
		b.ReportAllocs()
		for b.Loop() {
			q := &increment{n: 1}
			if _, err := Call(context.Background(), m, q, &q.Reply); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkLoad compares with sync.Map, whose keys are boxed beforehand, since
// boxing would be the larger part of its cost.
func BenchmarkLoad(b *testing.B) {
	const n = 100_000
	keys := someKeys(n)
	boxed := make([]any, n)
	o := NewOwners[int](Config{Name: "number"})
	var m sync.Map
	for i, k := range keys {
		v := new(int)
		boxed[i] = k
		o.Seed(k, v)
		m.Store(boxed[i], v)
	}
	order := rand.Perm(n)
	shuffled, shuffledBoxed := make([]string, n), make([]any, n)
	for i, j := range order {
		shuffled[i], shuffledBoxed[i] = keys[j], boxed[j]
	}

	b.Run("one/owners", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			o.Load(keys[0])
		}
	})
	b.Run("one/sync.Map", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			m.Load(boxed[0])
		}
	})
	b.Run("random/owners", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			o.Load(shuffled[i%n])
		}
	})
	b.Run("random/sync.Map", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			m.Load(shuffledBoxed[i%n])
		}
	})
	var start atomic.Int64
	b.Run("parallel/owners", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := int(start.Add(n / 7)); pb.Next(); i++ {
				o.Load(shuffled[i%n])
			}
		})
	})
	b.Run("parallel/sync.Map", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for i := int(start.Add(n / 7)); pb.Next(); i++ {
				m.Load(shuffledBoxed[i%n])
			}
		})
	})
}

// someKeys returns n keys of the length that BuildKit's snapshot IDs have.
func someKeys(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("q0x4m8ftz1k7vbn2w%08d", i)
	}
	return keys
}
