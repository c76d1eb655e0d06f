package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// axeVersion is the release of axe-core, which checks pages for what keeps
// people from using them, and the digest that npm publishes with it.
const (
	axeVersion = "4.14.1"
	axeDigest  = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)

// axeSource gives the script of axe-core. npm fetches it into the user's cache
// once; from then on no network is needed.
func axeSource(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	folder := filepath.Join(cache, "latchkey-test")
	archive := filepath.Join(folder, "axe-core-"+axeVersion+".tgz")
	data, err := os.ReadFile(archive)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("npm", "pack", "--silent", "axe-core@"+axeVersion, "--pack-destination", folder).CombinedOutput(); err != nil {
			t.Fatalf("npm, of Debian's package npm, cannot fetch axe-core %s: %v: %s", axeVersion, err, out)
		}
		data, err = os.ReadFile(archive)
	}
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha512.Sum512(data); base64.StdEncoding.EncodeToString(sum[:]) != axeDigest {
		t.Fatalf("%s is not what was published; remove it", archive)
	}
	packed, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for files := tar.NewReader(packed); ; {
		file, err := files.Next()
		if err != nil {
			t.Fatal(err)
		}
		if file.Name == "package/axe.min.js" {
			source, err := io.ReadAll(files)
			if err != nil {
				t.Fatal(err)
			}
			return string(source)
		}
	}
}

// faults are what axe finds wrong with the page that is shown, at a glance
// only in its colours.
func (p *tab) faults(glance bool) (list []string) {
	p.t.Helper()
	only := `{type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}`
	if glance {
		only = `{type: "rule", values: ["color-contrast"]}`
	}
	js := `axe.run(document, {runOnly: ` + only + `, resultTypes: ["violations"], selectors: false}).then((found) => found.violations.map((v) => v.id + ": " + v.help + ": " + v.nodes.map((n) => n.html.slice(0, 160) + " " + n.any.map((a) => a.message).join(" ")).slice(0, 3).join(" | ")))`
	p.do(chromedp.Evaluate(js, &list, func(e *runtime.EvaluateParams) *runtime.EvaluateParams { return e.WithAwaitPromise(true) }))
	return list
}

// lookedAt gives the pages to look at: each of the dashboard's, by its pattern.
func lookedAt(t *testing.T, a *testApp, keys map[string]string) (paths []string) {
	t.Helper()
	var patterns []string
	for _, set := range a.pages() {
		for pattern := range set.Pages() {
			patterns = append(patterns, pattern)
		}
	}
	for _, pattern := range patterns {
		path, is := strings.CutPrefix(pattern, "GET ")
		if !is || slices.Contains([]string{"/keys/meters", "/keys/{id}/used"}, path) { // those are for the script
			continue
		}
		id := "1"
		if strings.HasPrefix(path, "/keys/") {
			id = keys["booking site"]
		} else if strings.HasPrefix(path, "/variables/") {
			id = keys["opening_hours"]
		}
		paths = append(paths, strings.ReplaceAll(path, "{id}", id))
	}
	slices.Sort(paths)
	return append(paths, "/account", "/keys?status=&search=nothing-fits", "/keys?status=", "/keys/missing", "/calendar?week="+week().Format(time.DateOnly),
		"/keys/"+keys["crm"]+"?of=crm", "/keys/"+keys["partner"]+"?of=partner", "/keys/"+keys["old import"]+"?of=import", "/keys/"+keys[evil]+"?of=evil", "/keys/new?preset=caller&name=booking+site")
}

// screenForm is a form in which a page is looked at.
type screenForm struct {
	width, height int64
	scheme        string
}

func (s screenForm) String() string { return fmt.Sprintf("%d-%s", s.width, s.scheme) }

func screenForms() []screenForm {
	return []screenForm{{1280, 900, "light"}, {1280, 900, "dark"}, {360, 740, "light"}, {360, 740, "dark"}}
}

// TestBrowser_Looks looks at every page, light and dark, on a screen and on a
// phone: nothing stands out to the side, and axe finds nothing that would keep
// people from using it. With LATCHKEY_SCREENSHOTS it leaves pictures in that
// folder.
func TestBrowser_Looks(t *testing.T) {
	t.Parallel() // it waits most of the time
	a := newTestApp(t)
	keys, secrets := fillBusiness(a)
	paths := lookedAt(t, a, keys)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	p := openBrowserOn(t, a.config.Server.Data)
	source := axeSource(t)
	p.do(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(source).Do(ctx)
		return err
	}))
	look := func(name string) {
		t.Helper()
		for _, s := range screenForms() {
			p.screen(s.width, s.height, s.scheme)
			p.fits(name+" "+s.String(), int(s.width))
			for _, fault := range p.faults(s.scheme == "dark") {
				t.Errorf("%s %s: %s", name, s, fault)
			}
			p.picture(name, s)
		}
	}
	for _, path := range []string{"/login", "/setup?token=none"} {
		p.open(path)
		look(path)
	}
	p.open("/keys")
	p.login(operatorPassword)
	p.sees("Create New API Key")
	for _, path := range paths {
		if path == "/keys" || path == "/keys/"+keys["booking site"] { // meters and refusals to look at
			for range 23 {
				wantStatus(t, p.api, secrets["booking site"], 200)
			}
			p.refused(secrets["booking site"])
		}
		p.open(path)
		if lost := strings.Contains(p.text(), "That did not work"); lost != (path == "/keys/missing") {
			t.Errorf("%s: got %s", path, p.text())
		}
		look(path)
	}
	for _, dialog := range []string{"rotate", "revoke"} {
		p.open("/keys/" + keys["booking site"])
		p.screen(1280, 900, "light")
		p.click(`a[data-dialog="` + dialog + `"]`)
		p.visible("#" + dialog)
		look("dialog-" + dialog)
	}
	p.open("/keys/new?preset=caller&name=reception&expiry=90d")
	p.screen(1280, 900, "light")
	p.click("button.main")
	p.sees("Waiting for the first request")
	look("created")
}

// refused has a request refused for its permission.
func (p *tab) refused(key string) {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.ctx, "GET", p.api+"/api/v1/calendar/events?start_date=2026-03-02&end_date=2026-03-03", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	if answer.Body.Close(); answer.StatusCode != 403 {
		p.t.Errorf("got %d, want 403", answer.StatusCode)
	}
}

// picture keeps what a page looks like, whole, where LATCHKEY_SCREENSHOTS names
// a folder. With the folder docs/images it keeps those alone that the README
// shows, as much as is on the screen.
func (p *tab) picture(name string, s screenForm) {
	p.t.Helper()
	folder := os.Getenv("LATCHKEY_SCREENSHOTS")
	if folder == "" {
		return
	}
	var data []byte
	file := strings.Trim(strings.NewReplacer("/", "_", "?", "_", "=", "", "&", "_", "+", "").Replace(name), "_") + "-" + s.String()
	if filepath.Clean(folder) == filepath.Join("docs", "images") {
		if file = docImage(name, s); file == "" {
			return
		}
		p.do(chromedp.Evaluate("window.scrollTo(0, 0)", nil), chromedp.CaptureScreenshot(&data))
		data = p.smaller(data)
	} else {
		p.do(chromedp.FullScreenshot(&data, 100))
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, file+".png"), data, 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// smaller packs a picture in the 256 colours that it has most of: a page has
// few, but for the edges of its letters.
func (p *tab) smaller(data []byte) []byte {
	p.t.Helper()
	drawn, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		p.t.Fatal(err)
	}
	size, counts := drawn.Bounds(), map[color.Color]int{}
	for y := range size.Dy() {
		for x := range size.Dx() {
			counts[drawn.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	palette, place := color.Palette(colours[:min(256, len(colours))]), map[color.Color]uint8{}
	for _, c := range colours {
		place[c] = uint8(palette.Index(c))
	}
	packed := image.NewPaletted(size, palette)
	for y := range size.Dy() {
		for x := range size.Dx() {
			packed.SetColorIndex(x, y, place[drawn.At(x, y)])
		}
	}
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, packed); err != nil {
		p.t.Fatal(err)
	}
	return out.Bytes()
}

// docImage gives the name of a picture in the README, "" for one that is not.
func docImage(name string, s screenForm) string {
	switch {
	case name == "/keys" && s.String() == "1280-light":
		return "keys"
	case name == "/keys" && s.String() == "360-light":
		return "keys-phone"
	case name == "created" && s.String() == "1280-light":
		return "created"
	case strings.HasPrefix(name, "/keys/key_") && strings.Count(name, "/") == 2 && !strings.Contains(name, "?") && s.String() == "1280-dark":
		return "key"
	case strings.HasPrefix(name, "/calendar?week=") && s.String() == "1280-light":
		return "calendar"
	}
	return ""
}
