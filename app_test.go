package main

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/clock"
	"latchkey/tests/program"
)

func TestMain(m *testing.M) { os.Exit(program.Main(m)) }

// testApp is the whole service in a temporary folder, under clocks that the
// test sets.
type testApp struct {
	*App
	t      testing.TB
	config Config
	clocks *testClocks
	log    *lockedBuffer
	// redacted gives it the log of a real server, from the next start on.
	redacted bool
	api      http.Handler
	admin    http.Handler // over TCP, so with a token
	local    http.Handler // over the control socket
}

// testClocks are the machine's clocks as a test sets them. Read and Pass are
// safe for concurrent use.
type testClocks struct {
	mu sync.Mutex
	clock.Reading
}

func (c *testClocks) Read() clock.Reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Reading
}

// Pass lets real time go by: all clocks advance.
func (c *testClocks) Pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Wall = c.Wall.Add(d)
	c.Boot += d
}

// lockedBuffer is a log.
type lockedBuffer = program.Output

func newTestApp(t testing.TB, change ...func(*Config)) *testApp {
	t.Helper()
	a := &testApp{t: t, config: defaultConfig(), log: &lockedBuffer{}}
	a.clocks = &testClocks{Reading: clock.Reading{Wall: epoch, Boot: time.Hour, BootID: "one"}}
	a.config.Server.Data = filepath.Join(t.TempDir(), "data")
	for _, f := range change {
		f(&a.config)
	}
	a.start()
	t.Cleanup(func() {
		if a.App != nil {
			_ = a.Close()
		}
	})
	return a
}

func (a *testApp) logger() *Log {
	if a.redacted {
		return NewLog(a.log, a.config, LogSink{})
	}
	plain := slog.NewJSONHandler(a.log, nil) // as it is: nothing may depend on what is taken out
	return &Log{Logger: slog.New(plain), Access: &AccessWriter{Out: a.log, Level: slog.LevelInfo, Redact: strings.Clone, Other: plain}}
}

func (a *testApp) start() {
	a.t.Helper()
	log := a.logger()
	app, err := OpenApp(AppOptions{Config: a.config, Clock: clock.NewClockFrom(a.clocks.Read), Create: true, Log: log.Logger, Access: log.Access})
	if err != nil {
		a.t.Fatal(err)
	}
	a.App = app
	app.Server.spare.spoil = true
	app.Operators.cost = testCost
	for _, h := range []struct {
		into *http.Handler
		make func() (http.Handler, error)
	}{{&a.api, app.Server.API}, {&a.admin, func() (http.Handler, error) { return app.Server.Admin() }}, {&a.local, func() (http.Handler, error) { return app.Server.LocalAdmin() }}} {
		if *h.into, err = h.make(); err != nil {
			a.t.Fatal(err)
		}
	}
}

// restart closes the service cleanly and opens its folder again.
func (a *testApp) restart() {
	a.t.Helper()
	if err := a.Close(); err != nil {
		a.t.Fatal(err)
	}
	a.start()
}

// refuseWrites has a store refuse every write from now on, as it does from the
// start of its Close on, while what it holds can still be read.
func refuseWrites(t testing.TB, s *Store) {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	<-s.done
	t.Cleanup(func() {
		if s.replica != nil {
			_ = s.replica.close(s)
		}
		_ = s.db.Close()
	})
}

// damageRecords turns over a bit in each value of a bucket, of records or of
// index entries. repair turns it back.
func damageRecords(t testing.TB, s *Store, bucket string) (repair func()) {
	t.Helper()
	flip := func() {
		err := s.Update(func(tx *Tx) error {
			flipped := map[string][]byte{}
			for key, stored := range tx.Range(bucket, nil) {
				value := bytes.Clone(stored)
				value[len(value)-1] ^= 1
				flipped[string(key)] = value
			}
			if len(flipped) == 0 {
				t.Errorf("the bucket %s has nothing to damage", bucket)
			}
			for key, value := range flipped {
				if err := tx.PutRaw(bucket, []byte(key), value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	flip()
	return flip
}

// ask sends a request to the API listener.
func (a *testApp) ask(method, path, key, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	w := httptest.NewRecorder()
	if a.api.ServeHTTP(w, r); !strings.HasPrefix(path, "/admin/") { // those are of the other door
		conform(a.t, r, w)
	}
	return w
}

// control sends a request to the control socket.
func (a *testApp) control(method, path, body string) *httptest.ResponseRecorder {
	w, r := httptest.NewRecorder(), httptest.NewRequest(method, path, strings.NewReader(body))
	a.local.ServeHTTP(w, r)
	conform(a.t, r, w)
	return w
}

// operate sends a request to the control socket and wants a status.
func (a *testApp) operate(want int, method, path, body string) map[string]any {
	a.t.Helper()
	w := a.control(method, path, body)
	if w.Code != want {
		a.t.Fatalf("%s %s: got %d %s, want %d", method, path, w.Code, w.Body, want)
	}
	var v map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		a.t.Fatal(err)
	}
	return v
}

const everyPermission = `["can_read_calls","can_initiate_calls","can_read_agents","can_read_contacts","can_read_calendar","can_write_calendar","can_write_contacts"]`

// key makes a key; more is further JSON members, such as `"owner": "ann"`.
func (a *testApp) key(permissions string, more ...string) (id, secret string) {
	a.t.Helper()
	body := `{"name": "test", "permissions": ` + permissions
	for _, m := range more {
		body += ", " + m
	}
	v := a.operate(201, "POST", "/admin/v1/keys", body+"}")
	return v["id"].(string), v["key"].(string)
}

// code gives the contract's error code of an answer.
func code(w *httptest.ResponseRecorder) string {
	var e struct{ Error, Message string }
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		return "no JSON: " + w.Body.String()
	}
	if e.Error != "" && e.Message == "" {
		return "no message"
	}
	return e.Error
}

// sourceFile is a parsed file of the program.
type sourceFile struct {
	name string // path from the root of the module
	*ast.File
}

// sources returns the parsed files, without tests, that match the patterns. Each pattern must match
// a file.
func sources(t *testing.T, fset *token.FileSet, patterns ...string) (list []sourceFile) {
	t.Helper()
	for _, pattern := range patterns {
		names, err := filepath.Glob(pattern)
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: got %v, %v", pattern, names, err)
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(fset, name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, sourceFile{name, f})
		}
	}
	return list
}

// The figures of the API are of requests to the API listener only: a guarded route may have the path of an
// admin route, and a request to the admin listener may match no route.
func TestApp_FiguresAreOfTheAPI(t *testing.T) {
	g := newGuarded(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/admin/v1/keys" {
			w.WriteHeader(http.StatusForbidden)
		}
	}, func(c *Config, url string) {
		c.Metrics.Open = true
		c.Routes = []RouteRow{{Path: "/admin/*rest", Permission: []string{"can_use"}, Upstream: url, Timeout: time.Minute}}
	})
	token := g.token()
	for _, path := range []string{"/metrics", "/metrics", "/admin/v1/keys", "/none"} {
		askDoor(g.admin, "GET", path, "", "Authorization: Bearer "+token)
		askDoor(g.admin, "POST", path, "", "Authorization: Bearer wrong")
	}
	g.send(t, "GET", "/admin/v1/keys", nil)
	askDoor(g.api, "POST", "/admin/v1/keys", "", "Authorization: Bearer wrong")
	askDoor(g.api, "GET", "/none", "")
	counted := map[string]any{}
	for _, v := range g.operate(200, "GET", "/admin/v1/usage?by=route", "")["routes"].([]any) {
		row := v.(map[string]any)
		counted[row["route"].(string)] = row["requests"]
	}
	if want := (map[string]any{"/admin/*rest": 2., "-": 1.}); !maps.Equal(counted, want) {
		t.Errorf("the usage by route: got %v, want %v", counted, want)
	}
	if latest := g.operate(200, "GET", "/admin/v1/requests", "")["requests"].([]any); len(latest) != 3 {
		t.Errorf("the latest requests: got %v, want the 3 of the API", latest)
	}
	for _, v := range g.operate(200, "GET", "/admin/v1/audit", "")["entries"].([]any) {
		if action := v.(map[string]any)["action"].(string); strings.Contains(action, "/admin/*rest") {
			t.Errorf("the audit log has a refusal of a guarded route: %v", v)
		}
	}
	_, text := g.scrape("")
	wantLines(t, text,
		`latchkey_requests_total{code="403",door="api",method="GET",route="/admin/*rest"} 1`,
		`latchkey_requests_total{code="401",door="api",method="POST",route="/admin/*rest"} 1`,
		`latchkey_requests_total{code="404",door="api",method="GET",route="-"} 1`,
		`latchkey_requests_total{code="404",door="admin",method="GET",route="-"} 1`,
		`latchkey_requests_total{code="200",door="admin",method="GET",route="/metrics"} 2`,
	)
}
