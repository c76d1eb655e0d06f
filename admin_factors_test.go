package main

import (
	"fmt"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

// codeAt returns the code that an app with this secret shows at a time.
func codeAt(t testing.TB, secret string, at time.Time) string {
	t.Helper()
	code, err := totp.GenerateCode(secret, at)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

var shownKey = regexp.MustCompile(`<span class="mono key">([A-Z2-7 ]+)</span>`)

// appSecret returns the secret of the app that a page offers.
func appSecret(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	found := shownKey.FindStringSubmatch(w.Body.String())
	if found == nil || !strings.Contains(w.Body.String(), `<svg class="qr"`) {
		t.Fatalf("%d: no key and QR code on %s", w.Code, w.Body)
	}
	return strings.ReplaceAll(found[1], " ", "")
}

// addApp adds an authenticator app on the page Account and returns its secret. Its present code is used
// up.
func (b *browser) addApp() string {
	b.t.Helper()
	b.prove()
	page := b.post("/account/app")
	secret := appSecret(b.t, page)
	b.sent(b.again(page, "/account/app", "code", codeAt(b.t, secret, b.clock.Now()), "name", "phone"), "/account?done=factor")
	return secret
}

// recoveryCodes creates recovery codes on the page Account and returns them.
func (b *browser) recoveryCodes() []string {
	b.t.Helper()
	b.prove()
	w := b.post("/account/recovery-codes")
	codes := regexp.MustCompile(`(?:[A-Z2-7]{4}-){5}[A-Z2-7]{4}`).FindAllString(w.Body.String(), -1)
	if w.Code != 201 || len(codes) != 10 {
		b.t.Fatalf("got %d and %d codes, want 201 and 10", w.Code, len(codes))
	}
	return codes
}

// withPassword sends the login form of ann from a new browser and returns the browser.
func (b *browser) withPassword(want int) (*browser, *httptest.ResponseRecorder) {
	b.t.Helper()
	other := newBrowser(b.testApp)
	w := other.post("/login", "name", "ann", "password", operatorPassword, "next", "/calls?page=2")
	if w.Code != want {
		b.t.Fatalf("the login: got %d, want %d: %s", w.Code, want, w.Body)
	}
	return other, w
}

// A code of the app is needed after the password, works once, and for one step before and after.
func TestFactors_App(t *testing.T) {
	b := newDashboard(t)
	secret := b.addApp()
	b.says(b.get("/account"), 200, "phone", "authenticator app", "You have no recovery codes")
	other, page := b.withPassword(401)
	if body := page.Body.String(); strings.Contains(body, secret) || !strings.Contains(body, "Second factor") {
		t.Fatalf("the second step shows %s", body)
	}
	if w := other.get("/keys"); w.Code != 303 {
		t.Fatalf("between the steps: got %d for a page", w.Code)
	}
	b.clocks.Pass(5 * time.Minute)
	now := b.clock.Now()
	wrong := "000000"
	if codeAt(t, secret, now) == wrong {
		wrong = "111111"
	}
	for name, code := range map[string]string{
		"wrong": wrong, "empty": "", "two steps early": codeAt(t, secret, now.Add(2*totpStep)), "two steps late": codeAt(t, secret, now.Add(-2*totpStep)),
		"the code of the enrolment": codeAt(t, secret, now.Add(-5*time.Minute)),
	} {
		w := other.again(page, "/login", "login.code", code)
		if w.Code != 401 || !strings.Contains(w.Body.String(), "login.code") || strings.Contains(w.Body.String(), secret) {
			t.Errorf("%s: got %d %s, want 401 and the form again", name, w.Code, w.Body)
		}
	}
	for i, at := range []time.Duration{-totpStep, 0, totpStep} {
		code := codeAt(t, secret, now.Add(at))
		other, page := b.withPassword(401)
		other.sent(other.again(page, "/login", "login.code", code[:3]+" "+code[3:]), "/calls?page=2")
		if w := other.get("/keys"); w.Code != 200 {
			t.Fatalf("step %d: got %d after the login", i, w.Code)
		}
		again, page := b.withPassword(401)
		if w := again.again(page, "/login", "login.code", code); w.Code != 401 {
			t.Errorf("step %d: got %d for the code that was used, want 401", i, w.Code)
		}
	}
	third, page := b.withPassword(401)
	if w := third.again(page, "/login", "login.code", codeAt(t, secret, now)); w.Code != 401 {
		t.Errorf("an earlier code than the last accepted one: got %d, want 401", w.Code)
	}
}

// The second step is only for the login that it belongs to, and only for ten minutes.
func TestFactors_StepEnds(t *testing.T) {
	b := newDashboard(t)
	secret := b.addApp()
	later := func(change func(other *browser)) {
		t.Helper()
		other, page := b.withPassword(401)
		change(other)
		w := other.again(page, "/login", "login.code", codeAt(t, secret, b.clock.Now()))
		if w.Code != 401 || strings.Contains(w.Body.String(), "login.code") {
			t.Errorf("got %d %s, want the login form with 401", w.Code, w.Body)
		}
	}
	later(func(*browser) { b.clocks.Pass(stepSpan + time.Second) })
	later(func(other *browser) {
		b.clocks.Pass(time.Minute)
		other.jar.SetCookies(&url.URL{Scheme: "http", Host: "127.0.0.1:8081"}, nil)
		if err := b.Operators.SetPassword(AuditContext{Now: b.clock.Now()}, 1, "another good password", nil); err != nil {
			t.Fatal(err)
		}
	})
	other := newBrowser(b.testApp)
	if w := other.post("/login", "login.code", "123456"); w.Code != 401 || !strings.Contains(w.Body.String(), "expired") {
		t.Errorf("a code without the first step: got %d %s", w.Code, w.Body)
	}
}

// Ten wrong codes stop further guesses, but not those from a browser that the operator uses.
func TestFactors_Guessed(t *testing.T) {
	b := newDashboard(t)
	secret := b.addApp()
	b.clocks.Pass(5 * time.Minute)
	stranger, page := b.withPassword(401)
	for range codesByAccount {
		if w := stranger.again(page, "/login", "login.code", "12345"); w.Code != 401 {
			t.Fatalf("got %d, want 401", w.Code)
		}
	}
	w := stranger.again(page, "/login", "login.code", codeAt(t, secret, b.clock.Now()))
	if w.Code != 429 || w.Header().Get("Retry-After") == "" {
		t.Errorf("the right code after ten wrong ones: got %d, want 429 with Retry-After", w.Code)
	}
	b.post("/logout")
	page = b.post("/login", "name", "ann", "password", operatorPassword)
	b.sent(b.again(page, "/login", "login.code", codeAt(t, secret, b.clock.Now())), "/keys")
}

// A recovery code works once in place of an app's code, and tells webhooks about it.
func TestFactors_RecoveryCodes(t *testing.T) {
	v := newReceiver(t)
	b := newDashboard(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true })
	b.hook(v.URL, "", FactorReset)
	b.prove()
	b.says(b.post("/account/recovery-codes"), 409, "Add an authenticator app or a passkey first")
	b.addApp()
	old := b.recoveryCodes()
	codes := b.recoveryCodes()
	other, page := b.withPassword(401)
	if w := other.again(page, "/login", "login.code", old[0]); w.Code != 401 {
		t.Errorf("a replaced code: got %d, want 401", w.Code)
	}
	other.sent(other.again(page, "/login", "login.code", " "+strings.ToLower(strings.ReplaceAll(codes[3], "-", ""))), "/calls?page=2")
	again, page := b.withPassword(401)
	if w := again.again(page, "/login", "login.code", codes[3]); w.Code != 401 {
		t.Errorf("a code that was used: got %d, want 401", w.Code)
	}
	b.says(b.get("/account"), 200, "9 recovery codes are left")
	b.testApp.send()
	if got := v.all(); len(got) != 1 || !strings.Contains(got[0].body, `"way":"recovery_code"`) || !strings.Contains(got[0].body, `"recovery_codes":9`) {
		t.Errorf("the webhook got %v", got)
	}
	err := b.Store.View(func(tx *Tx) error {
		op, err := b.Operators.Get(tx, 1)
		for _, c := range op.Recovery {
			for _, code := range codes {
				if strings.Contains(string(c.Hash), cleanCode(code)) {
					t.Errorf("the code %s is stored as it is", code)
				}
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Where a second factor is required, the first login sets it up before the session begins.
func TestFactors_Required(t *testing.T) {
	b := newDashboard(t)
	b.accounts.o.SecondFactor = true
	other, page := b.withPassword(401)
	secret := appSecret(t, page)
	if w := other.get("/keys"); w.Code != 303 {
		t.Fatalf("before the set-up: got %d for a page", w.Code)
	}
	wrong := other.again(page, "/login", "login.code", "000000x")
	if wrong.Code != 401 || appSecret(t, wrong) != secret {
		t.Fatalf("a wrong code: got %d; want 401 and the same app", wrong.Code)
	}
	late, latePage := b.withPassword(401)
	other.sent(other.again(wrong, "/login", "login.code", codeAt(t, secret, b.clock.Now())), "/calls?page=2")
	if w := late.again(latePage, "/login", "login.code", codeAt(t, appSecret(t, latePage), b.clock.Now())); w.Code != 401 {
		t.Errorf("a second set-up at the same time: got %d, want 401", w.Code)
	}
	_, page = b.withPassword(401)
	if shownKey.MatchString(page.Body.String()) {
		t.Error("the next login offers another app")
	}
	other.prove()
	factor := objectOf(t, other.operateBy("GET", "/admin/v1/factors", ""))["factors"].([]any)[0].(map[string]any)
	other.says(other.post(fmt.Sprintf("/account/factors/%v/remove", factor["id"])), 409, "A second factor is required")
}

// An operator whose password is from the environment needs a link to set up the first second factor.
func TestFactors_Environment(t *testing.T) {
	b := newDashboard(t)
	b.accounts.o.SecondFactor = true
	b.change(func(op *operator, _ *loginSession) { op.Initial = true })
	_, page := b.withPassword(403)
	if body := page.Body.String(); !strings.Contains(body, "latchkey admin enroll") || shownKey.MatchString(body) {
		t.Fatalf("got %s", body)
	}
	link := b.operate(201, "POST", "/admin/v1/operators/1/enroll-link", "")["path"].(string)
	open := func() (*browser, *httptest.ResponseRecorder) {
		other := newBrowser(b.testApp)
		return other, other.again(other.get(link), "/login", "name", "ann", "password", operatorPassword)
	}
	other, page := open()
	other.sent(other.again(page, "/login", "login.code", codeAt(t, appSecret(t, page), b.clock.Now())), "/keys")
	b.operate(409, "POST", "/admin/v1/operators/1/enroll-link", "")
	b.operate(200, "PATCH", "/admin/v1/operators/1", `{"reset_factors": true}`)
	_, _ = open()
	b.clocks.Pass(enrollSpan + time.Second)
	if _, page := open(); page.Code != 403 {
		t.Errorf("after %s: got %d, want 403", enrollSpan, page.Code)
	}
	if err := b.Operators.SetPassword(AuditContext{Now: b.clock.Now()}, 1, operatorPassword, nil); err != nil {
		t.Fatal(err)
	}
	_, page = b.withPassword(401)
	appSecret(t, page) // a password of one's own needs no link
}

// A confirmation needs a code as well, on the page and for JSON.
func TestFactors_Confirm(t *testing.T) {
	b := newDashboard(t)
	secret := b.addApp()
	b.change(func(_ *operator, login *loginSession) { login.ProvenAt = time.Time{} })
	b.clocks.Pass(time.Minute)
	if w := b.operateBy("POST", "/admin/v1/confirm", `{"password": "`+operatorPassword+`"}`); w.Code != 400 || !strings.Contains(w.Body.String(), "code is missing") {
		t.Errorf("no code: got %d %s", w.Code, w.Body)
	}
	if w := b.operateBy("POST", "/admin/v1/confirm", `{"password": "wrong", "code": "`+codeAt(t, secret, b.clock.Now())+`"}`); w.Code != 400 {
		t.Errorf("a wrong password: got %d %s", w.Code, w.Body)
	}
	page := b.post("/account/recovery-codes")
	if page.Code != 403 || !strings.Contains(page.Body.String(), "confirm.code") {
		t.Fatalf("got %d %s", page.Code, page.Body)
	}
	if w := b.again(page, "/account/recovery-codes", "confirm.password", operatorPassword, "confirm.code", "1"); w.Code != 400 || !strings.Contains(w.Body.String(), "The code is wrong") {
		t.Errorf("a wrong code: got %d %s", w.Code, w.Body)
	}
	if w := b.again(page, "/account/recovery-codes", "confirm.password", operatorPassword, "confirm.code", codeAt(t, secret, b.clock.Now())); w.Code != 201 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	b.change(func(_ *operator, login *loginSession) { login.ProvenAt = time.Time{} })
	b.clocks.Pass(time.Minute)
	if w := b.operateBy("POST", "/admin/v1/confirm", `{"password": "`+operatorPassword+`", "code": "`+codeAt(t, secret, b.clock.Now())+`"}`); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

// Nobody changes the factors of another operator, except an admin who removes all of them.
func TestFactors_Others(t *testing.T) {
	b := newDashboard(t)
	secret := b.addApp()
	codes := b.recoveryCodes()
	other, _ := b.second("bob", RoleAdmin)
	other.prove()
	for _, r := range [][2]string{{"PATCH", `{"name": "x"}`}, {"DELETE", ""}} {
		if w := other.operateBy(r[0], "/admin/v1/factors/1", r[1]); w.Code != 404 {
			t.Errorf("%s of another operator's factor: got %d, want 404", r[0], w.Code)
		}
	}
	offer := objectOf(t, b.operateBy("POST", "/admin/v1/factors/totp", ""))
	body := fmt.Sprintf(`{"ticket": %q, "code": %q}`, offer["ticket"], codeAt(t, offer["secret"].(string), b.clock.Now()))
	if w := other.operateBy("POST", "/admin/v1/factors", body); w.Code != 400 {
		t.Errorf("the offer of another operator: got %d, want 400", w.Code)
	}
	if w := b.operateBy("POST", "/admin/v1/factors", body); w.Code != 201 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := b.operateBy("POST", "/admin/v1/factors", body); w.Code != 409 {
		t.Errorf("the same offer again: got %d, want 409", w.Code)
	}
	for i, want := range []int{201, 409} { // three apps are the most
		offer := objectOf(t, b.operateBy("POST", "/admin/v1/factors/totp", ""))
		body := fmt.Sprintf(`{"ticket": %q, "code": %q}`, offer["ticket"], codeAt(t, offer["secret"].(string), b.clock.Now()))
		if w := b.operateBy("POST", "/admin/v1/factors", body); w.Code != want {
			t.Errorf("app %d: got %d, want %d", i+3, w.Code, want)
		}
	}
	b.operate(403, "POST", "/admin/v1/factors/totp", "")
	viewer, _ := b.second("vic", RoleViewer)
	if w := viewer.operateBy("GET", "/admin/v1/factors?operator=1", ""); w.Code != 403 {
		t.Errorf("a viewer lists an admin's factors: got %d, want 403", w.Code)
	}
	if w := b.operateBy("PATCH", "/admin/v1/operators/1", `{"reset_factors": true}`); w.Code != 403 {
		t.Errorf("the own factors all at once: got %d, want 403", w.Code)
	}
	other.says(other.get("/operators/1"), 200, "Remove second factors")
	other.sent(other.post("/operators/1/reset-factors"), "/operators/1?done=saved")
	if w := b.get("/keys"); w.Code != 303 {
		t.Errorf("the session of the operator: got %d, want the login page", w.Code)
	}
	if left := b.operate(200, "GET", "/admin/v1/factors", ""); left["count"] != 0.0 {
		t.Errorf("got %v, want no factors", left)
	}
	b.withPassword(303)
	log := auditText(t, b.testApp)
	for _, action := range []string{"POST /admin/v1/factors", "POST /admin/v1/recovery-codes", "PATCH /admin/v1/operators/:id"} {
		if !strings.Contains(log, `"`+action+`"`) {
			t.Errorf("the audit log has no entry of %s", action)
		}
	}
	wantNoSecrets(t, "the audit log", log, append(codes, secret))
}

// A form that was sent without a session is kept through both steps of the login.
func TestFactors_FormKept(t *testing.T) {
	b := newDashboard(t)
	secret := b.addApp()
	b.clocks.Pass(time.Minute)
	other := newBrowser(b.testApp)
	page := other.post("/owners", "name", "kept by two steps")
	page = other.again(page, "/owners", "login.name", "ann", "login.password", operatorPassword)
	if page.Code != 401 || !strings.Contains(page.Body.String(), "kept by two steps") {
		t.Fatalf("got %d %s", page.Code, page.Body)
	}
	page = other.again(page, "/owners", "login.code", "1")
	w := other.again(page, "/owners", "login.code", codeAt(t, secret, b.clock.Now()))
	if w.Code != 303 || !strings.Contains(fmt.Sprint(b.operate(200, "GET", "/admin/v1/owners", "")), "kept by two steps") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}
