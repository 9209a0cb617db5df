package trace

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// Event is one call of the snapshots API.
type Event struct {
	At   time.Duration // since the first call began
	Took time.Duration
	Call string            // the method, in lower case
	Key  string            `json:",omitempty"`
	On   string            `json:",omitempty"` // the parent, or the name of a commit
	Set  map[string]string `json:",omitempty"` // labels
	Path []string          `json:",omitempty"` // that Update changes

	Failed string `json:",omitempty"` // the class of the error
	Kind   string `json:",omitempty"` // that Stat and Update answered
	Parent string `json:",omitempty"`
}

func (e *Event) end() time.Duration { return e.At + e.Took }

// class is what an error is recorded as.
func class(err error) string {
	switch {
	case err == nil:
		return ""
	case errdefs.IsNotFound(err):
		return "not found"
	case errdefs.IsAlreadyExists(err):
		return "already exists"
	case errdefs.IsFailedPrecondition(err):
		return "failed precondition"
	}
	return "error"
}

// Write writes a trace, compressed, a line for each call.
func Write(w io.Writer, events []Event) error {
	z := gzip.NewWriter(w)
	e := json.NewEncoder(z)
	for i := range events {
		if err := e.Encode(&events[i]); err != nil {
			return err
		}
	}
	return z.Close()
}

// Read reads what Write wrote, in the order in which the calls began.
func Read(r io.Reader) ([]Event, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	var events []Event
	for d := json.NewDecoder(z); ; {
		var e Event
		switch err := d.Decode(&e); {
		case errors.Is(err, io.EOF):
			slices.SortStableFunc(events, func(a, b Event) int { return int(a.At - b.At) })
			return events, nil
		case err != nil:
			return nil, fmt.Errorf("trace: call %d: %w", len(events), err)
		}
		events = append(events, e)
	}
}
