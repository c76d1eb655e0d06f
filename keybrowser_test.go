package main

import (
	"context"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestBrowser_Keys rotates a key and ends the overlap early, and looks at a
// list of 10,000 keys, on a screen and on a phone.
func TestBrowser_Keys(t *testing.T) {
	p := openBrowser(t)
	var made struct{ ID, Key string }
	p.post("/admin/v1/keys", map[string]any{"name": "ci-runner", "permissions": []string{"can_read_agents"}}, &made)
	wantStatus(t, p.api, made.Key, 200)

	path := "/keys/" + made.ID
	p.operator(path)
	p.sees("1 request in the last 7 days")
	p.click(`a[data-dialog="rotate"]`)
	p.visible("#rotate")
	p.click("#rotate button.main")
	p.sees("It is shown only now")
	secret := p.value("#secret")
	p.sees("Waiting for the first request")
	wantStatus(t, p.api, made.Key, 200)
	wantStatus(t, p.api, secret, 200)
	p.sees("First request seen")
	leaving := func() (asks bool) {
		t.Helper()
		p.do(chromedp.Evaluate(`!window.dispatchEvent(new Event("beforeunload", {cancelable: true}))`, &asks))
		return asks
	}
	if !leaving() {
		t.Error("the page may be left before the key is said to be stored")
	}
	if p.click("#stored"); leaving() {
		t.Error("the page may not be left though the key is stored")
	}
	p.click(".actions a.button")
	p.sees("is still used")
	p.click(`form[action$="/finish"] button`)
	p.sees("Nothing was ended")
	wantStatus(t, p.api, made.Key, 200)
	p.focus("#unused")
	p.press(kb.End) // whoever uses them
	p.click(`form[action$="/finish"] button`)
	p.sees("The earlier secrets are ended")
	wantStatus(t, p.api, made.Key, 401)
	wantStatus(t, p.api, secret, 200)

	if err := p.socket.Send(context.Background(), "POST", "/admin/v1/keys/import", "application/json", []byte(importMany(t, 10_000)), nil); err != nil {
		t.Fatal(err)
	}
	p.open("/keys")
	p.fill("input[name=search]", "ci-runner")
	p.press(kb.Enter)
	p.sees("1 found")
	p.screen(360, 740, "dark")
	for _, path := range []string{"/keys", "/keys?sort=name&page=7", "/keys?status=&search=nothing-fits"} {
		p.open(path)
		p.fits(path, 360)
	}
	p.visible("input[name=search]") // a filter is set
	p.open("/keys")
	p.hidden("input[name=search]")
	p.click(".fold summary")
	p.visible("input[name=search]")
}
