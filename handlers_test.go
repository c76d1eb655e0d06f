package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestReadCredential(t *testing.T) {
	missing := map[string]string{ // what the message of a test says
		"none": "No API key was sent. Send it as", "basic": "Authorization has no Bearer key", "bare": "Authorization has no Bearer key", "token": "Authorization has no Bearer key",
		"another field": "Api-Key is not read", "other names": "the parameter of the query is api_key", "in camel case": "the parameter of the query is api_key",
	}
	for _, tt := range []struct {
		name    string
		headers []string // "Name: value"
		query   string
		want    credential
		err     error
	}{
		{"none", nil, "", credential{}, ErrUnauthenticated},
		{"bearer", []string{"Authorization: Bearer k1"}, "", credential{"k1", "bearer"}, nil},
		{"bearer in another case", []string{"Authorization: bEaReR k1"}, "", credential{"k1", "bearer"}, nil},
		{"header", []string{"X-API-Key: k1"}, "", credential{"k1", "header"}, nil},
		{"query", nil, "a=b&api_key=k1", credential{"k1", "query"}, nil},
		{"query, name escaped", nil, "api%5Fkey=k1", credential{"k1", "query"}, nil},
		{"same in all three", []string{"Authorization: Bearer k1", "X-API-Key: k1"}, "api_key=k1", credential{"k1", "bearer"}, nil},
		{"two that differ", []string{"Authorization: Bearer k1", "X-API-Key: k2"}, "", credential{}, ErrValidation},
		{"header and query differ", []string{"X-API-Key: k1"}, "api_key=k2", credential{}, ErrValidation},
		{"Authorization twice", []string{"Authorization: Bearer k1", "Authorization: Bearer k1"}, "", credential{}, ErrValidation},
		{"X-API-Key twice", []string{"X-API-Key: k1", "X-API-Key: k1"}, "", credential{}, ErrValidation},
		{"api_key twice", nil, "api_key=k1&api_key=k1", credential{}, ErrValidation},
		{"empty bearer", []string{"Authorization: Bearer "}, "", credential{}, ErrValidation},
		{"bare bearer", []string{"Authorization: Bearer"}, "", credential{}, ErrValidation},
		{"empty header", []string{"X-API-Key: "}, "", credential{}, ErrValidation},
		{"empty query", nil, "api_key=", credential{}, ErrValidation},
		{"basic", []string{"Authorization: Basic azE6"}, "", credential{}, ErrUnauthenticated},
		{"bare", []string{"Authorization: k1"}, "", credential{}, ErrUnauthenticated},
		{"token", []string{"Authorization: Token k1"}, "", credential{}, ErrUnauthenticated},
		{"another field", []string{"Api-Key: k1"}, "", credential{}, ErrUnauthenticated},
		{"in camel case", nil, "a=b&apiKey=k1", credential{}, ErrUnauthenticated},
		{"basic beside a key", []string{"Authorization: Basic azE6", "X-API-Key: k1"}, "", credential{"k1", "header"}, nil},
		{"bearer glued", []string{"Authorization: Bearerk1"}, "", credential{}, ErrUnauthenticated},
		{"semicolon", nil, "a=b;api_key=k1", credential{}, ErrUnauthenticated},
		{"other names", nil, "apikey=k1&xapi_key=k2", credential{}, ErrUnauthenticated},
	} {
		r := httptest.NewRequest("GET", "/api/v1/agents?"+tt.query, nil)
		for _, h := range tt.headers {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Add(name, value)
		}
		got, err := ReadCredential(r)
		if !errors.Is(err, tt.err) || err == nil && got != tt.want {
			t.Errorf("%s: got %v, %v; want %v, %v", tt.name, got, err, tt.want, tt.err)
		}
		if says, ok := missing[tt.name]; ok && (!strings.Contains(Public(err).Message, says) || strings.Contains(err.Error(), "k1")) {
			t.Errorf("%s: got %v, want a message with %q", tt.name, err, says)
		}
		if left := r.URL.String() + r.RequestURI; tt.query != "" && strings.Contains(left, "k1") && strings.Contains(left, "api_key") && !strings.Contains(left, "xapi_key") {
			t.Errorf("%s: the key is still in %s", tt.name, left)
		}
	}
}

func TestReadCredential_KeepsQuery(t *testing.T) {
	r := httptest.NewRequest("GET", "/x?search=a+b&api_key=k1&page=2", nil)
	if _, err := ReadCredential(r); err != nil {
		t.Fatal(err)
	}
	if got := r.URL.Query(); got.Get("search") != "a b" || got.Get("page") != "2" {
		t.Errorf("got %v, want search and page as they were", got)
	}
}

func TestClientAddr(t *testing.T) {
	proxies := Proxies{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for _, tt := range []struct {
		name, peer string
		forwarded  []string
		proxies    Proxies
		want       string
	}{
		{"no proxy declared", "10.0.0.1:1", []string{"1.2.3.4"}, Proxies{}, "10.0.0.1"},
		{"peer is no proxy", "192.0.2.9:1", []string{"1.2.3.4"}, proxies, "192.0.2.9"},
		{"one proxy", "10.0.0.1:1", []string{"1.2.3.4"}, proxies, "1.2.3.4"},
		{"client lies", "10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4"}, proxies, "1.2.3.4"},
		{"two proxies", "10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4, 10.0.0.2"}, proxies, "1.2.3.4"},
		{"two lines", "10.0.0.1:1", []string{"1.2.3.4", "10.0.0.2"}, proxies, "1.2.3.4"},
		{"garbage stops the walk", "10.0.0.1:1", []string{"1.2.3.4, what, 10.0.0.2"}, proxies, "unknown"},
		{"no field", "10.0.0.1:1", nil, proxies, "10.0.0.1"},
		{"v6", "[fd00::1]:1", []string{"2001:db8::7"}, proxies, "2001:db8::7"},
		{"v4 in v6", "[::ffff:10.0.0.1]:1", []string{"::ffff:1.2.3.4"}, proxies, "1.2.3.4"},
	} {
		r := &http.Request{RemoteAddr: tt.peer, Header: http.Header{}}
		for _, f := range tt.forwarded {
			r.Header.Add("X-Forwarded-For", f)
		}
		if got := AddrText(ClientAddr(r, tt.proxies)); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.name, got, tt.want)
		}
	}
}

// retry asks for a call under an Idempotency-Key.
func (a *testApp) retry(key, name, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/api/v1/calls", strings.NewReader(body))
	r.Header.Set("X-API-Key", key)
	r.Header.Set("Idempotency-Key", name)
	w := httptest.NewRecorder()
	a.api.ServeHTTP(w, r)
	return w
}

func TestOnce(t *testing.T) {
	a := newCallApp(t)
	id, key := a.key(everyPermission, `"limits": {"calls_per_day_limit": 3}`)
	_, other := a.key(everyPermission)
	const body = `{"phone_number": "+4930555044", "agent_id": 1}`
	first := a.retry(key, "order-1", body)
	if first.Code != 201 || first.Header().Get("Idempotency-Replayed") != "" {
		t.Fatalf("got %d %s %v", first.Code, first.Body, first.Header())
	}
	a.restart()
	again := a.retry(key, "order-1", body)
	if again.Code != 201 || again.Body.String() != first.Body.String() || again.Header().Get("Idempotency-Replayed") != "true" {
		t.Errorf("again: got %d %s %v, want the first answer", again.Code, again.Body, again.Header())
	}
	if w := a.retry(key, "order-1", `{"phone_number": "+4930555045", "agent_id": 1}`); w.Code != 422 || code(w) != "idempotency_key_reused" {
		t.Errorf("another body: got %d %s", w.Code, w.Body)
	}
	if w := a.retry(other, "order-1", body); w.Code != 201 || w.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("another key: got %d %s", w.Code, w.Body)
	}
	if w := a.retry(key, strings.Repeat("x", 256), body); w.Code != 400 {
		t.Errorf("a long one: got %d %s", w.Code, w.Body)
	}
	// A refusal is not an answer to keep: it may pass later.
	if w := a.retry(key, "order-2", `{"phone_number": "+4930555666", "agent_id": 1}`); w.Code != 403 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := a.retry(key, "order-2", body); w.Code != 201 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)["calls_per_day_limit"].(map[string]any)
	if usage["used"] != 2.0 {
		t.Errorf("got %v used, want 2", usage["used"])
	}
	a.clocks.Pass(24 * time.Hour)
	if w := a.retry(key, "order-1", body); w.Code != 201 || w.Header().Get("Idempotency-Replayed") != "" {
		t.Errorf("a day later: got %d %s, want a new call", w.Code, w.Body)
	}
	if err := SweepReplays(a.Store, a.clock.Now()); err != nil {
		t.Fatal(err)
	}
	left := 0
	_ = a.Store.View(func(tx *Tx) error {
		left = tx.Count("replays")
		return nil
	})
	if left != 1 {
		t.Errorf("got %d answers after the sweep, want the one of today", left)
	}
}

// The same request from many at once makes one call.
func TestOnce_Concurrently(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	var mu sync.Mutex
	bodies, replayed := map[string]int{}, 0
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			w := a.retry(key, "same", `{"phone_number": "+4930555044", "agent_id": 1}`)
			mu.Lock()
			defer mu.Unlock()
			bodies[fmt.Sprint(w.Code, w.Body)]++
			if w.Header().Get("Idempotency-Replayed") != "" {
				replayed++
			}
		})
	}
	wg.Wait()
	if len(bodies) != 1 || replayed != 19 {
		t.Errorf("got %v, %d replayed; want one answer for all, 19 replayed", bodies, replayed)
	}
	if v := a.operate(200, "GET", "/admin/v1/calls", ""); v["count"] != 1.0 {
		t.Errorf("got %v calls, want 1", v["count"])
	}
}

// TestServer_WrongMethod wants the answer to a method at the wrong path to name the path that takes it.
func TestServer_WrongMethod(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	for _, tt := range []struct{ method, path, want string }{
		{"POST", "/api/v1/contacts", "/api/v1/contacts does not accept POST. It accepts GET, HEAD. POST is accepted at /api/v1/contacts/create."},
		{"PATCH", "/api/v1/contacts/7/", "/api/v1/contacts/7 does not accept PATCH. It accepts GET, HEAD. PATCH is accepted at /api/v1/contacts/7/update."},
		{"POST", "/api/webhooks/", "/api/webhooks does not accept POST. It accepts GET, HEAD. POST is accepted at /api/webhooks/create."},
		{"DELETE", "/api/v1/calls/5", "/api/v1/calls/5 does not accept DELETE. It accepts GET, HEAD."},
	} {
		w := askDoor(a.api, tt.method, tt.path, `{}`, "Authorization: Bearer "+key)
		if got := object(t, w.Body.String())["message"]; w.Code != 405 || got != tt.want || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: got %d %v, want %s", tt.method, tt.path, w.Code, got, tt.want)
		}
	}
}

// TestRequest_NotJSON wants a message that says where the JSON ends, or that the body is a form. What is
// JSON is read, whatever its type is called: some programs say that everything is a form.
func TestRequest_NotJSON(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	const form = "application/x-www-form-urlencoded"
	for _, tt := range []struct{ kind, body, want string }{
		{"application/json", `{"first_name": "A",}`, "The body is not valid JSON at character 20. Send one JSON object in UTF-8."},
		{form, `{"first_name": "A",}`, "The body is not valid JSON at character 20. Send one JSON object in UTF-8."},
		{form, `first_name=A`, "The body is a form (" + form + "). Send one JSON object in UTF-8, with the Content-Type application/json."},
		{"multipart/form-data; boundary=x", "--x\r\n\r\nA\r\n--x--", "The body is a form (multipart/form-data). Send one JSON object in UTF-8, with the Content-Type application/json."},
		{form, ``, "The body is empty. Send one JSON object in UTF-8."},
		{form, `{"first_name": "A"}`, ""},
	} {
		w := askDoor(a.api, "POST", "/api/v1/contacts/create", tt.body, "Authorization: Bearer "+key, "Content-Type: "+tt.kind)
		if said := object(t, w.Body.String()); tt.want == "" && w.Code != 201 || tt.want != "" && (code(w) != "invalid_json" || said["message"] != tt.want) {
			t.Errorf("%s %q: got %d %v, want %q", tt.kind, tt.body, w.Code, said, tt.want)
		}
	}
}
