package adapter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/docker/docker/daemon/graphdriver/overlayutils"
	"github.com/moby/sys/user"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// The layout of overlay2 and fuse-overlayfs, which their Create makes in this
// order (daemon/graphdriver/overlay2/overlay.go of Docker 28.5.2):
//
//	<home>/<id>/           0710
//	<home>/<id>/diff/      0755, what the snapshot holds
//	<home>/l/<link>        a symbolic link to ../<id>/diff
//	<home>/<id>/link       the name of that link, 26 characters
//	<home>/<id>/work/      0700 (fuse-overlayfs: 0710), where there is a parent
//	<home>/<parent>/committed
//	<home>/<id>/lower      "l/<link>" of the parent, then what its lower says
//
// A process may die after each step. A power loss takes any of the entries, since
// no directory is synced.
const (
	fileDiff      = "diff"
	fileLink      = "link"
	fileWork      = "work"
	fileLower     = "lower"
	fileCommitted = "committed"
	dirLinks      = "l"

	linkLength = 26
)

// Restore makes the directory of id whole where something is missing of it or
// differs from what Create would have made, and keeps what is in diff. The driver's
// Create is of no use there: it would give the directory another link, which the
// snapshots on top of it do not know.
func (d *driver) Restore(id, parent string) (changed bool, err error) {
	if d.links == "" {
		// A subvolume is there or not. Where the driver copies, whatever is there
		// was synced before it was recorded.
		if !d.Driver.Exists(id) {
			return false, fmt.Errorf("directory %q: %w", id, errdefs.ErrNotFound)
		}
		if changed, err = d.restoreRoot(id, parent); err != nil {
			return changed, fmt.Errorf("restore the mode of the directory %q: %w", id, err)
		}
		return changed, nil
	}
	changed, err = d.restoreOverlay(id, parent)
	if err != nil {
		return changed, fmt.Errorf("restore the directory %q: %w", id, err)
	}
	return changed, nil
}

func (d *driver) dir(id string) string { return filepath.Join(filepath.Dir(d.links), id) }

func (d *driver) restoreOverlay(id, parent string) (changed bool, err error) {
	dir := d.dir(id)
	switch st, err := os.Lstat(filepath.Join(dir, fileDiff)); {
	case errors.Is(err, fs.ErrNotExist), err == nil && !st.IsDir():
		return false, fmt.Errorf("what it held: %w", errdefs.ErrNotFound)
	case err != nil:
		return false, err
	}
	// What is changed is synced: it may be long ago that the record was made, and
	// after a power loss only what is new is looked into.
	defer func() {
		if changed {
			err = errors.Join(err, syncDir(d.links), syncDir(dir))
		}
	}()
	if changed, err = d.restoreLink(id); err != nil || parent == "" {
		return changed, err
	}
	if names, err := readNames(filepath.Join(dir, fileDiff)); err != nil {
		return changed, err
	} else if len(names) == 0 {
		// Nobody has used it yet, so it may not have got its owner.
		if err := d.inheritOwner(id, parent); err != nil {
			return changed, err
		}
	}
	mode := os.FileMode(0o700)
	if d.String() == "fuse-overlayfs" {
		mode = 0o710
	}
	work := filepath.Join(dir, fileWork)
	if st, err := os.Lstat(work); err != nil || !st.IsDir() {
		changed = true
		uid, gid := d.idmap.RootPair()
		if err := errors.Join(os.RemoveAll(work), user.MkdirAndChown(work, mode, uid, gid)); err != nil {
			return changed, err
		}
	}
	below := d.dir(parent)
	if _, err := os.Lstat(filepath.Join(below, fileCommitted)); err != nil {
		changed = true
		if err := errors.Join(replaceFile(filepath.Join(below, fileCommitted), "", 0o600), syncDir(below)); err != nil {
			return changed, err
		}
	}
	link, err := d.link(parent)
	if err != nil {
		return changed, fmt.Errorf("the link of its parent %q: %w", parent, err)
	}
	want := filepath.Join(dirLinks, link)
	switch lower, err := os.ReadFile(filepath.Join(below, fileLower)); {
	case err == nil:
		want += ":" + string(lower)
	case !errors.Is(err, fs.ErrNotExist):
		return changed, err
	}
	if have, err := os.ReadFile(filepath.Join(dir, fileLower)); err == nil && string(have) == want {
		return changed, nil
	}
	return true, replaceFile(filepath.Join(dir, fileLower), want, 0o644)
}

// link returns the link of id that its directory names, if it leads there.
func (d *driver) link(id string) (string, error) {
	name, err := os.ReadFile(filepath.Join(d.dir(id), fileLink))
	if err != nil {
		return "", err
	}
	link := string(name)
	if !isLink(link) {
		return "", fmt.Errorf("%q is not the name of a link: %w", link, fs.ErrInvalid)
	}
	target, err := os.Readlink(filepath.Join(d.links, link))
	if err != nil {
		return link, err
	}
	if target != linkTarget(id) {
		return "", fmt.Errorf("the link %q leads to %q: %w", link, target, fs.ErrInvalid)
	}
	return link, nil
}

func linkTarget(id string) string { return filepath.Join("..", id, fileDiff) }

// isLink tells whether name may be that of a link. A file of which the contents did
// not reach the disk is empty or full of NUL.
func isLink(name string) bool {
	return len(name) == linkLength && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// restoreLink gives id the link that its directory names, or the one that leads to
// it, or a new one, in this order: the snapshots on top of it name the link too.
func (d *driver) restoreLink(id string) (changed bool, err error) {
	link, err := d.link(id)
	switch {
	case err == nil:
		return false, nil
	case link != "" && errors.Is(err, fs.ErrNotExist):
		return true, d.makeLink(link, id)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrInvalid):
		return false, err
	}
	links, err := d.linksTo(id)
	if err != nil {
		return false, err
	}
	if len(links) > 0 {
		link = links[0]
		// More than one there are where somebody else made them.
	} else {
		link = overlayutils.GenerateID(linkLength, log.L)
		if err := d.makeLink(link, id); err != nil {
			return true, err
		}
	}
	return true, replaceFile(filepath.Join(d.dir(id), fileLink), link, 0o644)
}

func (d *driver) makeLink(link, id string) error {
	if err := crashpoint.Before("restore.Symlink"); err != nil {
		return err
	}
	err := os.Symlink(linkTarget(id), filepath.Join(d.links, link))
	crashpoint.After("restore.Symlink")
	return err
}

// linksTo returns the names of the links to id. It reads all links.
func (d *driver) linksTo(id string) (names []string, err error) {
	err = d.eachLink(func(name, to string) {
		if to == id {
			names = append(names, name)
		}
	})
	return names, err
}

// eachLink calls f with the name of every link and the graph ID that it leads to.
func (d *driver) eachLink(f func(name, to string)) error {
	names, err := readNames(d.links)
	if err != nil {
		return err
	}
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(d.links, name))
		if err != nil {
			continue // it went since, or is no link
		}
		if id, ok := strings.CutSuffix(strings.TrimPrefix(target, "../"), "/"+fileDiff); ok && target == linkTarget(id) {
			f(name, id)
		}
	}
	return nil
}

func (d *driver) removeLinks(id string) error {
	names, err := d.linksTo(id)
	for _, name := range names {
		if removed := os.Remove(filepath.Join(d.links, name)); removed != nil && !errors.Is(removed, fs.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}
	return err
}

// replaceFile makes a file at one stroke.
func replaceFile(path, content string, mode os.FileMode) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(content)
	if err := errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := crashpoint.Before("restore.Rename"); err != nil {
		return err
	}
	err = os.Rename(f.Name(), path)
	crashpoint.After("restore.Rename")
	return err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
