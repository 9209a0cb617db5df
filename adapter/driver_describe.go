package adapter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
)

// describer knows how directories of overlay2 are mounted by those who use them: as
// the driver's own Get would, with the same options of the kernel's, so that what
// was written through either is the same to the other.
//
// Directories are named by their own paths, not by the short links in l/: BuildKit
// compares the layers of two mounts as strings, walks the topmost, and makes links
// between files in them.
type describer struct {
	options []string // of every overlay
	room    int      // bytes for all options of an overlay, commas included
	deep    bool     // chains deeper than the driver's are mounted here
}

// newDescriber returns nil where the directories of d cannot be described.
//
// With the kernel's redirect_dir or metacopy, which only the host's administrator
// turns on, a directory that was written to is not the difference to its parent any
// more, as those take it for whose differ looks at descriptions; nor is it where
// IDs are mapped, since somebody has to map what the kernel makes in "work".
func newDescriber(d *driver) (*describer, error) {
	if d.String() != "overlay2" || !d.idmap.Empty() {
		return nil, nil
	}
	status := map[string]string{}
	for _, kv := range d.Status() {
		status[kv[0]] = kv[1]
	}
	if status["Native Overlay Diff"] != "true" {
		return nil, nil
	}
	// The mount system call takes a page, with the NUL at its end. 512 bytes of it
	// are left for what a client adds, as containerd (core/mount) does.
	o := &describer{room: os.Getpagesize() - 512}
	switch _, err := os.Stat("/sys/module/overlay/parameters/index"); {
	case err == nil:
		o.options = append(o.options, "index=off")
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("tell whether overlayfs knows index: %w", err)
	}
	if status["userxattr"] == "true" {
		o.options = append(o.options, "userxattr")
	}
	o.deep = knowsDeep(d.links)
	return o, nil
}

// Describe returns how to mount id: what its parents hold below what it holds
// itself, or a bind of the latter where there is no parent. A directory that was
// built on is not written to any more, whoever still may: the driver's Get, too,
// mounts it read-only.
func (d *driver) Describe(id string, readonly bool) ([]mount.Mount, error) {
	lowers, err := d.lowers(id)
	if err != nil {
		return nil, fmt.Errorf("describe the mount of %q: %w", id, err)
	}
	diff := filepath.Join(d.dir(id), fileDiff)
	if len(lowers) == 0 {
		access := "rw"
		if readonly {
			access = "ro"
		}
		return []mount.Mount{{Type: "bind", Source: diff, Options: []string{access, "rbind"}}}, nil
	}
	if !readonly {
		switch _, err := os.Lstat(filepath.Join(d.dir(id), fileCommitted)); {
		case err == nil:
			readonly = true
		case !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("describe the mount of %q: %w", id, err)
		}
	}
	var options []string
	if readonly {
		options = d.describer.view(diff, lowers)
	} else {
		options = d.describer.active(diff, filepath.Join(d.dir(id), fileWork), lowers)
	}
	return []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// describes tells whether the mount of id fits into the options of a mount as those
// who mount it shorten them, that of an active snapshot and that of a view alike:
// which it is to be does not matter, so that all holders agree.
func (d *driver) describes(id string) (bool, error) {
	if d.describer == nil {
		return false, nil
	}
	lowers, err := d.lowers(id)
	if err != nil || len(lowers) > maxDepth { // see driver_deep.go
		return false, err
	}
	// Who mounts what is longer than a page, containerd and with it BuildKit, does so
	// from the directory that the lower ones have in common, the home (core/mount,
	// executor/oci).
	if len(lowers) > 1 {
		home := filepath.Dir(d.links) + "/"
		for i := range lowers {
			lowers[i] = strings.TrimPrefix(lowers[i], home)
		}
	}
	diff, work := filepath.Join(d.dir(id), fileDiff), filepath.Join(d.dir(id), fileWork)
	longest := strings.Join(d.describer.active(diff, work, lowers), ",")
	return len(longest) < d.describer.room, nil
}

func (o *describer) active(diff, work string, lowers []string) []string {
	return o.overlay("workdir="+work, "upperdir="+diff, "lowerdir="+strings.Join(lowers, ":"))
}

func (o *describer) view(diff string, lowers []string) []string {
	return o.overlay("lowerdir=" + diff + ":" + strings.Join(lowers, ":"))
}

func (o *describer) overlay(options ...string) []string { return append(options, o.options...) }

// lowers returns the directories that id is built on, the nearest first. A path with
// a character that means something in the options of a mount is none that the
// driver can mount either.
func (d *driver) lowers(id string) ([]string, error) {
	links, err := d.lowerLinks(id)
	if err == nil && len(links) == 0 {
		_, err = os.Stat(d.dir(id)) // which may be what is not there
	}
	if err != nil {
		return nil, err
	}
	var lowers []string
	for _, link := range links {
		target, err := os.Readlink(filepath.Join(filepath.Dir(d.links), link))
		if err != nil {
			return nil, err
		}
		lowers = append(lowers, filepath.Join(d.links, target))
	}
	return lowers, nil
}
