package adapter

// What is on disk, compared with the records.

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/graphsnap/graphsnap/persist"
)

// home answers in which directory those of graph IDs lie, "" for drivers of which
// that is not known.
func (c *checker) home() string {
	switch c.opt.Driver {
	case "overlay2", "fuse-overlayfs":
		return c.opt.Home
	case "vfs":
		return filepath.Join(c.opt.Home, "dir")
	case "btrfs":
		return filepath.Join(c.opt.Home, "subvolumes")
	}
	return ""
}

func (c *checker) checkDirectories() error {
	if err := c.checkWorkFiles(); err != nil {
		return err
	}
	home := c.home()
	if home == "" {
		return nil
	}
	var d *driver // knows the layout of overlays; nothing else of it may be used
	if home == c.opt.Home {
		d = &driver{links: filepath.Join(home, dirLinks)}
	}
	there, err := subdirectories(home)
	if err != nil {
		return err
	}
	for id, rr := range c.bearers {
		path := filepath.Join(home, id)
		if c.opt.Driver == "vfs" {
			path = filepath.Join(home, filepath.Base(id)) // as the driver has it
		}
		if r := rr[0]; !r.Creating {
			if !there[id] && !isDirectory(path) {
				c.missing(r, path, "it is not there")
			} else if d != nil {
				c.checkOverlay(d, r, path)
			}
		}
	}
	for id := range there {
		if d != nil && id == dirLinks || c.ours(id) || c.layers.uses(id) {
			continue
		}
		c.unnamed("directory-unnamed", id, filepath.Join(home, id), "no record names the directory")
	}
	if d == nil {
		return nil
	}
	if err := c.checkLinks(d); err != nil {
		return err
	}
	return c.checkMounts(d)
}

// ours tells whether something in the database names the graph ID.
func (c *checker) ours(id string) bool {
	return len(c.bearers[id]) > 0 || c.removing[id] || c.strays[id]
}

// unnamed tells of something in the driver's home that nobody knows.
func (c *checker) unnamed(kind, id, path, detail string) {
	f := Finding{Kind: kind, GraphID: id, Path: path, Detail: detail, Remedy: RemedyRepair, mend: []persist.Mutation{persist.Removing(id)}}
	switch {
	case c.layers != nil:
		f.Detail += ", nor does the layer store; it may be anybody's"
		f.Remedy, f.mend = RemedyNone, nil
	case len(c.x.Damage) > 0:
		f.Detail += " that could be read"
	}
	c.found(f)
}

func subdirectories(home string) (map[string]bool, error) {
	entries, err := os.ReadDir(home)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	there := map[string]bool{}
	for _, e := range entries {
		if e.IsDir() {
			there[e.Name()] = true
		}
	}
	return there, nil
}

func isDirectory(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.IsDir()
}

// missing tells of a snapshot of which the content is gone.
func (c *checker) missing(r *persist.Record, path, detail string) {
	f := Finding{Kind: "directory-missing", Key: r.Key, GraphID: r.GraphID, Path: path, Detail: detail}
	if r.Kind == persist.Committed {
		f.Detail += ", and the snapshot is lost"
		f.Remedy, f.mend = RemedyRepair, c.removal(r)
		c.lost[r.Key] = true
	} else {
		f.Detail += ", and is made anew"
		f.Remedy = RemedyStart
	}
	c.found(f)
}

// checkOverlay looks whether a directory is what Create made, as Restore does.
func (c *checker) checkOverlay(d *driver, r *persist.Record, path string) {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if !isDirectory(filepath.Join(path, fileDiff)) {
		if r.Kind == persist.Committed {
			c.missing(r, path, "what it held is not there")
			return
		}
		say("%s is not there", fileDiff)
	}
	if _, err := d.link(r.GraphID); err != nil {
		say("its link: %v", err)
	}
	if r.Parent != "" {
		if !isDirectory(filepath.Join(path, fileWork)) {
			say("%s is not there", fileWork)
		}
		if want, ok := c.lower(d, r); ok {
			if have, err := os.ReadFile(filepath.Join(path, fileLower)); err != nil || string(have) != want {
				say("%s is %q (%v), not %q", fileLower, have, err, want)
			}
		}
	}
	if len(wrong) == 0 {
		return
	}
	marked := *r
	marked.Creating = true
	c.found(Finding{Kind: "directory-broken", Key: r.Key, GraphID: r.GraphID, Path: path, Detail: strings.Join(wrong, "; "),
		Remedy: RemedyRepair, mend: []persist.Mutation{persist.Put(marked)}})
}

// lower returns what the directory is to say of those below it, if the parent's is in
// order.
func (c *checker) lower(d *driver, r *persist.Record) (string, bool) {
	below := c.layers.graphID(r.Parent)
	if p := c.records[r.Parent]; p != nil && p.GraphID != "" {
		below = p.GraphID
	}
	if below == "" || !inside(below) {
		return "", false
	}
	link, err := d.link(below)
	if err != nil {
		return "", false
	}
	want := filepath.Join(dirLinks, link)
	switch lower, err := os.ReadFile(filepath.Join(d.dir(below), fileLower)); {
	case err == nil:
		return want + ":" + string(lower), true
	case errors.Is(err, fs.ErrNotExist):
		return want, true
	}
	return "", false
}

func (c *checker) checkLinks(d *driver) error {
	names, err := readNames(d.links)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		path := filepath.Join(d.links, name)
		target, err := os.Readlink(path)
		id, ok := strings.CutSuffix(strings.TrimPrefix(target, "../"), "/"+fileDiff)
		switch {
		case err != nil || !ok || target != linkTarget(id) || !inside(id):
			c.found(Finding{Kind: "link-dangling", Path: path, Remedy: RemedyNone, Detail: fmt.Sprintf("it does not lead to a directory of the driver's, but to %q (%v)", target, err)})
		case c.ours(id):
			// What is wrong with the directory is told of it; what was not finished
			// has no more than the link.
			if link, err := d.link(id); err == nil && link != name {
				c.found(Finding{Kind: "link-surplus", GraphID: id, Path: path, Remedy: RemedyNone, Detail: fmt.Sprintf("its directory names another link, %q", link)})
			}
		case !isDirectory(filepath.Join(d.dir(id), fileDiff)) && !c.layers.uses(id):
			c.unnamed("link-dangling", id, path, "it leads to nothing, and no record names what it led to")
		}
	}
	return nil
}

func (c *checker) checkMounts(d *driver) error {
	mounted, err := d.mounted()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for id, n := range mounted {
		// Containers of others may run while their daemon does not.
		if c.ours(id) || c.layers == nil {
			c.found(Finding{Kind: "mounted", GraphID: id, Path: filepath.Join(d.dir(id), merged), Remedy: RemedyStart, Detail: fmt.Sprintf("mounted %d times, and nobody runs who did that", n)})
		}
	}
	return nil
}

// checkWorkFiles finds what an export left that was cut off. The directory is the
// engine's.
func (c *checker) checkWorkFiles() error {
	dir := filepath.Join(filepath.Dir(c.opt.Database), "tar-split")
	names, err := readNames(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, name := range names {
		c.found(Finding{Kind: "work-file", Path: filepath.Join(dir, name), Remedy: RemedyStart, Detail: "an export of a layer was cut off"})
	}
	return nil
}
