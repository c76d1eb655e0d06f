package main

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/clock"
	"latchkey/internal/conns"
)

// reloading is a service with a config file and an upstream that answers ok.
func reloading(t *testing.T, text string) (a *testApp, file, upstream string) {
	t.Helper()
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.Header.Get("X-Auth-Permissions")))
	}))
	t.Cleanup(up.Close)
	file = filepath.Join(t.TempDir(), "latchkey.toml")
	load := func() (Config, error) {
		c, _, err := LoadConfig(file, nil, nil)
		c.Server.Data = a.config.Server.Data
		return c, err
	}
	writeConfig(t, file, strings.ReplaceAll(text, "UP", up.URL))
	a = newTestApp(t, func(c *Config) {
		loaded, _, err := LoadConfig(file, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		loaded.Server.Data = c.Server.Data
		*c = loaded
	})
	a.Reloader.From(load, new(slog.LevelVar))
	return a, file, up.URL
}

func writeConfig(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestReloader(t *testing.T) {
	const base = "[[permission]]\nname = \"can_a\"\ndescription = \"A.\"\n[[permission]]\nname = \"can_b\"\ndescription = \"B.\"\n"
	a, file, up := reloading(t, base+"[[route]]\npath = \"/a\"\npermission = \"can_a\"\nupstream = \"UP\"\n")
	id, key := a.key(`["can_a"]`)
	status := func() map[string]any { return a.operate(200, "GET", "/admin/v1/status", "")["config"].(map[string]any) }
	ask := func(path string, want int) {
		t.Helper()
		if w := a.ask("GET", path, key, ""); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", path, w.Code, w.Body, want)
		}
	}
	ask("/a", 200)
	ask("/b", 404)
	began := status()["loaded_at"]
	a.clocks.Pass(5 * time.Second)

	// Permissions in another order, another route, a smaller limit, and what needs a restart.
	writeConfig(t, file, "[server]\nlisten = \"127.0.0.1:1\"\nmax_connections = 40\nmax_connections_per_address = 7\n[log]\nlevel = \"warn\"\naccess = false\n[[permission]]\nname = \"can_b\"\ndescription = \"B.\"\n[[permission]]\nname = \"can_a\"\ndescription = \"A.\"\n"+
		"[[limit]]\nname = \"requests_per_minute_limit\"\ndefault = 4\n"+
		"[[route]]\npath = \"/a\"\npermission = \"can_b\"\nupstream = \""+up+"\"\n[[route]]\npath = \"/b\"\npermission = \"can_a\"\nupstream = \""+up+"\"\n")
	v := a.operate(200, "POST", "/admin/v1/reload", "")
	if got := v["restart_needed"].([]any); len(got) != 2 || got[0] != "server.listen" || got[1] != "log.access" || a.Reloader.level.Level() != slog.LevelWarn || v["error"] != nil || v["loaded_at"] == began {
		t.Errorf("got %v", v)
	}
	if got, _ := a.connections.Usage(); got[0].Limits != (conns.Limits{Max: 40, MaxPerNetwork: 7}) {
		t.Errorf("got %+v, want the numbers of connections of the new configuration", got[0])
	}
	ask("/a", 403) // by name, whatever the order: this key has can_a
	ask("/b", 200)
	w := a.ask("GET", "/b", key, "")
	if got := w.Header().Get("X-RateLimit-Limit") + " " + w.Header().Get("X-RateLimit-Remaining"); w.Code != 200 || got != "4 0" || w.Body.String() != "can_a" {
		t.Errorf("got %d %s, limit and rest %s: what was used before counts on", w.Code, w.Body, got)
	}
	ask("/b", 429)

	// A bad file changes nothing and is told of everywhere.
	a.clocks.Pass(time.Minute)
	good := status()["loaded_at"]
	writeConfig(t, file, "[[route]]\npath = \"/c\"\npermission = \"can_fly\"\nupstream = \""+up+"\"\n[[route]]\npath = \"/c\"\npermission = []\nupstrem = \"x\"\n")
	if v := a.operate(400, "POST", "/admin/v1/reload", ""); !strings.Contains(v["message"].(string), `unknown key "upstrem"`) || !strings.Contains(v["message"].(string), "still in use") {
		t.Errorf("got %v", v)
	}
	if s := status(); s["loaded_at"] != good || !strings.Contains(s["error"].(string), `"upstrem"`) || s["failed_at"] == nil || len(s["restart_needed"].([]any)) != 2 {
		t.Errorf("got status %v", s)
	}
	if !strings.Contains(a.log.String(), "configuration not reloaded") {
		t.Error("the log does not tell of it")
	}
	ask("/b", 200)
	ask("/c", 404)

	// One that takes a path of ours is bad too.
	writeConfig(t, file, "[[route]]\npath = \"/api/v1/calls\"\npermission = []\nupstream = \""+up+"\"\n")
	if v := a.operate(400, "POST", "/admin/v1/reload", ""); !strings.Contains(v["message"].(string), "route 1 (* /api/v1/calls) has a path that belongs to the endpoint GET /api/v1/calls") {
		t.Errorf("got %v", v)
	}
	a.config.Routes = []RouteRow{{Path: "/api/v1/key", Upstream: up}}
	if _, err := OpenApp(AppOptions{Config: Config{Server: a.config.Server, Keys: a.config.Keys, Routes: a.config.Routes}, Clock: clock.NewClock(), Create: true, Log: a.logger().Logger}); err == nil {
		t.Error("a start in the same folder and with such a route: got no error")
	}

	// A permission that is gone is kept with the key, and counts for nothing.
	writeConfig(t, file, "[[route]]\npath = \"/b\"\npermission = []\nupstream = \""+up+"\"\n")
	a.operate(200, "POST", "/admin/v1/reload", "")
	if w := a.ask("GET", "/b", key, ""); w.Code != 200 || w.Body.String() != "" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	writeConfig(t, file, base+"[[route]]\npath = \"/b\"\npermission = \"can_a\"\nupstream = \""+up+"\"\n")
	a.operate(200, "POST", "/admin/v1/reload", "")
	ask("/b", 200)

	// The operator sees them.
	list := a.operate(200, "GET", "/admin/v1/routes", "")["routes"].([]any)
	if last := list[len(list)-1].(map[string]any); last["path"] != "/b" || last["method"] != "*" || last["upstream"] != up || last["permissions"].([]any)[0] != "can_a" {
		t.Errorf("got %v", last)
	}
	for path, want := range map[string]bool{"/b": true, "/b/": true, "/b%2Fc": false, "/c": false, "/api/v1/agents": false} {
		v := a.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", `{"method": "POST", "path": "`+path+`"}`)
		if v["allowed"] != want {
			t.Errorf("explain %s: got %v", path, v)
		}
	}
}

func TestReloader_NothingToLoad(t *testing.T) {
	a := newTestApp(t)
	if _, err := a.Reloader.Reload(epoch); !errors.Is(err, ErrConflict) {
		t.Errorf("got %v, want ErrConflict", err)
	}
}

// No request fails or sees a mixture while the configuration changes under it:
// the permission that opens a route has another place in each of the two.
func TestReloader_UnderLoad(t *testing.T) {
	a, file, up := reloading(t, "")
	texts := [2]string{
		"[[permission]]\nname = \"can_a\"\ndescription = \"A.\"\n[[permission]]\nname = \"can_b\"\ndescription = \"B.\"\n[[route]]\npath = \"/x\"\npermission = \"can_a\"\nupstream = \"" + up + "\"\n",
		"[[permission]]\nname = \"can_b\"\ndescription = \"B.\"\n[[permission]]\nname = \"can_a\"\ndescription = \"A.\"\n[[route]]\npath = \"/:any\"\npermission = \"can_a\"\nupstream = \"" + up + "\"\n",
	}
	writeConfig(t, file, texts[0])
	a.operate(200, "POST", "/admin/v1/reload", "")
	_, with := a.key(`["can_a"]`, `"limits": {"requests_per_minute_limit": 1000000}`)
	_, without := a.key(`["can_b"]`, `"limits": {"requests_per_minute_limit": 1000000}`)
	var done atomic.Bool
	var wg sync.WaitGroup
	for _, who := range []struct {
		key  string
		want int
		body string
	}{{with, 200, "can_a"}, {without, 403, ""}, {with, 200, "can_a"}, {without, 403, ""}} {
		wg.Go(func() {
			for !done.Load() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("GET", "/x", nil)
				r.Header.Set("X-API-Key", who.key)
				a.api.ServeHTTP(w, r)
				if w.Code != who.want || who.body != "" && w.Body.String() != who.body {
					t.Errorf("got %d %s, want %d %s", w.Code, w.Body, who.want, who.body)
					return
				}
			}
		})
	}
	for i := range 50 {
		writeConfig(t, file, texts[(i+1)%2])
		if _, err := a.Reloader.Reload(epoch); err != nil {
			t.Error(err)
		}
	}
	done.Store(true)
	wg.Wait()
}
