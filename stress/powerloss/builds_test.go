package powerloss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/docker/docker/daemon/graphdriver"

	"github.com/graphsnap/graphsnap/engine"
)

func init() {
	roles["builds"] = func(root string, args []string) error { return place{root, args[0]}.builds(args[1] == "synced") }
	roles["recovers"] = func(root string, args []string) error { return place{root, args[0]}.recovers() }
}

const noLease = "-"

// begun is the line after which a recording begins: what was done before is on disk.
const begun = "begun"

// failing is a driver of which a Create fails when it has made everything.
type failing struct {
	graphdriver.Driver
	id string
}

func (d *failing) Create(id, parent string, opts *graphdriver.CreateOpts) error {
	err := d.Driver.Create(id, parent, opts)
	if id == d.id {
		err = errors.Join(err, errors.New("injected"))
	}
	return err
}

// build is a process that does what builds do.
type build struct {
	*site
	tell io.Writer // what was acknowledged
}

func (p place) builds(synced bool) error {
	driver, err := p.openDriver()
	if err != nil {
		return err
	}
	fmt.Println(begun)
	var options []engine.Option
	if synced {
		options = append(options, engine.WithSyncOnCommit())
	}
	s, err := p.open(&failing{driver, "fails"}, options...)
	if err != nil {
		return err
	}
	b := build{s, os.Stdout}
	err = errors.Join(
		b.prepare(noLease, "no-lease", ""), // goes with the next process at the latest
		b.lease("l1"),
		b.committed("l1", "base", ""),
		b.committed("l1", "middle", "base"),
		b.committed("l1", "top", "middle"),
		b.prepare("l1", "active", "top"),
		b.view("l1", "view", "middle"),
		b.lease("l2"),
		b.committed("l2", "branch", "base"),
		b.prepare("l2", "leaf", "branch"),
	)
	if err := b.prepare("l1", "fails", "middle"); err == nil {
		return errors.New("a Create that failed was acknowledged")
	}
	fmt.Println("ending l2")
	err = errors.Join(err, b.leases.Delete(inNamespace(), leases.Lease{ID: "l2"}))
	err = errors.Join(err, eventually(func() error { // what l2 named has gone
		ids, _, err := p.directories()
		if err == nil && len(ids) != 5 {
			err = fmt.Errorf("there are %q", ids)
		}
		return err
	}))
	return errors.Join(
		err,
		b.committed("l1", "base-again", ""), // whose key is used anew
		b.prepare("l1", "of-base", "base"),
		b.committed("l1", "more", "top"),
	)
}

// recovers is a process that opens what another one left, and no more.
func (p place) recovers() error {
	driver, err := p.openDriver()
	if err != nil {
		return err
	}
	fmt.Println(begun)
	s, err := p.open(driver)
	if err != nil {
		return err
	}
	fmt.Println("recovered")
	// With another snapshot what was to be told of it is durable too, and removals
	// that go on are seen.
	b := build{s, os.Stdout}
	if err := errors.Join(b.lease("l3"), b.prepare("l3", "after", "")); err != nil {
		return err
	}
	return nil
}

func (b *build) lease(id string) error {
	_, err := b.leases.Create(inNamespace(), leases.WithID(id))
	return err
}

func under(lease string) context.Context {
	if lease == noLease {
		return inNamespace()
	}
	return leases.WithLease(inNamespace(), lease)
}

func (b *build) prepare(lease, key, parent string) error {
	if err := b.snap.Prepare(under(lease), key, parent); err != nil {
		return fmt.Errorf("prepare %q: %w", key, err)
	}
	fmt.Fprintf(b.tell, "prepared\t%s\t%s\t%s\n", key, parent, lease)
	return nil
}

// committed makes the committed snapshot name, with a file in it that bears its name,
// from a key that is used again and again.
func (b *build) committed(lease, name, parent string) error {
	key := "making-" + name
	if name == "base-again" {
		key = "making-base"
	}
	if err := b.prepare(lease, key, parent); err != nil {
		return err
	}
	if name != "base-again" { // else the graph ID is not the key
		if err := os.WriteFile(filepath.Join(b.holds(key), name), []byte(name), 0o600); err != nil {
			return err
		}
	}
	fmt.Fprintf(b.tell, "committing\t%s\t%s\t%s\n", key, name, lease)
	if err := b.snap.Commit(under(lease), name, key); err != nil {
		return fmt.Errorf("commit %q: %w", name, err)
	}
	fmt.Fprintf(b.tell, "committed\t%s\t%s\t%s\n", name, parent, lease)
	return nil
}

func (b *build) view(lease, key, parent string) error {
	if _, err := b.snap.View(under(lease), key, parent, snapshots.WithLabels(map[string]string{"label": key})); err != nil {
		return err
	}
	fmt.Fprintf(b.tell, "viewed\t%s\t%s\t%s\n", key, parent, lease)
	return nil
}
