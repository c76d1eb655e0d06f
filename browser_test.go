package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// page is the real program's dashboard in a real browser.
type page struct {
	t      *testing.T
	ctx    context.Context
	admin  string // address of the door
	api    string
	socket *Client
}

// openBrowser starts the program on an empty folder, and a browser.
func openBrowser(t *testing.T) *page {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatal("there is no chromium; install the package chromium")
	}
	data := filepath.Join(t.TempDir(), "data")
	p := serveReal(t, data)
	var line struct {
		AdminAddr string `json:"admin_addr"`
	}
	for text := range strings.Lines(p.out.String()) {
		if json.Unmarshal([]byte(text), &line) == nil && line.AdminAddr != "" {
			break
		}
	}
	// Not t.TempDir: the browser may still write while it is being removed.
	profile, err := os.MkdirTemp("", "browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(profile))
	for _, flag := range []string{"no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	// It complains of events that are newer than it. Its own cancel ends the
	// browser; chromedp.Cancel asks it to end, and waits for ever for the answer
	// of one that has ended.
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 5*time.Minute)
	t.Cleanup(cancel)
	return &page{t, ctx, "http://" + line.AdminAddr, p.url, NewSocketClient(filepath.Join(data, socketFile))}
}

func (p *page) do(actions ...chromedp.Action) {
	p.t.Helper()
	if err := chromedp.Run(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

func (p *page) text() (text string) {
	p.t.Helper()
	p.do(chromedp.Text("body", &text, chromedp.ByQuery))
	return text
}

// sees waits for a text that is on the page, or comes to it. A page that is
// being left answers with an error, which is no reason to give up.
func (p *page) sees(want string) {
	p.t.Helper()
	js := fmt.Sprintf("document.body !== null && document.body.innerText.includes(%q)", want)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		var found bool
		if err := chromedp.Run(p.ctx, chromedp.Evaluate(js, &found)); err == nil && found {
			return
		}
		select {
		case <-p.ctx.Done():
			p.t.Fatal(p.ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	p.t.Fatalf("the page does not say %q: %s", want, p.text())
}

func (p *page) value(selector string) (value string) {
	p.t.Helper()
	p.do(chromedp.Value(selector, &value, chromedp.ByQuery))
	return value
}

// narrow looks at pages on a phone: nothing may stand out to the side.
func (p *page) narrow(paths ...string) {
	p.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		for _, path := range paths {
			var wide int
			p.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
				chromedp.EmulateViewport(360, 740), chromedp.Navigate(p.admin+path), chromedp.Evaluate("document.documentElement.scrollWidth", &wide))
			if wide > 360 {
				p.t.Errorf("%s in %s is %d wide on a screen of 360", path, scheme, wide)
			}
		}
	}
	p.do(chromedp.EmulateReset())
}

// TestBrowser is the first hour of an operator: the set-up link, a key, its
// first request, another tab, its end.
func TestBrowser(t *testing.T) {
	p := openBrowser(t)
	ctx := context.Background()
	var link struct{ Path string }
	if err := p.socket.Do(ctx, "POST", "/admin/v1/setup-link", nil, &link); err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.Navigate(p.admin+link.Path), chromedp.SendKeys("#name", "Ann"), chromedp.SendKeys("#password", operatorPassword+kb.Enter))
	p.sees("No key yet")
	p.do(chromedp.Navigate(p.admin + link.Path))
	p.sees("This link was used")

	p.do(chromedp.Navigate(p.admin+"/keys"), chromedp.Click(`header form button`))
	p.do(chromedp.SendKeys("#name", "Ann"), chromedp.SendKeys("#password", "wrong password"+kb.Enter))
	p.sees("The name or the password is wrong")
	p.do(chromedp.SendKeys("#password", operatorPassword+kb.Enter))
	p.sees("No key yet")

	// By the keyboard alone: the name has the focus, then the note and a preset.
	const name = `<script>alert(1)</script>`
	p.do(chromedp.Navigate(p.admin+"/keys/new"), chromedp.KeyEvent(name), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent("vault"), chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
	p.sees(name + " can read calls, read agents, read contacts and read calendar; 60 requests per minute")
	p.do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(input.ModifierShift)), chromedp.KeyEvent(kb.Enter))
	p.sees("It is shown only now")
	p.sees("Waiting for the first request")
	secret := p.value("#secret")
	if !WellFormed(secret, "klen_") {
		t.Fatalf("got %q, want a key", secret)
	}
	p.do(chromedp.Click("[data-copy]"))
	p.sees("API key copied.")
	wantStatus(t, p.api, secret, 200)
	p.sees("First request seen, from 127.0.0.1")

	tab, cancel := chromedp.NewContext(p.ctx)
	defer cancel()
	second := *p
	second.ctx = tab
	second.do(chromedp.Navigate(p.admin + "/keys"))
	second.sees(name) // as text
	p.do(chromedp.Click("#stored"), chromedp.Click(".actions a.button"))
	p.sees("sent as header")
	if strings.Contains(p.text(), secret) {
		t.Error("the key is shown a second time")
	}
	p.narrow("/keys", "/keys/new", "/calls", "/account")

	p.do(chromedp.Navigate(p.admin+"/keys"), chromedp.Click("td a.name"))
	p.sees("sent as header")
	second.do(chromedp.Click("td a.name"), chromedp.Click(`a[data-dialog="revoke"]`), chromedp.WaitVisible("#revoke"))
	second.sees("This cannot be undone")
	second.do(chromedp.KeyEvent(kb.Escape), chromedp.WaitNotVisible("#revoke"))
	wantStatus(t, p.api, secret, 200)
	// By the keyboard alone: Cancel has the focus, the name stands before it.
	second.do(chromedp.Focus(`a[data-dialog="revoke"]`), chromedp.KeyEvent(kb.Enter), chromedp.WaitVisible("#revoke"))
	second.do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(input.ModifierShift)), chromedp.KeyEvent(name), chromedp.KeyEvent(kb.Enter))
	second.sees("Revoked: requests get 401")
	wantStatus(t, p.api, secret, 401)

	// The first tab still shows the key as it was.
	p.do(chromedp.Click(`form[action$="/pause"] button`))
	p.sees("The key was revoked on")
	p.do(chromedp.Navigate(p.admin + "/keys"))
	p.sees("No key fits")

	second.do(chromedp.Navigate(p.admin+"/account"), chromedp.Click(`form[action="/logout-everywhere"] button`))
	second.sees("Password")
	p.do(chromedp.Navigate(p.admin + "/keys"))
	p.sees("Password") // the login: this tab's session has ended too
}

// TestBrowser_Records is a morning with the data: an agent, an event in the
// week, a deletion with and without script, the pages on a phone.
func TestBrowser_Records(t *testing.T) {
	p := openBrowser(t)
	ctx := context.Background()
	post := func(path string, body map[string]any) {
		t.Helper()
		if err := p.socket.Do(ctx, "POST", "/admin/v1/"+path, body, nil); err != nil {
			t.Fatal(err)
		}
	}
	post("operators", map[string]any{"name": "Ann", "password": operatorPassword})
	post("schedules", map[string]any{"time_zone": "Europe/Berlin"})
	p.do(chromedp.EmulateViewport(1280, 900), chromedp.Navigate(p.admin+"/agents/new"), chromedp.SendKeys("#name", "Ann"), chromedp.SendKeys("#password", operatorPassword+kb.Enter))
	p.sees("New agent") // the login leads to where one wanted to go

	// What was wrong is said beside what was typed; what is right is made.
	p.do(chromedp.SendKeys("#name", "Front desk"), chromedp.SendKeys("#phone_number", "12"+kb.Enter))
	p.sees("Number must be an E.164 number")
	if p.value("#name") != "Front desk" || p.value("#phone_number") != "12" {
		t.Error("what was typed is gone")
	}
	p.do(chromedp.SetValue("#phone_number", "+4930555001"), chromedp.Click("button.main"))
	p.sees("Created.")

	// An event at its time in the week, found by the keyboard.
	p.do(chromedp.Navigate(p.admin+"/calendar/events/new?start_time=2026-03-02T09:00&end_time=2026-03-02T09:45"), chromedp.SendKeys("#title", "Fitting"+kb.Enter))
	p.sees("Times of Europe/Berlin")
	p.do(chromedp.Click(".crumb a"))
	p.sees("2 March to 8 March 2026")
	var place struct{ Top, Height float64 }
	p.do(chromedp.Evaluate(`(() => {
		const event = document.querySelector(".week foreignObject a").getBoundingClientRect(), grid = document.querySelector(".week .day svg").getBoundingClientRect();
		return {Top: event.top - grid.top, Height: event.height};
	})()`, &place))
	if place.Top < 119 || place.Top > 122 || place.Height < 40 || place.Height > 46 { // the grid begins at 7:00, a minute is one pixel high
		t.Errorf("9:00 to 9:45 is at %+v", place)
	}
	p.do(chromedp.Focus(".week foreignObject a"), chromedp.KeyEvent(kb.Enter))
	p.sees("Cancel the event")
	p.do(chromedp.SendKeys("#reason", "ill"), chromedp.Click("form[action$='/cancel'] button"))
	p.sees("Cancelled: ill")

	// The dialog says what a deletion does; without script a page does.
	p.do(chromedp.Navigate(p.admin+"/agents/1"), chromedp.Click("a.danger"), chromedp.WaitVisible("#delete"))
	p.sees("Delete Front desk?")
	p.do(chromedp.KeyEvent(kb.Escape), chromedp.WaitNotVisible("#delete"))
	p.do(emulation.SetScriptExecutionDisabled(true), chromedp.Navigate(p.admin+"/agents/1"), chromedp.Click("a.danger"))
	p.do(chromedp.WaitVisible("main form button.danger"), chromedp.Click("main form button.danger"), chromedp.WaitVisible(".empty"))
	p.do(emulation.SetScriptExecutionDisabled(false), chromedp.Navigate(p.admin+"/agents"))
	p.sees("No agent yet")

	post("agents", map[string]any{"name": evil})
	post("contacts", map[string]any{"first_name": evil, "phone_numbers": []map[string]any{{"phone_number": "+4930555010"}}})
	post("calls", map[string]any{"agent_id": 2, "phone_number": "+4930555010", "summary": strings.Repeat("x", 300), "recording_url": "https://files.example.net/" + strings.Repeat("x", 300)})
	post("webhooks", map[string]any{"name": evil, "url": "https://hooks.example.invalid/" + strings.Repeat("x", 300), "subscribed_events": []string{"call.ended"}})
	p.narrow("/agents", "/contacts/1", "/calls", "/calls/1", "/webhooks", "/webhooks/1", "/calendar?week=2026-03-02", "/calendar/events/1", "/schedules/1", "/variables", "/business-context", "/activity", "/status")
	p.do(chromedp.EmulateViewport(360, 740), chromedp.Navigate(p.admin+"/agents"), chromedp.Click(".menu summary"), chromedp.Click(`.menu a[href="/owners"]`))
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
