package engine

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"

	"github.com/graphsnap/graphsnap/persist"
)

// logged collects what is logged until the end of the test.
func logged(t *testing.T) *bytes.Buffer {
	t.Helper()
	buf := &bytes.Buffer{}
	logger := log.L.Logger
	out, level := logger.Out, logger.GetLevel()
	logger.SetOutput(buf)
	logger.SetLevel(logrus.InfoLevel)
	t.Cleanup(func() {
		logger.SetOutput(out)
		logger.SetLevel(level)
	})
	return buf
}

// lines collects what is logged.
type lines struct {
	mu  sync.Mutex
	all []*logrus.Entry
}

func (l *lines) Levels() []logrus.Level { return nil }

func (l *lines) Fire(e *logrus.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, e)
	return nil
}

// Recovery says in one line what it found and did, and how far it is where it takes
// longer than two seconds. With nothing to do it says nothing.
func TestWhatRecoverySays(t *testing.T) {
	logged(t) // and not seen
	said := &lines{}
	old := log.L.Logger.ReplaceHooks(logrus.LevelHooks{logrus.InfoLevel: {said}})
	defer log.L.Logger.ReplaceHooks(old)
	synctest.Test(t, func(t *testing.T) {
		r := newRuins(t, false)
		for key, state := range map[string]string{"whole": "whole", "parts": "parts", "empty": "none"} {
			rec := r.record(persist.Active, key, "")
			rec.Creating = true
			r.put(key, "", state)
			r.left(persist.Put(rec))
		}
		r.put("removed", "", "whole")
		r.left(persist.Removing("of-removed"))
		r.driver.before = func(call, _ string) error {
			if call == "Restore" {
				time.Sleep(3 * time.Second) // of the bubble's clock
			}
			return nil
		}
		r.again("first")
		r.settled()
		var progress []string
		var whole []logrus.Fields
		for _, e := range said.all {
			if strings.HasPrefix(e.Message, "opening snapshots: ") {
				progress = append(progress, fmt.Sprintf("%s, %v of %v", strings.TrimPrefix(e.Message, "opening snapshots: "), e.Data["done"], e.Data["of"]))
			}
			if e.Message == "snapshots recovered" {
				whole = append(whole, e.Data)
			}
		}
		if want := []string{"looking into directories, 1 of 3", "looking into directories, 2 of 3"}; !slices.Equal(progress[:min(2, len(progress))], want) {
			t.Errorf("said while it went on: %q, want at first %q", progress, want)
		}
		if len(whole) != 1 {
			t.Errorf("said at the end: %v", whole)
			whole = append(whole, nil)
		}
		for field, want := range map[string]int{"snapshots": 3, "unfinished": 3, "lookedInto": 3, "restored": 1, "madeAnew": 1, "removals": 1, "lost": 0, "undone": 0, "unmounted": 0} {
			if whole[0][field] != want {
				t.Errorf("said %s=%v, want %d, in %v", field, whole[0][field], want, whole[0])
			}
		}
		r.driver.calm()
		said.all = nil
		r.again("first")
		for _, e := range said.all {
			t.Errorf("said when there was nothing to do: %q", e.Message)
		}
		r.finish()
	})
}
