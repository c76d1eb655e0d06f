package tests

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"latchkey/tests/program"
)

// caddyVersion is the release that the recipe for Caddy is run with.
const caddyVersion = "v2.11.9"

// recipe gives the n-th block of a language in docs/proxies.md, from 0.
func recipe(t testing.TB, language string, n int) string {
	t.Helper()
	blocks := regexp.MustCompile("(?s)\n```"+language+"\n(.*?\n)```").FindAllStringSubmatch(read(t.(*testing.T), "docs/proxies.md"), -1)
	if n >= len(blocks) {
		t.Fatalf("docs/proxies.md has %d blocks of %s", len(blocks), language)
	}
	return blocks[n][1]
}

// filled puts what a test has in the place of what a recipe says. Each must stand
// in it.
func filled(t *testing.T, text string, pairs ...string) string {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("the recipe lacks %q", pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	return text
}

// fronted is a real proxy in front of a real upstream, which asks the real
// program.
type fronted struct {
	*testing.T
	latchkey *program.Server
	socket   *program.Client
	proxy    string // its address
	mu       sync.Mutex
	seen     []string // the requests at the upstream
}

// setup is what a proxy is started with: a folder for its files, and the addresses
// at which it listens, asks, and passes requests on.
type setup struct{ dir, listen, latchkey, upstream string }

// newFronted starts everything. find returns the path of the proxy's program, and
// command returns the command that runs it.
func newFronted(t *testing.T, find func(*testing.T) string, command func(proxy string, s setup) *exec.Cmd) *fronted {
	t.Helper()
	program.NotQuick(t)
	path := find(t)
	f := &fronted{T: t}
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dump, err := httputil.DumpRequest(r, true)
		if err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		f.seen = append(f.seen, string(dump))
		f.mu.Unlock()
		if r.Header.Get("Upgrade") != "" {
			f.echo(w, r)
			return
		}
		_, _ = io.WriteString(w, "from the upstream")
	}))
	t.Cleanup(upstream.Close)
	dir := t.TempDir()
	overwrite(t, dir, "latchkey.toml", recipe(t, "toml", 0)+"\n[[route]]\npath = \"/free/*rest\"\nmethods = [\"GET\"]\npermission = []\n[[route]]\npath = \"/plain/*rest\"\npermission = []\nwebsocket = false\n")
	f.latchkey = program.Serve(t, filepath.Join(dir, "data"), "--config", filepath.Join(dir, "latchkey.toml"))
	f.socket = f.latchkey.Socket()
	for range 3 { // another program may take the port in between
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		f.proxy = l.Addr().String()
		_ = l.Close()
		cmd := command(path, setup{dir, f.proxy, strings.TrimPrefix(f.latchkey.URL, "http://"), upstream.Listener.Addr().String()})
		out := &program.Output{}
		cmd.Stdout, cmd.Stderr = out, out
		if listens(t, cmd, f.proxy) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("%s: %s", cmd.Path, out)
				}
			})
			return f
		}
		t.Logf("%s: %s", cmd.Path, out)
	}
	t.Fatal("the proxy does not listen")
	return nil
}

// listens starts a proxy and waits until it takes connections, or has ended.
func listens(t *testing.T, cmd *exec.Cmd, address string) bool {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
	})
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for {
		select {
		case <-ended:
			return false
		case <-late:
			return false
		case <-tick.C:
			if c, err := net.Dial("tcp", address); err == nil {
				_ = c.Close()
				return true
			}
		}
	}
}

// key makes a key and gives its id and secret.
func (f *fronted) key(body string) (id, secret string) {
	f.Helper()
	var made struct{ ID, Key string }
	if err := f.socket.Do(context.Background(), "POST", "/admin/v1/keys", json.RawMessage(body), &made); err != nil {
		f.Fatal(err)
	}
	return made.ID, made.Key
}

// send asks the proxy with a target and fields as they are written, and gives
// the answer, its body, and what the upstream got, "" for nothing.
func (f *fronted) send(method, target, body string, fields ...string) (res *http.Response, text, upstream string) {
	f.Helper()
	f.mu.Lock()
	f.seen = nil
	f.mu.Unlock()
	c, err := net.Dial("tcp", f.proxy)
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		f.Fatal(err)
	}
	head := method + " " + target + " HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n"
	if body != "" {
		head += "Content-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	for _, field := range fields {
		head += field + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"+body); err != nil {
		f.Fatal(err)
	}
	if res, err = http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method}); err != nil {
		f.Fatalf("%s %s: %v", method, target, err)
	}
	defer res.Body.Close()
	all, err := io.ReadAll(res.Body)
	if err != nil {
		f.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return res, string(all), strings.Join(f.seen, "\n")
}

// refused wants a status with the code of the contract, and the upstream left
// alone.
func (f *fronted) refused(status int, code string, res *http.Response, text, upstream string) {
	f.Helper()
	var body struct{ Error string }
	_ = json.Unmarshal([]byte(text), &body)
	if res.StatusCode != status || body.Error != code || upstream != "" {
		f.Errorf("got %d %s, want %d %s; the upstream got %q", res.StatusCode, text, status, code, upstream)
	}
	if kind := res.Header.Get("Content-Type"); code != "" && !strings.HasPrefix(kind, "application/json") {
		f.Errorf("got Content-Type %q with %d", kind, status)
	}
}

// check asks everything that a recipe promises.
func (f *fronted) check() {
	id, good := f.key(`{"name": "gr\u00fcn", "owner": "ann", "permissions": ["can_read_reports"], "limits": {"requests_per_minute_limit": 1000}}`)
	_, poor := f.key(`{"name": "poor", "permissions": ["can_read_agents"], "limits": {"requests_per_minute_limit": 1000}}`)
	f.checkPasses(id, good)
	f.checkRefusals(good, poor)
	f.checkTricks(good, poor)
	f.checkAddress()
	f.checkWebSockets(good, poor)
	_, few := f.key(`{"name": "few", "permissions": ["can_read_reports"], "limits": {"requests_per_minute_limit": 2}}`)
	for range 2 {
		if res, text, _ := f.send("GET", "/reports/1", "", "X-API-Key: "+few); res.StatusCode != 200 {
			f.Fatalf("got %d %s", res.StatusCode, text)
		}
	}
	res, text, upstream := f.send("GET", "/reports/1", "", "X-API-Key: "+few)
	f.refused(429, "rate_limit_exceeded", res, text, upstream)
	if wait, err := strconv.Atoi(res.Header.Get("Retry-After")); err != nil || wait < 1 || wait > 60 {
		f.Errorf("got Retry-After %q", res.Header["Retry-After"])
	}
	if res.Header.Get("X-RateLimit-Limit") != "2" || res.Header.Get("X-RateLimit-Remaining") != "0" || !strings.Contains(res.Header.Get("RateLimit"), `"requests_per_minute";r=0`) {
		f.Errorf("429 says %v", res.Header)
	}
	if err := f.socket.Do(context.Background(), "POST", "/admin/v1/keys/"+id+"/revoke", nil, nil); err != nil {
		f.Fatal(err)
	}
	res, text, upstream = f.send("GET", "/reports/1", "", "X-API-Key: "+good)
	f.refused(401, "invalid_key", res, text, upstream)

	f.latchkey.Kill()
	for _, secret := range []string{good, poor} {
		if res, text, upstream := f.send("GET", "/free/1", "", "X-API-Key: "+secret); res.StatusCode < 500 && res.StatusCode != 403 || upstream != "" {
			f.Errorf("without Latchkey: got %d %s, the upstream got %q", res.StatusCode, text, upstream)
		}
	}
}

// checkPasses asks what may pass, and looks at what the upstream gets of it.
func (f *fronted) checkPasses(id, good string) {
	forged := []string{
		"X-Auth-Key-Id: forged", "X-Auth-Key-Name: forged", "X-Auth-Owner: forged", "X-Auth-Permissions: forged", "X-Auth-Environment: forged", "X-Auth-Sandbox: forged", "X-Request-Id: forged",
		"X_Auth_Key_Id: forged", "X.Auth.Owner: forged", "X-Auth-Uri: /free/forged", "X-Forwarded-For: 6.6.6.6",
		"X-Real-IP: forged", "X-Original-URL: /forged", "X-Rewrite-URL: /forged", "X-HTTP-Method-Override: forged", "X-Forwarded-Host: forged", "X-Forwarded-Proto: forged", "X-Forwarded-Prefix: /forged",
	}
	body := strings.Repeat("0123456789", 20_000)
	for _, tt := range []struct {
		name, method, target, body, want string
		fields                           []string
	}{
		{"a header", "GET", "/reports/1", "", "GET /reports/1 HTTP/", []string{"X-API-Key: " + good}},
		{"a bearer", "GET", "/reports/a%20b/?q=%C3%A9&&x", "", "GET /reports/a%20b/?q=%C3%A9&&x HTTP/", []string{"Authorization: Bearer " + good}},
		{"a bearer in small letters", "GET", "/reports", "", "GET /reports HTTP/", []string{"authorization: bearer " + good}},
		{"braces", "GET", "/reports/1?q={env.HOME}&k={http.request.header.X-API-Key}", "", "GET /reports/1?q={env.HOME}&k={http.request.header.X-API-Key} HTTP/", []string{"X-API-Key: " + good}},
		{"the query", "GET", "/reports/1?a=1&api_key=" + good + "&b=%20x", "", "GET /reports/1?a=1&b=%20x HTTP/", nil},
		{"the query, escaped", "GET", "/reports/1?api%5Fkey=" + good, "", "GET /reports/1 HTTP/", nil},
		{"a malformed query", "GET", "/reports/1?api_key=" + good + "&x=%zz&b=1;2", "", "GET /reports/1", nil},
		{"all three", "GET", "/reports/1?api_key=" + good, "", "GET /reports/1 HTTP/", []string{"X-API-Key: " + good, "Authorization: Bearer " + good}},
		{"forged fields", "GET", "/reports/1", "", "GET /reports/1 HTTP/", append([]string{"X-API-Key: " + good}, forged...)},
		{"a body", "POST", "/reports/new?x=1", body, "POST /reports/new?x=1 HTTP/", []string{"X-API-Key: " + good, "Content-Type: text/plain"}},
		{"another Authorization", "GET", "/reports/1", "", "GET /reports/1 HTTP/", []string{"X-API-Key: " + good, "Authorization: Basic azE6"}},
	} {
		res, text, upstream := f.send(tt.method, tt.target, tt.body, tt.fields...)
		upstream = strings.Replace(upstream, "b=+x", "b=%20x", 1) // a query that has held a key may be written anew
		if res.StatusCode != 200 || text != "from the upstream" || !strings.HasPrefix(upstream, tt.want) {
			f.Errorf("%s: got %d %s; the upstream got %q, want %q", tt.name, res.StatusCode, text, upstream, tt.want)
			continue
		}
		head, sent, _ := strings.Cut(upstream, "\r\n\r\n")
		got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + "\r\n\r\n")))
		if err != nil {
			f.Fatal(err)
		}
		for name, want := range map[string]string{
			"X-Auth-Key-Id": id, "X-Auth-Key-Name": "gr%C3%BCn", "X-Auth-Owner": "ann", "X-Auth-Permissions": "can_read_reports", "X-Auth-Environment": "", "X-Auth-Sandbox": "false", "X-Api-Key": "",
		} {
			if got.Header.Get(name) != want {
				f.Errorf("%s: the upstream got %s %q, want %q", tt.name, name, got.Header[name], want)
			}
		}
		if basic := tt.name == "another Authorization"; (got.Header.Get("Authorization") == "Basic azE6") != basic || !basic && got.Header["Authorization"] != nil {
			f.Errorf("%s: the upstream got Authorization %q", tt.name, got.Header["Authorization"])
		}
		if strings.Contains(upstream, good) || strings.Contains(upstream, "forged") || strings.Contains(upstream, "6.6.6.6") || len(got.Header["X-Request-Id"]) != 1 {
			f.Errorf("%s: the upstream got %s", tt.name, head)
		}
		if sent != tt.body {
			f.Errorf("%s: the upstream got %d bytes, want %d", tt.name, len(sent), len(tt.body))
		}
	}
}

// checkRefusals asks what must not pass.
func (f *fronted) checkRefusals(good, poor string) {
	for _, tt := range []struct {
		name, method, target string
		status               int
		code                 string
		fields               []string
	}{
		{"no key", "GET", "/reports/1", 401, "authentication_required", nil},
		{"another scheme", "GET", "/reports/1", 401, "authentication_required", []string{"Authorization: Basic azE6"}},
		{"an unknown key", "GET", "/reports/1", 401, "invalid_key", []string{"X-API-Key: " + newSecret("klen_")}},
		{"no permission", "GET", "/reports/1", 403, "permission_denied", []string{"X-API-Key: " + poor}},
		{"no route", "GET", "/elsewhere", 404, "not_found", []string{"X-API-Key: " + good}},
		{"another method", "POST", "/free/1", 405, "method_not_allowed", []string{"X-API-Key: " + good}},
		{"two keys", "GET", "/reports/1", 400, "validation_error", []string{"X-API-Key: " + good, "Authorization: Bearer " + poor}},
		{"another key in the query", "GET", "/reports/1?api_key=" + poor, 400, "validation_error", []string{"X-API-Key: " + good}},
	} {
		res, text, upstream := f.send(tt.method, tt.target, "", tt.fields...)
		f.refused(tt.status, tt.code, res, text, upstream)
		if strings.Contains(text, good) || strings.Contains(text, poor) {
			f.Errorf("%s: the answer has a key: %s", tt.name, text)
		}
		if challenges := res.Header["Www-Authenticate"]; tt.status == 401 && (len(challenges) != 1 || !strings.HasPrefix(challenges[0], `Bearer realm="latchkey"`)) {
			f.Errorf("%s: got WWW-Authenticate %q", tt.name, challenges)
		}
		if tt.status == 403 && !strings.Contains(text, "lacks the permission can_read_reports") {
			f.Errorf("%s: got %s", tt.name, text)
		}
		if tt.status == 405 && res.Header.Get("Allow") != "GET" {
			f.Errorf("%s: got Allow %q", tt.name, res.Header["Allow"])
		}
	}
}

// checkTricks tries to get at what the poor key may not have by addresses and
// fields that programs read in different ways.
func (f *fronted) checkTricks(good, poor string) {
	for _, target := range []string{
		"/free/..%2freports/1", "/free%2f../reports/1", "/free/../reports/1", "/free/%2e%2e/reports/1", "/free/.%2e/reports/1", "/free/..;/reports/1", "/free/%252e%252e/reports/1",
		"/free/..%5creports/1", "/free/..\\reports/1", "/free//../reports/1", "//reports/1", "/./reports/1", "/reports%2f1", "/reports%2F..%2Ffree/1", "/free/%00", "/free/a%0d%0aX-Auth-Key-Id:%20forged",
	} {
		for _, secret := range []string{good, poor} {
			res, _, upstream := f.send("GET", target, "", "X-API-Key: "+secret)
			if res.StatusCode < 400 || res.StatusCode >= 500 || upstream != "" {
				f.Errorf("%s: got %d, the upstream got %q", target, res.StatusCode, upstream)
			}
		}
	}
	for _, fields := range [][]string{
		{"X-Original-URI: /free/1", "X-Original-URL: /free/1", "X-Original-Method: GET"},
		{"X-Forwarded-Uri: /free/1", "X-Forwarded-Method: GET", "X-Forwarded-Host: other"},
		{"X-Rewrite-URL: /free/1", "X-HTTP-Method-Override: GET", "X-Auth-Uri: /free/1"},
	} {
		res, text, upstream := f.send("GET", "/reports/1", "", append(fields, "X-API-Key: "+poor)...)
		f.refused(403, "permission_denied", res, text, upstream)
	}
	for _, target := range []string{"/latchkey", "/authz/nginx", "/authz/forward"} { // not for clients
		if res, _, upstream := f.send("GET", target, "", "X-API-Key: "+good); res.StatusCode != 404 || upstream != "" {
			f.Errorf("%s: got %d, the upstream got %q", target, res.StatusCode, upstream)
		}
	}
}

// checkAddress wants the client's address to be the real one.
func (f *fronted) checkAddress() {
	_, here := f.key(`{"name": "here", "permissions": ["can_read_reports"], "allowed_ips": ["127.0.0.1"]}`)
	_, there := f.key(`{"name": "there", "permissions": ["can_read_reports"], "allowed_ips": ["6.6.6.6"]}`)
	for _, tt := range []struct {
		secret string
		want   int
	}{{here, 200}, {there, 403}} {
		if res, text, _ := f.send("GET", "/reports/1", "", "X-API-Key: "+tt.secret, "X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6"); res.StatusCode != tt.want {
			f.Errorf("got %d %s, want %d", res.StatusCode, text, tt.want)
		}
	}
}

// echo accepts a handshake, or any other offer to switch, and sends back what it gets.
func (f *fronted) echo(w http.ResponseWriter, r *http.Request) {
	conn, buffer, err := http.NewResponseController(w).Hijack()
	if err != nil {
		f.Error(err)
		return
	}
	defer conn.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, section 4.2.2
	_, _ = fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Accept: %s\r\n\r\n", r.Header.Get("Upgrade"), base64.StdEncoding.EncodeToString(sum[:]))
	_, _ = io.Copy(conn, buffer)
}

// offer asks the proxy to switch protocols. It returns the status, what comes back of a line that is sent after a
// switch, and what the upstream got.
func (f *fronted) offer(target string, fields ...string) (status int, echoed, upstream string) {
	f.Helper()
	f.mu.Lock()
	f.seen = nil
	f.mu.Unlock()
	c, err := net.Dial("tcp", f.proxy)
	if err != nil {
		f.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		f.Fatal(err)
	}
	if _, err := io.WriteString(c, "GET "+target+" HTTP/1.1\r\nHost: api.example.com\r\n"+strings.Join(fields, "\r\n")+"\r\n\r\n"); err != nil {
		f.Fatal(err)
	}
	from := bufio.NewReader(c)
	res, err := http.ReadResponse(from, &http.Request{Method: "GET"})
	if err != nil {
		f.Fatalf("%s %q: %v", target, fields, err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusSwitchingProtocols {
		if _, err := io.WriteString(c, "hello\n"); err != nil {
			f.Fatal(err)
		}
		echoed, _ = from.ReadString('\n')
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return res.StatusCode, echoed, strings.Join(f.seen, "\n")
}

// checkWebSockets wants WebSockets to pass where their route lets them, and nothing else to be switched to.
func (f *fronted) checkWebSockets(good, poor string) {
	handshake := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	for _, tt := range []struct {
		name, target, secret string
		status               int
	}{
		{"with the permission", "/reports/live", good, 101}, {"without it", "/reports/live", poor, 403}, {"an unknown key", "/reports/live", newSecret("klen_"), 401},
		{"websocket = false", "/plain/live", good, 400},
	} {
		status, echoed, upstream := f.offer(tt.target, append(handshake, "X-API-Key: "+tt.secret)...)
		if passes := tt.status == 101; status != tt.status || (echoed == "hello\n") != passes || (upstream != "") != passes || strings.Contains(upstream, tt.secret) {
			f.Errorf("a WebSocket %s: got %d, %q back, want %d; the upstream got %q", tt.name, status, echoed, tt.status, upstream)
		}
	}
	for _, offers := range [][]string{{"h2c"}, {"websocket, h2c"}, {"h2c, websocket"}, {"h2c", "websocket"}, {"TLS/1.0"}} {
		fields := []string{"Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__", "X-API-Key: " + good}
		for _, offer := range offers {
			fields = append(fields, "Upgrade: "+offer)
		}
		if status, _, upstream := f.offer("/reports/1", fields...); status == 101 && !strings.Contains(upstream, "\r\nUpgrade: websocket\r\n") || strings.Contains(upstream, "h2c") || strings.Contains(upstream, "TLS/1.0") {
			f.Errorf("an offer of %q: got %d; the upstream got %q", offers, status, upstream)
		}
	}
}

// nginxProgram and haproxyProgram return what test.sh installs.
func nginxProgram(t *testing.T) string   { return installed(t, "nginx") }
func haproxyProgram(t *testing.T) string { return installed(t, "haproxy") }

// installed returns the path of a program that test.sh installs.
func installed(t *testing.T, name string) string {
	t.Helper()
	for _, path := range []string{name, "/usr/sbin/" + name} {
		if found, err := exec.LookPath(path); err == nil {
			return found
		}
	}
	if os.Getenv("CI") == "" {
		t.Skipf("%s is not installed; test.sh installs it", name)
	}
	t.Fatalf("%s is not installed", name)
	return ""
}

func TestProxies_Nginx(t *testing.T) {
	f := newFronted(t, nginxProgram, func(nginx string, s setup) *exec.Cmd {
		server := filled(t, recipe(t, "nginx", 0), "listen 80;", "listen "+s.listen+";", "127.0.0.1:8080", s.latchkey, "127.0.0.1:3000", s.upstream)
		overwrite(t, s.dir, "nginx.conf", nginxFile(s.dir, server))
		return exec.Command(nginx, "-p", s.dir, "-c", filepath.Join(s.dir, "nginx.conf"), "-e", "stderr")
	})
	_, good := f.key(`{"name": "first", "permissions": ["can_read_reports"]}`)
	res, _, _ := f.send("GET", "/reports/1", "", "X-API-Key: "+good)
	if res.Header.Get("X-RateLimit-Limit") != "60" || res.Header.Get("X-RateLimit-Remaining") != "59" || res.Header.Get("RateLimit-Policy") == "" {
		t.Errorf("the client sees %v", res.Header)
	}
	f.check()
}

// nginxFile returns a configuration of nginx with the text of a recipe.
func nginxFile(dir, text string) string {
	var temporary strings.Builder
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temporary, "%s_temp_path %s;\n", kind, filepath.Join(dir, kind))
	}
	return "daemon off;\nmaster_process off;\npid " + filepath.Join(dir, "nginx.pid") + ";\nevents { worker_connections 256; }\nhttp {\naccess_log off;\n" + temporary.String() + text + "}\n"
}

func TestProxies_HAProxy(t *testing.T) {
	f := newFronted(t, haproxyProgram, func(haproxy string, s setup) *exec.Cmd {
		script := filepath.Join(s.dir, "latchkey.lua")
		overwrite(t, s.dir, "latchkey.lua", filled(t, recipe(t, "lua", 0), "127.0.0.1:8080", s.latchkey))
		overwrite(t, s.dir, "haproxy.cfg", filled(t, recipe(t, "haproxy", 0), "/etc/haproxy/latchkey.lua", script, "bind :80", "bind "+s.listen, "127.0.0.1:3000", s.upstream))
		return exec.Command(haproxy, "-db", "-n", "200", "-f", filepath.Join(s.dir, "haproxy.cfg"))
	})
	f.check()
}

func TestProxies_Caddy(t *testing.T) {
	f := newFronted(t, caddyProgram, func(caddy string, s setup) *exec.Cmd {
		overwrite(t, s.dir, "Caddyfile", "{\n\tadmin off\n\tauto_https off\n\tpersist_config off\n}\n"+
			filled(t, recipe(t, "caddyfile", 0), "api.example.com {", "http://"+s.listen+", http://api.example.com:"+s.listen[strings.LastIndexByte(s.listen, ':')+1:]+" {\n\tbind 127.0.0.1", "127.0.0.1:8080", s.latchkey, "127.0.0.1:3000", s.upstream))
		cmd := exec.Command(caddy, "run", "--config", filepath.Join(s.dir, "Caddyfile"), "--adapter", "caddyfile")
		cmd.Env = []string{"HOME=" + s.dir, "XDG_CONFIG_HOME=" + s.dir, "XDG_DATA_HOME=" + s.dir}
		return cmd
	})
	f.check()
}

// caddyProgram gives Caddy, built once and kept in the folder for caches.
func caddyProgram(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir() // no home
	}
	cache = filepath.Join(cache, "latchkey-tests")
	path := filepath.Join(cache, "caddy-"+caddyVersion)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	bin, err := os.MkdirTemp(cache, "build") // beside its place, to be moved there whole
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(bin)
	install := exec.Command("go", "install", "github.com/caddyserver/caddy/v2/cmd/caddy@"+caddyVersion)
	install.Dir = bin
	install.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("build Caddy: %v: %s", err, out)
	}
	if err := os.Rename(filepath.Join(bin, "caddy"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// identityFields are what the upstream is told of a key.
var identityFields = []string{"X-Auth-Key-Id", "X-Auth-Key-Name", "X-Auth-Owner", "X-Auth-Permissions", "X-Auth-Environment", "X-Auth-Sandbox", "X-Request-Id"}

// TestProxies_Forms reads the recipes that are not run, and holds them against
// what the endpoints need.
func TestProxies_Forms(t *testing.T) {
	var traefik struct {
		HTTP struct {
			Middlewares map[string]struct {
				ForwardAuth struct {
					Address             string   `yaml:"address"`
					TrustForwardHeader  bool     `yaml:"trustForwardHeader"`
					AuthResponseHeaders []string `yaml:"authResponseHeaders"`
				} `yaml:"forwardAuth"`
			} `yaml:"middlewares"`
		} `yaml:"http"`
	}
	if err := yaml.Unmarshal([]byte(recipe(t, "yaml", 0)), &traefik); err != nil {
		t.Fatal(err)
	}
	asks := traefik.HTTP.Middlewares["latchkey"].ForwardAuth
	if asks.TrustForwardHeader || asks.Address != "http://127.0.0.1:8080/authz/forward" || !slices.Equal(asks.AuthResponseHeaders, identityFields) {
		t.Errorf("Traefik: got %+v", asks)
	}
	var envoy map[string]any
	text := recipe(t, "yaml", 1)
	if err := yaml.Unmarshal([]byte(text), &envoy); err != nil {
		t.Fatal(err)
	}
	if envoy["static_resources"] == nil || !strings.Contains(text, "path_prefix: /authz/envoy\n") || !strings.Contains(text, "failure_mode_allow: false") {
		t.Errorf("Envoy: got %v", envoy)
	}
}
