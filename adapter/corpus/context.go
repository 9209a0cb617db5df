package corpus

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// WriteContext makes the build context of all cases in dir: in bin the machine's
// static busybox and fsop, which it has Go build, and in files what is copied.
func WriteContext(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "bin"), 0o755); err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return fmt.Errorf("install busybox-static: %w", err)
	}
	binary, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "busybox"), binary, 0o755); err != nil {
		return err
	}
	build := exec.Command("go", "build", "-trimpath", "-o", filepath.Join(dir, "bin", "fsop"), "github.com/graphsnap/graphsnap/adapter/corpus/fsop")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build fsop: %w\n%s", err, out)
	}
	return writeFiles(filepath.Join(dir, "files"))
}

// The names are text: those of a context travel in messages that hold nothing else.
func writeFiles(dir string) error {
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, sub := range []string{"", "tree", "tree/empty", "tree/sub", "tree/sub/sub", "odd", "private", "links"} {
		do(os.MkdirAll(at(sub), 0o755))
	}
	write := func(name string, mode os.FileMode) {
		do(os.WriteFile(at(name), []byte(name), 0o600))
		do(os.Chmod(at(name), mode)) // whatever the umask
	}
	write("a", 0o644)
	write("b", 0o600)
	write("tree/a", 0o755)
	write("tree/sub/b", 0o444)
	write("tree/sub/sub/c", 0o644|os.ModeSetuid|os.ModeSetgid)
	for _, name := range []string{" ", "new\nline", "tab\t", `back\slash`, `"quoted"`, "ünïcödé", "-dash", "star*", strings.Repeat("n", 255)} {
		write("odd/"+name, 0o644)
	}
	write("private/file", 0o400)
	do(os.Chmod(at("private"), 0o700|os.ModeSticky))
	write("links/one", 0o644)
	do(os.Link(at("links/one"), at("links/two")))
	do(os.Link(at("links/one"), at("tree/sub/three")))
	do(os.Symlink("one", at("links/relative")))
	do(os.Symlink("/w/absolute", at("links/absolute")))
	do(os.Symlink("nowhere/at/all", at("links/dangling")))
	do(os.Symlink("../tree/sub", at("links/directory")))
	do(unix.Mkfifo(at("links/fifo"), 0o640))
	do(os.WriteFile(at("sparse"), []byte("x"), 0o644))
	do(os.Truncate(at("sparse"), 8<<20))
	do(os.WriteFile(at("empty"), nil, 0o644))
	return errors.Join(errs...)
}
