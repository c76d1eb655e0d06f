package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"latchkey/internal/keytext"
)

// programFolder is where this run of the tests has the program.
var programFolder = filepath.Join(os.TempDir(), fmt.Sprintf("latchkey-test-%d-%s", os.Getpid(), keytext.RandomHex(4)))

// program builds the program once for all tests.
var program = sync.OnceValues(func() (string, error) {
	if err := os.Mkdir(programFolder, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(programFolder, "latchkey")
	build := exec.Command("go", "build", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released
	out, err := build.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	_ = os.RemoveAll(programFolder) // if it was made: a fuzz worker or a single test may do without
	if status == 0 {
		status = leftOver()
	}
	os.Exit(status)
}

// leftOver gives 1, and says where they are, if goroutines are left after all
// tests: by then the service and all that the tests began has ended.
func leftOver() int {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	// Pebble's validator has no end.
	err := goleak.Find(goleak.IgnoreTopFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"))
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
	return 1
}

// programCommand gives a command of the real program, in a folder and an environment
// of its own.
func programCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Env = []string{"PATH=/nowhere", "HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir()}
	return c
}

// run runs a command to its end and gives what it printed and its exit code.
func run(t testing.TB, args ...string) (stdout, stderr string, exit int) {
	t.Helper()
	c := programCommand(t, args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil && c.ProcessState == nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), c.ProcessState.ExitCode()
}

// process is a running server of the real program.
type process struct {
	cmd  *exec.Cmd
	url  string
	data string
	out  *lockedBuffer
	end  chan error
}

// serveReal starts the real program on free ports and waits until it listens.
// Of more, what is NAME=VALUE goes into the environment.
func serveReal(t testing.TB, data string, more ...string) *process {
	t.Helper()
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, more...)
	if data != "" {
		args = append(args, "--data", data)
	}
	var environ []string
	args = slices.DeleteFunc(args, func(arg string) bool {
		variable := !strings.HasPrefix(arg, "-") && strings.Contains(arg, "=")
		if variable {
			environ = append(environ, arg)
		}
		return variable
	})
	cmd := programCommand(t, args...)
	cmd.Env = append(cmd.Env, environ...)
	return serveCommand(t, cmd, data)
}

// serveCommand starts a server by a command and waits until it listens.
func serveCommand(t testing.TB, cmd *exec.Cmd, data string) *process {
	t.Helper()
	p := startCommand(t, cmd, data)
	if p.url == "" {
		t.Fatalf("the server did not listen: %s", p.out.String())
	}
	return p
}

// startCommand starts a server by a command and waits until it listens, or has
// closed its log; then it has no URL.
func startCommand(t testing.TB, cmd *exec.Cmd, data string) *process {
	t.Helper()
	p := &process{cmd: cmd, data: data, out: &lockedBuffer{}, end: make(chan error, 1)}
	p.cmd.Stdout = p.out
	logs, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill() })
	late := time.AfterFunc(time.Minute, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	lines := bufio.NewScanner(logs)
	for p.url == "" && lines.Scan() {
		var line struct{ Msg, API string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
			p.url = line.API
		}
		fmt.Fprintf(p.out, "%s\n", lines.Bytes())
	}
	go func() {
		_, _ = io.Copy(p.out, logs)
		p.end <- p.cmd.Wait()
	}()
	return p
}

// kill ends the server as a crash would, if it still runs.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	if err, ok := <-p.end; ok {
		_ = err
		close(p.end)
	}
}

// terminate asks the server to end, if it still runs.
func (p *process) terminate() { _ = p.cmd.Process.Signal(syscall.SIGTERM) }

// over waits for a server that ends by itself, or was asked to, and gives its
// exit code.
func (p *process) over(t testing.TB) int {
	t.Helper()
	select {
	case <-p.end:
	case <-time.After(time.Minute):
		t.Fatalf("the process goes on for a minute: %s", tail(p.out.String()))
	}
	close(p.end)
	return p.cmd.ProcessState.ExitCode()
}

// stop ends the server by SIGTERM and gives its exit code.
func (p *process) stop(t testing.TB) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-p.end
	close(p.end)
	return p.cmd.ProcessState.ExitCode()
}

// get asks the server with a key and gives the status and the Retry-After.
func (p *process) get(t testing.TB, path, key string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "GET", p.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, answer.Header.Get("Retry-After")
}

// TestProgram_Journey is the tour of the README with the real program.
func TestProgram_Journey(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	if _, errs, exit := run(t, "agents", "create", "--data", data, "--name", "Front desk", "--phone", "+4930555001"); exit != 0 {
		t.Fatalf("agents create: exit %d, %s", exit, errs)
	}
	out, errs, exit := run(t, "keys", "create", "--data", data, "--name", "first", "--permission", "can_read_agents", "--limit", RequestsPerMinute+"=5", "--json")
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(out), &made); exit != 0 || err != nil || made.Key == "" {
		t.Fatalf("keys create: exit %d, %s %s", exit, out, errs)
	}
	if got, _ := p.get(t, "/api/v1/agents", made.Key); got != 200 {
		t.Errorf("agents: got %d, want 200", got)
	}
	out, errs, exit = run(t, "keys", "create", "--data", data, "--name", "second", "--permission", "all")
	if exit != 0 || !keytext.WellFormed(strings.TrimSpace(out), "klen_") || !strings.Contains(errs, p.url+"/api/v1/key") || strings.Contains(errs, strings.TrimSpace(out)) {
		t.Errorf("for people: exit %d, printed %q and %q; want the key alone, then where to try it", exit, out, errs)
	}
	if out, _, _ := run(t, "keys", "list", "--data", data); !strings.HasPrefix(out, "ID ") || !strings.Contains(out, "can_read_calls +6") {
		t.Errorf("list: got %q", out)
	}
	if got, _ := p.get(t, "/api/v1/calls", made.Key); got != 403 {
		t.Errorf("calls: got %d, want 403", got)
	}
	for range 3 {
		p.get(t, "/api/v1/agents", made.Key)
	}
	if got, wait := p.get(t, "/api/v1/agents", made.Key); got != 429 || wait == "" {
		t.Errorf("over the limit: got %d, Retry-After %q; want 429 and a time", got, wait)
	}
	if _, errs, exit := run(t, "keys", "revoke", "--data", data, made.ID); exit != 0 {
		t.Errorf("revoke: exit %d, %s", exit, errs)
	}
	if got, _ := p.get(t, "/api/v1/agents", made.Key); got != 401 {
		t.Errorf("revoked: got %d, want 401", got)
	}
	if exit := p.stop(t); exit != 0 {
		t.Errorf("SIGTERM: got exit %d, want 0; %s", exit, p.out.String())
	}
	out, errs, exit = run(t, "keys", "list", "--data", data, "--status", "revoked")
	if exit != 0 || !strings.Contains(out, made.ID) {
		t.Errorf("list with no server: exit %d, %s %s", exit, out, errs)
	}
	p = serveReal(t, data)
	if got, _ := p.get(t, "/api/v1/agents", made.Key); got != 401 {
		t.Errorf("revoked, after a restart: got %d, want 401", got)
	}
	if strings.Contains(p.out.String(), made.Key[5:]) {
		t.Error("the key stands in the log")
	}
}

func TestProgram_Refusals(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	taken := strings.TrimPrefix(p.url, "http://")
	if _, err := net.ResolveTCPAddr("tcp", taken); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"second server", []string{"serve", "--data", data, "--listen", "127.0.0.1:0"}, 1, fmt.Sprintf("in use by process %d", p.cmd.Process.Pid)},
		{"port taken", []string{"serve", "--data", other, "--listen", taken, "--admin-listen", "127.0.0.1:0"}, 1, "server.listen"},
		{"no data folder", []string{"keys", "list", "--data", filepath.Join(other, "none")}, 1, "there is no data folder"},
		{"unknown command", []string{"kees"}, 2, "Try: latchkey --help"},
		{"unknown subcommand", []string{"keys", "creat"}, 2, "Try: latchkey keys --help"},
		{"unknown flag", []string{"keys", "create", "--nam", "x"}, 2, "Try: latchkey keys create --help"},
		{"flags missing", []string{"keys", "create", "--data", data}, 2, "--name and --permission are needed"},
		{"bad limit", []string{"keys", "create", "--data", data, "--name", "x", "--permission", "all", "--limit", "many"}, 2, "--limit must be NAME=NUMBER"},
		{"bad end", []string{"keys", "create", "--data", data, "--name", "x", "--permission", "all", "--expires", "soon"}, 2, "--expires"},
		{"bad permission", []string{"keys", "create", "--data", data, "--name", "x", "--permission", "can_fly"}, 1, "unknown permission"},
		{"no id", []string{"keys", "revoke", "--data", data}, 2, "one ID is needed"},
		{"unknown id", []string{"keys", "revoke", "--data", data, "key_none"}, 1, "No such object"},
		{"no token", []string{"keys", "list", "--url", "http://127.0.0.1:1"}, 1, "admin token"},
		{"open address", []string{"serve", "--data", other, "--listen", "0.0.0.0:0"}, 1, "insecure_http"},
		{"no config file", []string{"serve", "--config", "/nowhere.toml"}, 1, "/nowhere.toml"},
	} {
		out, errs, exit := run(t, tt.args...)
		if exit != tt.exit || !strings.Contains(errs, tt.want) || out != "" {
			t.Errorf("%s: got exit %d, %q, printed %q; want %d with %q", tt.name, exit, errs, out, tt.exit, tt.want)
		}
	}
	if got, _ := p.get(t, "/healthz", ""); got != 200 {
		t.Errorf("the first server: got %d, want 200 still", got)
	}
}

func TestProgram_Demo(t *testing.T) {
	p := serveReal(t, "", "--demo")
	key := ""
	for deadline := time.Now().Add(time.Minute); key == "" && time.Now().Before(deadline); {
		for _, word := range strings.Fields(p.out.String()) {
			if k, ok := strings.CutPrefix(word, "KEY=klen_"); ok && strings.Contains(p.out.String(), "agent_id\": 2}'\n") {
				key = "klen_" + k
			}
		}
	}
	login := regexp.MustCompile(`(http://\S+)/login    name: (\S+)    password: (\S+)`).FindStringSubmatch(p.out.String())
	if login == nil {
		t.Fatalf("got %s, want it to say how to log in to the dashboard", p.out.String())
	}
	r, err := http.NewRequestWithContext(context.Background(), "POST", login[1]+"/login", strings.NewReader(url.Values{"name": {login[2]}, "password": {login[3]}, "next": {"/keys"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if answer, err := http.DefaultTransport.RoundTrip(r); err != nil || answer.StatusCode != 303 || answer.Header.Get("Location") != "/keys" {
		t.Errorf("log in: got %v %v", answer, err)
	}
	for _, path := range []string{"/api/v1/agents", "/api/v1/contacts?search=mara", "/api/v1/calls", "/api/v1/calls/1", "/api/v1/contacts/1"} {
		if got, _ := p.get(t, path, key); got != 200 {
			t.Errorf("%s: got %d, want 200", path, got)
		}
	}
	p.stop(t)
}

// TestProgram_TokenOverTCP goes the way of an operator who is elsewhere.
func TestProgram_TokenOverTCP(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	admin := ""
	for _, line := range strings.Split(p.out.String(), "\n") {
		var l struct {
			Admin string `json:"admin_addr"`
		}
		if json.Unmarshal([]byte(line), &l) == nil && l.Admin != "" {
			admin = "http://" + l.Admin
		}
	}
	out, errs, exit := run(t, "admin", "token", "create", "--data", data, "--name", "ops")
	if exit != 0 {
		t.Fatalf("token create: exit %d, %s", exit, errs)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, exit := run(t, "admin", "token", "list", "--url", admin, "--token-file", file); exit != 0 || !strings.Contains(out, "ops") {
		t.Errorf("over TCP: exit %d, %s %s", exit, out, errs)
	}
	c := programCommand(t, "admin", "token", "list", "--url", admin)
	c.Env = append(c.Env, "LATCHKEY_ADMIN_TOKEN_FILE="+file)
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "ops") {
		t.Errorf("with the token's file in the environment: %v %s", err, out)
	}
	if err := os.WriteFile(file, []byte(keytext.NewSecret(tokenPrefix)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, exit := run(t, "keys", "list", "--url", admin, "--token-file", file); exit != 1 || !strings.Contains(errs, "admin token is not valid") {
		t.Errorf("with a wrong token: exit %d, %s", exit, errs)
	}
}

// TestCommands_Events makes, lists and cancels an event, and makes a context
// variable, with the real program.
func TestCommands_Events(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	serveReal(t, data)
	for _, tt := range []struct {
		args []string
		exit int
		want string // in what is printed
	}{
		{[]string{"events", "create", "--title", "Fitting", "--start", "2036-03-02T09:00:00+01:00", "--end", "2036-03-02T09:45:00+01:00", "--owner", "ann"}, 0, "2036-03-02T08:00:00.000Z"},
		{[]string{"events", "create", "--title", "Fitting", "--start", "tomorrow", "--end", "2036-03-02T09:45:00+01:00"}, 1, "start_time must be"},
		{[]string{"events", "create"}, 2, "--title is needed"},
		{[]string{"events", "list"}, 0, "TITLE"},
		{[]string{"events", "cancel", "1", "--reason", "ill"}, 0, "cancelled"},
		{[]string{"events", "cancel", "9"}, 1, "No such object"},
		{[]string{"variables", "create", "--name", "visits", "--display-name", "Visits", "--type", "number", "--context", "contact"}, 0, "visits"},
		{[]string{"variables", "list"}, 0, "preferred_language"},
		{[]string{"variables", "delete", "1"}, 1, "Built-in"},
	} {
		out, errs, exit := run(t, append(tt.args, "--data", data)...)
		if exit != tt.exit || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: exit %d, %s %s; want %d and %q", strings.Join(tt.args, " "), exit, out, errs, tt.exit, tt.want)
		}
	}
}

// TestProgram_Webhooks uses the commands beside the real program, and kills it
// while a receiver has a delivery in hand.
func TestProgram_Webhooks(t *testing.T) {
	type delivery struct{ id, signature, body string }
	arrived, release, ended := make(chan delivery, 100), make(chan struct{}, 100), make(chan struct{}, 100)
	v := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- delivery{r.Header.Get("X-Klen-Delivery"), r.Header.Get("X-Klen-Signature"), string(body)}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		ended <- struct{}{}
	}))
	defer v.Close()
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	latchkey := func(want int, args ...string) (out, errs string) {
		t.Helper()
		out, errs, exit := run(t, append(args, "--data", data)...)
		if exit != want {
			t.Fatalf("%v: exit %d, %s %s", args, exit, out, errs)
		}
		return out, errs
	}
	if _, errs := latchkey(2, "webhooks", "create", "--name", "x"); !strings.Contains(errs, "--name, --target and --event are needed") {
		t.Errorf("got %s", errs)
	}
	if _, errs := latchkey(1, "webhooks", "create", "--name", "x", "--target", v.URL, "--event", "key.flown"); !strings.Contains(errs, `unknown event "key.flown"`) {
		t.Errorf("got %s", errs)
	}
	out, errs := latchkey(0, "webhooks", "create", "--name", "watch", "--target", v.URL, "--event", "all")
	secret := strings.TrimSpace(out)
	if !strings.HasPrefix(secret, "whsec_") || strings.Contains(errs, secret) {
		t.Fatalf("got %q and %q, want the secret alone", out, errs)
	}
	release <- struct{}{}
	if out, _ := latchkey(0, "webhooks", "test", "1", "--event", "key.created"); out != "Delivered. The receiver answered 200.\n" {
		t.Errorf("test: got %q", out)
	}
	<-arrived
	for i := range 4 {
		latchkey(0, "keys", "create", "--name", fmt.Sprintf("number %d", i), "--permission", "can_read_calls")
	}
	var got []delivery
	release <- struct{}{}
	got = append(got, <-arrived, <-arrived) // the second is in hand
	p.kill()
	for range 3 {
		<-ended
	}
	p = serveReal(t, data, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	for range 3 {
		release <- struct{}{}
		got = append(got, <-arrived)
	}
	if got[2] != got[1] {
		t.Errorf("after the crash: got %v, want what was in hand once more: %v", got[2], got[1])
	}
	for i, d := range append(got[:2:2], got[3:]...) {
		if !strings.Contains(d.body, fmt.Sprintf(`"name":"number %d"`, i)) || d.signature != Sign("hex", secret, []byte(d.body)) {
			t.Errorf("delivery %d: got %v", i, d)
		}
	}
	if exit := p.stop(t); exit != 0 {
		t.Errorf("SIGTERM: got exit %d", exit)
	}
	select {
	case d := <-arrived:
		t.Errorf("got %v too, want nothing twice but what was in hand", d)
	default:
	}
	out, _ = latchkey(0, "webhooks", "logs", "1", "--json") // with no server
	var logs struct {
		Count int
		Logs  []struct{ Success, Redeliverable bool }
	}
	if err := json.Unmarshal([]byte(out), &logs); err != nil || logs.Count != 5 || !logs.Logs[0].Success || !logs.Logs[0].Redeliverable {
		t.Errorf("logs: got %s", out)
	}
	if out, _ := latchkey(0, "webhooks", "redeliver", "1", "--log", "2"); !strings.Contains(out, "Queued.") || !strings.Contains(out, got[0].id) {
		t.Errorf("redeliver: got %s", out)
	}
	if out, _ := latchkey(0, "webhooks", "list"); !strings.Contains(out, "watch") || !strings.Contains(out, "call.started +18") || strings.Contains(out, secret) {
		t.Errorf("list: got %s", out)
	}
	v.Close()
	if _, errs := latchkey(1, "webhooks", "test", "1"); !strings.Contains(errs, "Not delivered") {
		t.Errorf("test without the switch: got %s", errs)
	}
	latchkey(0, "webhooks", "delete", "1")
	if _, errs := latchkey(1, "webhooks", "logs", "1"); !strings.Contains(errs, "No such object") {
		t.Errorf("logs of a deleted one: got %s", errs)
	}
	if strings.Contains(p.out.String(), secret) {
		t.Error("the secret stands in the log")
	}
}
