//go:build unix

package certs

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/crypto/acme/autocert"
)

// TestFolderCache has root store a certificate in a folder of another user, twice.
func TestFolderCache(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can make a folder of another user")
	}
	dir := t.TempDir()
	if err := os.Chown(dir, 64001, 64002); err != nil {
		t.Fatal(err)
	}
	cache := folderCache{autocert.DirCache(dir)}
	for _, text := range []string{"first", "second"} {
		if err := cache.Put(context.Background(), "api.example.net+rsa", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := cache.Get(context.Background(), "api.example.net+rsa"); err != nil || string(got) != text {
			t.Errorf("got %q, %v, want %q", got, err, text)
		}
		info, err := os.Stat(filepath.Join(dir, "api.example.net+rsa"))
		if err != nil {
			t.Fatal(err)
		}
		if s := info.Sys().(*syscall.Stat_t); s.Uid != 64001 || s.Gid != 64002 || info.Mode().Perm() != 0o600 {
			t.Errorf("the file belongs to %d:%d with the mode %v, want the owner of the folder alone", s.Uid, s.Gid, info.Mode())
		}
	}
}
