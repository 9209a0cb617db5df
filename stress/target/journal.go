package target

import (
	"bytes"
	"errors"
	"os"
	"strings"
)

// journal is what a driver or lease manager in memory writes down so that it outlives
// its process, as one with a disk does. A nil one keeps nothing.
type journal struct{ file *os.File }

// openJournal passes each entry of the journal at path to replay, and goes on with it.
// What a process was writing when it died was not done.
func openJournal(path string, replay func(entry []string)) (*journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	written, err := os.ReadFile(path)
	whole := bytes.LastIndexByte(written, '\n') + 1
	if err := errors.Join(err, f.Truncate(int64(whole))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	for line := range bytes.Lines(written[:whole]) {
		replay(strings.Split(strings.TrimSuffix(string(line), "\n"), " "))
	}
	return &journal{f}, nil
}

// add writes an entry, of words without spaces, at one stroke.
func (j *journal) add(entry ...string) error {
	if j == nil {
		return nil
	}
	_, err := j.file.WriteString(strings.Join(entry, " ") + "\n")
	return err
}

// persist makes the driver write down what it does to the file at path, and begins with
// what is written there already.
func (d *Null) persist(path string) (err error) {
	d.journal, err = openJournal(path, func(entry []string) {
		switch id := entry[1]; entry[0] {
		case "create":
			d.parents[id] = entry[2]
		case "remove":
			delete(d.parents, id)
		case "mount":
			d.mounted[id]++
		case "unmount":
			if d.mounted[id]--; d.mounted[id] <= 0 {
				delete(d.mounted, id)
			}
		}
	})
	return err
}

func (m *memoryLeases) persist(path string) (err error) {
	m.journal, err = openJournal(path, func(entry []string) {
		switch id := entry[1]; entry[0] {
		case "create":
			m.held[id] = map[string]bool{}
		case "add":
			m.held[id][entry[2]] = true
		case "remove":
			delete(m.held[id], entry[2])
		case "end":
			delete(m.held, id)
		}
	})
	return err
}
