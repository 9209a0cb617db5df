package engine

import (
	"context"

	"github.com/graphsnap/graphsnap/actors/crashpoint"
)

// layersSeam is what all calls of the layer store pass, nil where there is none. Each
// is a crash point.
type layersSeam struct{ layers Layers }

func newLayersSeam(l Layers) *layersSeam {
	if l == nil {
		return nil
	}
	return &layersSeam{l}
}

func (s *layersSeam) Get(chainID string) (Layer, error) {
	if err := crashpoint.Before("layers.Get"); err != nil {
		return nil, err
	}
	l, err := s.layers.Get(chainID)
	crashpoint.After("layers.Get")
	return l, err
}

func (s *layersSeam) Peek(chainID string) Layer {
	crashpoint.Before("layers.Peek")
	l := s.layers.Peek(chainID)
	crashpoint.After("layers.Peek")
	return l
}

func (s *layersSeam) Find(graphID string) Layer {
	crashpoint.Before("layers.Find")
	l := s.layers.Find(graphID)
	crashpoint.After("layers.Find")
	return l
}

func (s *layersSeam) All() []Layer {
	crashpoint.Before("layers.All")
	all := s.layers.All()
	crashpoint.After("layers.All")
	return all
}

func (s *layersSeam) Release(l Layer) error {
	if err := crashpoint.Before("layers.Release"); err != nil {
		return err
	}
	err := s.layers.Release(l)
	crashpoint.After("layers.Release")
	return err
}

func (s *layersSeam) Checksum(ctx context.Context, graphID, parent, tarSplit string) (Checksum, error) {
	if err := crashpoint.Before("layers.Checksum"); err != nil {
		return Checksum{}, err
	}
	sum, err := s.layers.Checksum(ctx, graphID, parent, tarSplit)
	crashpoint.After("layers.Checksum")
	return sum, err
}

func (s *layersSeam) Copy(ctx context.Context, graphID, parent, to, on string) error {
	if err := crashpoint.Before("layers.Copy"); err != nil {
		return err
	}
	err := s.layers.Copy(ctx, graphID, parent, to, on)
	crashpoint.After("layers.Copy")
	return err
}

func (s *layersSeam) Register(graphID, parent string, c Checksum, tarSplit string) (Layer, error) {
	if err := crashpoint.Before("layers.Register"); err != nil {
		return nil, err
	}
	l, err := s.layers.Register(graphID, parent, c, tarSplit)
	crashpoint.After("layers.Register")
	return l, err
}
