package adapter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// Remove deletes the directory of id and makes that durable: after it no record
// names the directory any more, so nobody would know whose it is if a power loss
// brought it back.
//
// An overlay driver finds the link to a directory through a file in it. Where that is
// missing or wrong, since Create failed, the process died or the power went, and where
// the driver could not delete the link, which it tells nobody, the links are looked for
// among all.
func (d *driver) Remove(id string) error {
	if d.links == "" {
		home := d.homeOf(id)
		if d.Driver.Exists(id) { // btrfs makes it an error that it does not
			if err := d.Driver.Remove(id); err != nil {
				return err
			}
		}
		if home == "" {
			return nil // the driver keeps its directories in a way of its own
		}
		return d.syncNames(home)
	}
	link, err := d.link(id)
	if err := d.Driver.Remove(id); err != nil {
		return err
	}
	if err == nil {
		_, err = os.Lstat(filepath.Join(d.links, link))
		if errors.Is(err, fs.ErrNotExist) {
			return d.syncNames(filepath.Dir(d.links))
		}
	}
	if err := d.removeLinks(id); err != nil {
		return err
	}
	return d.syncNames(filepath.Dir(d.links))
}

// homeOf returns the directory in which that of id lies, "" where that is not known.
func (d *driver) homeOf(id string) string {
	home := d.home([]string{id})
	if home == "" {
		if known, ok := d.knownHome.Load().(string); ok {
			return known // id may be gone already, and that not be durable yet
		}
		return ""
	}
	d.knownHome.Store(home)
	return home
}

// syncNames makes durable which names there are in the driver's home, which lies at
// home, and among its links.
func (d *driver) syncNames(home string) error {
	return d.removals.do(func() error {
		var err error
		if d.links != "" {
			err = syncDir(d.links)
		}
		return errors.Join(err, syncDir(home))
	})
}

// sharedSync has calls that come while one is being served share the next sync, which
// begins after what they changed.
type sharedSync struct {
	turn sync.Mutex // of the one who syncs
	mu   sync.Mutex
	next *syncCall // it waits for its turn
}

type syncCall struct {
	done chan struct{}
	err  error
}

// do calls sync, or waits for a call of it that begins after that of do. It is the same
// sync in every call.
func (s *sharedSync) do(sync func() error) error {
	s.mu.Lock()
	c := s.next
	if c != nil {
		s.mu.Unlock()
		<-c.done
		return c.err
	}
	c = &syncCall{done: make(chan struct{})}
	s.next = c
	s.mu.Unlock()

	s.turn.Lock()
	defer s.turn.Unlock()
	s.mu.Lock()
	s.next = nil
	s.mu.Unlock()
	defer close(c.done)
	c.err = sync()
	return c.err
}
