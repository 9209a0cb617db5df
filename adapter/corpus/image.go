package corpus

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// Layer is one layer of an image.
type Layer struct {
	Tar     []byte   // uncompressed, with all times set to zero
	Entries []string // what it holds, one line each, for people
}

// ReadImage reads the image in a tar as `docker save` and BuildKit's docker exporter
// write it: the layers, the lowest first.
func ReadImage(path string) ([]Layer, error) {
	files, err := readTar(path)
	if err != nil {
		return nil, fmt.Errorf("read image %s: %w", path, err)
	}
	var images []struct{ Layers []string }
	if err := json.Unmarshal(files["manifest.json"], &images); err != nil || len(images) != 1 {
		return nil, fmt.Errorf("read image %s: manifest.json names %d images: %w", path, len(images), err)
	}
	var layers []Layer
	for _, name := range images[0].Layers {
		l, err := normalize(files[name])
		if err != nil {
			return nil, fmt.Errorf("read image %s: layer %s: %w", path, name, err)
		}
		layers = append(layers, l)
	}
	return layers, nil
}

func readTar(path string) (map[string][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
}

// normalize decompresses a layer and sets its times to zero. All else stays, the
// order of entries too.
func normalize(blob []byte) (l Layer, err error) {
	var in io.Reader = bytes.NewReader(blob)
	if bytes.HasPrefix(blob, []byte{0x1f, 0x8b}) {
		if in, err = gzip.NewReader(in); err != nil {
			return l, err
		}
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			err = w.Close()
			l.Tar = out.Bytes()
			return l, err
		}
		if err != nil {
			return l, err
		}
		maps.DeleteFunc(h.PAXRecords, func(name, _ string) bool {
			return name == "mtime" || name == "atime" || name == "ctime"
		})
		h.ModTime, h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}, time.Time{}
		h.Format = tar.FormatPAX
		content, err := io.ReadAll(r)
		if err != nil {
			return l, err
		}
		if err := w.WriteHeader(h); err != nil {
			return l, err
		}
		if _, err := w.Write(content); err != nil {
			return l, err
		}
		l.Entries = append(l.Entries, describe(h, content))
	}
}

func describe(h *tar.Header, content []byte) string {
	line := fmt.Sprintf("%q type %c mode %o owner %d:%d size %d %x", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Size, sha256.Sum256(content))
	if h.Linkname != "" {
		line += fmt.Sprintf(" to %q", h.Linkname)
	}
	if h.Devmajor != 0 || h.Devminor != 0 {
		line += fmt.Sprintf(" device %d:%d", h.Devmajor, h.Devminor)
	}
	for _, name := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		line += fmt.Sprintf(" %s=%q", name, h.PAXRecords[name])
	}
	if h.Name == "listing" {
		line += "\n" + string(content)
	}
	return line
}

// Compare tells the first difference between two images, "" where there is none.
// The names say whose they are.
func Compare(a []Layer, nameA string, b []Layer, nameB string) string {
	if len(a) != len(b) {
		return fmt.Sprintf("%s has %d layers, %s %d", nameA, len(a), nameB, len(b))
	}
	for i := range a {
		if bytes.Equal(a[i].Tar, b[i].Tar) {
			continue
		}
		text := fmt.Sprintf("layer %d of %d differs", i+1, len(a))
		for _, side := range []struct {
			name        string
			has, hasNot []string
		}{{nameA, lines(a[i]), lines(b[i])}, {nameB, lines(b[i]), lines(a[i])}} {
			for _, line := range side.has {
				if !slices.Contains(side.hasNot, line) {
					text += fmt.Sprintf("\n  only of %s: %s", side.name, line)
				}
			}
		}
		return text
	}
	return ""
}

func lines(l Layer) []string { return strings.Split(strings.Join(l.Entries, "\n"), "\n") }
