package adapter

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
)

// A link is an orphan where the file that names it does not.
func TestRemoveFindsTheLinkOfAGarbledDirectory(t *testing.T) {
	s := newSite(t, "overlay2")
	d, err := newDriver(s.openDriver(t), DriverOpt{})
	must(t, err)
	for name, garble := range map[string]func(file string) error{
		"no file": os.Remove,
		"empty":   func(file string) error { return os.WriteFile(file, nil, 0o600) },
		"zeros":   func(file string) error { return os.WriteFile(file, make([]byte, linkLength), 0o600) },
		"another": func(file string) error { return os.WriteFile(file, []byte(strings.Repeat("A", linkLength)), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			must(t, d.Create("a", ""))
			must(t, garble(s.path("overlay2", "a", fileLink)))
			must(t, d.Remove("a"))
			if links := s.links(t); len(links) > 0 || len(s.directories(t)) > 0 {
				t.Errorf("left are %v, %v", links, s.directories(t))
			}
		})
	}
}

// Each call is served by a sync that began after it, and those that wait share one.
func TestSyncsAreShared(t *testing.T) {
	var s sharedSync
	syncs := 0
	began, end := make(chan struct{}), make(chan struct{})
	one := make(chan error, 1)
	go func() { one <- s.do(func() error { syncs++; close(began); <-end; return nil }) }()
	<-began
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := s.do(func() error { syncs++; return fs.ErrInvalid }); !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
	close(end)
	if err := <-one; err != nil {
		t.Error(err)
	}
	all.Wait()
	if syncs < 2 || syncs > 9 {
		t.Errorf("%d syncs", syncs)
	}
}
