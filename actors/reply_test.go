package actors

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
)

func TestUnansweredMessageIsFailed(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	defer o.Close()
	if _, err := Ask(t.Context(), o, "key", &work{do: func(*Owner[int], *work) {}}); !errdefs.IsInternal(err) {
		t.Error(err)
	}
	if _, err := AskOwed(o, "key", &work{do: func(*Owner[int], *work) {}}); !errdefs.IsInternal(err) {
		t.Error(err)
	}
}

func TestFirstAnswerCounts(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	defer o.Close()
	refusal := errors.New("refused")
	v, err := Ask(t.Context(), o, "key", &work{do: func(_ *Owner[int], m *work) {
		m.Answer(1)
		m.Answer(2)
		m.Fail(refusal)
	}})
	if v != 1 || err != nil {
		t.Error(v, err)
	}
	v, err = Ask(t.Context(), o, "key", &work{do: func(_ *Owner[int], m *work) {
		m.Fail(refusal)
		m.Answer(2)
	}})
	if v != 0 || err != refusal {
		t.Error(v, err)
	}
}

// A late answer must not reach the next asker, who sleeps in a slot of its own.
func TestLateAnswersReachNobody(t *testing.T) {
	b := NewMailbox[*work]("test", 1)
	var late sync.WaitGroup
	go func() {
		var buf []*work
		for more := true; more; {
			buf, more = b.Receive(buf[:0], 1)
			for _, m := range buf {
				for n := range 4 {
					late.Go(func() { m.Answer(n) })
				}
			}
		}
	}()
	for range 2000 {
		m := &work{}
		v, err := Call(t.Context(), b, m, &m.Reply)
		if v < 0 || v > 3 || err != nil {
			t.Fatal(v, err)
		}
	}
	b.Close()
	late.Wait()
}

func TestAnsweredMessageIsNotAskedAgain(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	defer o.Close()
	b := NewMailbox[*work]("test", 1)
	asked, told := answering(1), answering(1)
	if v, err := Ask(t.Context(), o, "key", asked); v != 1 || err != nil {
		t.Fatal(v, err)
	}
	told.Answer(1)
	for _, m := range []*work{asked, told} {
		for how, ask := range map[string]func() (int, error){
			"Ask":      func() (int, error) { return Ask(t.Context(), o, "key", m) },
			"AskOwed":  func() (int, error) { return AskOwed(o, "key", m) },
			"Call":     func() (int, error) { return Call(t.Context(), b, m, &m.Reply) },
			"CallOwed": func() (int, error) { return CallOwed(b, m, &m.Reply) },
		} {
			if _, err := ask(); !errdefs.IsInternal(err) {
				t.Error(how, err)
			}
		}
	}
	if b.Len() != 0 {
		t.Error("a message that was answered before was enqueued again")
	}
}

// Nothing that one asker slept on may serve the next: what belongs to a synctest
// bubble kills whoever touches it from outside.
func TestAskersInAndOutsideABubble(t *testing.T) {
	ask := func(t *testing.T) {
		o := NewOwners[int](Config{Name: "number"})
		for range 10 {
			if v, err := Ask(t.Context(), o, "key", answering(1)); v != 1 || err != nil {
				t.Error(v, err)
			}
		}
		o.Close()
	}
	ask(t)
	synctest.Test(t, ask)
	ask(t)
	synctest.Test(t, ask)
}
