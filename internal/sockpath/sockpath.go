// Package sockpath lets Unix sockets have paths of any length. Systems limit the address of a socket
// to little more than 100 bytes.
package sockpath

import (
	"fmt"
	"os"
	"path/filepath"
)

// Most is the longest address that every system accepts, in bytes: 103 on macOS, 107 on Linux.
const Most = 103

// Short returns an address for the socket at path that a system accepts. It is path itself if that is
// short enough, and otherwise a path that leads to the same folder by a file descriptor or by a
// symbolic link in the folder for temporary files. Call release after the use of the address, when
// the socket is bound or connected. The folder of the socket must exist. The error contains the
// length of path.
func Short(path string) (short string, release func(), err error) {
	if len(path) <= Most {
		return path, func() {}, nil
	}
	dir, name := filepath.Split(path)
	short, release, err = throughDescriptor(dir, name)
	if err != nil {
		short, release, err = throughLink(dir, name)
	}
	if err != nil {
		return "", nil, fmt.Errorf("the path %s is too long for a socket: it has %d bytes, and at most %d are possible; choose a data folder with a shorter path (%w)", path, len(path), Most, err)
	}
	return short, release, nil
}

// throughDescriptor returns a path through /proc, which Linux has.
func throughDescriptor(dir, name string) (short string, release func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	short = fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if _, err := os.Stat(short); err != nil {
		_ = f.Close()
		return "", nil, err
	}
	return short + "/" + name, func() { _ = f.Close() }, nil
}

// throughLink returns a path through a symbolic link to dir in a new temporary folder.
func throughLink(dir, name string) (short string, release func(), err error) {
	whole, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	temp, err := os.MkdirTemp("", "lk")
	if err != nil {
		return "", nil, err
	}
	release = func() { _ = os.RemoveAll(temp) } // removes the link, not the folder behind it
	link := filepath.Join(temp, "d")
	if err := os.Symlink(whole, link); err != nil {
		release()
		return "", nil, err
	}
	if short = filepath.Join(link, name); len(short) > Most {
		release()
		return "", nil, fmt.Errorf("the folder for temporary files, %s, has a long path too", os.TempDir())
	}
	return short, release, nil
}
