package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	urfave "github.com/urfave/cli/v3"

	"latchkey/cli"
	"latchkey/internal/keytext"
	"latchkey/internal/logqueue"
)

// The line with the addresses is written at once: a script that has started the service waits for it.
func TestServe_AnnouncesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		lines := logqueue.New(&out, 1<<20, nil)
		defer lines.Close(time.Second)
		o := serveOptions{service: service{config: defaultConfig()}, ServeOptions: cli.ServeOptions{Stdout: io.Discard}, log: slog.New(slog.NewTextHandler(lines, nil)), flush: lines.Flush}
		o.announce(nil, &net.TCPAddr{}, &net.TCPAddr{})
		synctest.Wait()
		if text := out.String(); !strings.Contains(text, "msg=listening") {
			t.Errorf("got %q, want the line before any time has passed", text)
		}
	})
}

func TestLog_Redacts(t *testing.T) {
	key, token, hook := keytext.NewSecret("klen_"), keytext.NewSecret("lka_"), "whsec_"+keytext.RandomHex(32)
	session := keytext.RandomHex(32)
	for _, format := range []string{"json", "text"} {
		var out bytes.Buffer
		c := defaultConfig()
		c.Log.Format = format
		log := NewLog(&out, c, LogSink{})
		log.Error("key "+key, "a", key, "b", errors.New("ask "+token+": refused"), "c", fmt.Errorf("wrapped: %w", errors.New("sign with "+hook)))
		log.With("fixed", "Authorization: Bearer "+key).WithGroup("g").Info("x", "url", "/api/v1/calls?api_key="+key+"&x=1", "u", &url.URL{Scheme: "https", Host: "h", Path: "/" + key})
		log.Info("x", "header", http.Header{"X-Api-Key": {key}}, "list", []string{"a", key}, "bytes", []byte("Basic "+token), slog.Group("in", "cookie", "latchkey_session="+session))
		log.Info("x", "link", "/setup?token="+session, "body", `{"password":"hunter2hunter2"}`, "other", "API_KEY="+strings.ToUpper(keytext.RandomHex(8)), "alone", session)
		log.Info("kept", "route", "/api/v1/contacts/:contact_id", "hint", "klen_...x9Qa", "key", "key_018c5b0a1f2e9d3b7c6a55", "id", "5f2a81c07")
		text := out.String()
		wantNoSecrets(t, format, text, []string{key, key[5:], token, token[4:], hook, hook[6:], session, "hunter2"})
		for _, kept := range []string{"/api/v1/contacts/:contact_id", "klen_...x9Qa", "key_018c5b0a1f2e9d3b7c6a55", "5f2a81c07", ": refused", "x=1"} {
			if !strings.Contains(text, kept) {
				t.Errorf("%s: %q is lost: %s", format, kept, text)
			}
		}
	}
}

func TestLog_Forms(t *testing.T) {
	for _, tt := range []struct {
		format          string
		person, journal bool
		json, time      bool
	}{
		{"auto", false, false, true, true},
		{"auto", true, false, false, true},
		{"auto", true, true, false, false},
		{"auto", false, true, true, true}, // what reads JSON takes the time from it
		{"text", false, true, false, false},
		{"text", false, false, false, true},
		{"json", true, false, true, true},
	} {
		var out bytes.Buffer
		c := defaultConfig()
		c.Log.Format, c.Log.Level = tt.format, "warn"
		log := NewLog(&out, c, LogSink{Terminal: tt.person, Journal: tt.journal})
		log.Info("not this")
		log.Warn("hello")
		text := out.String()
		if strings.HasPrefix(text, "{") != tt.json || strings.Contains(text, "time") != tt.time || !strings.Contains(text, "hello") || strings.Contains(text, "not this") {
			t.Errorf("%+v: got %s", tt, text)
		}
		log.Level.Set(slog.LevelInfo)
		if log.Info("and this"); !strings.Contains(out.String(), "and this") {
			t.Errorf("%+v, at another level: got %s", tt, out.String())
		}
	}
}

// TestSecrets_Everywhere puts secrets where nobody thought of, and looks for
// them in everything that the service tells: the answers themselves, the log,
// the metrics and the audit log.
func TestSecrets_Everywhere(t *testing.T) {
	a := newTestApp(t)
	a.redacted = true // methods are logged as they come
	a.restart()
	token := a.token()
	_, key := a.key(everyPermission)
	_, revoked := a.key(everyPermission)
	hook := a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)["secret"].(string)
	secrets := []string{key, key[5:], revoked, revoked[5:], token, token[4:], hook, hook[6:]}
	var answers strings.Builder
	for _, door := range []http.Handler{a.api, a.admin, a.local} {
		for _, secret := range []string{key, revoked, token, hook} {
			for _, ask := range []struct{ method, path, header, value, body string }{
				{"GET", "/api/v1/agents?api_key=" + secret, "", "", ""},
				{"GET", "/api/v1/agents?page=" + secret, "X-API-Key", key, ""},
				{"GET", "/api/v1/calls?status=" + secret, "X-API-Key", key, ""},
				{"GET", "/api/v1/" + secret, "", "", ""},
				{"PUT", "/api/v1/calls/" + secret, "", "", ""},
				{"GET", "/admin/v1/keys/" + secret, "", "", ""},
				{"POST", "/admin/v1/keys/" + secret + "/revoke", "Authorization", "Bearer " + token, ""},
				{"GET", "/admin/v1/keys?status=" + secret, "Authorization", "Bearer " + token, ""},
				{"GET", "/admin/v1/audit?result=" + secret, "Authorization", "Bearer " + token, ""},
				{"POST", "/admin/v1/keys", "Authorization", "Bearer " + token, `{"name": "x", "permissions": ["` + secret + `"]}`},
				{"POST", "/admin/v1/keys", "Authorization", "Bearer " + token, `{"` + secret + `"`},
				{"POST", "/api/v1/contacts/create", "X-API-Key", key, `{"first_name": "x", "status": "` + secret + `"}`},
				{"GET", "/api/v1/agents", "Authorization", "Basic " + secret, ""},
				{"GET", "/api/v1/agents", "Authorization", secret, ""},
				{"GET", "/api/v1/agents", "X-Forwarded-For", secret, ""},
				{"GET", "/api/v1/agents", "Cookie", "latchkey_session=" + secret, ""},
				{secret, "/api/v1/agents", "", "", ""},
			} {
				r := httptest.NewRequest("GET", ask.path, strings.NewReader(ask.body))
				r.Method = ask.method
				if ask.header != "" {
					r.Header.Set(ask.header, ask.value)
				}
				w := httptest.NewRecorder()
				door.ServeHTTP(w, r)
				if w.Code < 400 && ask.path != "/api/v1/agents?api_key="+key {
					continue
				}
				answers.WriteString(w.Body.String())
				for _, values := range w.Header() {
					answers.WriteString(strings.Join(values, " ") + "\n")
				}
			}
		}
	}
	if answers.Len() < 1000 {
		t.Fatalf("got few answers: %s", answers.String())
	}
	_, metrics := a.scrape(token)
	wantNoSecrets(t, "the answers", answers.String(), secrets)
	wantNoSecrets(t, "the log", a.log.String(), secrets)
	wantNoSecrets(t, "the metrics", metrics, secrets)
	wantNoSecrets(t, "the audit log", auditText(t, a), secrets)
}

func BenchmarkLog(b *testing.B) {
	r := NewRedactor("klen_")
	attr := slog.String("route", "/api/v1/contacts/:contact_id")
	b.ReportAllocs()
	for b.Loop() {
		r.Attr(nil, attr)
	}
}

// openService is a service whose data folder a test has open.
type openService struct {
	service
	local http.Handler
}

// Open returns the admin endpoint of the test.
func (s openService) Open() (http.Handler, func() error, error) {
	return s.local, func() error { return nil }, nil
}

// environment returns an environment whose commands reach the service.
func (a *testApp) environment(stdin string, stdout, stderr io.Writer) cli.Environment {
	env := environment(nil, nil)
	env.Stdin, env.Stdout, env.Stderr = strings.NewReader(stdin), stdout, stderr
	env.Load = func(file string, flags map[string]string) (cli.Service, error) {
		s, err := loadService(file, nil, flags)
		return openService{s, a.local}, err
	}
	return env
}

// failingWriter takes nothing.
type failingWriter struct{ err error }

// Write fails.
func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

// commandWalk calls every command once.
type commandWalk struct {
	*testApp
	dir string // for files
	n   int
}

// file writes a new file and returns its path.
func (w *commandWalk) file(ending, text string) string {
	w.t.Helper()
	w.n++
	path := filepath.Join(w.dir, fmt.Sprintf("file%d%s", w.n, ending))
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// made creates something and returns its id.
func (w *commandWalk) made(path, body string) string {
	w.t.Helper()
	return fmt.Sprint(w.operate(201, "POST", "/admin/v1/"+path, body)["id"])
}

func (w *commandWalk) newKey() string {
	w.t.Helper()
	return w.made("keys", `{"name": "k", "permissions": ["can_read_calls"]}`)
}

func (w *commandWalk) newHook() string {
	w.t.Helper()
	return w.made("webhooks", `{"name": "h", "url": "https://hooks.example.net/x", "subscribed_events": ["call.ended"]}`)
}

// newOperator makes an operator and returns its name.
func (w *commandWalk) newOperator() string {
	w.t.Helper()
	w.n++
	name := fmt.Sprint("bea", w.n)
	w.made("operators", fmt.Sprintf(`{"name": %q, "password": "a long password"}`, name))
	return name
}

// logged makes a webhook with an attempt in its log and returns its id.
func (w *commandWalk) logged() string {
	w.t.Helper()
	return w.withAttempt(w.newHook())
}

// answered makes a webhook whose receiver answers and returns its id.
func (w *commandWalk) answered() string {
	w.t.Helper()
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	w.t.Cleanup(receiver.Close)
	return w.made("webhooks", fmt.Sprintf(`{"name": "h", "url": %q, "subscribed_events": ["call.ended"]}`, receiver.URL))
}

// args returns for each command what to give it, as often as it is called.
func (w *commandWalk) args() map[string]func() []string {
	given := func(args ...string) func() []string { return func() []string { return args } }
	key := func() []string { return []string{w.newKey()} }
	imported := func() []string {
		w.n++
		return []string{w.file(".json", fmt.Sprintf(`[{"name": "i", "permissions": ["can_read_calls"], "sha256": %q}]`, sha(fmt.Sprint(w.n))))}
	}
	ready := httptest.NewServer(w.local)
	w.t.Cleanup(ready.Close)
	backup := filepath.Join(w.dir, "walk.db")
	all := map[string]func() []string{
		"serve": given(), "restore": given(backup), "check": given(), "healthcheck": given("--url", ready.URL),
		"backup":       func() []string { w.n++; return []string{filepath.Join(w.dir, fmt.Sprint("backup", w.n))} },
		"compact":      given("--data", newClosedFolder(w.t)),
		"cluster init": given(), "cluster nodes": given(), "cluster remove": given("b", "--yes"),
		"apply": func() []string {
			w.n++
			return []string{w.file(".toml", fmt.Sprintf("[[owner]]\nname = \"file%d\"\n", w.n))}
		},
		"export":      given(),
		"keys create": given("--name", "new", "--permission", "can_read_calls"),
		"keys list":   given(), "keys show": key, "keys usage": key, "keys pause": key, "keys revoke": key, "keys rotate": key,
		"keys update": func() []string { return []string{w.newKey(), "--name", "l"} },
		"keys resume": func() []string {
			id := w.newKey()
			w.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
			return []string{id}
		},
		"sandbox reset": given("--owner", DefaultOwner, "--yes"), "mail test": given(), "limits what-if": given("--limit", RequestsPerMinute+"=30"),
		"keys activity":   func() []string { return []string{w.newKey(), "--since", "24h"} },
		"keys explain":    func() []string { return []string{w.newKey(), "--path", "/api/v1/calls"} },
		"keys leaked":     func() []string { return []string{w.file(".txt", "nothing")} },
		"keys import":     imported,
		"webhooks create": given("--name", "w", "--target", "https://hooks.example.net/x", "--event", "call.ended"),
		"webhooks list":   given(), "webhooks delete": func() []string { return []string{w.newHook()} },
		"webhooks test":      func() []string { return []string{w.answered()} },
		"webhooks logs":      func() []string { return []string{w.logged()} },
		"webhooks redeliver": func() []string { return []string{w.logged(), "--log", "1"} }, "webhooks retry-failed": func() []string { return []string{w.logged()} },
		"webhooks release": func() []string {
			if err := w.Store.Update(func(tx *Tx) error { return HoldWebhooks(tx, w.clock.Now()) }); err != nil {
				w.t.Fatal(err)
			}
			return nil
		},
		"admin create": func() []string {
			w.n++
			return []string{"--name", fmt.Sprint("ann", w.n), "--password-file", w.file("", "a long password")}
		},
		"admin invite":   func() []string { w.n++; return []string{"--name", fmt.Sprint("ida", w.n), "--role", "viewer"} },
		"admin list":     given(),
		"admin passwd":   func() []string { return []string{w.newOperator(), "--password-file", w.file("", "another password")} },
		"admin reset":    func() []string { return []string{w.newOperator(), "--password-file", w.file("", "another password")} },
		"admin enroll":   func() []string { return []string{w.newOperator()} },
		"admin set-role": func() []string { return []string{w.newOperator(), "viewer"} },
		"admin disable":  func() []string { return []string{w.newOperator()} },
		"admin enable":   func() []string { return []string{w.newOperator()} },
		"admin remove":   func() []string { return []string{w.newOperator()} },
		"admin setup-link": func() []string {
			for _, op := range w.operate(200, "GET", "/admin/v1/operators", "")["operators"].([]any) {
				w.operate(200, "DELETE", "/admin/v1/operators/"+fmt.Sprint(op.(map[string]any)["id"]), "")
			}
			return nil
		},
		"admin token create": given("--name", "t"), "admin token list": given(),
		"admin token revoke": func() []string { return []string{w.made("tokens", `{"name": "t"}`)} },
		"admin token rotate": func() []string { return []string{w.made("tokens", `{"name": "t"}`)} },
		"audit list":         given(), "audit verify": given(), "usage": given(), "refusals": given(), "requests": given("--status", "2xx"), "routes": given(), "reload": given(),
		"config check": given(), "config print": given(), "status": given(), "version": given(), "man": given(), "calls list": given(),
		"agents update": func() []string { return []string{w.made("agents", `{"name": "a"}`), "--name", "b"} },
		"owners update": func() []string {
			w.n++
			return []string{w.made("owners", fmt.Sprintf(`{"name": "u%d"}`, w.n)), "--rate", "2", "--storage", "512MiB"}
		},
		"owners show": func() []string {
			w.n++
			return []string{w.made("owners", fmt.Sprintf(`{"name": "s%d"}`, w.n))}
		},
		"events create": given("--title", "Fitting", "--start", "2036-03-02T09:00:00Z", "--end", "2036-03-02T09:45:00Z"), "events list": given(),
		"events cancel": func() []string {
			return []string{w.made("events", `{"title": "e", "start_time": "2036-03-02T09:00:00Z", "end_time": "2036-03-02T09:45:00Z"}`)}
		},
	}
	for name, form := range map[string]struct{ flags, body string }{
		"agents": {"--name a", `{"name": "a"}`}, "contacts": {"--first-name c --last-name d --email NUM@example.net", `{"first_name": "a", "last_name": "b", "email": "NUM@example.net"}`},
		"teams": {"--name tNUM", `{"name": "tNUM"}`}, "owners": {"--name oNUM", `{"name": "oNUM"}`}, "schedules": {"--owner sNUM --time-zone UTC", `{"owner": "sNUM", "time_zone": "UTC"}`},
		"variables":   {"--name vNUM --display-name V --type text --context contact", `{"name": "vNUM", "display_name": "V", "variable_type": "text", "context_type": "contact"}`},
		"do-not-call": {"--phone +4930555NUM", `{"phone_number": "+4930555NUM"}`},
	} {
		one := func(text string) string { w.n++; return strings.ReplaceAll(text, "NUM", fmt.Sprintf("%04d", w.n)) }
		all[name+" create"] = func() []string { return strings.Fields(one(form.flags)) }
		all[name+" list"] = given()
		all[name+" import"] = func() []string { return []string{w.file(".json", "["+one(form.body)+"]")} }
		all[name+" delete"] = func() []string { return []string{w.made(name, one(form.body))} }
	}
	return all
}

// newClosedFolder returns a data folder that nobody has open.
func newClosedFolder(t testing.TB) string {
	t.Helper()
	a := newTestApp(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	return a.config.Server.Data
}

// walkService is a service that is not restored, prints what a demo does, and has a cluster.
type walkService struct{ cli.Service }

// ClusterInit does nothing.
func (walkService) ClusterInit(context.Context, cli.ClusterInitOptions) (cli.ClusterInit, error) {
	return cli.ClusterInit{StoreID: "ab", From: "latchkey.db", Records: 1}, nil
}

// ClusterNodes returns a node.
func (walkService) ClusterNodes(context.Context) ([]cli.ClusterNode, error) {
	return []cli.ClusterNode{{Name: "b"}}, nil
}

// ClusterRemove does nothing.
func (walkService) ClusterRemove(context.Context, string) error { return nil }

// Restore does nothing.
func (walkService) Restore(cli.RestoreOptions) (cli.Restored, error) { return cli.Restored{}, nil }

// Serve prints the secrets of a demo.
func (walkService) Serve(_ context.Context, o cli.ServeOptions) error {
	err := cli.PrintDemo(o.Stdout, "", "", cli.Demo{Key: keytext.NewSecret("klen_")})
	return cli.Kept(o.Stdout, err, "the key of the demo", "Start it again.")
}

// run calls a command and returns its exit code and what it wrote to standard
// error.
func (w *commandWalk) run(stdout io.Writer, args ...string) (exit int, errs string) {
	var stderr bytes.Buffer
	env := w.environment("", stdout, &stderr)
	load := env.Load
	env.Load = func(file string, flags map[string]string) (cli.Service, error) {
		s, err := load(file, flags)
		return walkService{s}, err
	}
	if name := args[0]; name != "version" && name != "man" && !slices.Contains(args, "--url") {
		args = append([]string{"--data", w.config.Server.Data}, args...)
	}
	exit = cli.Run(context.Background(), append([]string{"latchkey"}, args...), env)
	return exit, stderr.String()
}

// leaves returns the commands that do something, by their words.
func leaves(c *urfave.Command, words string) []string {
	var all []string
	for _, sub := range c.Commands {
		if sub.Name != "help" {
			all = append(all, leaves(sub, strings.TrimSpace(words+" "+sub.Name))...)
		}
	}
	if len(all) == 0 {
		return []string{words}
	}
	return all
}

// oneTime finds a secret in what a command prints.
var oneTime = regexp.MustCompile(`klen_[0-9A-Za-z]{20,}|` + TokenPrefix + `[0-9A-Za-z]{20,}|whsec_[0-9a-f]{20,}|/(setup|join)\S*[0-9a-f]{40,}|/login\?enroll=[\w-]{40,}`)

// TestOutput_EveryCommand calls every command with a standard output that takes
// nothing. A command that is added needs a line in commandWalk.args, and no more:
// what it loses is noticed where all of them end.
func TestOutput_EveryCommand(t *testing.T) {
	post := newMailbox(t)
	w := &commandWalk{testApp: newTestApp(t, func(c *Config) {
		c.Webhooks.AllowPrivateTargets = true
		c.Mail = post.config(KeyRotated)
	}), dir: t.TempDir()}
	w.Reloader.From(func() (Config, error) { return w.config, nil }, new(slog.LevelVar))
	w.status.ListensAt(map[string]string{"api": "127.0.0.1:1"}, func() time.Time { return time.Time{} })
	args, secrets := w.args(), []string{}
	for _, name := range leaves(cli.Tree(cli.Environment{}), "") {
		if args[name] == nil {
			t.Errorf("%s: commandWalk.args does not know how to call it", name)
			continue
		}
		for _, more := range [][]string{nil, {"--json"}} {
			call := func(out io.Writer) (int, string) {
				w.t.Helper()
				return w.run(out, slices.Concat(strings.Fields(name), args[name](), more)...)
			}
			var out bytes.Buffer
			if exit, errs := call(&out); exit == 2 && more != nil && strings.Contains(errs, "--json has no effect") {
				continue
			} else if exit != 0 {
				t.Errorf("%s %v: exit %d, %s", name, more, exit, errs)
				continue
			}
			secret := oneTime.MatchString(out.String())
			if secret && more == nil {
				secrets = append(secrets, name)
			}
			if out.Len() == 0 {
				continue
			}
			if exit, errs := call(failingWriter{syscall.ENOSPC}); exit != 1 || !strings.Contains(errs, "no space left") || secret != strings.Contains(errs, "will not be shown again") {
				t.Errorf("%s %v, a full disk: exit %d, %q; want 1 and what is lost", name, more, exit, errs)
			}
			exit, errs := call(failingWriter{&os.PathError{Op: "write", Path: "/dev/stdout", Err: syscall.EPIPE}})
			if exit != 1 || secret != strings.Contains(errs, "will not be shown again") || !secret && strings.Contains(errs, "latchkey:") {
				t.Errorf("%s %v, a closed pipe: exit %d, %q; want 1, and a word about a lost secret alone", name, more, exit, errs)
			}
		}
	}
	if want := []string{"serve", "keys create", "keys rotate", "webhooks create", "admin invite", "admin enroll", "admin setup-link", "admin token create", "admin token rotate"}; !slices.Equal(slices.Sorted(slices.Values(secrets)), slices.Sorted(slices.Values(want))) {
		t.Errorf("secrets are shown by %q; want %q", secrets, want)
	}
	for _, help := range [][]string{{"--help"}, {"keys", "--help"}, {"keys"}, {"completion", "bash"}} {
		if exit, errs := w.run(failingWriter{syscall.ENOSPC}, help...); exit != 1 || !strings.Contains(errs, "no space left") {
			t.Errorf("%v: exit %d, %q; want 1", help, exit, errs)
		}
	}
}

// TestCommands_KeyNames names a key by its id, its name and its hint in every command that takes a
// key, and looks for the given text in the URLs of the requests.
func TestCommands_KeyNames(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	var urls []string
	admin := w.local
	w.local = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		urls = append(urls, r.URL.String())
		admin.ServeHTTP(rw, r)
	})
	commands := [][]string{{"usage", "--key"}, {"refusals", "--key"}, {"requests", "--key"}}
	var walk func(c *urfave.Command, words []string)
	walk = func(c *urfave.Command, words []string) {
		for _, sub := range c.Commands {
			walk(sub, append(slices.Clone(words), sub.Name))
		}
		if c.ArgsUsage == "KEY" {
			commands = append(commands, words)
		}
	}
	walk(cli.Tree(cli.Environment{}), nil)
	if len(commands) != 12 {
		t.Errorf("got %q, want 9 commands whose argument is a key", commands)
	}
	more := map[string][]string{"keys update": {"--environment", "live"}, "keys explain": {"--path", "/api/v1/calls"}}
	create := func(name string) map[string]any {
		t.Helper()
		return w.operate(201, "POST", "/admin/v1/keys", fmt.Sprintf(`{"name": %q, "permissions": ["can_read_calls"]}`, name))
	}
	call := func(words []string, text string) (int, string, string) {
		t.Helper()
		urls = nil
		var out bytes.Buffer
		exit, errs := w.run(&out, slices.Concat(words, []string{text}, more[strings.Join(words, " ")])...)
		return exit, out.String(), errs
	}
	twins := []map[string]any{create("twin"), create("twin")}
	for n, words := range commands {
		for _, by := range []string{"id", "name", "hint"} {
			name := fmt.Sprintf("key %d %s", n, by)
			key := create(name)
			if words[len(words)-1] == "resume" {
				w.operate(200, "POST", fmt.Sprintf("/admin/v1/keys/%s/pause", key["id"]), "")
			}
			if exit, _, errs := call(words, key[by].(string)); exit != 0 {
				t.Errorf("%q by its %s: exit %d, %s", words, by, exit, errs)
			}
			if asked := urls[len(urls)-1]; !strings.Contains(asked, key["id"].(string)) {
				t.Errorf("%q by its %s: asked for %s, want the key %s", words, by, asked, key["id"])
			}
			secret := key["key"].(string)
			exit, out, errs := call(words, secret)
			if exit != 1 || strings.Contains(out+errs+strings.Join(urls, " "), secret[5:]) || !strings.Contains(errs, "keys leaked -") {
				t.Errorf("%q with a secret: exit %d, %q, %q; want it refused and not shown", words, exit, errs, urls)
			}
		}
		exit, _, errs := call(words, "twin")
		for _, twin := range twins {
			if exit != 1 || !strings.Contains(errs, twin["id"].(string)) || !strings.Contains(errs, "2 keys have the name") {
				t.Errorf("%q twin: exit %d, %s, want both candidates", words, exit, errs)
			}
		}
		if exit, _, errs := call(words, "nobody"); exit != 1 || !strings.Contains(errs, `the id, name or hint "nobody"`) {
			t.Errorf("%q nobody: exit %d, %s", words, exit, errs)
		}
	}
	w.operate(200, "POST", fmt.Sprintf("/admin/v1/keys/%s/revoke", twins[0]["id"]), "")
	if exit, out, _ := call([]string{"keys", "show"}, "twin"); exit != 0 || !strings.Contains(out, twins[1]["id"].(string)) {
		t.Errorf("exit %d, %s, want the twin that was not revoked", exit, out)
	}
}

// Every command that shows a secret on standard output has --secret-file, apart from those whose
// secret is for a person at a browser.
func TestOutput_SecretFile(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true }), dir: t.TempDir()}
	w.Reloader.From(func() (Config, error) { return w.config, nil }, new(slog.LevelVar))
	args, tried := w.args(), 0
	for _, name := range leaves(cli.Tree(cli.Environment{}), "") {
		if name == "serve" || name == "admin setup-link" || name == "admin invite" || name == "admin enroll" || args[name] == nil {
			continue
		}
		var shown bytes.Buffer
		if exit, _ := w.run(&shown, slices.Concat(strings.Fields(name), args[name]())...); exit != 0 || !oneTime.MatchString(shown.String()) {
			continue
		}
		tried++
		for _, more := range [][]string{nil, {"--json"}} {
			path := filepath.Join(w.dir, fmt.Sprintf("secret%d", tried*10+len(more)))
			call := slices.Concat(strings.Fields(name), args[name](), []string{"--secret-file", path}, more)
			var out bytes.Buffer
			exit, errs := w.run(&out, call...)
			text, err := os.ReadFile(path)
			if exit != 0 || err != nil || !oneTime.Match(text) || bytes.Count(text, []byte("\n")) != 1 {
				t.Errorf("%s %v: exit %d, %s; got %q, %v in the file, want the secret", name, more, exit, errs, text, err)
			}
			if info, err := os.Stat(path); err == nil && info.Mode().Perm() != 0o600 {
				t.Errorf("%s: got mode %v, want 0600", name, info.Mode())
			}
			id := regexp.MustCompile(`^(key_[0-9a-f]+|[0-9]+)\n$`).MatchString(out.String())
			if oneTime.MatchString(out.String()+errs) || more == nil && (!id || errs != "") || more != nil && !strings.Contains(out.String(), `"id"`) {
				t.Errorf("%s %v: got %q and %q, want the id alone", name, more, out.String(), errs)
			}
			before := w.audited()
			if exit, errs := w.run(&out, call...); exit != 1 || !strings.Contains(errs, "exists already") || w.audited() != before {
				t.Errorf("%s: a file that exists: exit %d, %s; want 1, and nothing changed", name, exit, errs)
			}
			if again, _ := os.ReadFile(path); !bytes.Equal(again, text) {
				t.Errorf("%s: the file was changed to %q", name, again)
			}
		}
		call := slices.Concat(strings.Fields(name), args[name](), []string{"--secret-file", filepath.Join(w.dir, "none", "secret")})
		before := w.audited()
		if exit, errs := w.run(io.Discard, call...); exit != 1 || !strings.Contains(errs, "--secret-file") || w.audited() != before {
			t.Errorf("%s: a folder that does not exist: exit %d, %s; want 1, and nothing changed", name, exit, errs)
		}
	}
	if tried < 4 {
		t.Errorf("only %d commands have --secret-file", tried)
	}
	path := filepath.Join(w.dir, "refused")
	if exit, _ := w.run(io.Discard, "keys", "create", "--name", "x", "--permission", "no_such", "--secret-file", path); exit != 1 {
		t.Errorf("a refused key: exit %d, want 1", exit)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused key leaves a file: %v", err)
	}
}

// audited returns the number of entries in the audit log.
func (w *commandWalk) audited() any {
	w.t.Helper()
	return w.operate(200, "GET", "/admin/v1/audit", "")["count"]
}
