//go:build linux

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of so many bytes, which takes root.
func smallDisk(t testing.TB, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") == "" && os.Getuid() != 0 {
			t.Skip("mounting a small disk takes root")
		}
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// free gives the free bytes of a disk.
func free(t testing.TB, dir string) int64 {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	return int64(s.Bavail) * s.Bsize
}

// A disk that is full ends the server after a 503 and with a sentence; nothing
// that was acknowledged is lost, and with room again it goes on.
// LATCHKEY_CRASH_DISKS sets how often the disk is filled anew, up to another
// byte.
func TestProgram_DiskFull(t *testing.T) {
	disk := smallDisk(t, "8m")
	data, ballast := filepath.Join(disk, "data"), filepath.Join(disk, "ballast")
	p := serveReal(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget)
	l := newLedger(t, p)
	l.load(p, nil, 2)()
	times := long("LATCHKEY_CRASH_DISKS", 2)
	for i := range times {
		// Others fill the disk while the server runs, up to some pages.
		left := int64(i%8) * 4096
		if err := os.WriteFile(ballast, make([]byte, free(t, disk)-left), 0o600); err != nil {
			t.Fatal(err)
		}
		l.refused, l.relapsed = 0, 0
		for round := 0; round < 400 && l.refused == 0; round++ {
			l.round(p, round)
		}
		if l.refused == 0 {
			t.Fatalf("no 503 with the disk full: %s", tail(p.out.String()))
		}
		p.ends(t, "no space left on device")
		if l.relapsed > 0 {
			t.Errorf("%d requests were let through after a 503", l.relapsed)
		}
		// With the disk still full it starts, refuses the first change and ends
		// again: a full disk costs no data, only service.
		again := startCommand(t, programCommand(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"), data)
		if again.url != "" {
			for range 50 {
				if again.socket().Do(context.Background(), "POST", "/admin/v1/teams", map[string]any{"name": strings.Repeat("t", 100)}, nil) != nil {
					break
				}
			}
		}
		again.ends(t, "no space left on device")
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		if problems, err := l.inspectCopy(t, data); err != nil || len(problems) > 0 {
			t.Fatalf("disk full number %d: %v, %v", i, problems, err)
		}
		p = serveReal(t, data, "LATCHKEY_LOG_ACCESS=false", anyTarget)
		l.refused = 0
		if l.round(p, 0); l.refused > 0 {
			t.Fatal("with room again: got a 503")
		}
	}
	l.complete(t)
	t.Logf("disk full %d times; acknowledged: %s", times, l.counts())
}

// On a disk that is mounted to be read only the server refuses to start and
// says so; the database can still be checked there.
func TestProgram_ReadOnlyDisk(t *testing.T) {
	disk := smallDisk(t, "8m")
	data := filepath.Join(disk, "data")
	p := serveReal(t, data)
	if code := p.stop(t); code != 0 {
		t.Fatalf("got exit code %d: %s", code, p.out.String())
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	serveFails(t, data, "read-only file system")
	if exit, said := limited(t, "check", StorePath(data)); exit != 0 || !strings.Contains(said, "0 problems") {
		t.Errorf("check: exit %d, %s", exit, said)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	p = serveReal(t, data)
	if code := p.stop(t); code != 0 {
		t.Errorf("got exit code %d: %s", code, p.out.String())
	}
}
