package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// TestBrowser is the first hour of an operator: the set-up link, a key, its
// first request, another tab, its end.
func TestBrowser(t *testing.T) {
	p := openBrowser(t)
	var link struct{ Path string }
	p.post("/admin/v1/setup-link", nil, &link)
	p.open(link.Path)
	p.login(operatorPassword)
	p.sees("No key yet")
	p.open(link.Path)
	p.sees("This link was used")

	p.open("/keys")
	p.click("header form button")
	p.sees("Forgotten?")
	p.login("wrong password")
	p.sees("The name or the password is wrong")
	p.login(operatorPassword)
	p.sees("No key yet")

	// By the keyboard alone: the name has the focus, then the note and a preset.
	const name = `<script>alert(1)</script>`
	p.open("/keys/new")
	for _, keys := range []string{name, kb.Tab, "vault", kb.Tab, kb.Enter} {
		p.press(keys)
	}
	p.sees(name + " can read calls, read agents, read contacts and read calendar; 60 requests per minute")
	p.back()
	p.press(kb.Enter)
	p.sees("It is shown only now")
	p.sees("Waiting for the first request")
	secret := p.value("#secret")
	if !WellFormed(secret, "klen_") {
		t.Fatalf("got %q, want a key", secret)
	}
	p.click("[data-copy]")
	p.sees("API key copied.")
	wantStatus(t, p.api, secret, 200)
	p.sees("First request seen, from 127.0.0.1")

	second := p.another()
	second.open("/keys")
	second.sees(name) // as text
	p.front()
	p.click("#stored")
	p.click(".actions a.button")
	p.sees("sent as X-API-Key")
	if strings.Contains(p.text(), secret) {
		t.Error("the key is shown a second time")
	}
	wantStatus(t, p.api, secret, 200)
	p.sees("Requests per minute: 2 of 60") // by the script, on the page as it is

	second.front()
	second.sees("Requests per minute: 2 of 60")
	second.click("td a.name")
	second.click(`a[data-dialog="revoke"]`)
	second.visible("#revoke")
	second.sees("This cannot be undone")
	second.press(kb.Escape)
	second.hidden("#revoke")
	second.focused(`a[data-dialog="revoke"]`) // where it was before
	wantStatus(t, p.api, secret, 200)
	// By the keyboard alone: Cancel has the focus, the name stands before it.
	second.press(kb.Enter)
	second.visible("#revoke")
	second.focused("#revoke [data-close]")
	for range 8 { // more than the dialog has; the page behind it has none meanwhile
		second.press(kb.Tab)
		second.wait("the focus in the dialog", `document.activeElement === document.body || document.activeElement.closest("#revoke")`)
	}
	second.focus("#revoke [data-close]")
	second.back()
	second.focused("#confirm")
	second.press(name)
	second.press(kb.Enter)
	second.sees("Revoked: requests get 401")
	wantStatus(t, p.api, secret, 401)

	// The first tab still shows the key as it was.
	p.front()
	p.click(`form[action$="/pause"] button`)
	p.sees("The key was revoked on")
	p.open("/keys")
	p.sees("No key fits")

	second.front()
	second.open("/account")
	second.click(`form[action="/logout-everywhere"] button`)
	second.sees("Password")
	p.front()
	p.open("/keys")
	p.sees("Forgotten?") // the login: this tab's session has ended too
}

// TestBrowser_Forged has pages of other origins send forms and show frames, to
// a browser that has logged in.
func TestBrowser_Forged(t *testing.T) {
	p := openBrowser(t)
	var made struct{ ID, Key string }
	p.post("/admin/v1/keys", map[string]any{"name": "kept", "permissions": []string{"can_read_agents"}}, &made)
	p.operator("/keys")
	foreign := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		if r.URL.Path == "/frame" {
			_, _ = fmt.Fprintf(w, `<p>Framed<iframe src="%s/keys"></iframe>`, p.admin)
			return
		}
		_, _ = fmt.Fprintf(w, `<form method="post" action="%s/keys/%s/revoke"><input name="confirm" value="kept"><button>Win</button></form>`, p.admin, made.ID)
	}))
	defer foreign.Close()
	// One of the same host sends the login along, as cookies know no ports; one of
	// another host does not. Neither may do anything.
	for _, origin := range []string{foreign.URL, strings.Replace(foreign.URL, "127.0.0.1", "localhost", 1)} {
		p.open(origin + "/form")
		p.click("button")
		p.sees("This request came from another site")
		wantStatus(t, p.api, made.Key, 200)
	}
	p.open(foreign.URL + "/frame")
	var tree *page.FrameTree
	p.do(chromedp.ActionFunc(func(ctx context.Context) (err error) {
		tree, err = page.GetFrameTree().Do(ctx)
		return err
	}))
	if len(tree.ChildFrames) != 1 || tree.ChildFrames[0].Frame.UnreachableURL != p.admin+"/keys" {
		t.Errorf("got frames %+v, want the dashboard refused in one", tree.ChildFrames)
	}
	p.open("/keys") // the login holds
	p.sees("kept")
}

// TestBrowser_Expired opens a set-up link half an hour late, by the test clock.
func TestBrowser_Expired(t *testing.T) {
	a := newTestApp(t)
	link := a.operate(201, "POST", "/admin/v1/setup-link", "")["path"].(string)
	a.clocks.Pass(30*time.Minute + time.Second)
	door, err := a.AdminDoor()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(door)
	defer server.Close()
	p := &tab{t: t, ctx: startBrowser(t), admin: server.URL}
	p.open(link)
	p.sees("is older than 30 minutes")
	p.sees("latchkey admin setup-link")
	p.click(`main a[href="/login"]`)
	p.sees("There is no operator yet")
}

// TestBrowser_Records is a morning with the data: an agent, an event in the
// week, a webhook, a deletion with and without script.
func TestBrowser_Records(t *testing.T) {
	p := openBrowser(t)
	p.post("/admin/v1/schedules", map[string]any{"time_zone": "Europe/Berlin"}, nil)
	p.screen(1280, 900, "light")
	p.operator("/agents/new")
	p.sees("New agent") // the login leads to where one wanted to go

	// What was wrong is said beside what was typed; what is right is made.
	p.fill("#name", "Front desk")
	p.fill("#phone_number", "12")
	p.press(kb.Enter)
	p.sees("Number must be an E.164 number")
	if p.value("#name") != "Front desk" || p.value("#phone_number") != "12" {
		t.Error("what was typed is gone")
	}
	p.fill("#phone_number", "+4930555001")
	p.click("button.main")
	p.sees("Created.")
	p.fill("#name", "First desk")
	p.press(kb.Enter)
	p.sees("Saved.")

	// An event at its time in the week, found by the keyboard.
	p.open("/calendar/events/new?start_time=2026-03-02T09:00&end_time=2026-03-02T09:45")
	p.fill("#title", "Fitting")
	p.press(kb.Enter)
	p.sees("Times of Europe/Berlin")
	p.click(".crumb a")
	p.sees("2 March to 8 March 2026")
	var place struct{ Top, Height float64 }
	p.do(chromedp.Evaluate(`(() => {
		const event = document.querySelector(".week foreignObject a").getBoundingClientRect(), grid = document.querySelector(".week .day svg").getBoundingClientRect();
		return {Top: event.top - grid.top, Height: event.height};
	})()`, &place))
	if place.Top < 119 || place.Top > 122 || place.Height < 40 || place.Height > 46 { // the grid begins at 7:00, a minute is one pixel high
		t.Errorf("9:00 to 9:45 is at %+v", place)
	}
	p.focus(".week foreignObject a")
	p.press(kb.Enter)
	p.sees("Cancel the event")
	p.fill("#reason", "ill")
	p.click("form[action$='/cancel'] button")
	p.sees("Cancelled: ill")

	p.open("/webhooks/new")
	p.fill("#name", evil)
	p.fill("#url", "https://hooks.example.invalid/"+strings.Repeat("x", 300))
	p.click("input[value='call.ended']")
	p.click("button.main")
	p.sees("Its secret is shown this once")
	if secret := p.value("#secret"); len(secret) < 32 {
		t.Errorf("got the secret %q", secret)
	}
	p.click(".actions a.button")
	p.sees(evil)

	// The dialog says what a deletion does; without script a page does.
	p.open("/agents/1")
	p.click("a.danger")
	p.visible("#delete")
	p.sees("Delete First desk?")
	p.press(kb.Escape)
	p.hidden("#delete")
	p.do(emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(p.admin+"/agents/1/delete"))
	p.do(chromedp.WaitVisible("main form button.danger"), chromedp.Click("main form button.danger"), chromedp.WaitVisible(".empty"))
	p.do(emulation.SetScriptExecutionDisabled(false))
	p.open("/agents")
	p.sees("No agent yet")

	p.screen(360, 740, "light")
	p.open("/agents")
	p.click(".menu summary")
	p.click(`.menu a[href="/owners"]`)
	p.sees("Whom keys act for")
}

// wantStatus sends a request with a key and wants a status.
func wantStatus(t *testing.T, api, key string, want int) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), "GET", api+"/api/v1/agents", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-API-Key", key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Body.Close(); answer.StatusCode != want {
		t.Errorf("got %d, want %d", answer.StatusCode, want)
	}
}
