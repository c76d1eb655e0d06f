package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

const firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

func TestDeviceName(t *testing.T) {
	for agent, want := range map[string]string{
		firefox: "Firefox on Linux",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0": "Edge on Windows",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36":               "Chrome on Windows",
		"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/604.1":     "Safari on iPhone",
		"Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36":                  "Chrome on Android",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.0 Safari/605.1.15":         "Safari on macOS",
		"curl/8.0": "curl/8.0", "": "unknown",
	} {
		if got := deviceName(agent); got != want {
			t.Errorf("%q: got %q, want %q", agent, got, want)
		}
	}
	for field, want := range map[string]string{"a\x00b\x1b[1m\xffc": "ab[1mc", " x ": "x", strings.Repeat("\u00fc", 200): strings.Repeat("\u00fc", 100), strings.Repeat("a", 199) + "\u00fc": strings.Repeat("a", 199)} {
		if got := cleanAgent(field); got != want {
			t.Errorf("%q: got %q, want %q", field, got, want)
		}
	}
}

// client is a browser with a User-Agent field and an address of its own.
func (b *browser) client(agent, address string) func(method, path string, form ...string) *httptest.ResponseRecorder {
	return func(method, path string, form ...string) *httptest.ResponseRecorder {
		r := b.request(method, path, form...)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("User-Agent", agent)
		r.RemoteAddr = address + ":1234"
		return b.send(r)
	}
}

// objectOf returns the JSON object in an answer.
func objectOf(t testing.TB, w *httptest.ResponseRecorder) (answer map[string]any) {
	t.Helper()
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code >= 300 {
		t.Fatalf("got %d %s: %v", w.Code, w.Body, err)
	}
	return answer
}

// listed returns the sessions that the endpoint lists for a browser.
func (b *browser) listed(query string) (list []map[string]any) {
	b.t.Helper()
	r := b.request("GET", "/admin/v1/sessions"+query)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	answer := objectOf(b.t, b.send(r))
	for _, row := range answer["sessions"].([]any) {
		list = append(list, row.(map[string]any))
	}
	return list
}

// The operator sees each session and ends one, all others, or all.
func TestSessions_Listed(t *testing.T) {
	b := newDashboard(t)
	b.clocks.Pass(time.Minute)
	phone := newBrowser(b.testApp)
	ask := phone.client(firefox, "198.51.100.7")
	ask("POST", "/login", "name", "ann", "password", operatorPassword)
	b.clocks.Pass(2 * time.Minute)
	phone.client("other", "198.51.100.8")("GET", "/keys")
	list := b.listed("")
	if len(list) != 2 || list[0]["current"] != false || list[1]["current"] != true {
		t.Fatalf("got %v, want two sessions, the last used one first", list)
	}
	other := list[0]
	want := map[string]any{
		"device": "Firefox on Linux", "user_agent": firefox, "created_ip": "198.51.100.7", "last_used_ip": "198.51.100.8", "operator": 1.0,
		"created_at": epoch.Add(time.Minute).Format(time.RFC3339), "last_used_at": epoch.Add(3 * time.Minute).Format(time.RFC3339), "ends_at": epoch.Add(12*time.Hour + 3*time.Minute).Format(time.RFC3339),
	}
	for name, value := range want {
		if other[name] != value {
			t.Errorf("%s: got %v, want %v", name, other[name], value)
		}
	}
	for _, cookie := range phone.jar.Cookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081"}) {
		hash := fmt.Sprintf("%x", sessionHash(cookie.Value))
		if id := fmt.Sprint(other["id"]); strings.Contains(hash, strings.TrimPrefix(id, sessionPrefix)) || strings.Contains(cookie.Value, strings.TrimPrefix(id, sessionPrefix)) {
			t.Errorf("the id %s is a part of the token or its hash", id)
		}
	}
	b.says(b.get("/account"), 200, "Firefox on Linux", "this one", "198.51.100.7", "198.51.100.8", fmt.Sprintf(`action="/account/sessions/%s/end"`, other["id"]))
	b.says(b.post("/account/sessions/ses_0/end"), 404, "There is no session ")
	b.sent(b.post(fmt.Sprintf("/account/sessions/%s/end", other["id"])), "/account?done=ended")
	if w := phone.get("/keys"); w.Code != 303 {
		t.Errorf("the session that was ended: got %d", w.Code)
	}
	ask("POST", "/login", "name", "ann", "password", operatorPassword)
	b.sent(b.post("/account/sessions/end"), "/account?done=others")
	if w := phone.get("/keys"); w.Code != 303 || len(b.listed("")) != 1 {
		t.Errorf("after all others were ended: got %d and the sessions %v", w.Code, b.listed(""))
	}
	ask("POST", "/login", "name", "ann", "password", operatorPassword)
	if answer := objectOf(t, b.operateBy("POST", "/admin/v1/sessions/end", `{}`)); answer["ended"] != 2.0 {
		t.Errorf("got %v, want both sessions ended", answer)
	}
	if w := b.get("/keys"); w.Code != 303 {
		t.Errorf("after all were ended: got %d", w.Code)
	}
}

// operateBy sends a JSON request with the cookie of the login.
func (b *browser) operateBy(method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://127.0.0.1:8081"+path, strings.NewReader(body))
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.send(r)
}

// Only an admin sees and ends the sessions of others. An admin token has none of its own.
func TestSessions_Others(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "Bea", "password": "`+operatorPassword+`"}`)
	bea := newBrowser(b.testApp)
	bea.post("/login", "name", "bea", "password", operatorPassword)
	bea.change(func(op *operator, _ *loginSession) { op.Role = RoleViewer })
	anns := fmt.Sprint(b.listed("")[0]["id"])
	for _, ask := range [][4]string{
		{"GET", "/admin/v1/sessions?operator=1", "", "403"}, {"POST", "/admin/v1/sessions/end", `{"operator": 1}`, "403"}, {"DELETE", "/admin/v1/sessions/" + anns, "", "404"},
		{"GET", "/admin/v1/sessions?operator=x", "", "400"}, {"POST", "/admin/v1/sessions/end", `{"keep": "that"}`, "400"},
	} {
		if w := bea.operateBy(ask[0], ask[1], ask[2]); fmt.Sprint(w.Code) != ask[3] {
			t.Errorf("a viewer: %v: got %d %s", ask, w.Code, w.Body)
		}
	}
	if w := b.operateBy("POST", "/admin/v1/sessions/end", `{"operator": 2, "keep": "this"}`); w.Code != 400 || !strings.Contains(w.Body.String(), "keep must be left out") {
		t.Errorf("keep this of another operator: got %d %s", w.Code, w.Body)
	}
	if list := b.listed("?operator=2"); len(list) != 1 || list[0]["current"] != false {
		t.Errorf("an admin sees %v of the other operator", list)
	}
	if got := b.operate(200, "GET", "/admin/v1/sessions", "")["count"]; got != 2.0 {
		t.Errorf("the control socket sees %v sessions, want those of both", got)
	}
	b.refuse("POST", "/admin/v1/sessions/end", "{}", 400, "missing_parameter", "operator is missing")
	if w := b.operateBy("DELETE", "/admin/v1/sessions/"+fmt.Sprint(b.listed("?operator=2")[0]["id"]), ""); w.Code != 200 {
		t.Errorf("an admin ends another's session: got %d %s", w.Code, w.Body)
	}
	if w := bea.get("/keys"); w.Code != 303 {
		t.Errorf("after its end: got %d", w.Code)
	}
}

// A session that an earlier version has stored has an id, which stays the same, and can be ended.
func TestSessions_Stored(t *testing.T) {
	b := newDashboard(t)
	b.change(func(_ *operator, login *loginSession) {
		login.ID, login.Agent, login.From, login.SeenFrom = "", "", "", ""
	})
	list := b.listed("")
	if len(list) != 1 || list[0]["device"] != "unknown" || list[0]["created_ip"] != nil || list[0]["id"] != b.listed("")[0]["id"] {
		t.Fatalf("got %v", list)
	}
	b.operate(200, "DELETE", fmt.Sprintf("/admin/v1/sessions/%s", list[0]["id"]), "")
	if w := b.get("/keys"); w.Code != 303 {
		t.Errorf("after its end: got %d", w.Code)
	}
}

// What a page asks for by itself does not make a session last longer, and what the operator does makes
// it so, beside that.
func TestSessions_Live(t *testing.T) {
	b := newDashboard(t)
	id, _ := b.key(`["can_read_calls"]`)
	live := func(path string) int {
		r := b.request("GET", path)
		r.Header.Set("Latchkey-Live", "1")
		return b.send(r).Code
	}
	for range 11 {
		b.clocks.Pass(time.Hour)
		if got := live("/keys/rows"); got != 200 {
			t.Fatalf("got %d while the session lasts", got)
		}
		live("/keys/" + id + "/used")
		live("/admin/v1/keys")
	}
	b.clocks.Pass(time.Hour)
	if got := live("/keys/rows"); got != 303 {
		t.Errorf("12 hours after the login, with live requests only: got %d, want to be sent to the login", got)
	}
	script := b.get("/static/script.js").Body.String()
	typed := strings.Count(script, `fetch("/find", { method: "POST"`) // somebody searches, which is no page that asks by itself
	if fetches := strings.Count(script, "fetch(") - typed; fetches == 0 || strings.Count(script, "headers: liveHeaders") != fetches || !strings.Contains(script, `"Latchkey-Live": "1"`) {
		t.Error("the script sends a request that it does not mark as live")
	}
}

// ended is a browser whose session has ended.
func ended(t *testing.T) *browser {
	b := newDashboard(t)
	b.clocks.Pass(12 * time.Hour)
	return b
}

// again sends the form with which a page answers, with some fields changed.
func (b *browser) again(w *httptest.ResponseRecorder, action string, change ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	form := formOf(b.t, w.Body.String(), action)
	for i := 0; i < len(change); i += 2 {
		form.Set(change[i], change[i+1])
	}
	return b.postForm(action, form)
}

// A form that is sent after the session has ended does nothing, keeps what was typed, and goes on after
// the login.
func TestLogin_KeepsForm(t *testing.T) {
	const odd = "a\"<b>&\r\n+%41 ü"
	for _, tt := range []struct {
		name, path, check string
		form              []string
		status            int
	}{
		{"new key", "/keys", "/admin/v1/keys", []string{"name", "k", "note", odd, "permission", "can_read_calls", "permission", "can_read_agents"}, 201},
		{"new contact", "/contacts", "/admin/v1/contacts", []string{"first_name", "Mara", "company", odd, "phone.0.number", "+4930555010", "tags", "x\r\ny"}, 303},
		{"new agent", "/agents", "/admin/v1/agents", []string{"name", "Front desk", "role", "inbound agent"}, 303},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := ended(t)
			form := tt.form
			w := b.post(tt.path, form...)
			b.says(w, 401, "Your session has ended", "What you typed is kept")
			if strings.Contains(w.Body.String(), "<b>") {
				t.Error("what was typed is not escaped")
			}
			sent := formOf(t, w.Body.String(), tt.path)
			for i := 0; i < len(form); i += 2 {
				if got := strings.Join(sent[form[i]], "|"); !strings.Contains(got, form[i+1]) {
					t.Errorf("%s: got %q, want %q", form[i], got, form[i+1])
				}
			}
			if got := b.operate(200, "GET", tt.check, "")["count"]; got != 0.0 {
				t.Errorf("without a login: got %v records", got)
			}
			w = b.again(w, tt.path, "login.name", "ann", "login.password", "wrong wrong wrong")
			b.says(w, 401, "The name or the password is wrong", "What you typed is kept")
			if got := b.operate(200, "GET", tt.check, "")["count"]; got != 0.0 {
				t.Errorf("with a wrong password: got %v records", got)
			}
			if w = b.again(w, tt.path, "login.name", "ann", "login.password", operatorPassword); w.Code != tt.status {
				t.Errorf("after the login: got %d %s, want %d", w.Code, w.Body, tt.status)
			}
			if got := b.operate(200, "GET", tt.check, "")["count"]; got != 1.0 {
				t.Errorf("after the login: got %v records, want 1", got)
			}
			if w := b.get("/keys"); w.Code != 200 {
				t.Errorf("after the login: got %d", w.Code)
			}
		})
	}
}

// Nothing is kept that must not be, and no other site can use the form.
func TestLogin_KeepsNoSecrets(t *testing.T) {
	b := ended(t)
	b.sent(b.post("/account", "old", operatorPassword, "password", "another horse battery"), "/login?next=%2Faccount")
	b.sent(b.post("/logout"), "/login")
	w := b.post("/keys", "name", "k", "password", "typed by mistake", "old", "also", "confirm.password", "and this")
	b.says(w, 401)
	if form := formOf(t, w.Body.String(), "/keys"); form.Has("password") || form.Has("old") || form.Has("confirm.password") || form.Get("name") != "k" {
		t.Errorf("got %v", form)
	}
	b.says(b.post("/keys", "name", strings.Repeat("x", 1<<20)), 401, "too large to be kept")
	r := b.request("POST", "/keys", "name", "k", "permission", "can_read_calls", "login.name", "ann", "login.password", operatorPassword)
	r.Header.Set("Origin", "https://evil.example")
	b.says(b.send(r), 403)
	if w := b.post("/nothing", "login.name", "ann", "login.password", operatorPassword); w.Code != 404 && w.Code != 405 {
		t.Errorf("a page that does not exist: got %d", w.Code)
	}
	if got := b.operate(200, "GET", "/admin/v1/keys", "")["count"]; got != 0.0 {
		t.Errorf("got %v keys, want none", got)
	}
	for range loginsByDevice {
		b.post("/keys", "name", "k", "login.name", "ann", "login.password", "wrong wrong wrong")
	}
	b.says(b.post("/keys", "name", "typed", "login.name", "ann", "login.password", operatorPassword), 429, "Too many failed logins", `value="typed"`)
}
