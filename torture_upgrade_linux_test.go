package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"latchkey/tests/program"
)

// TestProgram_UpgradeDiskFull starts the upgrade on disks with more and more room, until it has enough. What fails is undone
// and leaves nothing, and with room the next start brings the upgrade to its end. In the long form there is a disk for each page.
func TestProgram_UpgradeDiskFull(t *testing.T) {
	more := int64(7 * os.Getpagesize())
	if program.Long(t, "LATCHKEY_CRASH_UPGRADES", 0) > 0 {
		more = int64(os.Getpagesize())
	}
	full := map[string]int{}
	for format := 1; format < StoreFormat; format++ {
		u := newUpgrade(t, format, smallUpgrade)
		var used int64
		u.view(storePath(u.data), func(tx *Tx) error {
			used = tx.Bolt.Size()
			return nil
		})
		for room := used * 3 / 4; ; room += more {
			left, failed := u.onFullDisk(room)
			if failed == "" {
				break
			}
			full[fmt.Sprintf("%s, format %d is left", failed, left)]++
		}
	}
	t.Logf("the disk was full in: %v", full)
	for _, want := range []string{"copy", "step"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(full)), func(in string) bool { return strings.HasPrefix(in, want) }) {
			t.Errorf("no disk was full in a %s", want)
		}
	}
}

// onFullDisk starts the upgrade on a disk with some room. It returns what has failed, "copy", "step" or "" for nothing, and the format
// that is left.
func (u *upgrade) onFullDisk(room int64) (left int, failed string) {
	u.Helper()
	info, err := os.Stat(storePath(u.data))
	if err != nil {
		u.Fatal(err)
	}
	disk := smallDisk(u.TB, fmt.Sprint(info.Size()+32<<10+room))
	data := filepath.Join(disk, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		u.Fatal(err)
	}
	for _, file := range []string{storeFile, pepperFile} {
		copyFile(u, filepath.Join(data, file), filepath.Join(u.data, file))
	}
	p := program.StartCommand(u, u.command(data), data)
	if p.URL != "" {
		p.Kill()
		return u.inspect(data, true), ""
	}
	code, out := p.Wait(u), p.Out.Tail()
	if code != 1 || !strings.Contains(out, "no space left on device") {
		u.Errorf("%d bytes of room: got exit code %d: %s", room, code, out)
	}
	left, failed = u.inspect(data, false), "step"
	if strings.Contains(out, "free some disk space") {
		failed = "copy"
	}
	for _, file := range []string{u.copy + ".part", storeFile + ".rebuild"} {
		if _, err := os.Lstat(filepath.Join(data, file)); err == nil {
			u.Errorf("%d bytes of room: %s is left", room, file)
		}
	}
	if _, err := os.Lstat(filepath.Join(data, u.copy)); left == u.format && err == nil {
		u.Errorf("%d bytes of room: the copy is left, and nothing was changed", room)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", 20*info.Size())); err != nil {
		u.Fatal(err)
	}
	again := program.ServeCommand(u, u.command(data), data)
	again.Kill()
	u.inspect(data, true)
	return left, failed
}

// TestProgram_UpgradeCallsFail lets one system call on the files of the data folder fail during an upgrade. The old store
// or that of the next format is there, and the next start brings the upgrade to its end. LATCHKEY_CRASH_FAULTS sets the most n of
// the n-th call.
func TestProgram_UpgradeCallsFail(t *testing.T) {
	u := newUpgrade(t, 2, smallUpgrade/2)
	names := []string{"", storeFile, storeFile + ".rebuild", u.copy, u.copy + ".part"}
	runs, ended := 0, map[string]int{}
	for _, f := range []syscallFault{
		{"pwrite64", []string{"ENOSPC", "EIO"}, []int{3, 40}},
		{"fdatasync", []string{"EIO", "ENOSPC"}, []int{2, 4}},
		{"fsync", []string{"EIO"}, []int{1}},
		{"ftruncate", []string{"ENOSPC", "EIO"}, []int{1, 2}},
		{"openat", []string{"EIO", "EMFILE"}, []int{4}},
		{"mmap", []string{"ENOMEM"}, []int{3}},
		{"/^rename", []string{"EIO", "ENOSPC"}, []int{1}},
		{"/^unlink", []string{"EIO"}, []int{1}},
	} {
		for _, errno := range f.names(t) {
			for _, n := range f.times(t) {
				name := fmt.Sprintf("%s number %d fails with %s", f.call, n, errno)
				t.Log(name) // a sign of life
				data, into := u.folder(), filepath.Join(t.TempDir(), "trace")
				options := []string{"-e", "trace=" + f.call, "-e", fmt.Sprintf("inject=%s:error=%s:when=%d", f.call, errno, n)}
				for _, file := range names {
					options = append(options, "-P", filepath.Join(data, file))
				}
				c := tracedCommand(t, data, into, options...)
				c.Env = append(c.Env, "LATCHKEY_KEYS_PREFIX="+fixturePrefix)
				p := program.StartCommand(t, c, data)
				served := p.URL != ""
				if served {
					p.Terminate()
				}
				code, hit := p.Wait(t), injected(t, into)
				if code < 0 || code != 0 && (!hit || !strings.Contains(p.Out.String(), "latchkey: ")) {
					t.Errorf("%s: got exit code %d: %s", name, code, p.Out.Tail())
				}
				left := u.inspect(data, served || strings.Contains(p.Out.String(), "is complete"))
				if runs++; code != 0 {
					ended[fmt.Sprintf("format %d", left)]++
				}
				again := program.ServeCommand(t, u.command(data), data)
				again.Kill()
				u.inspect(data, true)
				dropCopy(t, data)
				if !hit {
					break
				}
			}
		}
	}
	t.Logf("%d runs; of those that ended so many left each format: %v", runs, ended)
}
