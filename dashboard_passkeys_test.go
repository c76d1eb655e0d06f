package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// authenticate adds a virtual authenticator to the browser: one that verifies its user and keeps the
// passkeys that it creates.
func (p *tab) authenticate() (id webauthn.AuthenticatorID) {
	p.t.Helper()
	p.do(webauthn.Enable(), chromedp.ActionFunc(func(ctx context.Context) (err error) {
		id, err = webauthn.AddVirtualAuthenticator(&webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportUsb, HasResidentKey: true, HasUserVerification: true, IsUserVerified: true,
			AutomaticPresenceSimulation: true,
		}).Do(ctx)
		return err
	}))
	return id
}

// held returns the passkeys of a virtual authenticator.
func (p *tab) held(id webauthn.AuthenticatorID) (list []*webauthn.Credential) {
	p.t.Helper()
	p.do(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		list, err = webauthn.GetCredentials(id).Do(ctx)
		return err
	}))
	return list
}

// named goes from an IP address, which cannot have passkeys, to localhost.
func (p *tab) named() { p.admin = strings.Replace(p.admin, "127.0.0.1", "localhost", 1) }

// proves types the password on the page that asks for it.
func (p *tab) proves() {
	p.t.Helper()
	p.sees("Confirm your password")
	p.fill("#password", operatorPassword)
	p.do(chromedp.Evaluate("window.left = true", nil))
	p.press(kb.Enter)
	p.wait("the page after the password", `!window.left && document.readyState === "complete"`)
}

// adds goes to the page that adds a passkey.
func (p *tab) adds() {
	p.t.Helper()
	p.open("/account")
	p.click(`form[action="/account/passkeys"] button`)
}

// leave signs out.
func (p *tab) leave() {
	p.t.Helper()
	p.click("header form.who button")
	p.sees("Forgotten?")
}

const passkeyButton = "[data-passkey] button"

// TestBrowser_Passkeys is the life of a passkey: added, used in each way, renamed and removed.
func TestBrowser_Passkeys(t *testing.T) {
	source := axeSource(t)
	p := openBrowser(t)
	p.load(source)
	p.operator("/account")
	p.sees("Passkeys work only at http://localhost:")
	p.adds()
	p.proves()
	p.sees("Passkeys work only at http://localhost:")
	p.hidden(passkeyButton)
	p.named()
	p.open("/login")
	if strings.Contains(p.text(), "passkey") {
		t.Error("the login offers passkeys before there is one")
	}
	p.login(operatorPassword)
	p.sees("No key yet")

	id := p.authenticate()
	p.adds()
	p.proves()
	p.look("a new passkey")
	p.fill("#name", "laptop")
	p.click(passkeyButton)
	p.sees("Added. You can log in with it.")
	if p.value(`input[aria-label="Name of laptop"]`) != "laptop" || strings.Contains(p.text(), "work only at") {
		t.Errorf("got %s", p.text())
	}
	p.adds()
	p.click(passkeyButton)
	p.sees("This device has a passkey for this account already.")
	if list := p.held(id); len(list) != 1 || list[0].RpID != "localhost" || !list[0].IsResidentCredential {
		t.Fatalf("the authenticator has %+v", list)
	}

	// Alone.
	p.open("/account")
	p.look("an account with a passkey")
	p.leave()
	p.look("the login with a passkey")
	p.click(passkeyButton)
	p.sees("No key yet")
	// In place of the password that confirms an action.
	p.open("/operators")
	p.fill("#name", "Bob")
	p.press(kb.Enter)
	p.sees("Confirm your password")
	p.look("the confirmation with a passkey")
	p.click(passkeyButton)
	p.sees("Invitation")
	// After the password.
	p.leave()
	p.login(operatorPassword)
	p.sees("Second factor")
	p.click(passkeyButton)
	p.sees("No key yet")

	// What the authenticator says is checked, not only that it says something.
	p.leave()
	for _, bad := range []*webauthn.SetResponseOverrideBitsParams{
		webauthn.SetResponseOverrideBits(id).WithIsBogusSignature(true), webauthn.SetResponseOverrideBits(id).WithIsBadUV(true), webauthn.SetResponseOverrideBits(id).WithIsBadUP(true),
	} {
		p.do(bad)
		p.follow(passkeyButton)
		p.sees("The passkey was not accepted.")
	}
	p.do(webauthn.SetResponseOverrideBits(id).WithIsBogusSignature(false).WithIsBadUV(false).WithIsBadUP(false), webauthn.SetUserVerified(id, false))
	p.open("/login")
	p.click(passkeyButton)
	p.sees("This was cancelled, or took too long")
	p.do(webauthn.SetUserVerified(id, true))
	p.click(passkeyButton)
	p.sees("No key yet")

	// A copy of the authenticator, which lags behind.
	copied := p.held(id)[0]
	copied.SignCount = 1
	p.leave()
	p.do(webauthn.ClearCredentials(id), webauthn.AddCredential(id, copied))
	p.click(passkeyButton)
	p.sees("its counter went back")
	p.login(operatorPassword)
	p.sees("Second factor")
	p.click(passkeyButton)
	p.sees("its counter went back")
	copied.SignCount = 100
	p.do(webauthn.ClearCredentials(id), webauthn.AddCredential(id, copied))
	p.click(passkeyButton)
	p.sees("No key yet")

	p.open("/account")
	p.fill(`input[aria-label="Name of laptop"]`, "desk")
	p.press(kb.Enter)
	p.sees("Saved.")
	p.click(`button[aria-label="Remove desk"]`)
	p.sees("Confirm your password")
	p.click(passkeyButton)
	p.sees("Removed. It is no longer accepted.")
	p.leave()
	p.hidden(passkeyButton)
	p.login(operatorPassword)
	p.sees("No key yet")
}

// TestBrowser_PasskeyFirst has the first operator and an invited one begin with a passkey, without a
// password.
func TestBrowser_PasskeyFirst(t *testing.T) {
	p := openBrowser(t)
	p.named()
	var link struct{ Path, URL string }
	p.post("/admin/v1/setup-link", nil, &link)
	if !strings.HasPrefix(link.URL, p.admin+"/setup") {
		t.Errorf("got the link %s, want it at %s", link.URL, p.admin)
	}
	id := p.authenticate()
	p.do(emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(p.admin+link.Path), chromedp.WaitVisible("noscript p"), emulation.SetScriptExecutionDisabled(false))
	p.open(link.Path)
	p.click(passkeyButton) // without a name
	p.focused("#name")
	p.fill("#name", "Ann")
	p.click(passkeyButton)
	p.sees("No key yet")
	p.open("/account")
	p.sees("You have no password.")
	p.click(`button[aria-label="Remove Passkey"]`)
	p.sees("Confirm that it is you")
	p.click(passkeyButton)
	p.sees("without this passkey you could not log in")
	p.leave()
	p.click(passkeyButton)
	p.sees("No key yet")

	p.open("/account")
	p.click(`form[action="/account"] button`)
	p.sees("Confirm that it is you")
	p.click(passkeyButton)
	p.sees("New password")
	p.fill("#password", operatorPassword)
	p.press(kb.Enter)
	p.sees("Current password")
	p.leave()

	p.post("/admin/v1/operators/invite", map[string]any{"name": "Bob", "role": "viewer"}, &link)
	p.open(link.Path)
	p.sees("or use a passkey in its place")
	p.click(passkeyButton)
	p.sees("viewer")
	if list := p.held(id); len(list) != 2 {
		t.Errorf("the authenticator has %d passkeys, want 2", len(list))
	}
}

// The pages say where passkeys work, and what a changed base_url has done to them.
func TestPasskeys_Pages(t *testing.T) {
	p := newPasskeyTest(t)
	at := func(host, path string) *httptest.ResponseRecorder {
		r := p.request("GET", path)
		r.Host = host
		return p.send(r)
	}
	if w := at("localhost:8081", "/account"); !strings.Contains(w.Body.String(), `data-elsewhere="http://localhost:8081" hidden`) {
		t.Errorf("at the right address: got %s", w.Body)
	}
	if w := at("127.0.0.1:8081", "/account"); !strings.Contains(w.Body.String(), `data-elsewhere="http://localhost:8081">Passkeys work only at http://localhost:8081.`) {
		t.Errorf("at an IP address: got %s", w.Body)
	}
	login := p.browser.get("/login")
	p.says(login, 200, "Log in with a passkey", "Passkeys need JavaScript", `autocomplete="username webauthn"`)
	if strings.Contains(login.Body.String(), "do not work here") {
		t.Error("the login page says that passkeys are lost")
	}
	p.Passkeys.At("https://keys.example.com")
	p.says(p.browser.get("/login"), 200, "The stored passkeys were made for localhost and do not work here.")
	p.says(p.browser.get("/account"), 200, "made for localhost, does not work here")
	p.Passkeys.At("http://192.0.2.1:8081")
	p.says(p.browser.get("/account"), 200, "There can be no passkeys at http://192.0.2.1:8081", "https://keys.example.com")
	if w := p.browser.get("/account"); strings.Contains(w.Body.String(), "Add a passkey") {
		t.Error("a passkey is offered where there can be none")
	}
	hosts, err := p.Passkeys.Stored()
	if err != nil || len(hosts) != 1 || hosts["localhost"] != 1 {
		t.Errorf("got %v, %v", hosts, err)
	}
	if list := PasskeyWarnings("https://keys.example.com", hosts); len(list) != 1 || !strings.Contains(list[0], "made for localhost do not work at https://keys.example.com (stored: 1)") {
		t.Errorf("got the warnings %q", list)
	}
	if list := PasskeyWarnings("http://localhost:9", hosts); list != nil {
		t.Errorf("got the warnings %q", list)
	}
}
