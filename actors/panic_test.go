package actors

import (
	"errors"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/containerd/errdefs"
)

func TestOwnerGoesOnAfterAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type told struct {
			key   string
			cause any
			stack string
		}
		var j journal[told]
		o := NewOwners[int](Config{Name: "number", Mailbox: 8, Panicked: func(key string, cause any, stack []byte) {
			j.note(told{key, cause, string(stack)})
		}})
		one, two, three := 1, 2, 3
		// One run of the owner: what comes after the panic is in its mailbox before.
		first, release := blocking()
		_ = o.Send(t.Context(), "key", first)
		o.Owe("key", &work{do: func(o *Owner[int], m *work) { o.Publish(&one); m.Answer(1) }})
		boom := begin(func() (int, error) {
			return Ask(t.Context(), o, "key", &work{do: func(o *Owner[int], m *work) {
				o.Publish(&two)
				explode("unfinished")
				o.Publish(&three)
			}})
		})
		after := begin(func() (int, error) {
			return Ask(t.Context(), o, "key", &work{do: func(o *Owner[int], m *work) { m.Answer(*o.Value()) }})
		})
		answered := begin(func() (int, error) {
			return Ask(t.Context(), o, "key", &work{do: func(o *Owner[int], m *work) { m.Answer(4); explode("too late") }})
		})
		release()
		synctest.Wait()

		if !errdefs.IsInternal(boom.err()) || !strings.Contains(boom.err().Error(), `owner of number "key" panicked handling *actors.work: unfinished`) {
			t.Error("who panicked was answered", boom)
		}
		if v, err := after.result(); v != 2 || err != nil {
			t.Error("what followed saw", after)
		}
		if v, err := answered.result(); v != 4 || err != nil {
			t.Error("a panic after the answer changed it:", answered)
		}
		notes := j.all()
		if len(notes) != 2 || notes[0].key != "key" || notes[0].cause != "unfinished" || notes[1].cause != "too late" {
			t.Fatalf("told of %+v", notes)
		}
		if !strings.Contains(notes[0].stack, "actors.explode") {
			t.Error("the stack does not show who panicked:", notes[0].stack)
		}
		o.Close()
	})
}

//go:noinline
func explode(cause any) { panic(cause) }

func TestPanicWithoutListener(t *testing.T) {
	o := NewOwners[int](Config{Name: "number"})
	defer o.Close()
	cause := errors.New("cause")
	_, err := Ask(t.Context(), o, "key", &work{do: func(*Owner[int], *work) { panic(cause) }})
	if !errdefs.IsInternal(err) || !strings.Contains(err.Error(), "cause") {
		t.Error(err)
	}
	if v, err := Ask(t.Context(), o, "key", answering(1)); v != 1 || err != nil {
		t.Error(v, err)
	}
}

func TestHandlerThatEndsItsGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o, release := occupied(t, 8)
		gone := begin(func() (int, error) {
			return Ask(t.Context(), o, "key", &work{do: func(*Owner[int], *work) { runtime.Goexit() }})
		})
		after := begin(func() (int, error) { return Ask(t.Context(), o, "key", publishing(7)) })
		release()
		o.Close()
		synctest.Wait()
		if !errdefs.IsInternal(gone.err()) {
			t.Error("answered", gone)
		}
		if v, err := after.result(); v != 7 || err != nil {
			t.Error("what followed was answered", after)
		}
	})
}
