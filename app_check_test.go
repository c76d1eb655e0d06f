package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/cli"
	"latchkey/internal/certs/certstest"
)

// checkCase is a configuration that is right by itself and does not fit the machine or the service.
type checkCase struct {
	name, text string
	want       string // in the error; "" for none
	warning    string // in a warning; "" for none
}

// checkCases returns configurations for the data folder dir, in which it also creates files.
func checkCases(t *testing.T, dir string) []checkCase {
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := certstest.NewAuthority(t)
	cert, key, old, oldKey := filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"), filepath.Join(dir, "old.crt"), filepath.Join(dir, "old.key")
	ca.Issue(cert, key, time.Now().Add(time.Hour))
	ca.Issue(old, oldKey, time.Now().Add(-time.Hour))
	secret, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	openKey := file("open.key", string(secret))
	if err := os.Chmod(openKey, 0o644); err != nil {
		t.Fatal(err)
	}
	junk, pepper := file("junk", "junk\n"), file("pepper.good", strings.Repeat("ab", pepperSize)+"\r\n")
	pair := func(section, cert, key string) string {
		return fmt.Sprintf("[%s]\ntls_cert_file = %q\ntls_key_file = %q\n", section, cert, key)
	}
	route := func(path, upstream string) string {
		return fmt.Sprintf("[[route]]\npath = %q\npermission = []\nmethods = [\"GETT\"]\nupstream = %q\n", path, upstream)
	}
	wantCluster := "this build of latchkey cannot be part of a cluster"
	if clusters != nil {
		wantCluster = "cluster.ca_file"
	}
	signOn := "[admin]\nbase_url = \"https://keys.example.com\"\n[admin.oidc]\nissuer = \"https://id.example.com\"\nclient_id = \"latchkey\"\ndefault_role = \"viewer\"\n"
	return []checkCase{
		{"nothing", "[log]\nlevel = \"warn\"\n", "", ""},
		{"a pair", pair("server", cert, key), "", ""},
		{"no certificate", pair("server", filepath.Join(dir, "none"), key), "server.tls_cert_file", ""},
		{"no key", pair("server", cert, filepath.Join(dir, "none")), "server.tls_key_file: read the private key", ""},
		{"a key that everybody can read", pair("admin", cert, openKey), "", "admin.tls_key_file: every user of this machine can read"},
		{"junk as certificate", pair("admin", junk, junk), "admin.tls_cert_file", ""},
		{"two pairs mixed", pair("admin", cert, oldKey), "cannot be used together", ""},
		{"an old certificate", pair("admin", old, oldKey), "", "clients refuse it now"},
		{"a certificate for another name", pair("admin", cert, key) + "base_url = \"https://other.example\"\n", "", "not for the host of admin.base_url"},
		{"no authority", fmt.Sprintf("[acme]\nca_file = %q\n", filepath.Join(dir, "none")), "acme.ca_file", ""},
		{"an authority without a certificate", fmt.Sprintf("[acme]\nca_file = %q\n", junk), "acme.ca_file", ""},
		{"backups", fmt.Sprintf("[backup]\ndir = %q\n", filepath.Join(dir, "new", "deep")), "", ""},
		{"backups in a file", fmt.Sprintf("[backup]\ndir = %q\n", junk), "is not a folder", ""},
		{"backups below a file", fmt.Sprintf("[backup]\ndir = %q\n", filepath.Join(junk, "x")), "backup.dir", ""},
		{"a retired pepper", fmt.Sprintf("[keys]\nretired_pepper_files = [%q]\n", pepper), "", ""},
		{"a retired pepper of junk", fmt.Sprintf("[keys]\nretired_pepper_files = [%q]\n", junk), "hex digits", ""},
		{"no retired pepper", fmt.Sprintf("[keys]\nretired_pepper_files = [%q]\n", filepath.Join(dir, "none")), "read pepper", ""},
		{"no file with the secret", signOn + fmt.Sprintf("client_secret_file = %q\n", filepath.Join(dir, "none")), "admin.oidc.client_secret_file: ", ""},
		{"two secrets", signOn + fmt.Sprintf("client_secret_file = %q\nclient_secret = \"x\"\n", junk), "client_secret is set as well", ""},
		{"single sign-on for everybody", signOn + fmt.Sprintf("client_secret_file = %q\n", junk), "", "everybody whom https://id.example.com lets in"},
		{"no passwords and no other way in", "[admin]\npassword_login = false\n", "false would lock everybody out", ""},
		{"a cluster without the authority of its etcd", fmt.Sprintf("[cluster]\nname = \"a\"\nendpoints = [\"https://127.0.0.1:1\"]\nca_file = %q\n", filepath.Join(dir, "none")), wantCluster, ""},
		{"a route", route("/up/*rest", "http://127.0.0.1:3"), "", "did you mean GET?"},
		{"a route of this service", route("/api/v1/agents", "http://127.0.0.1:3"), "belongs to the endpoint GET /api/v1/agents", ""},
		{"a route for /authz alone", route("/api/v1/agents", ""), "", "GETT"},
	}
}

// TestConfigCheck_EveryWay makes the same check by config check, by serve and by a reload.
func TestConfigCheck_EveryWay(t *testing.T) {
	dir := t.TempDir()
	a := newTestApp(t)
	for i, tt := range checkCases(t, dir) {
		file := filepath.Join(dir, fmt.Sprintf("%d.toml", i))
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		data := filepath.Join(dir, fmt.Sprint("data", i))
		run := func(ctx context.Context, args ...string) (int, string) {
			var out bytes.Buffer
			env := environment(nil, nil)
			env.Stdout, env.Stderr = &out, &out
			exit := cli.Run(ctx, append([]string{"latchkey", "--config", file, "--data", data}, args...), env)
			return exit, out.String()
		}
		exit, said := run(t.Context(), "config", "check")
		if (exit == 0) != (tt.want == "") || !strings.Contains(said, tt.want) || !strings.Contains(said, tt.warning) || tt.want != "" && !strings.Contains(said, "file "+file) {
			t.Errorf("%s: config check: got %d, %s; want %q, warning %q", tt.name, exit, said, tt.want, tt.warning)
		}
		if _, err := os.Stat(data); err == nil {
			t.Errorf("%s: config check has created the data folder", tt.name)
		}
		ended, end := context.WithCancel(t.Context())
		end() // a server that starts ends at once
		exit, said = run(ended, "serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
		if (exit == 0) != (tt.want == "") || !strings.Contains(said, tt.want) || !strings.Contains(said, tt.warning) && !strings.Contains(tt.warning, "not for") {
			t.Errorf("%s: serve: got %d, %s; want %q, warning %q", tt.name, exit, said, tt.want, tt.warning)
		}
		var log bytes.Buffer
		s, err := loadService(file, nil, map[string]string{"server.data": data})
		if err != nil {
			t.Fatal(err)
		}
		a.Reloader.From(serveOptions{service: s, log: slog.New(slog.NewTextHandler(&log, nil))}.again, new(slog.LevelVar))
		_, err = a.Reloader.Reload(time.Now())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(Public(err).Message, tt.want) {
			t.Errorf("%s: reload: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestSecrets_EveryWay supplies every secret of the service in each form, in its variable and in
// its file.
func TestSecrets_EveryWay(t *testing.T) {
	pepper := hex.EncodeToString(bytes.Repeat([]byte{7}, pepperSize))
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	ways := map[string]func(text string) (string, error){
		"pepper by variable": func(text string) (string, error) {
			p, err := LoadPeppers(text, "", nil)
			return pepperText(p), err
		},
		"pepper by file": func(text string) (string, error) {
			writeSecret(t, file, text)
			p, err := LoadPeppers("", file, nil)
			return pepperText(p), err
		},
		"password by variable": func(text string) (string, error) {
			t.Setenv("LATCHKEY_ADMIN_PASSWORD_FILE", "")
			t.Setenv("LATCHKEY_ADMIN_PASSWORD", text)
			return firstPassword()
		},
		"password by file": func(text string) (string, error) {
			writeSecret(t, file, text)
			t.Setenv("LATCHKEY_ADMIN_PASSWORD_FILE", file)
			return firstPassword()
		},
	}
	for name, read := range ways {
		password := strings.HasPrefix(name, "password")
		for _, form := range []struct {
			before, after string
			ok            bool
		}{
			{"", "", true}, {"", "\n", true}, {"", "\r\n", true}, {"", "\r", true}, {"\ufeff", "\n", true}, {" ", "", !password}, {"", " \n", !password}, {"\t", "\t", !password},
			{"", "\nsecond", false}, {"\xff", "", false}, {"\x01", "", false}, {"\n", "", !password},
		} {
			got, err := read(form.before + pepper + form.after)
			if form.ok && (err != nil || got != pepper) {
				t.Errorf("%s, %q and %q around it: got %q, %v", name, form.before, form.after, got, err)
			}
			blanks := strings.Trim(form.before+form.after, " \n") == "" // a part of a password, if not a line before it
			if password && !form.ok && blanks && !strings.Contains(form.before, "\n") {
				if want := form.before + pepper + strings.TrimRight(form.after, "\n"); err != nil || got != want {
					t.Errorf("%s, %q and %q around it: got %q, %v; want the blanks kept", name, form.before, form.after, got, err)
				}
			} else if !form.ok && (err == nil || strings.Contains(err.Error(), pepper[:8])) {
				t.Errorf("%s, %q and %q around it: got %q, %v; want an error without the secret", name, form.before, form.after, got, err)
			}
		}
		for _, empty := range []string{" ", "\n", "\r\n", "\ufeff"} {
			if got, err := read(empty); err == nil || !strings.Contains(err.Error(), "empty") {
				t.Errorf("%s, %q: got %q, %v; want it called empty", name, empty, got, err)
			}
		}
	}
}

// pepperText returns the first pepper as hex digits, or "".
func pepperText(p Peppers) string {
	if len(p.list) == 0 {
		return ""
	}
	return hex.EncodeToString(p.list[0])
}

func writeSecret(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestApp_instance wants other cookies for other services on a host, and the same after a restart.
func TestApp_instance(t *testing.T) {
	a := newTestApp(t)
	copied := &App{Store: a.Store, config: a.config, cluster: alone{}}
	if copied.instance() != a.instance() {
		t.Error("the same store at the same address: got another name")
	}
	copied.config.Admin.Listen = "127.0.0.1:8082"
	if copied.instance() == a.instance() || newTestApp(t).instance() == a.instance() {
		t.Error("another address or another store: got the same name")
	}
}

// TestDashboard_TwoServices logs in to two services on one host with one browser.
func TestDashboard_TwoServices(t *testing.T) {
	first := newDashboard(t)
	second := newBrowser(newTestApp(t))
	second.jar = first.jar // browsers keep one cookie of a name for all ports of a host
	second.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
	if w := second.post("/login", "name", "ann", "password", operatorPassword); w.Code != 303 {
		t.Fatalf("got %d", w.Code)
	}
	for name, b := range map[string]*browser{"first": first, "second": second} {
		if w := b.get("/keys"); w.Code != 200 {
			t.Errorf("the %s after both logins: got %d, want 200", name, w.Code)
		}
	}
	if w := second.post("/logout"); w.Code != 303 {
		t.Fatalf("got %d", w.Code)
	}
	if w := first.get("/keys"); w.Code != 200 {
		t.Errorf("the first after the logout of the second: got %d, want 200", w.Code)
	}
	cookies := first.jar.Cookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081"})
	cookies = slices.DeleteFunc(cookies, func(c *http.Cookie) bool { return strings.HasPrefix(c.Name, "latchkey_device") })
	if len(cookies) != 1 {
		t.Errorf("got cookies %v, want the one of the first", cookies)
	}
}
