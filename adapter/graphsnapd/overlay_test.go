package main

import (
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOverlayFastPaths checks on disk that BuildKit takes overlay2 for the overlay
// snapshotter that it is: COPY --link makes hard links on top of the base instead of
// copies of all, layers are read from upper directories, and the driver mounts
// nothing itself.
func TestOverlayFastPaths(t *testing.T) {
	for _, version := range buildctlVersions {
		t.Run(version, func(t *testing.T) {
			root := testRoot(t)
			d := startDaemon(t, root, "overlay2")
			dir := writeContext(t, root, "context", `FROM scratch AS base
COPY bin/ /bin/
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN echo base > /inbase
FROM base AS files
RUN mkdir /made && echo made > /made/linked
FROM base
RUN echo changed > /changed
COPY --link --from=files /made /made
RUN --mount=type=cache,target=/cache grep made /made/linked && grep ' / ' /proc/self/mountinfo > /mount
`)
			image := filepath.Join(root, "image.tar")
			d.mustBuildctl(version, buildArgs(dir, "--output", "type=oci,dest="+image)...)

			bases, links := 0, map[uint64]int{}
			err := filepath.WalkDir(d.home(), func(path string, entry fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				switch {
				case strings.HasSuffix(path, "/merged"):
					t.Errorf("the driver has mounted at %s", path)
				case strings.HasSuffix(path, "/diff/inbase"):
					bases++
				case strings.HasSuffix(path, "/diff/made/linked"):
					info, err := entry.Info()
					if err != nil {
						return err
					}
					links[info.Sys().(*syscall.Stat_t).Ino]++
				case strings.HasSuffix(path, "/diff/mount"):
					if root := readFile(t, path); !strings.Contains(root, " overlay ") {
						t.Errorf("a step's root file system is %q", root)
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			most := 0
			for _, n := range links {
				most = max(most, n)
			}
			if most < 2 {
				t.Errorf("the file that was linked is in snapshots by inode %v, want one inode in two", links)
			}
			if bases != 1 {
				t.Errorf("a file of the base is in %d snapshots, want it in one: merges are made on top of their base", bases)
			}
			if strings.Contains(d.log.String(), "overlay differ") {
				t.Error("BuildKit fell back from the differ for overlays")
			}
			d.pruneAll(version)
		})
	}
}
