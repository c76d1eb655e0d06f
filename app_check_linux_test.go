package main

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asStranger runs f as a user to whom no file belongs. A test that root does not run is run by such a user
// if it takes the modes of the files away.
func asStranger(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		if os.Geteuid() == 0 {
			runtime.LockOSThread() // and never unlocked, so that the thread ends with this goroutine
			if err := syscall.Setfsuid(64099); err != nil {
				done <- err
				return
			}
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestConfigCheck_Stranger checks the configuration as a user who may not read the pepper: the file is not missing,
// and no setting for retired peppers is wrong.
func TestConfigCheck_Stranger(t *testing.T) {
	a := newTestApp(t)
	pepper := pepperPath(a.config.Server.Data)
	if err := os.Chmod(pepper, 0); err != nil {
		t.Fatal(err)
	}
	asStranger(t, func() {
		check := ConfigCheck{Config: a.config, Sources: Sources{}, Now: time.Now(), WayIn: func() (bool, error) { return true, nil }}
		_, err := check.Run()
		if err == nil || !strings.Contains(err.Error(), "keys.pepper_file: ") || !strings.Contains(err.Error(), AskAsOwner) || strings.Contains(err.Error(), "put the file back") {
			t.Errorf("the pepper: got %v, want the setting of the pepper, and whom to run it as", err)
		}
	})
}

// TestConfigCheck_OtherUser checks, as root, a configuration for a service whose data folder belongs to another user.
func TestConfigCheck_OtherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a folder to another user")
	}
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // so that the other user gets to the files
		t.Fatal(err)
	}
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("a secret of the mail server"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := defaultConfig()
	c.Server.Data, c.Backup.Dir, c.Mail.PasswordFile = filepath.Join(dir, "data"), filepath.Join(dir, "backups"), secret
	if err := os.Mkdir(c.Server.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	warned := func(key string) bool {
		t.Helper()
		check := ConfigCheck{Config: c, Sources: Sources{}, Now: time.Now(), WayIn: func() (bool, error) { return true, nil }}
		warnings, err := check.Run()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(strings.Join(warnings, "\n"), key+": the data folder belongs to another user")
	}
	want := func(when string, backup, mail bool) {
		t.Helper()
		if got := [2]bool{warned("backup.dir"), warned("mail.password_file")}; got != [2]bool{backup, mail} {
			t.Errorf("%s: got warnings %v, want %v", when, got, [2]bool{backup, mail})
		}
	}
	want("a folder of root", false, false)
	if err := os.Chown(c.Server.Data, 64001, 64001); err != nil {
		t.Fatal(err)
	}
	want("a folder of another user", true, true)
	if err := os.Chown(secret, 64001, 64001); err != nil {
		t.Fatal(err)
	}
	c.Backup.Dir = filepath.Join(c.Server.Data, "backups")
	want("files that this user can use", false, false)
}
