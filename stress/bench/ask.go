package main

import (
	"context"
	"fmt"
	"time"

	"github.com/graphsnap/graphsnap/actors"
)

// askRows are about the runtime alone: a question and its answer, the map of owners
// looked up, beside the least that a hand-made owner costs: a goroutine that is
// asked through one unbuffered channel and answers through another.
var askRows = []row{
	{
		name:    "ask-running",
		what:    "ask and answer while the owner runs: two askers at one key",
		unit:    "ns",
		targets: []target{{of: "owner", than: "channels", most: 2.5}},
		open: func(_ context.Context, s *site) ([]contender, error) {
			n := s.n(500_000, 1000)
			return []contender{askChannels(2, n), askOwners(2, n, 1)}, nil
		},
	},
	{
		name:    "ask-idle",
		what:    "ask and answer where the owner is idle: one asker goes round 1,024 keys",
		unit:    "ns",
		targets: []target{{of: "owner", than: "channels", most: 4}},
		open: func(_ context.Context, s *site) ([]contender, error) {
			n := s.n(500_000, 1000)
			return []contender{askChannels(1, n), askOwners(1, n, 1024)}, nil
		},
	},
}

func askChannels(askers, n int) contender {
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
	answers := make(chan chan int, askers) // one each, used again and again
	for range askers {
		answers <- make(chan int)
	}
	return one("channels", func(context.Context) (figure, error) {
		return timed(askers, n, func(times int) error {
			answer := <-answers
			for range times {
				ask <- question{1, answer}
				<-answer
			}
			answers <- answer
			return nil
		})
	}, func() error { close(ask); return nil })
}

type increment struct {
	actors.Reply[int]
	n int
}

func (m *increment) Handle(*actors.Owner[int]) { m.Answer(m.n + 1) }

func askOwners(askers, n, keys int) contender {
	o := actors.NewOwners[int](actors.Config{Name: "number", Mailbox: 64})
	all := make([]string, keys)
	for i := range all {
		all[i] = key(int64(i))
		o.Seed(all[i], new(int))
	}
	return one("owner", func(ctx context.Context) (figure, error) {
		return timed(askers, n, func(times int) error {
			for i := range times {
				if _, err := actors.Ask(ctx, o, all[i%keys], &increment{n: 1}); err != nil {
					return err
				}
			}
			return nil
		})
	}, func() error { o.Close(); return nil })
}

// timed has each asker ask his share of n times.
func timed(askers, n int, do func(times int) error) (figure, error) {
	errs := make(chan error, askers)
	began := time.Now()
	for range askers {
		go func() { errs <- do(n / askers) }()
	}
	for range askers {
		if err := <-errs; err != nil {
			return figure{}, fmt.Errorf("ask: %w", err)
		}
	}
	return figure{value: float64(time.Since(began).Nanoseconds()) / float64(n)}, nil
}
