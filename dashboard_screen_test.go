package main

import (
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// number returns the result of a script, which must be a number.
func (p *tab) number(js string) (n float64) {
	p.t.Helper()
	p.do(chromedp.Evaluate(js, &n))
	return n
}

// TestBrowser_Screens shows pages on screens and papers of all kinds.
func TestBrowser_Screens(t *testing.T) {
	t.Parallel() // it waits most of the time
	a := newTestApp(t)
	keys, _ := fillBusiness(a)
	paths := lookedAt(t, keys)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	p := openBrowserOn(t, a.config.Server.Data)
	p.open("/keys")
	p.login(operatorPassword)
	p.sees("Create New API Key")

	// A screen of 1280 pixels that is zoomed to 200 % has 640.
	for _, path := range paths {
		p.do(chromedp.EmulateViewport(640, 450, chromedp.EmulateScale(2)))
		p.open(path)
		p.fits(path, 640)
	}

	p.screen(2560, 1300, "light")
	for path, table := range map[string]string{"/activity": "main > .scroll table", "/contacts": "main > .scroll table", "/keys?status=any": ".keylist table"} {
		p.open(path)
		if width := p.number(`document.querySelector("` + table + `").getBoundingClientRect().width`); width < 1900 {
			t.Errorf("%s: the table has %v of 2560 pixels", path, width)
		}
	}

	// The button of the menu stays where it was pressed.
	p.screen(390, 800, "light")
	p.open("/keys")
	const left = `document.querySelector(".menu summary").getBoundingClientRect().left`
	const top = `document.querySelector(".menu summary").getBoundingClientRect().top`
	x, y := p.number(left), p.number(top)
	p.click(".menu summary")
	p.visible(".menu nav a")
	if p.number(left) != x || p.number(top) != y {
		t.Errorf("the button moved from %v, %v to %v, %v", x, y, p.number(left), p.number(top))
	}
	p.fits("the open menu", 390)

	// On paper there is the content and nothing to press.
	p.do(emulation.SetEmulatedMedia().WithMedia("print"))
	p.open("/contacts")
	p.visible("main table")
	for _, selector := range []string{"header.top", ".filters", "main .button"} {
		p.hidden(selector)
	}
	p.do(emulation.SetEmulatedMedia())
}

// TestBrowser_Theme chooses a theme that differs from that of the browser.
func TestBrowser_Theme(t *testing.T) {
	t.Parallel() // it waits most of the time
	p := openBrowser(t)
	p.operator("/account")
	ground := `parseInt(getComputedStyle(document.body).backgroundColor.match(/\d+/)[0])`
	for _, tt := range []struct {
		scheme, theme string
		dark          bool
	}{{"light", "", false}, {"dark", "", true}, {"light", "dark", true}, {"dark", "light", false}} {
		p.screen(1280, 900, tt.scheme)
		p.open("/account")
		p.do(chromedp.SetValue("#theme", tt.theme, chromedp.ByQuery))
		p.click(`form[action="/account/preferences"] button`)
		p.sees("Saved.")
		if dark := p.number(ground) < 100; dark != tt.dark {
			t.Errorf("%+v: dark is %v", tt, dark)
		}
	}
}
