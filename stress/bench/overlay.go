package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/docker/docker/daemon/graphdriver/overlay2"
	"github.com/docker/docker/layer"
	"github.com/moby/sys/user"

	"github.com/graphsnap/graphsnap/stress/peer"
)

var overlayRows = []row{
	{
		name: "overlay2-64",
		what: "Prepare and Commit on overlay2, 64 clients; Create is the driver's own, which they contain",
		unit: "ns",
		targets: []target{
			{of: "moby", than: "graphsnap", least: 1.5},
			{of: "containerd", than: "graphsnap", least: 1.5},
		},
		open: openOverlayPairs,
		judge: func(r *result) {
			share := verdict{What: "share of the driver's Create in graphsnap's pair", Ratio: summarize(ratios(r.find("Create alone"), r.find("graphsnap")))}
			share.Target, share.Reached = "to be told", true
			r.Verdicts = append(r.Verdicts, share)
		},
	},
	{
		name:    "views",
		what:    "64 views of one layer are made, mounted, and then unmounted, at once; the time of each",
		unit:    "ns",
		targets: []target{{of: "moby", than: "graphsnap", least: 20}},
		open:    openViews,
	},
}

func openOverlayPairs(ctx context.Context, s *site) (all []contender, err error) {
	n := s.n(256, 16)
	for _, who := range []string{"graphsnap", "moby", "containerd"} {
		root, err := s.dir()
		if err != nil {
			return all, err
		}
		p, err := peer.Open(ctx, who, peer.Options{Root: root, Driver: "overlay2"})
		if err != nil {
			return all, err
		}
		from := int64(0)
		all = append(all, one(who, func(ctx context.Context) (figure, error) {
			f, err := pairs(ctx, p, 64, n, from)
			from += int64(n)
			return f, err
		}, func() error { return errors.Join(p.Close(), os.RemoveAll(root)) }))
	}
	root, err := s.dir()
	if err != nil {
		return all, err
	}
	d, err := overlay2.Init(filepath.Join(root, "overlay2"), nil, user.IdentityMapping{})
	if err != nil {
		return all, err
	}
	from := int64(0)
	return append(all, one("Create alone", func(context.Context) (figure, error) {
		took, err := together(64, n, func(i int64) error { return d.Create(key(from+i), "", nil) })
		from += int64(n)
		return figure{value: float64(took.Nanoseconds()) / float64(n)}, err
	}, func() error { return errors.Join(d.Cleanup(), os.RemoveAll(root)) })), nil
}

func openViews(ctx context.Context, s *site) (all []contender, err error) {
	const views = 64
	for _, who := range []string{"graphsnap", "moby"} {
		root, err := s.dir()
		if err != nil {
			return all, err
		}
		p, err := peer.Open(ctx, who, peer.Options{Root: root, Driver: "overlay2"})
		if err != nil {
			return all, err
		}
		l, err := someLayer(p.(*peer.Docker).Layers)
		if err != nil {
			return all, errors.Join(err, p.Close())
		}
		from := int64(0)
		all = append(all, one(who, func(ctx context.Context) (figure, error) {
			releases := make([]func() error, views)
			mounted, err := together(views, views, func(i int64) error {
				m, err := p.View(ctx, key(from+i), l.ChainID().String())
				if err != nil {
					return err
				}
				_, releases[i-1], err = m.Mount()
				return err
			})
			from += views
			if err != nil {
				return figure{}, err
			}
			unmounted, err := together(views, views, func(i int64) error { return releases[i-1]() })
			return figure{value: float64((mounted + unmounted).Nanoseconds()) / views}, err
		}, func() error { return errors.Join(p.Close(), os.RemoveAll(root)) }))
	}
	return all, nil
}

// someLayer registers a layer with one file.
func someLayer(s layer.Store) (layer.Layer, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	if err := errors.Join(
		t.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: 4}),
		func() error { _, err := t.Write([]byte("data")); return err }(),
		t.Close(),
	); err != nil {
		return nil, err
	}
	return s.Register(&b, "")
}
