package adapter

// What the layer store and the lease manager know, compared with the records.

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"github.com/graphsnap/graphsnap/engine"
	"github.com/graphsnap/graphsnap/persist"
)

// layerFiles is what a layer store has on disk (layer/filestore.go of Docker 28.5.2):
//
//	<root>/<algorithm>/<hex of the chain ID>/cache-id
//	<root>/mounts/<container>/mount-id, init-id
//
// Its methods may be called of nil, where there is no layer store.
type layerFiles struct {
	cacheIDs map[string]string // by chain ID
	chainIDs map[string]string // by cache ID
	mounts   map[string]bool   // directories of containers
}

func readLayerFiles(root string) (*layerFiles, error) {
	if _, err := os.Stat(root); err != nil {
		return nil, fmt.Errorf("layer store: %w", err)
	}
	l := &layerFiles{map[string]string{}, map[string]string{}, map[string]bool{}}
	for _, algorithm := range []string{"sha256", "sha384", "sha512"} {
		files, err := filepath.Glob(filepath.Join(globbed(root), algorithm, "*", "cache-id"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			id, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("layer store: %w", err)
			}
			chainID := algorithm + ":" + filepath.Base(filepath.Dir(file))
			l.cacheIDs[chainID], l.chainIDs[string(id)] = string(id), chainID
		}
	}
	for _, name := range []string{"mount-id", "init-id"} {
		files, err := filepath.Glob(filepath.Join(globbed(root), "mounts", "*", name))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			id, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("layer store: %w", err)
			}
			l.mounts[string(id)] = true
		}
	}
	return l, nil
}

// globbed quotes what filepath.Glob takes for a pattern.
func globbed(path string) string {
	var b []byte
	for _, c := range []byte(path) {
		if slices.Contains([]byte(`*?[\`), c) {
			b = append(b, '\\')
		}
		b = append(b, c)
	}
	return string(b)
}

func (l *layerFiles) has(chainID string) bool { return l.graphID(chainID) != "" }

func (l *layerFiles) graphID(chainID string) string {
	if l == nil {
		return ""
	}
	return l.cacheIDs[chainID]
}

// uses tells whether the directory is that of a layer or a container.
func (l *layerFiles) uses(graphID string) bool {
	return l != nil && (l.chainIDs[graphID] != "" || l.mounts[graphID])
}

func (c *checker) checkLayers() {
	for key, r := range c.records {
		switch {
		case r.Kind == persist.Borrowed && !c.layers.has(key):
			f := Finding{Kind: "layer-gone", Key: key, Remedy: RemedyStart, Detail: "the layer is not in the layer store any more, and the snapshot is forgotten with what stands on it"}
			if c.layers == nil {
				f.Remedy, f.Detail = RemedyNone, "it is a layer of a layer store, and there is none"
			}
			c.found(f)
		case c.layers != nil && r.ChainID != "" && !c.layers.has(r.ChainID) && c.layers.chainIDs[r.GraphID] == "":
			c.found(Finding{Kind: "layer-gone", Key: key, GraphID: r.GraphID, Remedy: RemedyStart, Detail: fmt.Sprintf("the layer %s that it is recorded as is not in the layer store", r.ChainID)})
		}
	}
	if c.layers == nil || c.home() == "" {
		return
	}
	for chainID, id := range c.layers.cacheIDs {
		if path := filepath.Join(c.home(), id); inside(id) && !isDirectory(path) {
			c.found(Finding{Kind: "layer-directory-missing", Key: chainID, GraphID: id, Path: path, Remedy: RemedyNone, Detail: "the layer store has a layer without its directory"})
		}
	}
}

// checkLeases compares records with leases, where those can be listed. That they
// cannot is no reason to keep silent about the rest.
func (c *checker) checkLeases(ctx context.Context) {
	if c.opt.Leases == nil {
		return
	}
	named := map[string]bool{} // keys
	known := map[string]bool{} // IDs of leases
	if err := guarded(func() error {
		return leaseSource{manager: leaseSeam{c.opt.Leases}, namespace: c.opt.Namespace}.List(ctx, engine.KnownTo(c.x.Settings), func(l engine.Lease, keys []string) {
			known[l.ID] = true
			for _, key := range keys {
				named[key] = true
				if c.records[key] == nil && !c.layers.has(key) {
					c.found(Finding{Kind: "lease-unmet", Key: key, Note: true, Remedy: RemedyNone,
						Detail: fmt.Sprintf("the lease %q in namespace %q names it, and there is no such snapshot", l.ID, l.Namespace)})
				}
			}
		})
	}); err != nil {
		c.found(Finding{Kind: "lease-unlisted", Remedy: RemedyNone, Detail: fmt.Sprintf("leases are not compared: %v", err)})
		return
	}
	for key, r := range c.records {
		if !named[key] && len(c.children[key]) == 0 && !c.lost[key] && !r.Creating {
			c.found(Finding{Kind: "snapshot-unleased", Key: key, GraphID: r.GraphID, Remedy: RemedyStart, Detail: "no lease names it, and nothing stands on it"})
		}
	}
	for _, l := range c.x.Leftovers {
		if l.Oddity == persist.Aliased && !known[l.Key] {
			c.found(Finding{Kind: "alias-unleased", Key: l.Key, Remedy: RemedyStart, Detail: "dockerd's note of which layer a lease means outlived the lease"})
		}
	}
}

// guarded calls f and makes an error of its panic: a database of leases may be damaged
// as well, and bbolt panics of that, or reads beyond the end of the file.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}
