package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// memoryDir is a temporary folder in memory, where there is one: images and
// copies are opened and synced so often that a disk would hold the test up.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "latchkey-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// inMemory has a test that makes very many changes not wait for a disk.
func inMemory(t testing.TB) func(*Config) {
	return func(c *Config) { c.Server.Data = filepath.Join(memoryDir(t), "data") }
}

// inspectCopy is inspect for a copy of a data folder, which it leaves nothing of.
func (l *ledger) inspectCopy(t testing.TB, data string) (problems []string, err error) {
	folder := copyFolder(t, data)
	defer dropCopy(t, folder)
	now := time.Now()
	return l.inspect(folder, now, now)
}

// dropCopy removes what copyFolder made before the test ends: a thousand copies
// fill the memory.
func dropCopy(t testing.TB, folder string) {
	if err := os.RemoveAll(filepath.Dir(folder)); err != nil {
		t.Error(err)
	}
}

// copyFolder copies the files of a data folder to a new one.
func copyFolder(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(memoryDir(t), "copy")
	if err := os.Mkdir(to, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{storeFile, pepperFile, markFile} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}
