package main

import (
	"context"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestBrowser_Keys rotates a key and ends the overlap early, and looks at a
// list of 10,000 keys on a phone.
func TestBrowser_Keys(t *testing.T) {
	p := openBrowser(t)
	ctx := context.Background()
	post := func(path string, body, into any) {
		t.Helper()
		if err := p.socket.Do(ctx, "POST", path, body, into); err != nil {
			t.Fatal(err)
		}
	}
	post("/admin/v1/operators", map[string]any{"name": "Ann", "password": operatorPassword}, nil)
	var made struct{ ID, Key string }
	post("/admin/v1/keys", map[string]any{"name": "ci-runner", "permissions": []string{"can_read_agents"}, "metadata": map[string]any{"note": strings.Repeat("unbroken", 30)}}, &made)
	wantStatus(t, p.api, made.Key, 200)

	page := "/keys/" + made.ID
	p.do(chromedp.Navigate(p.admin+page), chromedp.SendKeys("#name", "Ann"), chromedp.SendKeys("#password", operatorPassword+kb.Enter))
	p.sees("1 request in the last 7 days")
	p.narrow(page, page+"/rotate", page+"/revoke")
	p.do(chromedp.Navigate(p.admin+page), chromedp.Click(`a[data-dialog="rotate"]`), chromedp.WaitVisible("#rotate"), chromedp.Click("#rotate button.main"))
	p.sees("It is shown only now")
	secret := p.value("#secret")
	wantStatus(t, p.api, made.Key, 200)
	if p.sees("Waiting for the first request"); strings.Contains(p.text(), "First request seen") {
		t.Error("a request with the earlier secret counts for the new one")
	}
	wantStatus(t, p.api, secret, 200)
	p.sees("First request seen")
	var guarded bool
	p.do(chromedp.Evaluate(`!window.dispatchEvent(new Event("beforeunload", {cancelable: true}))`, &guarded))
	if !guarded {
		t.Error("the page may be left before the key is said to be stored")
	}
	p.do(chromedp.Click("#stored"), chromedp.Evaluate(`!window.dispatchEvent(new Event("beforeunload", {cancelable: true}))`, &guarded))
	if guarded {
		t.Error("the page may not be left though the key is stored")
	}
	p.do(chromedp.Click(".actions a.button"))
	p.sees("Finish early")
	p.do(chromedp.Click(`form[action$="/finish"] button`))
	p.sees("The earlier secrets are ended")
	wantStatus(t, p.api, made.Key, 401)
	wantStatus(t, p.api, secret, 200)

	if err := p.socket.Send(ctx, "POST", "/admin/v1/keys/import", "application/json", []byte(importMany(t, 10_000)), nil); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(p.admin+"/keys"), chromedp.SendKeys("input[name=search]", "ci-runner"+kb.Enter))
	p.sees("1 found")
	p.narrow("/keys", "/keys?sort=name&page=7", "/keys?status=&search=nothing-fits")
}
