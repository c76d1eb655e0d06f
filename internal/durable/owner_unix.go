//go:build unix

package durable

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// noFollow makes os.OpenFile refuse a symbolic link. The owner of a folder could otherwise make root
// write to any file of the system.
const noFollow = syscall.O_NOFOLLOW

// give makes the owner of the folder in which an open file or folder is its owner, if this process is
// root. It leaves a file with several names alone, because another name may be in a folder of somebody
// else. Where root may not change owners, such as on some network file systems, it has no effect.
func give(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	folder, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	to, is := folder.Sys().(*syscall.Stat_t), info.Sys().(*syscall.Stat_t)
	if to.Uid == is.Uid || info.Mode().IsRegular() && is.Nlink > 1 {
		return nil
	}
	err = f.Chown(int(to.Uid), int(to.Gid))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}
