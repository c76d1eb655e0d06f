package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"latchkey/cli"
	"latchkey/internal/keytext"
	"latchkey/tests/program"
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
	p.click("header form.who button")
	p.sees("Forgotten?")
	p.fill("#password", "typed")
	for _, kind := range []string{"text", "password"} {
		p.click("button.show")
		p.wait("a field of the type "+kind, `document.getElementById("password").type === "`+kind+`"`)
	}
	p.login("wrong password")
	p.sees("The name or the password is wrong")
	p.login(operatorPassword)
	p.sees("No key yet")

	// By the keyboard alone: the name has the focus, then a preset.
	const name = `<script>alert(1)</script>`
	p.open("/keys/new")
	p.nameHasFocus()
	for _, keys := range []string{name, kb.Tab, kb.Enter} {
		p.press(keys)
	}
	p.sees(name + " can read calls, read agents, read contacts and read calendar; 60 requests per minute")
	p.back()
	p.press(kb.Enter)
	p.sees("It is shown only now")
	p.sees("Waiting for the first request")
	secret := p.value("#secret")
	if !keytext.WellFormed(secret, "klen_") {
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
	p.click(".actions a.button") // without a warning: the key was copied
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

	// The first tab follows.
	p.front()
	p.wait("the state of the key", `document.getElementById("state").textContent === "Revoked" && !document.querySelector('#actions form') && !document.getElementById("limits")`)
	p.open("/keys")
	p.sees("No keys match")

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
	p.sees("No agents yet")

	p.screen(360, 740, "light")
	p.open("/agents")
	p.click(".menu summary")
	p.click(`.menu a[href="/owners"]`)
	p.sees("A key acts for its owner")
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

// tab is the real program's dashboard in a tab of a real browser. It acts as a
// person does, by keys and clicks at places on the screen, and waits for what is
// to be seen. It holds on to no node of a page: a page that is being left would
// take it away between finding it and using it.
type tab struct {
	t      *testing.T
	ctx    context.Context
	admin  string // address of the door
	api    string
	socket *cli.Client
}

// browserPatience is how long one thing may take to be seen, on a slow machine.
const browserPatience = 100 * time.Second

// answerPatience is how long the browser may take to answer one question.
const answerPatience = 10 * time.Second

// openBrowser starts the program on an empty folder, and a browser.
func openBrowser(t *testing.T) *tab {
	t.Helper()
	return openBrowserOn(t, filepath.Join(t.TempDir(), "data"))
}

// openBrowserOn is openBrowser with a folder that may have been filled.
func openBrowserOn(t *testing.T, data string) *tab {
	t.Helper()
	browser := startBrowser(t) // first: it may skip the test
	p := program.Serve(t, data)
	return &tab{t, browser, "http://" + p.Admin, p.URL, cli.NewSocketClient(filepath.Join(data, socketFile))}
}

// startBrowser starts Debian's Chromium with a profile of its own.
func startBrowser(t *testing.T) context.Context {
	t.Helper()
	program.NotQuick(t)
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
	// Not t.TempDir: the browser may still write while it is being removed.
	profile, err := os.MkdirTemp("", "browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(profile) })
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.WSURLReadTimeout(browserPatience))
	for _, flag := range []string{"no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	// It complains of events that are newer than it. Its own cancel ends the
	// browser; chromedp.Cancel asks it to end, and waits for ever for the answer
	// of one that has ended.
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithErrorf(func(string, ...any) {}))
	t.Cleanup(cancel)
	if err := chromedp.Run(ctx); err != nil {
		t.Fatal(err)
	}
	return ctx
}

// another opens a second tab of the same browser.
func (p *tab) another() *tab {
	p.t.Helper()
	ctx, cancel := chromedp.NewContext(p.ctx)
	p.t.Cleanup(cancel)
	second := *p
	second.ctx = ctx
	second.do()
	return &second
}

func (p *tab) do(actions ...chromedp.Action) {
	p.t.Helper()
	if err := chromedp.Run(p.ctx, actions...); err != nil {
		p.t.Fatal(err)
	}
}

// front looks at this tab. One behind another draws nothing, and answers no
// click until it is in front again.
func (p *tab) front() {
	p.t.Helper()
	p.do(page.BringToFront())
}

// wait evaluates an expression until it is true. A page that is being left
// answers with an error, which is no reason to give up.
func (p *tab) wait(what, js string) {
	p.t.Helper()
	p.await(what, fmt.Sprintf("Boolean(%s)", js))
}

// await evaluates an expression until it is truthy and returns its value as JSON.
func (p *tab) await(what, js string) (value json.RawMessage) {
	p.t.Helper()
	js = fmt.Sprintf("(() => { try { return (%s) || null; } catch { return null; } })()", js)
	for end := time.Now().Add(browserPatience); time.Now().Before(end); {
		// A page that is being left may also not answer at all: the question is lost with it.
		ctx, cancel := context.WithTimeout(p.ctx, answerPatience)
		err := chromedp.Run(ctx, chromedp.Evaluate(js, &value))
		cancel()
		if err == nil && string(value) != "null" {
			return value
		}
		select {
		case <-p.ctx.Done():
			p.t.Fatalf("%s: %v", what, p.ctx.Err())
		case <-time.After(30 * time.Millisecond):
		}
	}
	p.t.Fatalf("%s: not to be seen on the page: %s", what, p.text())
	return nil
}

// open goes to a page and waits until it is there, with its script.
func (p *tab) open(path string) {
	p.t.Helper()
	address := p.admin + path
	if strings.HasPrefix(path, "http") {
		address = path
	}
	p.do(chromedp.Evaluate("window.left = true", nil), chromedp.ActionFunc(func(ctx context.Context) error {
		_, _, fault, _, err := page.Navigate(address).Do(ctx)
		if err == nil && fault != "" {
			err = fmt.Errorf("open %s: %s", path, fault)
		}
		return err
	}))
	p.wait("open "+path, `!window.left && document.readyState === "complete"`)
}

func (p *tab) text() (text string) {
	p.t.Helper()
	p.do(chromedp.Evaluate(`document.body ? document.body.innerText : ""`, &text))
	return text
}

// sees waits for a text that is on the page, or comes to it.
func (p *tab) sees(want string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("%q", want), fmt.Sprintf(`document.readyState === "complete" && document.body.innerText.includes(%q)`, want))
}

// visible and hidden wait for what a selector finds to be seen, or not.
func (p *tab) visible(selector string) {
	p.t.Helper()
	p.wait(selector, fmt.Sprintf("document.querySelector(%q).checkVisibility()", selector))
}

func (p *tab) hidden(selector string) {
	p.t.Helper()
	p.wait("no "+selector, fmt.Sprintf("!document.querySelector(%q)?.checkVisibility()", selector))
}

func (p *tab) value(selector string) (value string) {
	p.t.Helper()
	p.wait(selector, fmt.Sprintf("document.querySelector(%q)", selector))
	p.do(chromedp.Evaluate(fmt.Sprintf("document.querySelector(%q).value", selector), &value))
	return value
}

// focus puts the focus on what a selector finds.
func (p *tab) focus(selector string) {
	p.t.Helper()
	p.wait(selector, fmt.Sprintf(`document.readyState === "complete" && (document.querySelector(%[1]q).focus(), document.activeElement === document.querySelector(%[1]q))`, selector))
}

// focused waits until what a selector finds has the focus.
func (p *tab) focused(selector string) {
	p.t.Helper()
	p.wait("focus on "+selector, fmt.Sprintf(`document.activeElement.matches(%q)`, selector))
}

// fill types a text into a field in place of what is there.
func (p *tab) fill(selector, text string) {
	p.t.Helper()
	p.focus(selector)
	p.do(chromedp.Evaluate("document.activeElement.select()", nil), input.InsertText(text))
	p.wait("the text in "+selector, fmt.Sprintf("document.querySelector(%q).value === %q", selector, text))
}

// press presses keys; back with the shift key.
func (p *tab) press(keys string) {
	p.t.Helper()
	p.do(chromedp.KeyEvent(keys))
}

// nameHasFocus waits until the field with the id name has the focus, which the browser sets after the page is complete.
func (p *tab) nameHasFocus() {
	p.t.Helper()
	p.wait("the focus is on the name", `document.activeElement.id === "name"`)
}

func (p *tab) back() {
	p.t.Helper()
	p.do(chromedp.KeyEvent(kb.Tab, chromedp.KeyModifiers(input.ModifierShift)))
}

// click clicks on the middle of what a selector finds, once nothing lies over it.
func (p *tab) click(selector string) {
	p.t.Helper()
	js := fmt.Sprintf(`(() => {
		const e = document.querySelector(%q);
		e.scrollIntoView({block: "center"});
		const box = e.getClientRects()[0], x = box.x + box.width / 2, y = box.y + box.height / 2;
		return document.readyState === "complete" && e.contains(document.elementFromPoint(x, y)) && [x, y];
	})()`, selector)
	var place [2]float64
	if err := json.Unmarshal(p.await("click on "+selector, js), &place); err != nil {
		p.t.Fatal(err)
	}
	p.do(chromedp.MouseClickXY(place[0], place[1]))
}

// follow clicks and waits for the page that comes next, which may look like the present one.
func (p *tab) follow(selector string) {
	p.t.Helper()
	p.wait("mark the page", "document.readyState === \"complete\" && (window.left = true)")
	p.click(selector)
	p.wait("the page after "+selector, `!window.left && document.readyState === "complete"`)
}

// login fills in the form that is shown to whoever has not logged in.
func (p *tab) login(password string) {
	p.t.Helper()
	p.fill("#name", "Ann")
	p.fill("#password", password)
	p.press(kb.Enter)
}

// operator makes the account and logs in on the way to a page.
func (p *tab) operator(path string) {
	p.t.Helper()
	p.post("/admin/v1/operators", map[string]any{"name": "Ann", "password": operatorPassword}, nil)
	p.open(path)
	p.login(operatorPassword)
	p.wait("the page "+path, fmt.Sprintf(`document.readyState === "complete" && location.pathname + location.search === %q`, path))
}

// batchItem asks the admin endpoint.
func (p *tab) post(path string, body, into any) {
	p.t.Helper()
	if err := p.socket.Do(context.Background(), cli.Request{Method: "POST", Path: path, Body: body}, into); err != nil {
		p.t.Fatalf("%s: %v", path, err)
	}
}

// screen sets the size of the screen and the colours.
func (p *tab) screen(width, height int64, scheme string) {
	p.t.Helper()
	p.do(emulation.SetEmulatedMedia().WithFeatures([]*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}),
		chromedp.EmulateViewport(width, height))
}

// fits says so where a page stands out to the side of the screen.
func (p *tab) fits(path string, width int) {
	p.t.Helper()
	var wide int
	p.wait("the page is complete", `document.documentElement && document.readyState === "complete"`)
	if p.do(chromedp.Evaluate("document.documentElement.scrollWidth", &wide)); wide > width {
		p.t.Errorf("%s is %d wide on a screen of %d", path, wide, width)
	}
}

// TestBrowser_Keys rotates a key and ends the overlap early, and looks at a
// list of 10,000 keys, on a screen and on a phone.
func TestBrowser_Keys(t *testing.T) {
	p := openBrowser(t)
	var made struct{ ID, Key string }
	p.post("/admin/v1/keys", map[string]any{"name": "ci-runner", "permissions": []string{"can_read_agents"}}, &made)
	wantStatus(t, p.api, made.Key, 200)

	path := "/keys/" + made.ID
	p.operator(path)
	p.sees("just now from 127.0.0.1")
	p.click(`.tabs a[href$="/usage"]`)
	p.sees("1 request in the last 7 days")
	p.click(`.tabs a[href="` + path + `"]`)
	p.click(`a[data-dialog="rotate"]`)
	p.visible("#rotate")
	p.click("#rotate button.main")
	p.sees("It is shown only now")
	secret := p.value("#secret")
	p.sees("Waiting for the first request")
	leaving := func() (asks bool) {
		t.Helper()
		p.do(chromedp.Evaluate(`!window.dispatchEvent(new Event("beforeunload", {cancelable: true}))`, &asks))
		return asks
	}
	if !leaving() {
		t.Error("the page may be left before the key is copied, used or said to be stored")
	}
	wantStatus(t, p.api, made.Key, 200)
	wantStatus(t, p.api, secret, 200)
	p.sees("First request seen")
	if leaving() {
		t.Error("the page may not be left although the key is in use")
	}
	p.click(".actions a.button")
	p.sees("is still used")
	p.click(`form[action$="/finish"] button`)
	p.sees("Nothing was ended")
	wantStatus(t, p.api, made.Key, 200)
	p.focus("#unused")
	p.press(kb.End) // even if still in use
	p.click(`form[action$="/finish"] button`)
	p.sees("The previous secrets are no longer valid")
	wantStatus(t, p.api, made.Key, 401)
	wantStatus(t, p.api, secret, 200)

	upload := cli.RawRequest{Method: "POST", Path: "/admin/v1/keys/import", ContentType: "application/json", Body: []byte(importMany(t, 10_000))}
	if err := p.socket.Send(context.Background(), upload, nil); err != nil {
		t.Fatal(err)
	}
	p.open("/keys")
	p.fill("input[name=search]", "ci-runner")
	p.press(kb.Enter)
	p.sees("1 found")
	p.screen(360, 740, "dark")
	for _, path := range []string{"/keys", "/keys?sort=name&page=7", "/keys?status=any&search=nothing-fits"} {
		p.open(path)
		p.fits(path, 360)
	}

	// A pasted secret leads to its key, and gets into no address.
	p.open("/keys")
	p.fill("input[name=search]", secret)
	p.press(kb.Enter)
	p.sees("This is the key that has the secret")
	var address string
	if p.do(chromedp.Location(&address)); strings.Contains(address, secret) || !strings.Contains(address, made.ID) {
		t.Errorf("got the address %s", address)
	}
}

// TestBrowser_Journey creates a key in at most five clicks from any page, and wants Revoke beside every key,
// on screens of all widths.
func TestBrowser_Journey(t *testing.T) {
	p := openBrowser(t)
	p.post("/admin/v1/operators", map[string]any{"name": "Ann", "password": operatorPassword}, nil)
	for i, name := range []string{"a", strings.Repeat("a long name of a key ", 9), strings.Repeat("x", 200), evil} {
		var made struct{ ID, Key string }
		p.post("/admin/v1/keys", map[string]any{"name": name, "permissions": []string{"can_read_agents", "can_read_calls", "can_read_contacts"}, "metadata": map[string]string{"note": strings.Repeat("n", 100*i)}}, &made)
		if i > 0 {
			continue
		}
		p.post("/admin/v1/keys/"+made.ID+"/rotate", nil, nil) // it has all that a row can show
		answer, err := http.Get(p.api + "/api/v1/agents?api_key=" + made.Key)
		if err != nil || answer.Body.Close() != nil || answer.StatusCode != 200 {
			t.Fatalf("got %v %v", answer, err)
		}
	}
	for i, width := range []int64{360, 768, 1024, 1280, 2560} {
		for _, scheme := range []string{"light", "dark"} {
			height := map[int64]int64{360: 740, 1280: 800}[width]
			if height == 0 {
				height = 1000
			}
			p.screen(width, height, scheme)
			name := fmt.Sprintf("journey %d %s", width, scheme)
			p.open("/login")
			p.login(operatorPassword)
			p.wait("the first page", `document.querySelector(".brand") && document.readyState === "complete"`)
			p.open("/")
			clicks := 0
			click := func(selector string) {
				t.Helper()
				clicks++
				p.click(selector)
			}
			if width >= 960 {
				click(`.side a[href="/keys"]`)
				p.sees("in use; revoked ones are hidden")
			}
			click(`.head a[href="/keys/new"]`)
			p.sees("More options")
			for _, selector := range []string{"#name", "input[name=permission]", "button.main"} {
				p.wait(selector+" on the first screen", fmt.Sprintf(`(() => {
					const e = document.querySelector(%q), box = e.getBoundingClientRect();
					return scrollY === 0 && box.bottom <= innerHeight && e.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
				})()`, selector))
			}
			p.nameHasFocus()
			p.press(name)
			click("input[name=permission]")
			click("button.main")
			p.sees("It is shown only now")
			click("[data-copy=secret]")
			p.sees("API key copied.")
			if secret := p.value("#secret"); !keytext.WellFormed(secret, "klen_") || clicks > 5 {
				t.Errorf("%s: got %q after %d clicks, want a key after at most 5", name, secret, clicks)
			}
			p.open("/keys")
			p.sees(name)
			p.sees("Rotating")
			p.fits(name, int(width))
			var rows []struct {
				Key        string
				Inside, On bool
				Height     float64
			}
			p.do(chromedp.Evaluate(`[...document.querySelectorAll("tr[data-key]")].map((row) => {
				const link = row.querySelector('a[href*="/revoke"]');
				link.scrollIntoView({block: "center"});
				const box = link.getBoundingClientRect();
				return {key: row.dataset.key, inside: box.left >= 0 && box.right <= innerWidth, on: link.contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2)), height: row.getBoundingClientRect().height};
			})`, &rows))
			if len(rows) != 4+2*i+map[string]int{"light": 1, "dark": 2}[scheme] {
				t.Errorf("%s: got %d rows", name, len(rows))
			}
			tall := 60.0
			if width < 700 {
				tall = 150
			}
			for _, row := range rows {
				if !row.Inside || !row.On || row.Height > tall {
					t.Errorf("%s: got %+v, want Revoke in sight in a row of at most %v pixels", name, row, tall)
				}
			}
			p.picture("journey", screenForm{width, height, scheme})
		}
	}
	// Several keys at once, with one question.
	p.click("#all")
	p.sees("14 selected:")
	p.click(`.bulkbar button[value="pause"]`)
	p.sees("Pause 14 keys?")
	p.click("main form button")
	p.sees("Paused 14 keys")
}

// TestBrowser_Live wants open pages to follow what happens elsewhere, with a stream and without, to leave
// alone what somebody uses, and to say when what they show is old.
func TestBrowser_Live(t *testing.T) {
	for _, streams := range []bool{true, false} {
		t.Run(fmt.Sprint("stream ", streams), func(t *testing.T) {
			p := openBrowser(t)
			if !streams {
				p.load("delete window.EventSource")
			}
			var made struct{ ID, Key string }
			p.post("/admin/v1/keys", map[string]any{"name": "kiosk", "permissions": []string{"can_read_agents"}}, &made)
			path := "/keys/" + made.ID
			p.operator(path)
			p.sees("nothing used")
			wantStatus(t, p.api, made.Key, 200)
			p.sees("Requests per minute: 1 of 60")
			p.sees("just now from 127.0.0.1")
			p.wait("the count of 24 hours", `document.querySelector("#details .counts").textContent === "1"`)
			p.do(chromedp.Evaluate(`document.querySelector("#limits details").open = true`, nil))
			p.post("/admin/v1"+path+"/pause", nil, nil)
			p.wait("the state", `document.getElementById("state").textContent === "Paused" && document.querySelector('form[action$="/resume"]')`)
			p.wait("the form that is in use", `document.querySelector("#limits details").open`)

			p.open("/keys")
			p.click("tr[data-key] input[type=checkbox]")
			p.sees("1 selected:")
			p.focus("#search")
			p.post("/admin/v1"+path+"/resume", nil, nil)
			p.wait("the row", `document.querySelector("tr[data-key] .state").textContent.includes("Active") && document.querySelector("tr[data-key] input").checked`)
			p.do(chromedp.Evaluate(`document.getElementById("live").click()`, nil))
			p.post("/admin/v1"+path+"/pause", nil, nil)
			p.do(chromedp.Evaluate(`document.getElementById("live").click()`, nil))
			p.wait("the row again", `document.querySelector("tr[data-key] .state").textContent.includes("Paused")`)

			// The chart is read by the arrow keys.
			p.open(path + "/usage")
			p.focus(".chart > .scroll")
			p.press(kb.ArrowLeft)
			p.wait("the tip of the last hour", `/: 1 request$/.test(document.querySelector(".tip").textContent)`)
			p.press(kb.ArrowLeft)
			p.wait("the tip of the hour before", `/: 0 requests$/.test(document.querySelector(".tip").textContent)`)
			p.press(kb.Escape)
			p.wait("no tip", `document.querySelector(".tip").textContent === ""`)

			p.open(path)
			p.post("/admin/v1"+path+"/rotate", nil, nil)
			p.wait("the panel of a rotation that began elsewhere", `document.querySelector("#rotation form[action$='/finish']")`)

			p.open("/")
			p.sees("Requests in the last 24 hours")
			p.wait("no warning", `document.getElementById("stale").textContent === ""`)
			second := p.another()
			second.open("/account")
			second.click(`form[action="/logout-everywhere"] button`)
			second.sees("Password")
			p.front()
			p.sees("Your session has ended. Reload the page to log in.")
			p.sees("Requests in the last 24 hours")
		})
	}
}

// TestBrowser_SignOn logs in and out by single sign-on, without script: the policy of the pages must
// let the browser go to the provider.
func TestBrowser_SignOn(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	home := "http://" + server.Listener.Addr().String()
	b, provider := newSignOn(t, func(c *Config) { c.Admin.BaseURL = home })
	server.Config.Handler = b.door
	server.Start()
	defer server.Close()
	provider.Config.Handler = provider.asks(provider.Config.Handler)
	provider.person("bea", "groups", "platform")

	p := &tab{t: t, ctx: startBrowser(t), admin: home}
	p.do(emulation.SetScriptExecutionDisabled(true))
	visit := func(path string) { p.do(chromedp.Navigate(home + path)) }
	visit("/login?next=/activity")
	p.do(chromedp.Click(`a[href^="/login/oidc"]`), chromedp.WaitVisible("header.top"))
	at := func(want string) {
		t.Helper()
		var place string
		if p.do(chromedp.Location(&place)); place != want {
			t.Errorf("got to %s, want %s", place, want)
		}
	}
	at(home + "/activity")
	visit("/confirm?next=/operators")
	p.do(chromedp.Click(`form[action="/confirm/oidc"] button`), chromedp.WaitVisible(`main form[action="/operators"]`))
	at(home + "/operators")
	p.do(chromedp.Click(`form[action="/logout"] button`), chromedp.WaitVisible(`a[href^="/login/oidc"]`))
	at(home + "/login")
	if n := provider.count("/logout"); n != 1 {
		t.Errorf("the browser went %d times to the provider to log out, want once", n)
	}
}
