// Package routers holds the guard against the routers of others: what Latchkey lets pass must not
// arrive at a handler that the key may not use, however a path or method is written. It is a module
// of its own, so that the program does not require these routers.
package routers

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"latchkey/tests/program"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.ReleaseMode)
	os.Exit(program.Main(m, "github.com/valyala/fasthttp.(*workerPool).Start.func2", "github.com/valyala/fasthttp.updateServerDate.func1"))
}

// patterns are the paths that the rows of an upstream are chosen from.
var patterns = []string{"/*rest", "/", "/:any", "/users", "/users/:id", "/users/me", "/users/:id/files", "/users/me/files", "/users/:id/files/:file", "/users/:id/*rest", "/admin", "/admin/*rest", "/keys", "/keys/list",
	"/files/*rest", "/files/public", "/caf\u00e9", "/caf\u00e9/:x", "/caf\u00e9/menu", "/report.json", "/~me", "/a@b"}

// permissions is how many permissions there are.
const permissions = 4

// newUpstream returns an upstream with random rows.
func newUpstream(r *rand.Rand, name string) *upstream {
	u := &upstream{Name: name, Strip: r.IntN(4) == 0}
	hidden := r.IntN(3) == 0
	one := r.IntN(2) == 0
	for _, p := range patterns {
		crossing := p == "/admin/*rest" || p == "/files/*rest" // crosses /:any, of which neither is the narrower one
		if p != "/*rest" && r.IntN(3) == 0 || p == "/:any" && !one || crossing && one {
			continue
		}
		if p == "/*rest" && hidden {
			u.Rows = append(u.Rows, &row{p, nil, hiddenRow})
			continue
		}
		need := func() int { return pick(r, []int{0, 1, 2, 4, 8, 3, 12}) }
		switch r.IntN(6) {
		case 0:
			u.Rows = append(u.Rows, &row{p, []string{"GET"}, need()})
		case 1:
			u.Rows = append(u.Rows, &row{p, []string{"GET"}, need()}, &row{p, nil, need()})
		case 2:
			u.Rows = append(u.Rows, &row{p, []string{"GET", "HEAD"}, need()}, &row{p, []string{"POST", "DELETE"}, need()})
		default:
			u.Rows = append(u.Rows, &row{p, nil, need()})
		}
	}
	return u
}

// config returns the configuration of Latchkey for the rows of all upstreams.
func config(list []*upstream) string {
	var b strings.Builder
	for i := range permissions {
		fmt.Fprintf(&b, "[[permission]]\nname = \"can_p%d\"\ndescription = \"Permission %d.\"\n", i, i)
	}
	for _, u := range list {
		for _, r := range u.Rows {
			if r.Need == hiddenRow {
				continue
			}
			fmt.Fprintf(&b, "[[route]]\npath = %q\npermission = %s\nupstream = \"http://%s\"\n", strings.TrimSuffix("/"+u.Name+r.Path, "/"), words(names(r.Need)), u.Address)
			if r.Methods != nil {
				fmt.Fprintf(&b, "methods = %s\n", words(r.Methods))
			}
			if u.Strip {
				fmt.Fprintf(&b, "strip_prefix = %q\n", "/"+u.Name)
			}
			if u.Cases {
				b.WriteString("case_sensitive = true\n")
			}
		}
	}
	return b.String()
}

// names returns the names of a set of permissions.
func names(set int) []string {
	list := []string{}
	for i := range permissions {
		if set&(1<<i) != 0 {
			list = append(list, fmt.Sprintf("can_p%d", i))
		}
	}
	return list
}

// words returns a list in JSON, which TOML reads too.
func words(list []string) string {
	b, _ := json.Marshal(list)
	return string(b)
}

// field runs all upstreams behind one Latchkey.
type field struct {
	*testing.T
	list     []*upstream
	latchkey *program.Server
	keys     [1 << permissions]string // by the set of permissions
	nginx    string                   // folder of its sockets; "": it is not installed
	answers  [600]atomic.Int64
}

// newField starts upstreams, Latchkey and nginx.
func newField(t *testing.T, r *rand.Rand) *field {
	f := &field{T: t}
	all := slices.Sorted(maps.Keys(kinds))
	all = append(all, slices.Sorted(maps.Keys(fibers))...)
	for _, kind := range all {
		for i := range 3 {
			u := newUpstream(r, kind+strconv.Itoa(i))
			u.Cases = !strings.HasPrefix(kind, "fiber") || kind == "fiberstrict"
			if u.Cases && i == 0 {
				u.Cases = false // not said, which is stricter
			}
			u.start(t, kind)
			f.list = append(f.list, u)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "latchkey.toml")
	if err := os.WriteFile(file, []byte(config(f.list)), 0o600); err != nil {
		t.Fatal(err)
	}
	f.latchkey = program.Serve(t, filepath.Join(dir, "data"), "--config", file)
	socket := f.latchkey.Socket()
	for set := range f.keys {
		var made struct{ Key string }
		body := fmt.Sprintf(`{"name": "k%d", "permissions": %s, "limits": {"requests_per_minute_limit": 1000000}}`, set, words(append(names(set), "can_read_calls"))) // a key needs one
		if err := socket.Do(context.Background(), "POST", "/admin/v1/keys", json.RawMessage(body), &made); err != nil {
			t.Fatal(err)
		}
		f.keys[set] = made.Key
	}
	f.startNginx()
	return f
}

// ways are the ways in which a request gets past Latchkey: through its own proxy, or through another
// that asks first.
var ways = []string{"proxy", "proxy", "proxy", "proxy", "forward", "forward-parsed", "forward-checked", "envoy", "nginx-checked", "nginx-plain", "nginx-normal"}

// send sends a request in a way, and returns the status that the client sees.
func (f *field) send(c *client, way string, u *upstream, q request, may int) int {
	key := f.keys[may]
	if u.Strip {
		way = "proxy" // only Latchkey removes a prefix
	}
	try := fmt.Sprintf("%d by %s: %s", may, way, q)
	latchkey := strings.TrimPrefix(f.latchkey.URL, "http://")
	fields := append([]string{"X-API-Key: " + key, "X-Try: " + try}, q.fields...)
	switch family, form, _ := strings.Cut(way, "-"); family {
	case "nginx":
		if f.nginx == "" {
			return 0
		}
		return c.exchange("unix", filepath.Join(f.nginx, u.Name+"-"+form), q.method, q.target, fields).StatusCode
	case "forward", "envoy":
		target := q.target
		if form == "parsed" { // a proxy that reads an address and writes it anew
			at, err := url.ParseRequestURI(target)
			if err != nil {
				return 0
			}
			target = at.RequestURI()
		}
		asked := []string{"X-API-Key: " + key, "X-Forwarded-Method: " + q.method, "X-Forwarded-Uri: " + target}
		method, path := "GET", "/authz/forward"
		if family == "envoy" {
			asked, method, path = asked[:1], q.method, "/authz/envoy"+target
		}
		answer := c.exchange("tcp", latchkey, method, path, asked)
		if answer.StatusCode != http.StatusOK {
			return answer.StatusCode
		}
		if form == "checked" {
			target = answer.Header.Get("X-Auth-Uri")
		}
		return c.exchange("tcp", u.Address, q.method, target, []string{"X-Try: " + try}).StatusCode
	}
	return c.exchange("tcp", latchkey, q.method, q.target, fields).StatusCode
}

// client sends requests byte for byte. It keeps a connection to each address.
type client struct{ open map[string]*connection }

type connection struct {
	net.Conn
	r *bufio.Reader
}

// exchange sends a request and returns the answer, without its body. It returns an answer with
// status 0 if the connection ended.
func (c *client) exchange(network, address, method, target string, fields []string) *http.Response {
	text := method + " " + target + " HTTP/1.1\r\nHost: api.example.com\r\n"
	for _, field := range fields {
		text += field + "\r\n"
	}
	if method != "GET" && method != "HEAD" {
		text += "Content-Length: 0\r\n"
	}
	for range 2 { // the other side may have closed a connection that was kept
		kept := c.open[address] != nil
		if !kept {
			conn, err := net.Dial(network, address)
			if err != nil {
				return &http.Response{}
			}
			c.open[address] = &connection{conn, bufio.NewReader(conn)}
		}
		conn := c.open[address]
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		answer := &http.Response{}
		_, err := io.WriteString(conn, text+"\r\n")
		if err == nil {
			answer, err = http.ReadResponse(conn.r, &http.Request{Method: method})
		}
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
		}
		if err == nil && !answer.Close && answer.ProtoMinor == 1 && answer.StatusCode != http.StatusContinue {
			return answer
		}
		_ = conn.Close()
		delete(c.open, address)
		if err == nil {
			return answer
		}
		if !kept {
			break
		}
	}
	return &http.Response{}
}

// close closes the connections.
func (c *client) close() {
	for _, conn := range c.open {
		_ = conn.Close()
	}
}

// TestRouters sends requests that were written in all the ways that programs read differently, with
// keys of every set of permissions, to upstreams made with six routers, through Latchkey and through
// proxies that ask it. No request arrives at a handler whose route the key may not use.
// LATCHKEY_TEST_ROUTERS is the number of requests, LATCHKEY_TEST_ROUTERS_SEED repeats a run.
func TestRouters(t *testing.T) {
	count := program.Long(t, "LATCHKEY_TEST_ROUTERS", 30_000)
	seed := uint64(program.Long(t, "LATCHKEY_TEST_ROUTERS_SEED", int(time.Now().UnixNano()>>10&0xffffffff)))
	f := newField(t, rand.New(rand.NewPCG(seed, 0)))
	const workers = 4
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w+1)))
			c := &client{map[string]*connection{}}
			defer c.close()
			for range count / workers {
				u := pick(r, f.list)
				f.answers[f.send(c, pick(r, ways), u, newRequest(r, u), r.IntN(1<<permissions))].Add(1)
			}
		})
	}
	wait.Wait()
	f.report(seed, count)
}

// report fails the test for every hole, and if some router was never reached.
func (f *field) report(seed uint64, count int) {
	f.Helper()
	arrived := map[string]int{} // by router
	total, rows, used, holes := 0, 0, 0, 0
	for _, u := range f.list {
		u.mu.Lock()
		kind := strings.TrimRight(u.Name, "0123456789")
		for _, r := range u.Rows {
			if r.Need == hiddenRow {
				continue
			}
			rows++
			if n := u.reached[r]; n > 0 {
				used++
				arrived[kind] += n
				total += n
			}
		}
		for _, hole := range u.holes {
			if holes++; holes <= 30 {
				f.Error(hole)
			}
		}
		if arrived[kind] == 0 {
			f.Errorf("no request has arrived at %s", u.Name)
		}
		u.mu.Unlock()
	}
	var answers []string
	for status := range f.answers {
		if n := f.answers[status].Load(); n > 0 {
			answers = append(answers, fmt.Sprintf("%d: %d", status, n))
		}
	}
	f.Logf("seed %d: %d requests, %d arrived at %d of %d routes of %d upstreams, %d where the key may not; answers %s", seed, count, total, used, rows, len(f.list), holes, strings.Join(answers, ", "))
}

// startNginx starts an nginx that asks Latchkey, as the recipe in docs/proxies.md says. For each
// upstream it has three sockets, after each of which it passes on another form of the path: the one
// that Latchkey has checked, the one that was sent, and the one that nginx reads.
func (f *field) startNginx() {
	f.Helper()
	nginx := ""
	for _, path := range []string{"nginx", "/usr/sbin/nginx"} {
		if found, err := exec.LookPath(path); err == nil {
			nginx = found
		}
	}
	if nginx == "" {
		if os.Getenv("CI") != "" {
			f.Fatal("nginx is not installed")
		}
		f.Log("without nginx, which is not installed")
		return
	}
	dir, err := os.MkdirTemp("", "lk") // the paths of sockets must be short
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = os.RemoveAll(dir) })
	page, err := os.ReadFile("../../docs/proxies.md")
	if err != nil {
		f.Fatal(err)
	}
	ask := regexp.MustCompile(`(?s)\tlocation = /latchkey \{.*?\n\t\}\n`).FindString(string(page))
	if ask == "" {
		f.Fatal("docs/proxies.md has no location that asks")
	}
	ask = strings.ReplaceAll(ask, "http://latchkey/", f.latchkey.URL+"/")
	var b strings.Builder
	fmt.Fprintf(&b, "daemon off;\nmaster_process off;\npid %s/pid;\nevents { worker_connections 1024; }\nhttp {\naccess_log off;\n", dir)
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&b, "%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	for _, u := range f.list {
		for form, pass := range map[string]string{"checked": "$latchkey_uri", "plain": "", "normal": "/"} {
			fmt.Fprintf(&b, "server {\nlisten unix:%s/%s-%s;\nlocation / {\nauth_request /latchkey;\nauth_request_set $latchkey_uri $upstream_http_x_auth_uri;\nproxy_pass http://%s%s;\n}\n%s}\n", dir, u.Name, form, u.Address, pass, ask)
		}
	}
	b.WriteString("}\n")
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(b.String()), 0o600); err != nil {
		f.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr")
	out := &program.Output{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	f.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	for range 1000 {
		if c, err := net.Dial("unix", filepath.Join(dir, f.list[len(f.list)-1].Name+"-plain")); err == nil {
			_ = c.Close()
			f.nginx = dir
			return
		}
		select {
		case <-ended:
			f.Fatalf("nginx: %s", out)
		case <-time.After(20 * time.Millisecond):
		}
	}
	f.Fatalf("nginx does not listen: %s", out)
}
