// Command fsop makes and describes files, for images that have nothing else to do
// it with.
//
//	fsop setxattr PATH NAME VALUE
//	fsop setcap PATH              cap_net_bind_service, permitted and effective
//	fsop mknod PATH c|b MAJOR MINOR
//	fsop socket PATH
//	fsop sparse PATH SIZE         one byte at each end
//	fsop name DIR QUOTED          a file whose name is a quoted Go string
//	fsop long DIR DEPTH           directories with names of 200 bytes, a file in the last
//	fsop list DIR                 all that can be seen of a tree but times
package main

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1], os.Args[2:]...); err != nil {
		fmt.Fprintf(os.Stderr, "fsop %q: %v\n", os.Args[1:], err)
		os.Exit(1)
	}
}

func run(op string, args ...string) error {
	switch op {
	case "setxattr":
		return unix.Lsetxattr(args[0], args[1], []byte(args[2]), 0)
	case "setcap":
		// struct vfs_cap_data, version 2, little endian.
		return unix.Lsetxattr(args[0], "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	case "mknod":
		major, err := strconv.ParseUint(args[2], 10, 32)
		if err != nil {
			return err
		}
		minor, err := strconv.ParseUint(args[3], 10, 32)
		if err != nil {
			return err
		}
		mode := uint32(unix.S_IFCHR)
		if args[1] == "b" {
			mode = unix.S_IFBLK
		}
		return unix.Mknod(args[0], mode|0o600, int(unix.Mkdev(uint32(major), uint32(minor))))
	case "socket":
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: args[0]})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return l.Close()
	case "sparse":
		return sparse(args[0], args[1])
	case "name":
		name, err := strconv.Unquote(`"` + args[1] + `"`)
		if err != nil {
			return err
		}
		return os.WriteFile(args[0]+"/"+name, []byte(args[1]), 0o644)
	case "long":
		return long(args[0], args[1])
	case "list":
		return list(args[0])
	}
	return fmt.Errorf("unknown: %w", os.ErrInvalid)
}

func sparse(path, size string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, at := range []int64{0, n - 1} {
		if _, err := f.WriteAt([]byte("x"), at); err != nil {
			return err
		}
	}
	return f.Close()
}

// long goes down step by step: the whole path may be longer than the kernel takes.
func long(dir, depth string) error {
	n, err := strconv.Atoi(depth)
	if err != nil {
		return err
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	for i := range n {
		name := strings.Repeat(string(rune('a'+i%26)), 200)
		if err := os.MkdirAll(name, 0o755); err != nil {
			return err
		}
		if err := os.Chdir(name); err != nil {
			return err
		}
	}
	return os.WriteFile(strings.Repeat("f", 255), []byte("deep"), 0o600)
}

// mounted is what a container has mounted over its image, and where the list goes.
var mounted = []string{"/proc", "/sys", "/dev", "/etc/hosts", "/etc/resolv.conf", "/listing"}

func list(root string) error {
	first := map[[2]uint64]string{}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(mounted, path) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q mode %o owner %d:%d", path, st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" to %q", target)
		case unix.S_IFREG:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" size %d %x", st.Size, sha256.Sum256(content))
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink > 1 {
			inode := [2]uint64{st.Dev, st.Ino}
			if other, ok := first[inode]; ok {
				line += fmt.Sprintf(" same as %q", other)
			} else {
				first[inode] = path
			}
		}
		attributes, err := xattrs(path)
		if err != nil {
			return err
		}
		fmt.Println(line + attributes)
		return nil
	})
}

func xattrs(path string) (text string, err error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %s=%q", name, buf[:n])
	}
	return text, nil
}
