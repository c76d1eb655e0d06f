package tests

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"latchkey/tests/program"
)

// serviceUser is the user of the service in the tests of an installation. It has no name.
const serviceUser = 64001

// packaged is the Debian package, installed below a folder with the data folder of a
// service that does not run as root.
type packaged struct {
	*testing.T
	root string
}

// newPackaged installs the package. It skips the test if the user is not root.
func newPackaged(t *testing.T) packaged {
	t.Helper()
	program.NotQuick(t)
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("only root can install a package")
		}
		t.Skip("only root can install a package")
	}
	root, err := os.MkdirTemp("", "installed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	p := packaged{t, root}
	installPackage(t, root)
	// As StateDirectory= and LoadCredential= of the unit do.
	if err := os.MkdirAll(filepath.Dir(p.data()), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{p.data(), p.path("run")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		p.give(dir)
	}
	p.copy(p.path("etc/latchkey/pepper"), p.path("run/pepper"))
	p.give(p.path("run/pepper"))
	return p
}

// path returns the path of an installed file.
func (p packaged) path(name string) string { return filepath.Join(p.root, name) }

// data returns the path of the data folder.
func (p packaged) data() string { return p.path("var/lib/latchkey") }

// give makes the user of the service the owner of a file.
func (p packaged) give(path string) {
	p.Helper()
	if err := os.Chown(path, serviceUser, serviceUser); err != nil {
		p.Fatal(err)
	}
}

// copy copies a file.
func (p packaged) copy(from, to string) {
	p.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		p.Fatal(err)
	}
}

// serve starts the service by the command and the environment of its unit.
func (p packaged) serve() *program.Server {
	p.Helper()
	unit, err := os.ReadFile(p.path("lib/systemd/system/latchkey.service"))
	if err != nil {
		p.Fatal(err)
	}
	value := func(name string) string {
		m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindSubmatch(unit)
		if m == nil {
			p.Fatalf("the unit has no %s", name)
		}
		return string(m[1])
	}
	below := strings.NewReplacer("/usr/", p.root+"/usr/", "/etc/", p.root+"/etc/", "/var/", p.root+"/var/", "%d", p.path("run"))
	args := append(strings.Fields(below.Replace(value("ExecStart"))), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	c := exec.Command(args[0], args[1:]...)
	c.Dir, c.Env = "/", []string{below.Replace(value("Environment"))}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: serviceUser, Gid: serviceUser}}
	return program.ServeCommand(p.T, c, p.data())
}

// run runs a command of the installed program, as an operator would type it. want is an
// expression for its output and its errors.
func (p packaged) run(exit int, want string, args ...string) string {
	p.Helper()
	return p.runAs(0, exit, want, args...)
}

// runAs is like run for another user than root.
func (p packaged) runAs(user uint32, exit int, want string, args ...string) string {
	p.Helper()
	c := exec.Command(p.path("usr/bin/latchkey"), args...)
	var out bytes.Buffer
	c.Dir, c.Env, c.Stdout, c.Stderr = "/", []string{"HOME=/nowhere"}, &out, &out
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	_ = c.Run()
	p.Logf("latchkey %s  (exit %d)\n%s", strings.Join(args, " "), c.ProcessState.ExitCode(), &out)
	if c.ProcessState.ExitCode() != exit || !regexp.MustCompile(want).MatchString(out.String()) {
		p.Errorf("latchkey %s: got exit %d and %s; want %d and %q", strings.Join(args, " "), c.ProcessState.ExitCode(), &out, exit, want)
	}
	return out.String()
}

// owned checks that everything in the data folder belongs to the user of the service.
func (p packaged) owned(when string) {
	p.Helper()
	err := filepath.WalkDir(p.data(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != serviceUser {
			p.Errorf("after %s: %s belongs to %d, want the user of the service", when, path, uid)
		}
		return nil
	})
	if err != nil {
		p.Fatal(err)
	}
}

// TestInstalled_Commands has root run commands without flags beside the running service, and
// while it is stopped. They find the files of the service, and it can use all theirs.
func TestInstalled_Commands(t *testing.T) {
	p := newPackaged(t)
	password := p.path("password")
	if err := os.WriteFile(password, []byte("a long password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := p.serve()
	p.run(0, "^ready", "healthcheck")
	admin := strings.Replace(s.Admin, "127.0.0.1", "localhost", 1) // an IP address cannot have passkeys
	p.run(0, `^http://`+regexp.QuoteMeta(admin)+`/setup\?token=[0-9a-f]{64}\n`, "admin", "setup-link")
	if out := p.run(0, `"url": "http://`+regexp.QuoteMeta(admin)+`/setup`, "--json", "admin", "setup-link"); strings.Contains(out, "not running") {
		t.Errorf("got %s, want no word of a server that does not run", out)
	}
	p.run(0, "klen_", "keys", "create", "--name", "first", "--permission", "can_read_calls")
	backup := p.path("backup.db")
	p.run(0, "Wrote", "backup", backup)
	p.run(0, "0 problems", "check", backup)
	if code := s.Stop(t); code != 0 {
		t.Fatalf("got exit %d: %s", code, s.Out)
	}
	p.runAs(64099, 1, "for its owner only.*run the command as root", "keys", "list")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"first", []string{"keys", "list"}},
		{"^http://localhost:8081/setup.*\n(?s:.*)server is not running", []string{"admin", "setup-link"}},
		{"ann", []string{"admin", "create", "--name", "ann", "--password-file", password}},
		{"", []string{"admin", "passwd", "ann", "--password-file", password}},
		{"Wrote", []string{"backup", p.path("var/lib/latchkey/own.db")}},
		{"0 problems", []string{"check"}},
		{"0 problems", []string{"check", backup}},
		{"now", []string{"compact"}},
		{"Would restore 1 keys", []string{"restore", "--dry-run", backup}},
		{"Restored 1 keys", []string{"restore", backup}},
		{"good", []string{"config", "check"}},
	} {
		p.run(0, c.want, c.args...)
		p.owned(strings.Join(c.args, " "))
	}
	s = p.serve()
	p.run(0, "first", "keys", "list")
	s.Kill() // leaves the control socket
	p.owned("a crash")
	// A restore in an empty folder creates every file.
	if err := os.RemoveAll(p.data()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(p.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	p.give(p.data())
	p.run(0, "Restored 1 keys", "restore", backup)
	p.owned("a restore in an empty folder")
	if p.serve().Stop(t) != 0 {
		t.Error("the service did not stop in order")
	}
}

// TestInstalled_Pepper has the pepper in another place than the package puts it.
func TestInstalled_Pepper(t *testing.T) {
	p := newPackaged(t)
	s := p.serve()
	p.run(0, "klen_", "keys", "create", "--name", "first", "--permission", "can_read_calls")
	backup, other, pepper := p.path("backup.db"), p.path("srv/other"), p.path("etc/latchkey/pepper")
	p.run(0, "Wrote", "backup", backup)
	if code := s.Stop(t); code != 0 {
		t.Fatalf("got exit %d: %s", code, s.Out)
	}
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	// The pepper of the package is that of its own data folder.
	p.run(1, regexp.QuoteMeta(other+"/pepper")+": no such file.*LATCHKEY_KEYS_PEPPER_FILE", "--data", other, "restore", backup)
	p.copy(pepper, filepath.Join(other, "pepper"))
	p.run(0, "Restored 1 keys", "--data", other, "restore", backup)
	p.run(0, "first", "--data", other, "keys", "list")
	if err := os.Rename(pepper, pepper+".moved"); err != nil {
		t.Fatal(err)
	}
	p.run(1, regexp.QuoteMeta(pepper)+": no such file.*keys.pepper_file", "keys", "list")
	if err := os.WriteFile(pepper, []byte(strings.Repeat("ab", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(1, "the pepper in "+regexp.QuoteMeta(pepper)+" is not the one.*keys.pepper_file", "keys", "list")
	if err := os.WriteFile(p.path("etc/latchkey/config.toml"), []byte("[keys]\npepper_file = \""+pepper+".moved\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run(0, "first", "keys", "list")
}
