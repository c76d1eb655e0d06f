//go:build unix

package main

import (
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// LockExclusive locks a file. If another process has locked it, LockExclusive does not
// wait and returns EWOULDBLOCK. The system releases the lock when the process ends, even
// after a crash.
func LockExclusive(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// Writable returns an error if this process may not create files in the folder at path.
func Writable(path string) error {
	if err := unix.Access(path, unix.W_OK|unix.X_OK); err != nil {
		return &os.PathError{Op: "write to", Path: path, Err: err}
	}
	return nil
}

// UsableByOwner reports whether the user to whom folder belongs can read the file at path, or with
// writes can create files in the folder at path or in the nearest parent that exists. It goes by the modes of the
// file and of the folders above. It returns true if this process is that user or does not run as root,
// because then the process sees by itself what it can use, and if path does not exist.
func UsableByOwner(folder os.FileInfo, path string, writes bool) bool {
	user, known := folder.Sys().(*syscall.Stat_t)
	path, err := filepath.Abs(path)
	if !known || err != nil || os.Geteuid() != 0 || user.Uid == 0 {
		return true
	}
	var need uint32 = 4
	if writes {
		need = 3
	}
	for at := path; ; at = filepath.Dir(at) {
		if info, err := os.Stat(at); err == nil {
			has, _ := info.Sys().(*syscall.Stat_t)
			mode := uint32(has.Mode)
			switch {
			case has.Uid == user.Uid:
				mode >>= 6
			case has.Gid == user.Gid:
				mode >>= 3
			}
			if mode&need != need {
				return false
			}
			need = 1
		} else if !writes {
			return true
		}
		if at == filepath.Dir(at) {
			return true
		}
	}
}

// DiskFree returns how many bytes this program can still write to the file system of
// path. It returns -1 if that is not known.
func DiskFree(path string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return -1
	}
	return int64(s.Bavail) * int64(s.Bsize)
}

// OpenFileLimit returns how many files and connections this process may have open together
// (RLIMIT_NOFILE). It returns 0 if that is not known or if there is no limit. Go has raised the soft
// limit to the hard limit at the start of the process.
func OpenFileLimit() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(uint64(l.Cur), 1<<30))
}

// DiskSize returns the size of the file system of path in bytes, or -1 if it is not known.
func DiskSize(path string) int64 {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return -1
	}
	return int64(s.Blocks) * int64(s.Bsize)
}

// Unallocated returns how many bytes of the file at path need no disk space yet, because nothing was
// written to that part of the file. It returns 0 if that is not known.
func Unallocated(path string) int64 {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0
	}
	return max(0, s.Size-s.Blocks*512) // POSIX counts blocks of 512 bytes
}
