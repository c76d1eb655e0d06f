package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// tells wants texts on a page.
func (b *browser) tells(path string, wants ...string) string {
	b.t.Helper()
	w := b.get(path)
	for _, want := range wants {
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			b.t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, want)
		}
	}
	return w.Body.String()
}

// entry returns what the form of a page carries along to tell whether a field was
// changed.
func (b *browser) mark(path, field string) string {
	b.t.Helper()
	m := regexp.MustCompile(`name="was\.` + regexp.QuoteMeta(field) + `" value="([^"]+)"`).FindStringSubmatch(b.get(path).Body.String())
	if m == nil {
		b.t.Fatalf("%s has no mark of %s", path, field)
	}
	return m[1]
}

func TestKeyPages_List(t *testing.T) {
	b := newDashboard(t)
	b.tells("/keys", "No key yet", "curl -i http://127.0.0.1:8080/api/v1/key")
	id, key := b.key(`["can_read_agents","can_read_calls","can_read_contacts","can_read_calendar"]`, `"limits": {"requests_per_minute_limit": 2}`, `"metadata": {"note": "in <b>"}`)
	b.key(`["can_read_agents"]`, `"expires_at": "2026-02-09T00:00:00Z"`, `"environment": "live"`)
	b.tells("/keys", "Never used", "in &lt;b&gt;", "read agents +2", "Expires soon", "in 5 days", "0 requests in the last 24 hours.")
	for range 3 {
		b.ask("GET", "/api/v1/agents", key, "")
	}
	b.tells("/keys", "Rate-limited", "3 requests, 1 refused in the last 24 hours.", `fill="url(#hatch)"`, "Requests per minute: 2 of 2")
	b.clocks.Pass(6 * time.Minute)
	if page := b.tells("/keys", ">Active<"); strings.Contains(page, ">Rate-limited</span>") {
		t.Error("a limit that was reached six minutes ago is told of")
	}
	if page := b.tells("/keys?environment=live&sort=name&order=desc", "1 found", `href="/keys?environment=live&amp;order=asc&amp;sort=name&amp;status=live"`, `href="/keys?order=desc&amp;sort=name&amp;status=live" aria-current="true">Environment: live`); strings.Contains(page, id) {
		t.Error("the filter lets another key through")
	}
	b.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	b.tells("/keys?status=paused", "Paused")
	b.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	if page := b.tells("/keys"); strings.Contains(page, id) {
		t.Error("a revoked key is not hidden")
	}
	b.tells("/keys?status=any", id, ">Revoked<")
	b.tells("/keys?status=revoked", id)
	if w := b.get("/keys?sort=size"); w.Code != 400 || !strings.Contains(w.Body.String(), "sort must be") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestKeyPages_Tags opens the list with each of the chips.
func TestKeyPages_Tags(t *testing.T) {
	b := newDashboard(t)
	unused, _ := b.key(`["can_read_agents"]`)
	ending, key1 := b.key(`["can_read_agents"]`, `"expires_at": "2026-02-09T00:00:00Z"`)
	limited, key2 := b.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 1}`)
	sent, key3 := b.key(`["can_read_agents"]`)
	rotating, key4 := b.key(`["can_read_agents"]`)
	for _, key := range []string{key1, key2, key2, key4} {
		b.ask("GET", "/api/v1/agents", key, "")
	}
	b.ask("GET", "/api/v1/agents?api_key="+key3, "", "")
	b.operate(200, "POST", "/admin/v1/keys/"+rotating+"/rotate", "")
	ended, key5 := b.key(`["can_read_agents"]`)
	b.operate(200, "POST", "/admin/v1/keys/"+ended+"/revoke", "")
	b.ask("GET", "/api/v1/agents", key5, "")
	all := []string{unused, ending, limited, sent, rotating, ended}
	wants := map[string][]string{
		"never_used": {unused}, "expires_soon": {ending}, "never_expires": {unused, limited, sent, rotating}, "rate_limited": {limited}, "sent_in_url": {sent}, "rotating": {rotating},
		"still_sent&status=any": {ended},
	}
	if len(wants) != len(keyTags()) {
		t.Errorf("got %d tags, want %d", len(keyTags()), len(wants))
	}
	for _, flushed := range []string{"", " after the uses were stored"} {
		for tag, want := range wants {
			page := b.tells("/keys?tag="+tag, fmt.Sprint(len(want), " found"), `aria-current="true"`)
			for _, id := range all {
				if shown := strings.Contains(page, `data-key="`+id+`"`); shown != slices.Contains(want, id) {
					t.Errorf("%s%s: %s is in the list: %v", tag, flushed, id, shown)
				}
			}
		}
		if err := b.Keyring.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	// Another secret is in no log, and an ended overlap needs no attention.
	b.operate(200, "POST", "/admin/v1/keys/"+sent+"/rotate", `{"overlap_seconds": 0}`)
	b.operate(200, "POST", "/admin/v1/keys/"+rotating+"/rotate/finish", "")
	b.clocks.Pass(6 * time.Minute)
	for _, tag := range []string{"sent_in_url", "rotating", "rate_limited"} {
		b.tells("/keys?tag="+tag, "No keys match")
	}
	b.refuse("GET", "/admin/v1/keys?tag=odd", "", 400, "validation_error", "tag must be one of never_used")
	b.refuse("GET", "/admin/v1/keys?id="+unused+"&tag=rotating", "", 400, "validation_error", "id cannot")
}

// TestKeyPages_CSV downloads the filtered list.
func TestKeyPages_CSV(t *testing.T) {
	b := newDashboard(t)
	b.key(`["can_read_agents"]`)
	made := b.operate(201, "POST", "/admin/v1/keys", `{"name": "=1+1", "permissions": ["can_read_calls", "can_read_agents"], "environment": "live", "owner": "ann", "allowed_ips": ["192.0.2.0/24"], "metadata": {"note": "@home, \"quoted\""}}`)
	b.tells("/keys?environment=live", `href="/admin/v1/keys?sandbox=false&amp;environment=live&amp;format=csv&amp;status=live" download`)
	w := b.get("/admin/v1/keys?environment=live&format=csv&status=live")
	want := strings.Join(keyListColumns(), ",") + "\n" + fmt.Sprintf("%s,'=1+1,%s,active,ann,live,can_read_calls can_read_agents,192.0.2.0/24,2026-02-03T09:00:00Z,,,,,\"'@home, \"\"quoted\"\"\",false\n", made["id"], made["hint"])
	if w.Code != 200 || w.Body.String() != want || w.Header().Get("Content-Disposition") != `attachment; filename="keys.csv"` {
		t.Errorf("got %d %v\n%s, want\n%s", w.Code, w.Header(), w.Body, want)
	}
	// More keys than one transaction reads.
	var rows []map[string]any
	for i := range csvPart {
		rows = append(rows, map[string]any{"name": fmt.Sprint("many ", i), "permissions": []string{"can_read_calls"}, "sha256": fmt.Sprintf("%x", keytext.DigestOf(fmt.Sprint("m", i)))})
	}
	data, err := json.Marshal(rows)
	if err != nil {
		t.Fatal(err)
	}
	b.operate(201, "POST", "/admin/v1/keys/import", string(data))
	lines := strings.Split(strings.TrimSpace(b.get("/admin/v1/keys?format=csv&sort=name").Body.String()), "\n")
	if slices.Sort(lines); len(lines) != csvPart+3 || len(slices.Compact(lines)) != csvPart+3 {
		t.Errorf("got %d lines, want each key once", len(lines))
	}
}

// TestKeyPages_Find searches for texts and for secrets, which get into no address.
func TestKeyPages_Find(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents"]`)
	for _, tt := range []struct{ text, to string }{
		{" test ", "/keys?search=test&sort=name&status=any"}, {id, "/keys?search=" + id + "&sort=name&status=any"}, {key, "/keys/" + id + "?done=found"},
		{"a-long-name-without-any-spaces", "/keys?search=a-long-name-without-any-spaces&sort=name&status=any"},
	} {
		w := b.post("/keys/find", "search", tt.text, "status", "any", "sort", "name", "sorted", "created", "order", "desc")
		if w.Code != 303 || w.Header().Get("Location") != tt.to {
			t.Errorf("%q: got %d %s, want %s", tt.text, w.Code, w.Header().Get("Location"), tt.to)
		}
	}
	for _, secret := range []string{keytext.NewSecret("klen_"), "sk_live_" + strings.Repeat("a1B2", 8)} {
		w := b.post("/keys/find", "search", secret)
		if w.Code != 404 || strings.Contains(w.Body.String(), secret) || !strings.Contains(w.Body.String(), "no key of this service has it") {
			t.Errorf("%q: got %d %s", secret, w.Code, w.Body)
		}
	}
}

// TestKeyPages_Bulk changes several keys at once, after a page that says what breaks.
func TestKeyPages_Bulk(t *testing.T) {
	b := newDashboard(t)
	used, key := b.key(`["can_read_agents"]`, `"expires_at": "2026-02-09T00:00:00Z"`)
	idle, other := b.key(`["can_read_agents"]`)
	over, _ := b.key(`["can_read_agents"]`)
	b.operate(200, "POST", "/admin/v1/keys/"+over+"/revoke", "")
	b.ask("GET", "/api/v1/agents", key, "")
	both := []string{"id", used, "id", idle, "id", over, "id", idle}
	send := func(status int, want string, form ...string) {
		t.Helper()
		if w := b.post("/keys/bulk", append(slices.Clone(both), form...)...); w.Code != status || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%v: got %d %s, want %d %q", form, w.Code, w.Body, status, want)
		}
	}
	alive := func(key string, want int) {
		t.Helper()
		if w := b.ask("GET", "/api/v1/agents", key, ""); w.Code != want {
			t.Errorf("got %d, want %d", w.Code, want)
		}
	}
	send(404, "no such action", "do", "explode")
	send(200, "Pause 2 keys?", "do", "pause")
	alive(key, 200)
	send(200, "Paused 2 keys", "do", "pause", "confirmed", "yes")
	alive(key, 401)
	send(200, "is paused already", "do", "pause")
	send(200, "Resumed 2 keys", "do", "resume", "confirmed", "yes")
	alive(key, 200)
	send(200, "never expires", "do", "extend")
	send(400, "Expires must be a date", "do", "extend", "confirmed", "yes", "expiry", "date", "expires", "soon")
	send(200, "Extended 1 key", "do", "extend", "confirmed", "yes", "expiry", "date", "expires", "2026-06-01")
	send(200, "Change the environment of", "do", "environment")
	send(200, "Changed 2 keys", "do", "environment", "confirmed", "yes", "environment", " test ")
	if got := b.operate(200, "GET", "/admin/v1/keys/"+used, ""); got["expires_at"] != "2026-06-01T23:59:59Z" || got["environment"] != "test" {
		t.Errorf("got %v", got)
	}
	send(200, "what uses it breaks", "do", "revoke")
	send(200, "is revoked already", "do", "revoke")
	send(400, "Nothing was changed", "do", "revoke", "confirmed", "yes", "phrase", "revoke")
	alive(key, 200)
	send(200, "Revoked 2 keys", "do", "revoke", "confirmed", "yes", "phrase", " Revoke 2 ")
	alive(key, 401)
	alive(other, 401)
	if w := b.post("/keys/bulk", "do", "pause"); w.Code != 400 || !strings.Contains(w.Body.String(), "No key is selected") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	many := []string{"do", "pause"}
	for i := range 101 {
		many = append(many, "id", fmt.Sprint("key_", i))
	}
	if w := b.post("/keys/bulk", many...); w.Code != 400 || !strings.Contains(w.Body.String(), "At most 100 keys") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestKeyPages_Names shows names whose characters cannot be seen or change the direction of a text.
func TestKeyPages_Names(t *testing.T) {
	b := newDashboard(t)
	for _, name := range []string{"\u202egnp.exe", "\u200bx\u200b"} {
		b.operate(201, "POST", "/admin/v1/keys", fmt.Sprintf(`{"name": %q, "permissions": ["can_read_agents"]}`, name))
	}
	if page := b.tells("/keys", "<bdi>&lt;U&#43;202E&gt;gnp.exe</bdi>", "<bdi>&lt;U&#43;200B&gt;x&lt;U&#43;200B&gt;</bdi>"); strings.ContainsAny(page, "\u202e\u200b") {
		t.Error("the page has characters that cannot be seen")
	}
	for path, body := range map[string]string{"keys": `{"name": "\u200b \u2060", "permissions": ["can_read_agents"]}`, "agents": `{"name": "\u200b"}`, "teams": `{"name": "\ufeff"}`, "owners": `{"name": "\u202e"}`} {
		b.refuse("POST", "/admin/v1/"+path, body, 400, "validation_error", "name has only invisible characters")
	}
}

// TestKeyPages_Create fills the form by its address, sends it, and sends it again.
func TestKeyPages_Create(t *testing.T) {
	b := newDashboard(t)
	page := b.tells("/keys/new?name=ci&note=GitHub&perm=can_read_calls,can_read_agents&limit.calls_per_day_limit=7&environment=test&expiry=30d&ips=192.0.2.1",
		`value="ci"`, `value="GitHub"`, `value="can_read_agents" data-says="read agents" checked`, `value="7"`, `<option value="30d" selected>`, "Scheduler")
	if strings.Index(page, `name="expiry"`) > strings.Index(page, `<details class="options"`) || !strings.Contains(b.tells("/keys/new?expiry=30d"), `<details class="options">`) {
		t.Error("Expires is under More options")
	}
	if n := strings.Count(page, " checked>"); n != 2 {
		t.Errorf("got %d permissions ticked, want 2", n)
	}
	if n := strings.Count(b.tells("/keys/new?preset=scheduler"), " checked>"); n != 3 {
		t.Errorf("got %d permissions ticked, want those of the preset", n)
	}
	nonce := regexp.MustCompile(`name="nonce" value="([0-9a-f]{32})"`).FindStringSubmatch(page)[1]
	form := []string{"nonce", nonce, "name", "ci", "note", "GitHub", "permission", "can_read_calls", "limit.calls_per_day_limit", "7", "limit.requests_per_minute_limit", "", "environment", "test", "expiry", "30d", "ips", "192.0.2.1"}
	if w := b.post("/keys", append(form[:2:2], form[4:]...)...); w.Code != 400 || !strings.Contains(w.Body.String(), nonce) {
		t.Errorf("without a name: got %d %s, want the form again", w.Code, w.Body)
	}
	w := b.post("/keys", form...)
	if w.Code != 201 || !strings.Contains(w.Body.String(), "It is shown only now") || !strings.Contains(w.Body.String(), "http://127.0.0.1:8080/api/v1/calls") {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	secret := regexp.MustCompile(`klen_[0-9A-Za-z]+`).FindString(w.Body.String())
	again := b.post("/keys", form...)
	if again.Code != 409 || !strings.Contains(again.Body.String(), "cannot be shown again") || strings.Contains(again.Body.String(), secret) {
		t.Errorf("sent again: got %d %s", again.Code, again.Body)
	}
	list := b.operate(200, "GET", "/admin/v1/keys", "")["keys"].([]any)
	key := list[0].(map[string]any)
	if len(list) != 1 || key["expires_at"] != "2026-03-05T09:00:00Z" || key["metadata"].(map[string]any)["note"] != "GitHub" || key["limits"].(map[string]any)["calls_per_day_limit"] != 7.0 {
		t.Errorf("got %v", list)
	}
}

// TestKeyPages_Change edits, rotates, finishes and revokes on the pages.
func TestKeyPages_Change(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents"]`, `"metadata": {"team": "x"}`, `"limits": {"requests_per_minute_limit": 9}`)
	path := "/keys/" + id
	b.ask("GET", "/api/v1/agents", key, "")
	b.ask("GET", "/api/v1/calls", key, "")
	b.tells(path+"/usage", "2 requests, 1 refused in the last 7 days.", `<time datetime="2026-02-03T09:00:00Z">3 Feb 09:00</time></th><td class="number">2</td><td class="number">1</td>`, `href="/admin/v1/keys/`+id+`/history?step=hour&amp;last=168&amp;format=csv"`)
	b.tells(path, "Requests per minute: 2 of 9", "next unit free", `name="limit.requests_per_minute_limit" type="number" min="1" max="1000000000" placeholder="60" value="9"`)
	if w := b.get("/admin/v1/keys/" + id + "/history?step=hour&format=csv"); w.Code != 200 || !strings.Contains(w.Body.String(), id+",test,admin,2026-02-03T09:00:00Z,2,1,0,0,1,0,0") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	form := []string{"name", "renamed", "note", "moved", "permission", "can_read_agents", "limit.requests_per_minute_limit", "", "expires", "2026-12-24", "environment", "live", "ips", "", "query", "no"}
	if w := b.post(path+"/edit", form...); w.Code != 303 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	v := b.operate(200, "GET", "/admin/v1/keys/"+id, "")
	if m := v["metadata"].(map[string]any); m["team"] != "x" || m["note"] != "moved" || v["expires_at"] != "2026-12-24T23:59:59Z" || v["environment"] != "live" || v["query_allowed"] != false || v["limits"].(map[string]any)[RequestsPerMinute] != 60.0 {
		t.Errorf("got %v", v)
	}
	if b.post(path+"/edit", form...); b.operate(200, "GET", "/admin/v1/keys/"+id, "")["expires_at"] != "2026-12-24T23:59:59Z" {
		t.Error("an end that was not changed has moved")
	}
	b.tells(path+"/rotate", "Rotate <bdi>renamed</bdi>?", `action="`+path+`/rotate"`)
	if w := b.post(path+"/rotate", "overlap", "3600"); w.Code != 200 || !strings.Contains(w.Body.String(), "It is shown only now") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	b.tells(path+"/used", "Waiting for the first request") // of the new secret
	b.tells("/keys/rows?ids=key_none,"+id, `<tr id="`+id+`" data-refresh data-key="`+id+`"`, "Requests per minute: 2 of 60", "Rotating")
	b.tells(path, "Rotation", "End old secret", "in 1 hour", "192.0.2.1", "<b>is still used</b>")
	if w := b.post(path+"/finish", "unused", "3600"); w.Code != 409 || !strings.Contains(w.Body.String(), "Nothing was ended.") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.post(path+"/finish", "unused", "soon"); w.Code != 400 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", key, ""); w.Code != 200 {
		t.Errorf("the earlier secret: got %d", w.Code)
	}
	if w := b.post(path+"/finish", "unused", "0"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", key, ""); w.Code != 401 {
		t.Errorf("an ended secret: got %d", w.Code)
	}
	b.tells(path+"/revoke", "Revoke <bdi>renamed</bdi>?", "type its name", "3 requests in the last 24 hours, 1 of them refused")
	b.clocks.Pass(25 * time.Hour)
	b.post("/login", "name", "ann", "password", operatorPassword)
	if page := b.tells(path+"/revoke", "0 requests in the last 24 hours"); strings.Contains(page, "type its name") {
		t.Error("the name is asked for though the key is not in use")
	}
	if w := b.post(path + "/revoke"); w.Code != 303 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	// A second tab that still shows the key as it was.
	for _, stale := range [][]string{{"/pause"}, {"/rotate", "overlap", "0"}, {"/finish"}, append([]string{"/edit"}, form...)} {
		if w := b.post(path+stale[0], stale[1:]...); w.Code != 409 || !strings.Contains(w.Body.String(), "The key was revoked on") {
			t.Errorf("%v: got %d %s", stale, w.Code, w.Body)
		}
	}
	b.tells(path, "Revoked")
}

// TestKeyPages_RotateOnce sends the form of a rotation twice, as a reload does.
func TestKeyPages_RotateOnce(t *testing.T) {
	b := newDashboard(t)
	id, _ := b.key(`["can_read_agents"]`)
	form := formOf(t, b.tells("/keys/"+id+"/rotate"), "/keys/"+id+"/rotate")
	form.Set("overlap", "0")
	w := b.postForm("/keys/"+id+"/rotate", form)
	secret := regexp.MustCompile(`klen_[0-9A-Za-z]{36}`).FindString(w.Body.String())
	if w.Code != 200 || secret == "" {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := b.postForm("/keys/"+id+"/rotate", form); w.Code != 409 || !strings.Contains(w.Body.String(), "Already rotated") || strings.Contains(w.Body.String(), "klen_") && strings.Contains(w.Body.String(), secret) {
		t.Errorf("sent again: got %d %s", w.Code, w.Body)
	}
	if w := b.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
		t.Errorf("the secret that was shown: got %d %s", w.Code, w.Body)
	}
	// The name of a request counts for one key, and not for a creation.
	other, _ := b.key(`["can_read_agents"]`)
	for _, path := range []string{"/keys/" + other + "/rotate", "/keys"} {
		w := b.post(path, "nonce", form.Get("nonce"), "overlap", "0", "name", "x", "permission", "can_read_calls")
		if !strings.Contains(w.Body.String(), "It is shown only now") {
			t.Errorf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
}

// TestKeyPages_Facts changes the facts of a key one by one: a value that is wrong is marked and kept, and
// what another tab has changed is not undone.
func TestKeyPages_Facts(t *testing.T) {
	b := newDashboard(t)
	id, _ := b.key(`["can_read_agents", "can_read_calls"]`, `"environment": "live"`)
	path := "/keys/" + id
	for _, tt := range []struct{ tab, field, value, says string }{
		{"", "name", " ", "Name is missing"}, {"", "expires", "2020-01-01", "Expires is not in the future"}, {"", "expires", "soon", "Expires must be a date"},
		{"", "limit.requests_per_minute_limit", "many", "Requests per minute must be a whole number"}, {"", "limit.requests_per_minute_limit", "0", "Requests per minute must be a whole number"},
		{"/access", "ips", "192.0.2.1, x", "Allowed IP addresses must be an address"}, {"/access", "environment", "Not A Word", "Environment must have"}, {"/access", "permission", "", "Choose at least one permission."},
	} {
		form := []string{"was." + tt.field, b.mark(path+tt.tab, tt.field)}
		if tt.value != "" {
			form = append(form, tt.field, tt.value)
		}
		w := b.post(path+"/edit", form...)
		page := w.Body.String()
		if w.Code != 400 || !strings.Contains(page, "Not saved. "+tt.says) || !strings.Contains(page, `id="`+tt.field+`-fault">`+tt.says) || strings.Count(page, `<details class="edit" open>`) != 1 {
			t.Errorf("%s %q: got %d %s", tt.field, tt.value, w.Code, page)
		}
		if shown := strings.TrimSpace(tt.value); shown != "" && (!strings.Contains(page, `value="`+shown+`"`) || strings.Count(page, `aria-invalid="true"`) != 1) {
			t.Errorf("%s: what was typed is gone, or not marked: %s", tt.field, page)
		}
	}
	// Two tabs show the same fact. The second is refused once, with what is stored now, and may then go on.
	for _, tt := range []struct{ tab, field, first, second, now string }{
		{"", "name", "first", "second", "first"}, {"/access", "environment", "stage", "test", "stage"}, {"/access", "permission", "can_read_agents", "can_read_calls", "can_read_agents"}, {"", "limit.requests_per_minute_limit", "7", "8", "7"},
	} {
		mark := b.mark(path+tt.tab, tt.field)
		b.sent(b.post(path+"/edit", "was."+tt.field, mark, tt.field, tt.first), path+tt.tab+"?done=saved")
		before := b.exact("/admin/v1" + path)
		w := b.post(path+"/edit", "was."+tt.field, mark, tt.field, tt.second)
		page := w.Body.String()
		if w.Code != 409 || !strings.Contains(page, "was changed by somebody else meanwhile. It is now: "+tt.now) || !strings.Contains(page, `value="`+tt.second+`"`) || len(differing(before, b.exact("/admin/v1"+path))) > 0 {
			t.Errorf("%s: got %d %s", tt.field, w.Code, page)
		}
		again := regexp.MustCompile(`name="was\.` + regexp.QuoteMeta(tt.field) + `" value="([^"]+)"`).FindStringSubmatch(page)[1]
		b.sent(b.post(path+"/edit", "was."+tt.field, again, tt.field, tt.second), path+tt.tab+"?done=saved")
		if len(differing(before, b.exact("/admin/v1"+path))) == 0 {
			t.Errorf("%s: the second change is lost", tt.field)
		}
	}
	// A tab that shows a permission which another tab has removed does not bring it back with its own change.
	mark := b.mark(path, "note")
	b.sent(b.post(path+"/edit", "was.permission", b.mark(path+"/access", "permission"), "permission", "can_read_agents"), path+"/access?done=saved")
	b.sent(b.post(path+"/edit", "was.note", mark, "note", "moved"), path+"?done=saved")
	if v := b.operate(200, "GET", "/admin/v1"+path, ""); fmt.Sprint(v["permissions"]) != "[can_read_agents]" || v["metadata"].(map[string]any)["note"] != "moved" {
		t.Errorf("got %v", v)
	}
	b.tells(path+"/history", "PATCH /admin/v1/keys/:id", "operator 1 Ann", `<th scope="row" class="mono">name</th>`)
	b.tells(path+"/access?method=GET&path=/api/v1/calls", "lacks the permission can_read_calls", "<b>permission</b>: <span class=\"bad\">refuses</span>")
	b.tells(path+"/access?method=GET&path=/api/v1/agents&ip=192.0.2.1", "The request would pass")
	if w := b.get(path + "/access?method=GET&path=x"); w.Code != 400 || !strings.Contains(w.Body.String(), "path does not begin with a slash") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestKeyPages_WhatIf tries limits on the requests of a key: the form has the limits that can be tried, and shows what they
// would have done.
func TestKeyPages_WhatIf(t *testing.T) {
	b := newDashboard(t)
	id, secret := b.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 4}`)
	for range 6 {
		b.ask("GET", "/api/v1/agents", secret, "")
	}
	if err := b.App.history.Flush(); err != nil {
		t.Fatal(err)
	}
	path := "/keys/" + id + "/usage"
	page := b.tells(path, "What would another limit do?", `name="requests_per_minute_limit" type="number"`, `name="calls_per_day_limit"`, `type="range" hidden min="1" max="8"`)
	if strings.Contains(page, "concurrent_requests") || strings.Contains(page, "Would have refused") {
		t.Errorf("got %s", page)
	}
	b.tells(path+"?requests_per_minute_limit=5&calls_per_day_limit=", "Would have refused 1 of 6. 2 were refused then. 6 refuses none.")
	b.tells(path+"?requests_per_minute_limit=6&calls_per_day_limit=2", "Would have refused 0 of 6.", "It was not used in this time.")
	for _, bad := range []string{"0", "x", "1.5", "-1", "1000000001"} {
		w := b.get(path + "?requests_per_minute_limit=" + bad)
		if text := w.Body.String(); w.Code != 400 || !strings.Contains(text, " must be a whole number") || !strings.Contains(text, `value="`+bad+`"`) {
			t.Errorf("%s: got %d %s", bad, w.Code, text)
		}
	}
}

// TestKeyPages_Duplicate opens the form of a new key with the values of another.
func TestKeyPages_Duplicate(t *testing.T) {
	b := newDashboard(t)
	id, _ := b.key(`["can_read_agents", "can_read_calls"]`, `"environment": "live"`, `"owner": "ann"`, `"allowed_ips": ["192.0.2.0/24"]`, `"query_allowed": false`, `"metadata": {"note": "in CI"}`, `"limits": {"requests_per_minute_limit": 7}`)
	b.tells("/keys/"+id, `href="/keys/new?copy=`+id+`"`)
	form := formOf(t, b.tells("/keys/new?copy="+id, `<details class="options" open>`), "/keys")
	if w := b.postForm("/keys", form); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	copied := b.operate(200, "GET", "/admin/v1/keys?search=copy", "")["keys"].([]any)[0].(map[string]any)
	for name, want := range b.operate(200, "GET", "/admin/v1/keys/"+id, "") {
		if slices.Contains([]string{"permissions", "environment", "owner", "allowed_ips", "query_allowed", "metadata", "limits"}, name) && fmt.Sprint(copied[name]) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", name, copied[name], want)
		}
	}
	if w := b.get("/keys/new?copy=key_none"); w.Code != 404 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// TestKeyPages_CreateFaults wants an error beside its field, and all that was typed.
func TestKeyPages_CreateFaults(t *testing.T) {
	b := newDashboard(t)
	for _, tt := range []struct{ field, value, says, fold string }{
		{"name", "", "Name is missing", ""}, {"permission", "", "Choose at least one permission.", ""}, {"ips", "x", "Allowed IP addresses must be", " open"},
		{"limit.requests_per_minute_limit", "many", "Requests per minute must be a whole number", " open"}, {"environment", "No Word", "Environment must have", " open"}, {"expires", "soon", "Expires must be", ""},
	} {
		form := url.Values{"name": {"ci & co"}, "permission": {"can_read_calls"}, "expiry": {"90d"}}
		if form.Set(tt.field, tt.value); tt.value == "" {
			form.Del(tt.field)
		}
		if tt.field == "expires" {
			form.Set("expiry", "date")
		}
		w := b.postForm("/keys", form)
		page := w.Body.String()
		if w.Code != 400 || !strings.Contains(page, tt.says) || strings.Count(page, `class="fault"`) != 1 || !strings.Contains(page, `<details class="options"`+tt.fold+">") || strings.Count(page, " autofocus") > 1 {
			t.Errorf("%s: got %d %s", tt.field, w.Code, page)
		}
		if tt.field != "name" && !strings.Contains(page, `value="ci &amp; co"`) || tt.field != "permission" && !strings.Contains(page, " checked>") {
			t.Errorf("%s: what was typed is gone: %s", tt.field, page)
		}
	}
	// Without script, a preset keeps what was typed and replaces what was ticked.
	form := formOf(t, b.tells("/keys/new?name=a&note=b&permission=can_write_calendar&preset=read", `value="a"`, `value="b"`), "/keys")
	if slices.Contains(form["permission"], "can_write_calendar") || len(form["permission"]) == 0 {
		t.Errorf("got %v, want the permissions of the preset", form["permission"])
	}
}

// TestNotes_Once wants the note about a change in the answer to the redirect alone: a reload, another
// page and a link that somebody made up have none.
func TestNotes_Once(t *testing.T) {
	b := newDashboard(t)
	id, _ := b.key(`["can_read_agents"]`)
	const note = "Paused: requests get 401 from now on."
	if page := b.tells("/keys/" + id + "?done=pause"); strings.Contains(page, note) {
		t.Error("a link alone makes the page say that the key is paused")
	}
	to := b.post("/keys/" + id + "/pause").Header().Get("Location")
	if page := b.tells("/keys?done=pause"); strings.Contains(page, note) {
		t.Error("the note is on another page")
	}
	b.tells(to, note)
	if page := b.tells(to); strings.Contains(page, note) {
		t.Error("the note comes again with a reload")
	}
}

// TestKeyPages_Sent tells how a key is sent, what that calls for, and why its
// requests were refused.
func TestKeyPages_Sent(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(`["can_read_agents"]`)
	if page := b.tells("/keys/"+id+"/requests", "None since the server started"); strings.Contains(page, "Proxies, browsers") {
		t.Error("advice on URLs for a key that was never in one")
	}
	b.tells("/keys/"+id+"/usage", "No request in this time. The key was never used.")
	b.ask("GET", "/api/v1/agents", key, "")
	b.ask("GET", "/api/v1/agents?api_key="+key, "", "")
	b.ask("GET", "/api/v1/calls", key, "")
	const advice = "Proxies, browsers and logs write URLs down"
	b.tells("/keys/"+id+"/usage", "2 times as bearer token, 0 times in X-API-Key, once in a URL", advice)
	page := b.tells("/keys/"+id+"/requests", advice, "/api/v1/calls", `<a href="/errors/permission_denied">403 permission_denied</a>`)
	if strings.Contains(page, key) {
		t.Error("the page has the key")
	}
}

func TestAuditPages(t *testing.T) {
	b := newDashboard(t)
	b.sent(b.post("/agents", "name", evil, "role", "inbound agent"), "/agents/1")
	b.sent(b.saveForm("/agents/1", "model", "local-model-b"), "/agents/1")
	b.says(b.post("/agents", "name", "x", "role", "odd"), 400)
	page := b.get("/activity")
	b.says(page, 200, `<a href="/operators/1"><bdi>Ann</bdi></a><bdi> changed</bdi><bdi> the agent </bdi><a href="/agents/1">`, "<bdi> (model)</bdi>", "operator 1 Ann", "PATCH /admin/v1/agents/:id", "agent 1",
		`<th scope="row" class="mono">model</th><td><bdi></bdi></td><td><bdi>local-model-b</bdi></td>`, "<h2>Tuesday, 2026-02-03</h2>", ">09:00:00</time>")
	b.tame("the log", page)
	b.says(b.get("/activity?object=agent+1&action=PATCH"), 200, "1 found", "local-model-b")
	b.says(b.get("/activity?result=odd"), 400, "Result must be done or refused")
	b.says(b.get("/activity?actor=nobody+at+all"), 200, "No entries match")
	b.says(b.get("/activity/verify"), 200, "Every entry is as it was written", "Last entry")
	for range 30 {
		b.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`)
	}
	b.says(b.get("/activity?page=99"), 200, "There is no page 99: the last one is page 2", `href="/activity?page=2"`)
	b.says(b.get("/activity?kind=created&actor=ann&result=done"), 200, "1 found", `href="/admin/v1/audit?actor=ann&amp;format=csv&amp;kind=created&amp;result=done" download`)
	b.says(b.get("/activity?from=2026-02-04"), 200, "0 found")
	if body := b.get("/activity?object=agent").Body.String(); !strings.Contains(body, "Page 1 of 2") || !strings.Contains(body, `href="/activity?object=agent&amp;page=2"`) {
		t.Errorf("got %s", body)
	}
}

// TestPages_Beyond opens pages of lists after the last one.
func TestPages_Beyond(t *testing.T) {
	b := newDashboard(t)
	_, key := b.key(`["can_read_agents"]`)
	b.ask("GET", "/api/v1/agents", key, "")
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`)
	b.operate(201, "POST", "/admin/v1/tokens", `{"name": "t"}`)
	for _, list := range []string{"/keys", "/requests", "/agents", "/tokens"} {
		b.tells(list+"?page=99", "There is no page 99: the last one is page 1", `href="`+list+`?page=1`)
	}
}

func TestStatusPages(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/status"), 200, "http://127.0.0.1:8080", "<h2>Store</h2>", "<dt>Size</dt>", "<h2>Clocks</h2>")
}

// TestEventPages goes through an event's life on the pages, in a time zone.
func TestEventPages(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/schedules", `{"time_zone": "Europe/Berlin"}`)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	b.says(b.get("/calendar/events/new?start_time=2026-03-02T09:00"), 200, `value="2026-03-02T09:00"`, "time of Europe/Berlin", `name="zone" value="Europe/Berlin"`)
	form := []string{"zone", "Europe/Berlin", "title", evil, "start_time", "2026-03-02T09:00", "end_time", "2026-03-02T09:45", "event_type", "appointment", "status", "confirmed",
		"customer_name", evil, "video_conference_url", "javascript:alert(1)", "ai_agent_id", "1"}
	w := b.post("/calendar/events", append(append([]string{}, form[:6]...), "end_time", "2026-03-02T09:00", "event_type", "appointment", "status", "confirmed")...)
	b.says(w, 400, "End must be after start_time", `aria-invalid="true"`)
	b.tame("the form", w)
	at := b.sent(b.post("/calendar/events", form...), "/calendar/events/1?done=made&zone=Europe%2FBerlin")
	if v := b.operate(200, "GET", "/admin/v1/events/1", ""); v["start_time"] != "2026-03-02T08:00:00.000Z" || v["is_reminder_enabled"] != false || v["ai_agent"].(map[string]any)["id"] != 1.0 {
		t.Errorf("got %v", v)
	}
	page := b.get(at)
	b.says(page, 200, "2026-03-02 09:00", "Times of Europe/Berlin", "http://127.0.0.1:8080/calendar/event/", `href="/calendar?week=2026-03-02&amp;zone=Europe%2FBerlin"`)
	b.tame("the event", page)
	if strings.Contains(page.Body.String(), `href="javascript`) {
		t.Error("an address that is none of the web is a link")
	}
	b.says(b.get("/calendar/events/1?zone=UTC"), 200, "2026-03-02 08:00", `value="2026-03-02T08:00"`)
	b.says(b.saveForm("/calendar/events/1", "zone", "Europe/Berlin", "start_time", "yesterday"), 400, "Start must be a date and a time", `value="yesterday"`)
	b.sent(b.saveForm("/calendar/events/1", "zone", "Europe/Berlin", "end_time", "2026-03-02T10:30"), "/calendar/events/1?done=saved")
	if v := b.operate(200, "GET", "/admin/v1/events/1", ""); v["end_time"] != "2026-03-02T09:30:00.000Z" || v["status"] != "confirmed" {
		t.Errorf("got %v", v)
	}
	b.says(b.get("/calendar/events?start_date=2026-03-01&status=confirmed"), 200, "1 found", "2026-03-02 09:00", "/calendar/events/1?zone=Europe%2FBerlin")
	b.says(b.get("/calendar/events?start_date=x"), 400, "From must be a date")
	b.sent(b.post("/calendar/events/1/cancel", "reason", evil), "/calendar/events/1?done=cancelled")
	page = b.get("/calendar/events/1")
	b.says(page, 200, "Cancelled: ")
	b.tame("the cancelled event", page)
	if strings.Contains(page.Body.String(), "Cancel event") {
		t.Error("a cancelled event can be cancelled")
	}
	b.says(b.post("/calendar/events/7/cancel"), 404, "There is no event 7.")
}

func TestCalendarPages_Week(t *testing.T) {
	b := newDashboard(t) // it is a Tuesday, 3 February 2026, 9:00 UTC
	event := func(title, from, to string) {
		b.operate(201, "POST", "/admin/v1/events", fmt.Sprintf(`{"title": %q, "start_time": %q, "end_time": %q}`, title, from, to))
	}
	b.says(b.get("/calendar"), 200, "2 February to 8 February 2026, times of UTC", "0 events", `href="/calendar?week=2026-01-26&amp;zone=UTC"`, `href="/calendar?week=2026-02-09&amp;zone=UTC"`, `class="day today"`)
	event("Early", "2026-02-02T05:30:00Z", "2026-02-02T06:30:00Z")
	event("Beside", "2026-02-02T06:00:00Z", "2026-02-02T07:00:00Z")
	event("Fair", "2026-02-03T00:00:00Z", "2026-02-06T00:00:00Z")
	event("Night", "2026-02-08T23:00:00Z", "2026-02-09T01:00:00Z")
	event("Next week", "2026-02-10T10:00:00Z", "2026-02-10T11:00:00Z")
	event(evil, "2026-02-05T10:00:00Z", "2026-02-05T10:05:00Z")
	page := b.get("/calendar")
	// The grid begins at 5:00, one unit to a minute; two events stand side by side.
	b.says(page, 200, "5 events", `<foreignObject x="0.00%" y="30" width="50.00%" height="60">`, `<foreignObject x="50.00%" y="60" width="50.00%" height="60">`,
		`<foreignObject x="0.00%" y="300" width="100.00%" height="28">`, `>05:00<`, `>24:00<`, "05:30 to 06:30")
	b.tame("the week", page)
	if body := page.Body.String(); strings.Contains(body, "Next week") || strings.Count(body, `<foreignObject`) != 4 || strings.Count(body, ">Fair<") != 6 || strings.Count(body, ">Night<") != 2 {
		t.Errorf("got %d blocks, %d of the fair: %s", strings.Count(body, "<foreignObject"), strings.Count(body, ">Fair<"), body)
	}
	b.says(b.get("/calendar?zone=Europe%2FBerlin"), 200, "06:30 to 07:30", "4 events")
	b.says(b.get("/calendar?week=2026-02-09&zone=Europe%2FBerlin"), 200, "9 February to 15 February 2026", "Night", "Next week")
	b.says(b.get("/calendar?owner=nobody"), 200, "0 events")
	b.says(b.get("/calendar?week=soon"), 400, "week must be a date")
	b.says(b.get("/calendar?zone=Mars"), 400, "zone must be an IANA name")
}

func TestSchedulePages(t *testing.T) {
	b := newDashboard(t)
	stored := func() string { return b.control("GET", "/admin/v1/schedules/1", "").Body.String() }
	b.says(b.get("/schedules/new"), 200, `name="windows.monday.from" type="time" value="09:00"`, `name="windows.monday.to" type="time" value="17:00"`, `name="windows.sunday.from" type="time" value=""`)
	form := []string{"owner", evil, "time_zone", "Europe/Berlin", "windows.monday.from", "09:00", "windows.monday.to", "12:00", "windows.monday.from", "13:00", "windows.monday.to", "00:00", "windows.monday.from", "", "windows.monday.to", "", "buffer_minutes", "15"}
	b.says(b.post("/schedules", append([]string{"windows.tuesday.from", "17:00", "windows.tuesday.to", "09:00"}, form...)...), 400, "Tuesday must have windows such as", `name="windows.tuesday.from" type="time" value="17:00"`, `id="windows.tuesday-fault"`, `class="bad" aria-describedby="windows.tuesday-fault"`, `name="windows.monday.from" type="time" value="13:00"`)
	b.says(b.post("/schedules", append([]string{"windows.tuesday.from", "17:00"}, form...)...), 400, "Tuesday must have windows such as")
	b.says(b.post("/schedules", append(form[:2:2], "time_zone", "Mars")...), 400, "Time zone must be an IANA name")
	b.sent(b.post("/schedules", form...), "/schedules/1?done=made")
	if got := stored(); !strings.Contains(got, `"monday":["09:00-12:00","13:00-24:00"]`) || !strings.Contains(got, `"tuesday":[]`) || !strings.Contains(got, `"business_hours":null`) {
		t.Errorf("got %s", got)
	}
	b.says(b.post("/schedules", form...), 409, "already has a schedule")
	page := b.get("/schedules/1")
	b.says(page, 200, `name="windows.monday.from" type="time" value="13:00"`, "Monday to Friday, 9 to 17, UTC")
	b.tame("the schedule", page)
	b.tame("the list", b.get("/schedules"))
	save := func(change ...string) *httptest.ResponseRecorder {
		return b.again(b.get("/schedules/1"), "/schedules/1", change...)
	}
	b.sent(save("windows.friday.from", "10:00", "windows.friday.to", "12:00", "business_hours.monday.from", "10:00", "business_hours.monday.to", "16:00"), "/schedules/1?done=saved")
	if got := stored(); !strings.Contains(got, `"friday":["10:00-12:00"]`) || !strings.Contains(got, `"monday":["09:00-12:00","13:00-24:00"]`) || !strings.Contains(got, `"business_hours":{"friday":[]`) {
		t.Errorf("got %s", got)
	}
	copied := save("copy", "windows")
	b.says(copied, 200, "Copied. Nothing is saved yet.", `name="windows.friday.from" type="time" value="13:00"`)
	if got := stored(); !strings.Contains(got, `"friday":["10:00-12:00"]`) {
		t.Errorf("got %s, want nothing changed yet", got)
	}
	b.sent(b.again(copied, "/schedules/1"), "/schedules/1?done=saved")
	if got := stored(); strings.Count(got, `["09:00-12:00","13:00-24:00"]`) != 5 || !strings.Contains(got, `"sunday":[]`) {
		t.Errorf("got %s, want the hours of Monday on five days", got)
	}
	b.says(b.post("/schedules", append(form[:4:4], "windows.monday.from", "11:00", "windows.monday.to", "12:00", "copy", "windows")...), 200, "Copied.", `name="windows.friday.from" type="time" value="11:00"`, "Create schedule")
	b.sent(save("business_hours.monday.from", "", "business_hours.monday.to", ""), "/schedules/1?done=saved")
	if got := stored(); !strings.Contains(got, `"business_hours":null`) {
		t.Errorf("got %s, want the business hours gone", got)
	}
	b.sent(b.post("/schedules/1/delete"), "/schedules?done=deleted")
	b.operate(404, "GET", "/admin/v1/schedules/1", "")
}

func TestVariablePages(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/business-context"), 200, "has no variable of the business yet")
	form := []string{"name", "visits", "display_name", evil, "context_type", "business", "variable_type", "number"}
	b.says(b.post("/variables", append([]string{"name", "Visits"}, form[2:]...)...), 400, "Name must consist of 1 to", `aria-invalid="true"`, `value="Visits"`)
	b.sent(b.post("/variables", form...), "/variables/3?done=made")
	b.tame("the list", b.get("/variables"))
	b.says(b.get("/variables?search=visit"), 200, "1 found")
	b.says(b.post("/variables", form...), 400, "exists")
	b.sent(b.saveForm("/variables/3", "variable_type", "select", "select_options", "few\r\nmany"), "/variables/3?done=saved")
	if v := b.operate(200, "GET", "/admin/v1/variables/3", ""); v["variable_type"] != "select" || len(v["select_options"].([]any)) != 2 {
		t.Errorf("got %v", v)
	}
	if body := b.get("/variables/1").Body.String(); strings.Contains(body, `<dialog id="delete"`) {
		t.Error("a built-in variable can be deleted")
	}
	b.says(b.get("/variables/1/delete"), 403)
	b.says(b.post("/variables/1/delete"), 403, "Built-in")

	page := b.get("/business-context")
	b.says(page, 200, "Company Name", `<option value="few">few</option>`)
	b.tame("the values", page)
	b.says(b.post("/business-context", "value.visits", "lots", "value.company_name", "Lind KG"), 400, "must be one of few, many", `value="Lind KG"`)
	b.sent(b.post("/business-context", "value.visits", "few", "value.company_name", evil), "/business-context?done=saved")
	page = b.get("/business-context")
	b.says(page, 200, `<option value="few" selected>`)
	b.tame("the values", page)
	// What the form does not change is not sent, and what is emptied goes.
	b.sent(b.post("/business-context", "value.visits", "few", "was.value.visits", b.mark("/business-context", "value.visits"), "value.company_name", ""), "/business-context")
	if v := b.operate(200, "GET", "/admin/v1/business-context", "")["variables"].(map[string]any); v["visits"] != "few" || v["company_name"] != nil {
		t.Errorf("got %v", v)
	}
	b.sent(b.post("/variables/3/delete"), "/variables?done=deleted")
	b.says(b.get("/business-context"), 200, "its variable was deleted")
}

// TestBackupPages shows the schedule, checks files and the database, and downloads a backup once the
// password is confirmed.
func TestBackupPages(t *testing.T) {
	b := newDashboard(t)
	b.tells("/backups", "No backups are scheduled", `dir = "/var/backups/latchkey"`, "latchkey restore FILE", `<a href="/backups" aria-current="page">`)
	b.tells("/", `<a href="/backups"><span>Last backup</span>`)
	b.says(b.post("/backups/check"), 200, "The database has no damage and was not changed.", "records and")
	w := b.post("/backups/download")
	b.says(w, 403, "You are about to download a backup", `action="/backups/download"`)
	if w.Header().Get("Refresh") != "" {
		t.Error("the download begins without the password")
	}
	w = b.again(w, "/backups/download", "confirm.password", operatorPassword)
	b.says(w, 200, "then the download begins", `href="/admin/v1/backup"`)
	if got := w.Header().Get("Refresh"); got != "0; url=/admin/v1/backup" {
		t.Errorf("got %q", got)
	}
	if w := b.get("/admin/v1/backup"); w.Code != 200 || w.Header().Get("Content-Disposition") != `attachment; filename="latchkey-20260203T090000Z.db"` {
		t.Errorf("got %d %v", w.Code, w.Header())
	}

	dir := t.TempDir()
	b = newDashboard(t, func(c *Config) { c.Backup.Dir, c.Backup.Every = dir, 36*time.Hour })
	b.tells("/backups", "36 hours", "the newest 7", "none yet", "within a minute")
	if err := b.backups.Due(b.clock.Now()); err != nil {
		t.Fatal(err)
	}
	const name = "latchkey-20260203T090000Z.db"
	b.tells("/backups", name, "in 1 day", "not since the start", dir)
	b.says(b.post("/backups/"+name+"/check"), 200, name+" has no damage and was not changed.", ">good</span>")
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), data[:len(data)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	b.says(b.post("/backups/"+name+"/check"), 200, name+" is damaged or was changed.", "the file cannot be read", ">damaged</span>", `class="note bad" role="alert"`)
	b.says(b.post("/backups/other.db/check"), 404, "There is no backup")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // no folder can be made there
		t.Fatal(err)
	}
	if err := b.backups.Due(b.clock.Now().Add(48 * time.Hour)); err == nil {
		t.Fatal("a backup was made in a file")
	}
	b.tells("/backups", "the latest try failed", "set backup.dir to a folder that Latchkey may write to", "none yet")
}

// TestKeyPages_Ref wants the name of a key in files for apply on its page, and no row for it without one.
func TestKeyPages_Ref(t *testing.T) {
	b := newDashboard(t)
	named, _ := b.key(`["can_read_calls"]`, `"ref": "billing/ci"`)
	plain, _ := b.key(`["can_read_calls"]`)
	b.tells("/keys/"+named+"/access", `<dd class="mono">billing/ci</dd>`)
	if page := b.tells("/keys/" + plain + "/access"); strings.Contains(page, "<dt>Ref") {
		t.Error("a key without a ref has a row for it")
	}
}
