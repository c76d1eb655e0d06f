// Package durable changes files and folders so that the change survives a power cut, and so that
// the owner of a folder can use all files in it.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// SyncDir syncs the folder dir, so that the creation, renaming and removal of files in it survive a
// power cut. It does not sync the contents of the files. On Windows it has no effect.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Windows cannot sync a folder.
	if err := d.Sync(); err != nil && runtime.GOOS != "windows" {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

// OpenFile is like os.OpenFile, but if root opens the file, it makes the owner of the folder the
// owner of the file. So a service that does not run as root can use a file that a command of root
// has created in its folder. OpenFile returns an error if path is a symbolic link. On Windows it is
// os.OpenFile.
func OpenFile(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag|noFollow, mode)
	if err != nil {
		return nil, err
	}
	if err := give(f); err != nil {
		return nil, errors.Join(fmt.Errorf("give %s to the owner of its folder: %w", path, err), f.Close())
	}
	return f, nil
}

// MakeFolder creates the folder path and its missing parents, for their owner only, and syncs the
// folders in which they are. If root creates them, each belongs to the owner of the folder in which
// it is. MakeFolder does nothing if path exists.
func MakeFolder(path string) error {
	parent := filepath.Dir(path)
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) || parent == path {
		return os.MkdirAll(path, 0o700)
	}
	if err := errors.Join(MakeFolder(parent), os.MkdirAll(path, 0o700)); err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(give(f), f.Close(), SyncDir(parent))
}

// WriteFile creates or replaces the file at path with the contents text. Only the file's owner can
// read it, see OpenFile for who that is. If WriteFile returns nil, the contents are on disk. After a
// crash the file has either the old contents or the new contents, never a part of them.
func WriteFile(path, text string) error {
	temp := path + ".new"
	f, err := OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return errors.Join(os.Rename(temp, path), SyncDir(filepath.Dir(path)))
}
