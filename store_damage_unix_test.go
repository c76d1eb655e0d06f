//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchkey/tests/program"
)

// A FIFO in the place of the database must be refused, not waited for.
func TestDamage_FIFO(t *testing.T) {
	dir := t.TempDir()
	overwrite(t, dir, pepperFile, strings.Repeat("ab", 32))
	overwrite(t, dir, markFile, "x\n")
	if err := unix.Mkfifo(filepath.Join(dir, storeFile), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", "--data", dir}, {"check", storePath(dir)}, {"restore", storePath(dir), "--data", filepath.Join(dir, "new")}} {
		if _, stderr, exit := program.Run(t, args...); exit != 1 || !strings.Contains(stderr, "not a regular file") {
			t.Errorf("%v: got %d %s", args, exit, stderr)
		}
	}
	if info, err := os.Lstat(storePath(dir)); err != nil || info.Mode().IsRegular() {
		t.Errorf("got %v, %v; want the FIFO still there", info, err)
	}
}
