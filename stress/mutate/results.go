package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// results are what earlier runs found out, by the names of mutants and of binaries.
type results struct {
	path string

	mu       sync.Mutex
	Verdicts map[string]*verdict
	Tested   map[string]*examined
}

// verdict is what tests made of a mutant.
type verdict struct {
	By     string            // the test that noticed, with its folder, "" for none
	Seen   string            // hash of what that depends on
	Passed map[string]string // folders whose tests did not notice, with the hash of the binary
}

// examined is what a binary's tests do with no mutant on.
type examined struct {
	Binary string // its hash
	Tests  []tested
}

func loadResults(path string) (*results, error) {
	r := &results{path: path, Verdicts: map[string]*verdict{}, Tested: map[string]*examined{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, json.Unmarshal(text, r)
}

// change changes the results and writes them down.
func (r *results) change(f func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(r.path+".new", r.path)
}

// of returns what is known of a mutant.
func (r *results) of(m *mutant) verdict {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.Verdicts[m.name()]
	if v == nil {
		return verdict{}
	}
	return *v
}

// hashOf is that of files below root.
func hashOf(root string, files ...string) (string, error) {
	h := sha256.New()
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256(text)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}
