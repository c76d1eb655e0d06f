package main

import (
	"regexp"
	"strings"
	"testing"
)

// The pages of admin tokens create one, show it once, rotate it and revoke it.
func TestDashboard_Tokens(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/tokens"), 200, "No admin tokens yet")
	b.says(b.post("/tokens", "name", "ci", "scope", "read"), 403, "confirm")
	b.prove()
	b.says(b.get("/tokens/new"), 200, "claims calls and reports their results", "never: a lost token stays valid")
	form := formOf(t, b.get("/tokens/new").Body.String(), "/tokens")
	if form.Get("scope") != "read" || form.Get("expiry") != "1y" {
		t.Errorf("the form begins with %v, want the scope read and a year", form)
	}
	b.says(b.post("/tokens", "name", " ", "scope", "read", "expiry", "1y"), 400, "name is missing")
	b.says(b.post("/tokens", "name", "ci", "scope", "", "expiry", "1y"), 400, "scope must be one of")
	b.says(b.post("/tokens", "name", "ci", "scope", "read", "expiry", "date", "expires", "soon"), 400, "Expires must be a date", `value="ci"`)
	b.says(b.post("/tokens", "name", "ci", "scope", "read", "expiry", "date", "expires", "2020-01-01"), 400, "not in the future")
	b.says(b.post("/tokens", "name", "ci", "scope", "read", "expiry", "1y", "ips", "here"), 400, "allowed_ips[0]")
	shown := regexp.MustCompile(TokenPrefix + `[0-9A-Za-z]{20,}`)
	made := b.post("/tokens", "name", "ci", "scope", "read", "expiry", "never", "ips", "192.0.2.0/24, 2001:db8::1")
	b.says(made, 201, "only time that the token is shown", "never ends")
	first := shown.FindString(made.Body.String())
	if w := b.askFrom(usualClient, first); w.Code != 200 {
		t.Fatalf("the token %q: got %d %s", first, w.Code, w.Body)
	}
	list := b.tells("/tokens", "ci", "192.0.2.0/24", "2001:db8::1/128", "operator 1 Ann", "never", "/tokens/1/rotate", "/tokens/1/revoke")
	if strings.Contains(list, first) {
		t.Error("the list shows the token")
	}
	b.says(b.get("/tokens/1/rotate"), 200, "Rotate ci?")
	b.says(b.get("/tokens/9/rotate"), 404, "no admin token with this id")
	b.says(b.post("/tokens/1/rotate", "overlap", "x"), 400, "number of seconds")
	rotated := b.post("/tokens/1/rotate", "overlap", "3600")
	b.says(rotated, 200, "The old secret", "stays valid until")
	second := shown.FindString(rotated.Body.String())
	for _, secret := range []string{first, second} {
		if w := b.askFrom(usualClient, secret); w.Code != 200 {
			t.Errorf("after the rotation: got %d %s", w.Code, w.Body)
		}
	}
	b.says(b.get("/tokens/1/revoke"), 200, "Revoke ci?", "cannot be undone")
	if w := b.post("/tokens/1/revoke"); w.Code != 303 || w.Header().Get("Location") != "/tokens?done=revoke" {
		t.Errorf("got %d to %s", w.Code, w.Header().Get("Location"))
	}
	for _, secret := range []string{first, second} {
		if w := b.askFrom(usualClient, secret); w.Code != 401 {
			t.Errorf("revoked: got %d %s", w.Code, w.Body)
		}
	}
	if list := b.tells("/tokens", "revoked"); strings.Contains(list, "/tokens/1/revoke") {
		t.Error("a revoked token can be revoked")
	}
}
