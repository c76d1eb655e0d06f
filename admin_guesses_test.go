package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"latchkey/dashboard"
)

// guess tries wrong passwords from n networks, each as often as one may.
func (b *browser) guess(networks int) {
	b.t.Helper()
	for i := range networks * loginsByAddress {
		w := newBrowser(b.testApp).client("", fmt.Sprintf("203.0.113.%d", i/loginsByAddress))("POST", "/login", "name", "Ann", "password", "wrong wrong wrong")
		if w.Code != 401 && w.Code != 429 {
			b.t.Fatalf("got %d", w.Code)
		}
	}
}

// Strangers who use up the attempts of a name do not lock out a browser in which its operator has
// logged in before. Such a browser has attempts of its own, and only for its operator.
func TestGuesses_KnownBrowser(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "Bea", "password": "`+operatorPassword+`"}`)
	login := func(b *browser, name, password string) int {
		return b.client("", "198.51.100.9")("POST", "/login", "name", name, "password", password).Code
	}
	b.post("/logout")
	b.guess(3)
	if got := login(newBrowser(b.testApp), "ann", operatorPassword); got != 429 {
		t.Errorf("an unknown browser, after all attempts were used up: got %d, want 429", got)
	}
	if got := login(b, "ANN", operatorPassword); got != 303 {
		t.Errorf("the known browser: got %d, want to be in", got)
	}
	b.clocks.Pass(8 * 24 * time.Hour) // longer than any session
	b.guess(3)
	if got := login(b, "ann", operatorPassword); got != 303 {
		t.Errorf("the known browser a week later: got %d, want to be in", got)
	}
	b.clocks.Pass(loginSpan)
	for i := range loginsByDevice + 1 {
		want := map[bool]int{false: 401, true: 429}[i == loginsByDevice]
		if got := login(b, "ann", "wrong wrong wrong"); got != want {
			t.Errorf("wrong password %d in the known browser: got %d, want %d", i+1, got, want)
		}
	}
	if got := login(newBrowser(b.testApp), "ann", operatorPassword); got != 303 {
		t.Errorf("an unknown browser beside it: got %d, want to be in", got)
	}
	for range loginsByAddress {
		login(b, "bea", "wrong wrong wrong")
	}
	if got := login(b, "bea", operatorPassword); got != 429 {
		t.Errorf("another operator in it: got %d, want the attempts of the network used up", got)
	}
}

// A ticket is not valid if it is forged, of another operator, older than a year, or from before the
// operator signed out everywhere. A changed password does not end it.
func TestGuesses_DeviceTicket(t *testing.T) {
	b := newDashboard(t)
	accounts := b.accounts
	ticket := func() string {
		for _, c := range b.jar.Cookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081"}) {
			if strings.HasPrefix(c.Name, "latchkey_device") {
				return c.Value
			}
		}
		return ""
	}
	known := func(name, text string, later time.Duration) bool {
		_, ok := accounts.knownDevice(credentials(name, text), b.clock.Latest(b.clock.Now()).Add(later))
		return ok
	}
	good := ticket()
	if !known("Ann", good, 0) || !known("ann", good, deviceSpan-time.Minute) || known("ann", good, deviceSpan+time.Minute) || known("bea", good, 0) {
		t.Error("the ticket is not valid for a year and for its operator alone")
	}
	for i := range good {
		other := byte('A')
		if good[i] == other {
			other = 'B'
		}
		if known("ann", good[:i]+string(other)+good[i+1:], 0) || known("ann", good[:i], 0) {
			t.Fatalf("a ticket that was changed or cut at %d is valid", i)
		}
	}
	if w := b.post("/account", "old", operatorPassword, "password", "another horse battery"); w.Code != 303 || !known("ann", good, 0) {
		t.Errorf("after a change of the password: got %d, want the ticket valid", w.Code)
	}
	if w := b.post("/logout-everywhere"); w.Code != 303 || known("ann", good, 0) || ticket() != "" {
		t.Errorf("after signing out everywhere: got %d, want neither the ticket valid nor the cookie", w.Code)
	}
	b.post("/login", "name", "ann", "password", "another horse battery")
	if next := ticket(); !known("ann", next, 0) || next == good {
		t.Error("no new ticket after the next login")
	}
}

// The present password cannot be guessed without end, on the account page, on the page that asks for it
// and at the endpoint. The three share one budget. Another session of the operator has its own.
func TestGuesses_PresentPassword(t *testing.T) {
	asks := []func(b *browser, password string) *httptest.ResponseRecorder{
		func(b *browser, password string) *httptest.ResponseRecorder {
			return b.post("/account", "old", password, "password", "another horse battery")
		},
		func(b *browser, password string) *httptest.ResponseRecorder {
			return b.post("/confirm", "confirm.password", password, "next", "/keys")
		},
		func(b *browser, password string) *httptest.ResponseRecorder {
			return b.operateBy("POST", "/admin/v1/confirm", fmt.Sprintf(`{"password": %q}`, password))
		},
	}
	b := newDashboard(t)
	for i := range 50 {
		want := map[bool]int{true: 400, false: 429}[i < confirmsBySession]
		w := asks[i%3](b, "wrong wrong wrong")
		if w.Code != want || want == 429 && w.Header().Get("Retry-After") == "" {
			t.Errorf("wrong password %d: got %d %v, want %d", i+1, w.Code, w.Header(), want)
		}
	}
	if w := asks[0](b, operatorPassword); w.Code != 429 {
		t.Errorf("the right one: got %d, want 429", w.Code)
	}
	other := newBrowser(b.testApp)
	other.post("/login", "name", "ann", "password", operatorPassword)
	if w := asks[2](other, operatorPassword); w.Code != 200 {
		t.Errorf("in another session: got %d %s, want it confirmed", w.Code, w.Body)
	}
	for range confirmsByAccount {
		thief := newBrowser(b.testApp)
		thief.post("/login", "name", "ann", "password", operatorPassword)
		asks[1](thief, "wrong wrong wrong")
	}
	if w := asks[1](other, operatorPassword); w.Code != 429 {
		t.Errorf("after %d wrong ones in many sessions: got %d, want 429", confirmsByAccount, w.Code)
	}
	b.clocks.Pass(loginSpan)
	if w := asks[0](b, operatorPassword); w.Code != 303 {
		t.Errorf("after %s: got %d %s, want the password changed", loginSpan, w.Code, w.Body)
	}
}

// A confirmed password counts for ten minutes in its session: at the endpoints, on pages, and for a
// link that downloads.
func TestConfirm(t *testing.T) {
	b := newDashboard(t)
	download := func() *httptest.ResponseRecorder {
		r := b.request("GET", "/admin/v1/backup")
		r.Header.Set("Sec-Fetch-Dest", "document")
		return b.send(r)
	}
	if w := b.operateBy("GET", "/admin/v1/backup", ""); w.Code != 403 || code(w) != "confirmation_required" {
		t.Errorf("a script: got %d %s, want confirmation_required", w.Code, w.Body)
	}
	at := b.sent(download(), "/confirm?next=%2Fadmin%2Fv1%2Fbackup")
	w := b.get(at)
	b.says(w, 200, "Confirm your password", "download a backup")
	b.says(b.again(w, "/confirm", "confirm.password", "wrong wrong wrong"), 400, "The present password is wrong", `name="next" value="/admin/v1/backup"`)
	b.sent(b.again(w, "/confirm", "confirm.password", operatorPassword), "/admin/v1/backup")
	b.says(download(), 200)
	other := newBrowser(b.testApp)
	other.post("/login", "name", "ann", "password", operatorPassword)
	if w := other.operateBy("GET", "/admin/v1/backup", ""); w.Code != 403 {
		t.Errorf("another session: got %d, want it not confirmed", w.Code)
	}
	b.clocks.Pass(ProofSpan + time.Second)
	b.sent(download(), "/confirm")
	if answer := objectOf(t, b.operateBy("POST", "/admin/v1/confirm", fmt.Sprintf(`{"password": %q}`, operatorPassword))); answer["valid_until"] == nil {
		t.Errorf("got %v", answer)
	}
	b.says(download(), 200)
	for _, next := range []string{"//evil.example", "https://evil.example", `/\evil.example`} {
		b.sent(b.post("/confirm", "confirm.password", operatorPassword, "next", next), "/keys")
	}
	b.refuse("POST", "/admin/v1/confirm", `{"password": "p"}`, 403, "permission_denied", "this request has none")
	for _, want := range []string{`"confirm password"`, `"POST /admin/v1/confirm"`, `"code":"invalid_login"`} {
		if text := auditText(t, b.testApp); !strings.Contains(text, want) || strings.Contains(text, operatorPassword) {
			t.Errorf("the audit log does not have %s: %s", want, text)
		}
	}
}

// A form whose endpoint requires a confirmed password asks for it, keeps what was typed, and goes on.
func TestConfirm_KeepsForm(t *testing.T) {
	const endpoint = "POST /admin/v1/keys"
	rule := endpointRules[endpoint]
	t.Cleanup(func() { endpointRules[endpoint] = rule })
	endpointRules[endpoint] = endpointRule{RightKeys, loginProof}
	b := newDashboard(t)
	w := b.post("/keys", "name", "a \"k\"", "permission", "can_read_calls", "permission", "can_read_agents")
	b.says(w, 403, "Confirm your password", "counts for 10 minutes")
	w = b.again(w, "/keys", "confirm.password", "wrong wrong wrong")
	b.says(w, 400, "The present password is wrong")
	if got := b.operate(200, "GET", "/admin/v1/keys", "")["count"]; got != 0.0 {
		t.Errorf("without the password: got %v keys", got)
	}
	b.says(b.again(w, "/keys", "confirm.password", operatorPassword), 201)
	if key := b.operate(200, "GET", "/admin/v1/keys", "")["keys"].([]any)[0].(map[string]any); key["name"] != `a "k"` || len(key["permissions"].([]any)) != 2 {
		t.Errorf("got %v", key)
	}
	b.says(b.post("/keys", "name", "another", "permission", "can_read_calls"), 201)
}

// Every way in refuses a password that is easy to guess, and takes one as people type it.
func TestPasswords_EveryWay(t *testing.T) {
	type way struct {
		name string
		set  func(b *browser, password string) (status int, answer string)
	}
	told := func(w *httptest.ResponseRecorder) (int, string) { return w.Code, w.Body.String() }
	ways := []way{
		{"create", func(b *browser, password string) (int, string) {
			return told(b.control("POST", "/admin/v1/operators", fmt.Sprintf(`{"name": "Mallory", "password": %q}`, password)))
		}},
		{"set", func(b *browser, password string) (int, string) {
			b.control("POST", "/admin/v1/operators", `{"name": "Mallory", "password": "`+operatorPassword+`"}`)
			return told(b.control("POST", "/admin/v1/operators/2/password", fmt.Sprintf(`{"password": %q}`, password)))
		}},
		{"account", func(b *browser, password string) (int, string) {
			b.control("POST", "/admin/v1/operators", `{"name": "Mallory", "password": "`+operatorPassword+`"}`)
			own := newBrowser(b.testApp)
			own.post("/login", "name", "Mallory", "password", operatorPassword)
			return told(own.post("/account", "old", operatorPassword, "password", password))
		}},
		{"set-up", func(b *browser, password string) (int, string) {
			b.control("DELETE", "/admin/v1/operators/1", "")
			made := objectOf(b.t, b.control("POST", "/admin/v1/setup-link", ""))
			return told(newBrowser(b.testApp).post("/setup", "name", "Mallory", "password", password, "token", strings.TrimPrefix(fmt.Sprint(made["path"]), SetupPath(""))))
		}},
		{"environment", func(b *browser, password string) (int, string) {
			b.control("DELETE", "/admin/v1/operators/1", "")
			file := filepath.Join(b.t.TempDir(), "password")
			if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
				b.t.Fatal(err)
			}
			b.t.Setenv("LATCHKEY_ADMIN_NAME", "Mallory")
			b.t.Setenv("LATCHKEY_ADMIN_PASSWORD_FILE", file)
			if err := firstOperator(b.App); err != nil {
				return 400, err.Error()
			}
			return 200, ""
		}},
	}
	const composed, decomposed = "caf\u00e9 zw\u00f6lf br\u00fccken", "cafe\u0301 zwo\u0308lf bru\u0308cken"
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			for password, want := range map[string]string{
				"short one": "must have 10 to 1,024 characters", strings.Repeat("p", maxPassword+1): "must have 10 to 1,024 characters", "cafe\u0301 1234": "it has 9",
				"password123": "most common", "QwertyUiop": "most common", "\ufeffpassword123": "most common",
				"latchkey-123": "besides the operator&#39;s name", "mallory12345": "besides the operator's name", "LATCHKEYMALLORY1!": "besides the operator's name",
			} {
				b := newDashboard(t)
				want = strings.ReplaceAll(want, "&#39;", "'")
				status, answer := way.set(b, password)
				if answer = strings.ReplaceAll(strings.ReplaceAll(answer, "&#39;", "'"), `\u0027`, "'"); status != 400 || !strings.Contains(answer, want) {
					t.Errorf("%.20q: got %d %.300s, want %q", password, status, answer, want)
				}
			}
			b := newDashboard(t)
			if status, answer := way.set(b, "\ufeff"+decomposed); status >= 400 {
				t.Fatalf("got %d %s", status, answer)
			}
			for _, typed := range []string{composed, decomposed, "\ufeff" + composed} {
				if w := newBrowser(b.testApp).post("/login", "name", "mallory", "password", typed); w.Code != http.StatusSeeOther {
					t.Errorf("a login with %+q: got %d", typed, w.Code)
				}
			}
		})
	}
}

// A new password is stored with the usual cost, and one that was stored with another cost still opens.
func TestPasswords_Cost(t *testing.T) {
	l := newLogins(t, true)
	cheap, err := l.Operators.Find(1)
	if err != nil || !strings.HasPrefix(cheap.Password, "$argon2id$v=19$m=64,t=1,p=1$") {
		t.Fatalf("got %q, %v", cheap.Password, err)
	}
	l.Operators.cost = NewOperators(l.Operators.store).cost
	if _, err := l.Authenticate("ann", operatorPassword); err != nil {
		t.Errorf("with the cost of before: got %v", err)
	}
	if err := l.SetPassword(l.by, 1, operatorPassword, nil); err != nil {
		t.Fatal(err)
	}
	usual, err := l.Operators.Find(1)
	if err != nil || !strings.HasPrefix(usual.Password, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("got %q, %v", usual.Password, err)
	}
	if _, err := l.Authenticate("ann", operatorPassword); err != nil {
		t.Errorf("with the usual cost: got %v", err)
	}
}

// A password that an earlier version has stored as it was typed still opens, and one that it would not
// accept today, too.
func TestPasswords_Stored(t *testing.T) {
	l := newLogins(t, true)
	for stored, typed := range map[string][]string{"cafe\u0301 1234": {"cafe\u0301 1234"}, "password123": {"password123", "\ufeffpassword123"}} {
		err := l.Operators.store.Update(func(tx *Tx) error {
			op, err := l.Operators.Get(tx, 1)
			if err != nil {
				return err
			}
			op.Password = l.seal(stored)
			return OperatorTable.Put(tx, op)
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, password := range typed {
			if _, err := l.Authenticate("ann", password); err != nil {
				t.Errorf("%+q: got %v", password, err)
			}
			if _, err := l.Verify(1, password); err != nil {
				t.Errorf("%+q by id: got %v", password, err)
			}
		}
	}
}

// A login cannot set its own password without the present one.
func TestPasswords_Own(t *testing.T) {
	b := newDashboard(t)
	b.prove()
	if w := b.operateBy("POST", "/admin/v1/operators/1/password", `{"password": "another horse battery"}`); w.Code != 403 || !strings.Contains(w.Body.String(), "page Account") {
		t.Errorf("got %d %s, want it refused", w.Code, w.Body)
	}
	b.operate(200, "POST", "/admin/v1/operators/1/password", `{"password": "another horse battery"}`)
}

// credentials are those of the login form of a browser with this cookie.
func credentials(name, device string) dashboard.Credentials {
	return dashboard.Credentials{Name: name, Device: device}
}
