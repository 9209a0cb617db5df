package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// registry is as much of an OCI registry as BuildKit needs to push and pull.
type registry struct {
	mu        sync.Mutex
	blobs     map[string][]byte // by digest
	uploads   map[string][]byte // by path
	manifests map[string]manifest
}

type manifest struct {
	mediaType string
	content   []byte
}

// startRegistry returns the registry's host, on the loopback interface, where
// BuildKit speaks plain HTTP.
func startRegistry(t *testing.T) string {
	r := &registry{blobs: map[string][]byte{}, uploads: map[string][]byte{}, manifests: map[string]manifest{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	dir, last := filepath.Split(req.URL.Path)
	switch {
	case req.URL.Path == "/v2/":
	case strings.HasSuffix(dir, "/manifests/"):
		r.manifest(w, req, dir, last, body)
	case strings.HasSuffix(dir, "/blobs/uploads/"):
		r.upload(w, req, dir, body)
	case strings.HasSuffix(dir, "/blobs/"):
		blob, ok := r.blobs[last]
		if !ok {
			http.NotFound(w, req)
			return
		}
		w.Header().Set("Docker-Content-Digest", last)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
	default:
		http.NotFound(w, req)
	}
}

func (r *registry) manifest(w http.ResponseWriter, req *http.Request, dir, name string, body []byte) {
	if req.Method == http.MethodPut {
		m := manifest{mediaType: req.Header.Get("Content-Type"), content: body}
		dgst := digest.FromBytes(body)
		r.manifests[dir+name], r.manifests[dir+dgst.String()] = m, m
		w.Header().Set("Docker-Content-Digest", dgst.String())
		w.WriteHeader(http.StatusCreated)
		return
	}
	m, ok := r.manifests[dir+name]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.content).String())
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(m.content))
}

func (r *registry) upload(w http.ResponseWriter, req *http.Request, dir string, body []byte) {
	switch req.Method {
	case http.MethodPost:
		w.Header().Set("Location", fmt.Sprintf("%s%d", dir, len(r.uploads)))
		r.uploads[w.Header().Get("Location")] = nil
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPatch, http.MethodPut:
		r.uploads[req.URL.Path] = append(r.uploads[req.URL.Path], body...)
		if req.Method == http.MethodPatch {
			w.Header().Set("Location", req.URL.Path)
			w.WriteHeader(http.StatusAccepted)
			return
		}
		content, want := r.uploads[req.URL.Path], req.URL.Query().Get("digest")
		if got := digest.FromBytes(content).String(); got != want {
			http.Error(w, "digest is "+got+", not "+want, http.StatusBadRequest)
			return
		}
		r.blobs[want] = content
		w.Header().Set("Docker-Content-Digest", want)
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}
