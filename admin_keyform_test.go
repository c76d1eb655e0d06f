package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

func TestKeyForm_Expiry(t *testing.T) {
	const day = 24 * time.Hour
	for _, tt := range []struct {
		name          string
		usual, most   time.Duration
		body, want    string // the end, or a part of the message
		refused, none bool
	}{
		{"no rules", 0, 0, ``, "", false, true},
		{"no rules, an end", 0, 0, `, "expires_at": "2099-01-01T00:00:00Z"`, "2099-01-01T00:00:00Z", false, false},
		{"default", 2 * day, 0, ``, "2026-02-05T09:00:00Z", false, false},
		{"default, asked for none", 2 * day, 0, `, "expires_at": null`, "", false, true},
		{"default, asked for longer", 2 * day, 0, `, "expires_at": "2099-01-01T00:00:00Z"`, "2099-01-01T00:00:00Z", false, false},
		{"most", 0, 30 * day, ``, "2026-03-05T09:00:00Z", false, false},
		{"most, default", 2 * day, 30 * day, ``, "2026-02-05T09:00:00Z", false, false},
		{"most, just within", 0, 30 * day, `, "expires_at": "2026-03-05T09:00:00Z"`, "2026-03-05T09:00:00Z", false, false},
		{"most, just beyond", 0, 30 * day, `, "expires_at": "2026-03-05T09:00:01Z"`, "30 days from now, which is 2026-03-05T09:00:00Z", true, false},
		{"most, asked for none", 0, 30 * day, `, "expires_at": null`, "30 days", true, false},
		{"past", 0, 30 * day, `, "expires_at": "2026-02-03T09:00:00Z"`, "not in the future", true, false},
	} {
		a := newTestApp(t, func(c *Config) { c.Keys.DefaultExpiry, c.Keys.MaxExpiry = tt.usual, tt.most })
		body := `{"name": "x", "permissions": ["can_read_agents"]` + tt.body + `}`
		if tt.refused {
			a.refuse("POST", "/admin/v1/keys", body, 400, "validation_error", tt.want)
			continue
		}
		made := a.operate(201, "POST", "/admin/v1/keys", body)
		if got := made["expires_at"]; tt.none != (got == nil) || !tt.none && got != tt.want {
			t.Errorf("%s: got an end of %v, want %q", tt.name, got, tt.want)
		}
		path := "/admin/v1/keys/" + made["id"].(string)
		a.operate(200, "PATCH", path, `{"name": "renamed"}`) // says nothing of the end
		if tt.most > 0 {
			a.refuse("PATCH", path, `{"expires_at": null}`, 400, "validation_error", "max_expiry")
			a.clocks.Pass(time.Hour) // the bound goes along with the time
			a.operate(200, "PATCH", path, `{"expires_at": "2026-03-05T10:00:00Z"}`)
		}
	}
}

func TestKeyForm_Environment(t *testing.T) {
	a := newTestApp(t)
	for _, bad := range []string{"Live", "1", "a b", strings.Repeat("a", 33), "\u00e4"} {
		a.refuse("POST", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_agents"], "environment": "`+bad+`"}`, 400, "validation_error", "environment must have")
	}
	a.key(`["can_read_agents"]`, `"environment": "live"`)
	a.key(`["can_read_agents"]`, `"environment": "test"`, `"owner": "ann"`)
	a.key(`["can_read_agents"]`, `"owner": "ann"`)
	for query, want := range map[string]float64{"environment=live": 1, "environment=test": 1, "environment=other": 0, "owner=ann": 2, "owner=ann&environment=test": 1, "owner=an": 0, "": 3} {
		if got := a.operate(200, "GET", "/admin/v1/keys?"+query, "")["count"]; got != want {
			t.Errorf("%s: got %v keys, want %v", query, got, want)
		}
	}
	b := newTestApp(t, func(c *Config) { c.Keys.Environments = []string{"live", "test"} })
	b.refuse("POST", "/admin/v1/keys", `{"name": "x", "permissions": ["can_read_agents"], "environment": "stage"}`, 400, "validation_error", "one of live, test")
	b.key(`["can_read_agents"]`, `"environment": "test"`)
	b.key(`["can_read_agents"]`)
}

func TestKeyForm_Ceiling(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.MaxPerOwner = 2 })
	const body = `{"name": "x", "permissions": ["can_read_agents"], "owner": "ann"}`
	first, _ := a.key(`["can_read_agents"]`, `"owner": "ann"`)
	a.key(`["can_read_agents"]`, `"owner": "ann"`)
	other, _ := a.key(`["can_read_agents"]`, `"owner": "bob"`)
	a.refuse("POST", "/admin/v1/keys", body, 409, "conflict", `ann\" has 2 keys`)
	a.refuse("PATCH", "/admin/v1/keys/"+other, `{"owner": "ann"}`, 409, "conflict", `ann\" has 2 keys`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+first, `{"owner": "ann", "name": "stays"}`)
	a.rotate(first, 60) // no further key
	a.refuse("POST", "/admin/v1/keys/import", fmt.Sprintf(`[{"name": "i", "owner": "ann", "sha256": "%x", "permissions": ["can_read_agents"]}]`, keytext.DigestOf("x")), 409, "conflict", "row 1")
	a.restart()
	a.refuse("POST", "/admin/v1/keys", body, 409, "conflict", "max_per_owner")
	a.operate(200, "POST", "/admin/v1/keys/"+first+"/revoke", "")
	var wg sync.WaitGroup
	codes := make([]int, 8)
	for i := range codes {
		wg.Go(func() {
			w := httptest.NewRecorder()
			a.local.ServeHTTP(w, httptest.NewRequest("POST", "/admin/v1/keys", strings.NewReader(body)))
			codes[i] = w.Code
		})
	}
	wg.Wait()
	made := 0
	for _, c := range codes {
		if c == 201 {
			made++
		}
	}
	if made != 1 {
		t.Errorf("got %d keys made at once in one place, want 1; %v", made, codes)
	}
	a.refuse("PATCH", "/admin/v1/keys/"+other, `{"owner": "ann"}`, 409, "conflict", "")
}

func TestKeyRequests(t *testing.T) {
	a := newTestApp(t)
	create := func(name, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("POST", "/admin/v1/keys", strings.NewReader(body))
		if name != "" {
			r.Header.Set("Idempotency-Key", name)
		}
		w := httptest.NewRecorder()
		a.local.ServeHTTP(w, r)
		return w
	}
	const body = `{"name": "x", "permissions": ["can_read_agents"]}`
	if w := create("one", `{"name": "x"}`); w.Code != 400 {
		t.Errorf("a bad request: got %d, want 400", w.Code)
	}
	var wg sync.WaitGroup
	codes := make([]int, 8)
	for i := range codes { // a retry may be under way beside the first
		wg.Go(func() { codes[i] = create("one", body).Code })
	}
	wg.Wait()
	list := a.operate(200, "GET", "/admin/v1/keys", "")
	if list["count"] != 1.0 {
		t.Fatalf("got %v keys of one name, want 1; %v", list["count"], codes)
	}
	id := list["keys"].([]any)[0].(map[string]any)["id"].(string)
	a.restart()
	w := create("one", body)
	if w.Code != 409 || !strings.Contains(w.Body.String(), `"key_id":"`+id+`"`) || !strings.Contains(w.Body.String(), "rotate") || strings.Contains(w.Body.String(), `"key":`) {
		t.Errorf("again: got %d %s, want 409 with the id and no key", w.Code, w.Body)
	}
	if w := create("two", body); w.Code != 201 {
		t.Errorf("another name: got %d %s", w.Code, w.Body)
	}
	if w := create("", body); w.Code != 201 {
		t.Errorf("no name: got %d %s", w.Code, w.Body)
	}
	if w := create(strings.Repeat("a", 256), body); w.Code != 400 {
		t.Errorf("a long name: got %d, want 400", w.Code)
	}
	for _, step := range []struct {
		pass time.Duration
		code int
	}{{requestSpan - time.Second, 409}, {time.Second, 201}, {0, 409}} {
		a.clocks.Pass(step.pass)
		if err := SweepRequests(a.Store, a.clocks.Read().Wall); err != nil {
			t.Fatal(err)
		}
		if w := create("one", body); w.Code != step.code {
			t.Errorf("after %s more: got %d, want %d", step.pass, w.Code, step.code)
		}
	}
	left := 0
	a.clocks.Pass(requestSpan)
	if err := SweepRequests(a.Store, a.clocks.Read().Wall); err != nil {
		t.Fatal(err)
	}
	err := a.Store.View(func(tx *Tx) (err error) {
		left, err = keyRequestTable.Count(tx)
		return err
	})
	if err != nil || left != 0 {
		t.Errorf("got %d requests remembered, %v; want none", left, err)
	}
}

// TestKeyring_IDsDoNotMeet makes a key whose id another has.
func TestKeyring_IDsDoNotMeet(t *testing.T) {
	a := newTestApp(t)
	id, secret := a.key(`["can_read_agents"]`)
	var second *Key
	err := a.Store.Update(func(tx *Tx) error {
		second = &Key{StoredKey: StoredKey{ID: id, Name: "second", Permissions: ReadCalls, CreatedAt: epoch}}
		_, err := a.Keyring.Create(tx, second)
		return err
	})
	if err != nil || second.ID == id {
		t.Fatalf("got %v and the id %s for both", err, id)
	}
	a.wantCode("the first", map[string]int{secret: 200})
}

// names gives the names of the keys on a page of the list.
func (a *testApp) names(query string) string {
	a.t.Helper()
	var names []string
	for _, row := range a.operate(200, "GET", "/admin/v1/keys?"+query, "")["keys"].([]any) {
		names = append(names, row.(map[string]any)["name"].(string))
	}
	return strings.Join(names, " ")
}

func TestKeyQuery(t *testing.T) {
	a := newTestApp(t)
	create := func(name, more string) (id, key string) {
		a.clocks.Pass(time.Second)
		v := a.operate(201, "POST", "/admin/v1/keys", `{"name": "`+name+`", "permissions": ["can_read_agents"]`+more+`}`)
		return v["id"].(string), v["key"].(string)
	}
	_, old := create("Beta", `, "expires_at": "2027-01-01T00:00:00Z", "metadata": {"note": "in the vault"}`)
	_, used := create("alpha", `, "environment": "live", "expires_at": "2026-12-01T00:00:00Z"`)
	gone, refused := create("gamma", `, "owner": "ann"`)
	a.ask("GET", "/api/v1/agents", old, "")
	a.clocks.Pass(31 * 24 * time.Hour)
	a.ask("GET", "/api/v1/agents", used, "")
	create("delta", "")
	a.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
	a.ask("GET", "/api/v1/agents", refused, "")
	for query, want := range map[string]string{
		"": "delta gamma alpha Beta", "order=asc": "Beta alpha gamma delta", "sort=created": "delta gamma alpha Beta", "status=live": "delta alpha Beta",
		"sort=name": "alpha Beta delta gamma", "sort=name&order=desc": "gamma delta Beta alpha", "sort=name&limit=1&page=2": "Beta", "sort=name&page=9": "",
		"sort=last_used": "alpha Beta delta gamma", "sort=last_used&order=asc": "delta gamma Beta alpha",
		"sort=expires": "alpha Beta delta gamma", "sort=expires&order=desc": "delta gamma Beta alpha",
		"sort=requests": "gamma alpha delta Beta", "sort=requests&order=asc": "delta Beta gamma alpha", "sort=refused": "gamma delta alpha Beta", "sort=refused&status=live": "delta alpha Beta",
		"sort=requests&limit=1&page=2": "alpha",
		"unused_days=30":               "gamma Beta", "unused_days=32": "", "permission=can_read_agents&status=active": "delta alpha Beta", "permission=can_read_calls": "",
		"search=VAULT": "Beta", "owner=ann": "gamma", "environment=live": "alpha",
	} {
		if got := a.names(query); got != want {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	for query, says := range map[string]string{
		"status=gone": "status must be", "sort=size": "sort must be", "order=up": "order must be", "unused_days=0": "unused_days must be", "permission=can_fly": "can_fly",
	} {
		if w := a.control("GET", "/admin/v1/keys?"+query, ""); w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%q: got %d %s, want %q", query, w.Code, w.Body, says)
		}
	}
}

// importMany gives an import of so many keys.
func importMany(t testing.TB, n int) string {
	t.Helper()
	rows := []map[string]any{}
	for i := range n {
		rows = append(rows, map[string]any{"name": fmt.Sprintf("many %05d", n-i), "permissions": []string{"can_read_calls"}, "sha256": fmt.Sprintf("%x", keytext.DigestOf(fmt.Sprint("m", i)))})
	}
	data, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestKeyQuery_Many sorts and filters 10,000 keys; -v says how long it takes.
func TestKeyQuery_Many(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/keys/import", importMany(t, 10_000))
	for _, query := range []string{"", "sort=name", "sort=last_used", "sort=requests", "sort=expires&order=desc", "search=many+00001&status=live", "unused_days=30"} {
		began := time.Now()
		v := b.operate(200, "GET", "/admin/v1/keys?"+query, "")
		t.Logf("%q: %v keys in %s", query, v["count"], time.Since(began))
	}
	if got := b.names("sort=name&limit=2"); got != "many 00001 many 00002" {
		t.Errorf("got %q", got)
	}
	began := time.Now()
	if page := b.get("/keys?sort=name&page=400").Body.String(); !strings.Contains(page, "many 10000") || !strings.Contains(page, "Page 400 of 400") || !strings.Contains(page, `aria-sort="ascending"`) {
		t.Errorf("got %s", page)
	}
	t.Logf("a page of the dashboard in %s", time.Since(began))
}
