package dockerd

import (
	"os"
	"strings"
	"testing"

	"github.com/graphsnap/graphsnap/adapter/corpus"
)

// TestCorpus builds every case of the corpus with both dockerds: the images are the
// same byte by byte.
func TestCorpus(t *testing.T) {
	if os.Getenv("GRAPHSNAP_CORPUS") == "" {
		t.Skip("make corpus runs this")
	}
	context, err := os.MkdirTemp("", "corpus-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(context)
	if err := corpus.WriteContext(context); err != nil {
		t.Fatal(err)
	}
	images := map[string]map[string][]corpus.Layer{}
	for _, binary := range []string{stock, graphsnap} {
		images[binary] = map[string][]corpus.Layer{}
		h := newHost(t, "overlay2")
		d := h.start(binary)
		for _, c := range corpus.Cases {
			file := h.write("Dockerfile", c.Dockerfile())
			d.must("build", "-q", "-t", "corpus", "-f", file, "--provenance=false", "--network=host", context)
			saved := h.path("image.tar")
			d.must("save", "-o", saved, "corpus")
			layers, err := corpus.ReadImage(saved)
			if err != nil {
				t.Fatal(err)
			}
			images[binary][c.Name] = layers
		}
		d.stop()
	}
	for _, c := range corpus.Cases {
		t.Run(strings.ReplaceAll(c.Name, " ", "-"), func(t *testing.T) {
			if len(images[stock][c.Name]) < 5 {
				t.Errorf("an image of %d layers", len(images[stock][c.Name]))
			}
			if difference := corpus.Compare(images[graphsnap][c.Name], "dockerd with graphsnap", images[stock][c.Name], "dockerd"); difference != "" {
				t.Error(difference)
			}
		})
	}
}
