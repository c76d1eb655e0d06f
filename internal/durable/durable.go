// Package durable changes files and folders so that the change survives a power cut.
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

// WriteFile creates or replaces the file at path with the contents text. Only the file's owner can
// read it. If WriteFile returns nil, the contents are on disk. After a crash the file has either the
// old contents or the new contents, never a part of them.
func WriteFile(path, text string) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return errors.Join(os.Rename(temp, path), SyncDir(filepath.Dir(path)))
}
