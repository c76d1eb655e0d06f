package main

import (
	"bufio"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/netip"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// noted adds a request to a list.
func noted(q *Requests, id string, status int, at time.Time, took time.Duration) {
	q.Note(&Outcome{ID: id, Method: "GET", Route: "/api/v1/agents", Status: status, Began: at, Took: took, Client: netip.MustParseAddr("192.0.2.1")})
}

// all returns all requests that a filter selects.
func (q *Requests) all(f requestFilter) []recentRequest {
	found, _ := q.Find(f, 0, maxRequests)
	return found
}

// The list holds exactly the latest requests, newest first, also when many are added at once.
func TestRequests_Latest(t *testing.T) {
	q := NewRequests()
	if found := q.all(requestFilter{}); len(found) != 0 {
		t.Fatalf("got %d requests in a new list", len(found))
	}
	const more = 1234
	for i := range maxRequests + more {
		noted(q, fmt.Sprint("r", i), 200+i%2*300, epoch, time.Millisecond)
	}
	found := q.all(requestFilter{})
	if len(found) != maxRequests || found[0].requestID() != fmt.Sprint("r", maxRequests+more-1) || found[maxRequests-1].requestID() != fmt.Sprint("r", more) {
		t.Fatalf("got %d requests from %s to %s", len(found), found[0].requestID(), found[len(found)-1].requestID())
	}
	if found := q.all(requestFilter{status: 5}); len(found) != maxRequests/2 || found[0].status != 500 {
		t.Errorf("5xx: got %d", len(found))
	}
	if found := q.all(requestFilter{id: fmt.Sprint("r", more-1)}); len(found) != 0 {
		t.Error("a request that was overwritten is found")
	}
	var many sync.WaitGroup
	for worker := range 8 {
		many.Go(func() {
			for i := range 5000 {
				noted(q, fmt.Sprintf("w%d-%d", worker, i), 200, epoch, 0)
				if i%500 == 0 {
					q.all(requestFilter{})
				}
			}
		})
	}
	many.Wait()
	seen := map[string]bool{}
	for _, one := range q.all(requestFilter{}) {
		seen[one.requestID()] = true
	}
	if len(seen) != maxRequests || q.Noted() != maxRequests+more+40_000 {
		t.Errorf("got %d different requests of %d", len(seen), q.Noted())
	}
}

// Minutes are counted exactly, and those before the kept ones are not mixed in.
func TestRequests_Minutes(t *testing.T) {
	q := NewRequests()
	for minute := range 200 {
		for range minute % 3 {
			noted(q, "r", 200, epoch.Add(time.Duration(minute)*time.Minute), 0)
		}
		noted(q, "r", 503, epoch.Add(time.Duration(minute)*time.Minute), 0)
	}
	noted(q, "late", 200, epoch, 0)
	list := q.Minutes(epoch.Add(199*time.Minute+30*time.Second), keptMinutes)
	for i, b := range list {
		minute := 200 - keptMinutes + i
		if want := epoch.Add(time.Duration(minute) * time.Minute); !b.Start.Equal(want) || b.Tally[0] != uint64(minute%3) || b.Tally[5] != 1 {
			t.Fatalf("minute %d: got %v at %s, want %d and 1 at %s", minute, b.Tally, b.Start, minute%3, want)
		}
	}
}

func TestRequests_Latency(t *testing.T) {
	q := NewRequests()
	if l := q.Latency(epoch); l != (latency{}) {
		t.Errorf("without requests: got %v", l)
	}
	noted(q, "old", 200, epoch.Add(-time.Hour), time.Hour)
	for i := range 100 {
		noted(q, "r", 200, epoch, time.Duration(100-i)*time.Millisecond)
	}
	if l := q.Latency(epoch.Add(-time.Minute)); l != (latency{50 * time.Millisecond, 99 * time.Millisecond, 100}) {
		t.Errorf("got %v, want 50 ms, 99 ms and 100 requests", l)
	}
}

// The list shows requests without anything secret, filtered by each parameter.
func TestRequests_Endpoint(t *testing.T) {
	b := newDashboard(t)
	made := b.operate(201, "POST", "/admin/v1/keys", `{"name": "crm", "permissions": ["can_read_calls"]}`)
	secret, id := made["key"].(string), made["id"].(string)
	b.ask("GET", "/api/v1/agents/77?api_key="+secret, "", "")
	b.ask("GET", "/api/v1/agents", secret, "")
	b.ask("GET", "/api/v1/calls", secret, "")
	b.ask("GET", "/api/v1/calls", "klen_wrong", "")
	w := b.control("GET", "/admin/v1/requests", "")
	wantNoSecrets(t, "the list", w.Body.String(), []string{secret, "klen_wrong", "api_key", "/77"})
	for query, want := range map[string]int{
		"": 4, "?key=" + id: 2, "?status=4xx": 3, "?status=200": 1, "?code=permission_denied": 1, "?route=/api/v1/calls": 2, "?method=GET": 4, "?method=POST": 0,
		"?client=192.0.2.99": 0, "?status=403&key=" + id: 1, "?limit=1": 4,
	} {
		if got := b.operate(200, "GET", "/admin/v1/requests"+query, ""); got["count"] != float64(want) {
			t.Errorf("%s: got %v, want %d", query, got["count"], want)
		}
	}
	for _, query := range []string{"?status=abc", "?status=6xx", "?status=1000", "?method=get", "?client=here", "?code=none"} {
		b.operate(400, "GET", "/admin/v1/requests"+query, "")
	}
}

// A refused request leads to the change of the key that lets the next one through.
func TestRequests_Fix(t *testing.T) {
	b := newDashboard(t)
	made := b.operate(201, "POST", "/admin/v1/keys", `{"name": "crm", "permissions": ["can_read_calls"], "limits": {"requests_per_minute_limit": 2}}`)
	secret, id := made["key"].(string), made["id"].(string)
	page := func(code string) string {
		list := b.operate(200, "GET", "/admin/v1/requests?code="+code, "")["requests"].([]any)
		return "/requests/" + list[0].(map[string]any)["request_id"].(string)
	}
	if w := b.ask("GET", "/api/v1/agents", secret, ""); w.Code != 403 {
		t.Fatalf("got %d", w.Code)
	}
	at := page("permission_denied")
	b.says(b.get(at), 200, "Add permission", "can_read_agents")
	b.says(b.get(at+"/fix"), 200, "Add can_read_agents")
	b.sent(b.post(at+"/fix"), "/keys/"+id+"?done=saved")
	if w := b.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
		t.Errorf("after the permission was added: got %d %s", w.Code, w.Body)
	}
	if held := fmt.Sprint(b.operate(200, "GET", "/admin/v1/keys/"+id, "")["permissions"]); !strings.Contains(held, "can_read_calls") {
		t.Errorf("the other permission is gone: %s", held)
	}
	for b.ask("GET", "/api/v1/agents", secret, "").Code != 429 {
	}
	at = page("rate_limit_exceeded")
	b.says(b.get(at), 200, "Raise limit", "Requests per minute")
	b.says(b.get(at+"/fix"), 200, `value="4"`)
	b.says(b.post(at+"/fix", "to", "0"), 400, "at least 1")
	b.sent(b.post(at+"/fix", "to", "9"), "/keys/"+id+"?done=saved")
	if w := b.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
		t.Errorf("after the limit was raised: got %d %s", w.Code, w.Body)
	}
	b.says(b.get("/requests/none"), 404, "not among the latest")
	b.change(func(op *operator, _ *loginSession) { op.Role = RoleViewer })
	if w := b.get(at); strings.Contains(w.Body.String(), "Raise limit") {
		t.Error("a viewer is offered to raise a limit")
	}
}

// The permission of a guarded route is offered too, whichever methods the route accepts.
func TestRequests_FixGuarded(t *testing.T) {
	for _, methods := range [][]string{nil, {"GET", "POST"}} {
		g := newGuarded(t, func(http.ResponseWriter, *http.Request) {}, func(c *Config, _ string) { c.Routes[0].Methods = methods })
		_, secret := g.testApp.key(`["can_read_calls"]`, `"limits": {}`)
		if w := g.ask("GET", "/up/x", secret, ""); w.Code != 403 {
			t.Fatalf("%v: got %d %s", methods, w.Code, w.Body)
		}
		b := newBrowser(g.testApp)
		b.operate(201, "POST", "/admin/v1/operators", `{"name": "Ann", "password": "`+operatorPassword+`"}`)
		b.post("/login", "name", "ann", "password", operatorPassword)
		list := b.operate(200, "GET", "/admin/v1/requests?code=permission_denied", "")["requests"].([]any)
		at := "/requests/" + list[0].(map[string]any)["request_id"].(string)
		b.says(b.get(at+"/fix"), 200, "Add can_use")
	}
}

// The overview counts what happened, in each range, and names what needs attention.
func TestOverview_Figures(t *testing.T) {
	b := newDashboard(t)
	made := b.operate(201, "POST", "/admin/v1/keys", `{"name": "crm", "permissions": ["can_read_calls"], "limits": {"requests_per_minute_limit": 2}}`)
	gone := b.operate(201, "POST", "/admin/v1/keys", `{"name": "gone", "permissions": ["can_read_calls"]}`)
	soon := b.clock.Now().Add(48 * time.Hour).UTC().Format(time.RFC3339)
	b.operate(201, "POST", "/admin/v1/keys", `{"name": "soon", "permissions": ["can_read_calls"], "expires_at": "`+soon+`"}`)
	b.operate(200, "POST", "/admin/v1/keys/"+gone["id"].(string)+"/revoke", "")
	for range 3 {
		b.ask("GET", "/api/v1/calls", made["key"].(string), "")
	}
	b.ask("GET", "/api/v1/calls", gone["key"].(string), "")
	b.clocks.Pass(25 * time.Hour)
	b.ask("GET", "/api/v1/calls", made["key"].(string), "")
	for name, want := range map[string]float64{"1h": 1, "24h": 1, "7d": 5, "90d": 5} {
		got := b.operate(200, "GET", "/admin/v1/overview?range="+name, "")
		if total := got["total"].(map[string]any)["requests"]; total != want {
			t.Errorf("%s: got %v requests, want %v", name, total, want)
		}
	}
	got := b.operate(200, "GET", "/admin/v1/overview", "")
	if before := got["previous"].(map[string]any); before["requests"] != 4.0 || before["rate_limited"] != 1.0 || before["unauthorized"] != 1.0 {
		t.Errorf("the day before: got %v", before)
	}
	attention := fmt.Sprint(got["attention"])
	for _, want := range []string{"kind:keys_revoked_used", "kind:keys_expiring", "kind:no_backup", "count:1 kind:keys_never_used", "count:1 kind:keys_without_end"} {
		if !strings.Contains(attention, want) {
			t.Errorf("attention: got %s, want %s", attention, want)
		}
	}
	b.operate(400, "GET", "/admin/v1/overview?range=1y", "")
	b.post("/login", "name", "ann", "password", operatorPassword)
	page := b.get("/").Body.String()
	for _, kind := range got["attention"].([]any) {
		row := kind.(map[string]any)
		if row["kind"] == "no_backup" && !strings.Contains(page, "There is no backup yet") {
			t.Errorf("the page lacks %v", row)
		}
	}
	for _, name := range []string{"1h", "24h", "7d", "90d"} {
		b.says(b.get("/?range="+name), 200, "Requests in the last", "crm")
	}
}

// Each line under "Needs attention" says how many there are, and the list that it leads to has as many.
func TestOverview_AttentionLists(t *testing.T) {
	b := newDashboard(t)
	soon := func(days int) string {
		return `"expires_at": "` + b.clock.Now().Add(time.Duration(days)*24*time.Hour).UTC().Format(time.RFC3339) + `"`
	}
	const reads = `["can_read_agents"]`
	change := func(id, verb string) { b.operate(200, "POST", "/admin/v1/keys/"+id+"/"+verb, "") }
	send := func(path, key string) { b.ask("GET", "/api/v1/agents"+path, key, "") }
	b.key(reads) // idle
	paused, _ := b.key(reads)
	change(paused, "pause")
	_, ending := b.key(reads, soon(92))
	send("", ending)
	b.clocks.Pass(91 * 24 * time.Hour)
	b.post("/login", "name", "ann", "password", operatorPassword)

	_, past := b.key(reads, soon(1))
	b.clocks.Pass(25 * time.Hour)
	b.post("/login", "name", "ann", "password", operatorPassword)
	send("", past)
	b.key(reads) // unused
	b.key(reads, soon(5))
	b.key(reads, soon(400))
	for range 2 {
		id, key := b.key(reads)
		change(id, "rotate")
		b.clocks.Pass(time.Minute)
		send("?api_key="+key, "")
		id, key = b.key(reads)
		send("?api_key="+key, "")
		change(id, "rotate")
		change(id, "revoke")
		send("", key)
	}
	for i := range 21 {
		b.operate(201, "POST", "/admin/v1/tokens", fmt.Sprintf(`{"name": "t%d", "scope": "read", %s}`, i, soon(3)))
	}
	b.operate(201, "POST", "/admin/v1/tokens", `{"name": "lasting", "scope": "read", "expires_at": "never"}`)
	for _, name := range []string{"well", "failing"} {
		b.operate(201, "POST", "/admin/v1/webhooks", `{"name": "`+name+`", "url": "https://hooks.example.invalid/x", "subscribed_events": ["call.ended"]}`)
	}
	err := b.Store.Update(func(tx *Tx) error {
		q, err := queueTable.Get(tx, IDKey(2))
		if errors.Is(err, ErrNotFound) {
			q, err = queue{Webhook: 2}, nil
		}
		q.Failing = b.clock.Now()
		return errors.Join(err, queueTable.Put(tx, q))
	})
	if err != nil {
		t.Fatal(err)
	}
	full := b.operate(201, "POST", "/admin/v1/owners", `{"name": "full"}`)["id"]
	b.operate(201, "POST", "/admin/v1/contacts", `{"owner": "full", "first_name": "`+strings.Repeat("x", 200)+`"}`)
	if err := b.Store.Update(func(tx *Tx) error { return LimitStorage(tx, uint64(full.(float64)), 200) }); err != nil {
		t.Fatal(err)
	}
	_, key := b.key(reads, `"limits": {"requests_per_minute_limit": 1}`)
	send("", key)
	send("", key)

	lines := regexp.MustCompile(`<li class="[a-z]*"><a href="([^"]+)">([^<]+)</a></li>`).FindAllStringSubmatch(b.get("/").Body.String(), -1)
	counts := map[string]int{}
	for _, line := range lines {
		to, text := html.UnescapeString(line[1]), line[2]
		w := b.get(to)
		b.says(w, 200)
		want := regexp.MustCompile(`\d+`).FindString(text)
		if to == "/backups" {
			counts[to]++
			continue
		}
		found := regexp.MustCompile(`(\d+) (?:found|that end)`).FindStringSubmatch(w.Body.String())
		if found == nil || found[1] != want {
			t.Errorf("%s: the list %s has %v", text, to, found)
			continue
		}
		counts[to]++
	}
	if len(counts) != 13 || len(lines) != 13 {
		t.Errorf("got the lines %v, want each kind but the failed backup", counts)
	}
}

// TestOverview_Sandbox has sandbox keys that would each be a reason for a line: the overview is about live keys alone, as are the lists to
// which it leads.
func TestOverview_Sandbox(t *testing.T) {
	b := newDashboard(t)
	sandbox := func(fields ...string) (id, secret string) {
		return b.key(`["can_read_agents"]`, append(fields, `"sandbox": true`)...)
	}
	sandbox()
	sandbox(`"expires_at": "` + b.clock.Now().Add(48*time.Hour).UTC().Format(time.RFC3339) + `"`)
	rotating, inURL := sandbox()
	b.ask("GET", "/api/v1/agents?api_key="+inURL, "", "")
	b.operate(200, "POST", "/admin/v1/keys/"+rotating+"/rotate", `{"overlap_seconds": 86400}`)
	gone, sent := sandbox()
	b.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
	b.ask("GET", "/api/v1/agents", sent, "")
	for i := range 12 {
		_, busy := sandbox(`"limits": {"requests_per_minute_limit": 1}`)
		for range 2 + i {
			b.ask("GET", "/api/v1/agents", busy, "")
		}
	}
	lines := func() string {
		got := b.operate(200, "GET", "/admin/v1/overview", "")
		return fmt.Sprint(got["attention"], " ", got["active_keys"], " active ", got["keys_used"], " used ", len(got["keys"].([]any)), " listed")
	}
	if got, want := lines(), "[map[count:1 kind:no_backup]] 0 active 0 used 0 listed"; got != want {
		t.Errorf("only sandbox keys: got %s, want %s", got, want)
	}
	_, live := b.key(`["can_read_agents"]`)
	b.ask("GET", "/api/v1/agents", live, "")
	b.clocks.Pass(overviewAge)
	if got, want := lines(), "[map[count:1 kind:no_backup] map[count:1 kind:keys_without_end]] 1 active 1 used 1 listed"; got != want {
		t.Errorf("with a live key: got %s, want %s", got, want)
	}
}

// The stream reports new requests, and ends with the session and with the service.
func TestOverview_Stream(t *testing.T) {
	for name, end := range map[string]func(b *browser) error{
		"session ended": func(b *browser) error { return b.sessions.EndAll(AuditContext{Now: b.clock.Now()}, 1) },
		"service stops": func(b *browser) error { b.Server.draining.Store(true); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newDashboard(t)
			from, to := io.Pipe()
			r := b.request("GET", "/live")
			for _, c := range b.jar.Cookies(r.URL) {
				r.AddCookie(c)
			}
			go func() {
				b.door.ServeHTTP(streamWriter{http.Header{}, to}, r)
				_ = to.Close()
			}()
			lines := bufio.NewScanner(from)
			next := func(want string) {
				t.Helper()
				for lines.Scan() {
					if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
						if text != want {
							t.Errorf("got %q, want %q", text, want)
						}
						return
					}
				}
				t.Fatalf("the stream ended before %q", want)
			}
			count, _ := b.changes()
			next(fmt.Sprint(count))
			noted(b.requests, "r", 200, epoch, 0)
			next(fmt.Sprint(count + 1))
			b.key(`["can_read_calls"]`) // an operator's change too
			next(fmt.Sprint(count + 2))
			if err := end(b); err != nil {
				t.Fatal(err)
			}
			noted(b.requests, "r", 200, epoch, 0)
			for lines.Scan() {
				if strings.HasPrefix(lines.Text(), "data: ") {
					t.Errorf("after the end: got %q", lines.Text())
				}
			}
		})
	}
}

// streamWriter is the answer of a stream, which is read while it is written.
type streamWriter struct {
	header http.Header
	*io.PipeWriter
}

func (w streamWriter) Header() http.Header { return w.header }
func (w streamWriter) WriteHeader(int)     {}
func (w streamWriter) Flush()              {}
