package main

import (
	"context"
	"encoding/json"
	"fmt"
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
)

// tab is the real program's dashboard in a tab of a real browser. It acts as a
// person does, by keys and clicks at places on the screen, and waits for what is
// to be seen. It holds on to no node of a page: a page that is being left would
// take it away between finding it and using it.
type tab struct {
	t      *testing.T
	ctx    context.Context
	admin  string // address of the door
	api    string
	socket *Client
}

// browserPatience is how long one thing may take to be seen, on a slow machine.
const browserPatience = 2 * time.Minute

// openBrowser starts the program on an empty folder, and a browser.
func openBrowser(t *testing.T) *tab {
	t.Helper()
	return openBrowserOn(t, filepath.Join(t.TempDir(), "data"))
}

// openBrowserOn is openBrowser with a folder that may have been filled.
func openBrowserOn(t *testing.T, data string) *tab {
	t.Helper()
	p := serveReal(t, data)
	var line struct {
		AdminAddr string `json:"admin_addr"`
	}
	for text := range strings.Lines(p.out.String()) {
		if json.Unmarshal([]byte(text), &line) == nil && line.AdminAddr != "" {
			break
		}
	}
	return &tab{t, startBrowser(t), "http://" + line.AdminAddr, p.url, NewSocketClient(filepath.Join(data, socketFile))}
}

// startBrowser starts Debian's Chromium with a profile of its own.
func startBrowser(t *testing.T) context.Context {
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
	js = fmt.Sprintf("(() => { try { return Boolean(%s); } catch { return false; } })()", js)
	for end := time.Now().Add(browserPatience); time.Now().Before(end); {
		var found bool
		if err := chromedp.Run(p.ctx, chromedp.Evaluate(js, &found)); err == nil && found {
			return
		}
		select {
		case <-p.ctx.Done():
			p.t.Fatalf("%s: %v", what, p.ctx.Err())
		case <-time.After(30 * time.Millisecond):
		}
	}
	p.t.Fatalf("%s: not to be seen on the page: %s", what, p.text())
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
		window.place = [x, y];
		return document.readyState === "complete" && e.contains(document.elementFromPoint(x, y));
	})()`, selector)
	p.wait("click on "+selector, js)
	var place []float64
	p.do(chromedp.Evaluate("window.place", &place))
	p.do(chromedp.MouseClickXY(place[0], place[1]))
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

// post asks the admin endpoint.
func (p *tab) post(path string, body, into any) {
	p.t.Helper()
	if err := p.socket.Do(context.Background(), "POST", path, body, into); err != nil {
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
	if p.do(chromedp.Evaluate("document.documentElement.scrollWidth", &wide)); wide > width {
		p.t.Errorf("%s is %d wide on a screen of %d", path, wide, width)
	}
}
