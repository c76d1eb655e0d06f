package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
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

	"latchkey/cli"
	"latchkey/tests/program"
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
	program.NotQuick(t) // npm may have to fetch it
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

// refusedRequest is a placeholder in the paths of lookedAt for the id of a refused request. The id is not
// known before the test has sent a request, because the list of requests is kept in memory only.
const refusedRequest = "REFUSED"

// lookedAt gives the pages to look at: each of the dashboard's, by its pattern.
func lookedAt(t *testing.T, keys map[string]string) (paths []string) {
	t.Helper()
	for _, pattern := range pagePatterns(t) {
		path, is := strings.CutPrefix(pattern, "GET ")
		if !is || slices.Contains([]string{"/keys/rows", "/keys/{id}/used"}, path) { // those are for the script
			continue
		}
		id := "1"
		if strings.HasPrefix(path, "/requests/") {
			id = refusedRequest
		}
		if strings.HasPrefix(path, "/keys/") {
			id = keys["booking site"]
		} else if strings.HasPrefix(path, "/variables/") {
			id = keys["opening_hours"]
		} else if strings.HasPrefix(path, "/reference/") {
			id = "createContact"
		} else if strings.HasPrefix(path, "/docs/") {
			id = "limits"
		}
		paths = append(paths, strings.NewReplacer("{id}", id, "{entry}", "1").Replace(path))
	}
	slices.Sort(paths)
	return append(paths, "/keys?status=any&search=nothing-fits", "/keys?status=any", "/keys/missing", "/nothing", "/keys/"+keys["crm"]+"/usage?range=24h", "/keys/"+keys[evil]+"/usage", "/?range=7d", "/calendar?week="+week().Format(time.DateOnly),
		"/keys/"+keys["crm"]+"?of=crm", "/keys/"+keys["partner"]+"?of=partner", "/keys/"+keys["old import"]+"?of=import", "/keys/"+keys[evil]+"?of=evil", "/keys/new?preset=caller&name=booking+site")
}

// screenForm is a form in which a page is looked at.
type screenForm struct {
	width, height int64
	scheme        string
}

func (s screenForm) String() string { return fmt.Sprintf("%d-%s", s.width, s.scheme) }

func screenForms() []screenForm {
	return []screenForm{{1280, 900, "light"}, {1280, 900, "dark"}, {1024, 800, "light"}, {360, 740, "light"}, {360, 740, "dark"}}
}

// TestBrowser_Looks looks at every page, light and dark, on a screen and on a
// phone: nothing stands out to the side, and axe finds nothing that would keep
// people from using it. With LATCHKEY_SCREENSHOTS it leaves pictures in that
// folder.
func TestBrowser_Looks(t *testing.T) {
	t.Parallel() // it waits most of the time
	source := axeSource(t)
	a := newTestApp(t)
	keys, secrets := fillBusiness(a)
	paths := lookedAt(t, keys)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	p := openBrowserOn(t, a.config.Server.Data)
	p.load(source)
	look := p.look
	for _, path := range []string{"/login", "/setup?token=none", "/join?token=none"} {
		p.open(path)
		look(path)
	}
	p.open("/keys")
	p.login(operatorPassword)
	p.sees("Create New API Key")
	p.refused(secrets["booking site"])
	var list struct {
		Refusals []struct {
			ID string `json:"request_id"`
		}
	}
	if err := p.socket.Do(p.ctx, cli.Request{Method: "GET", Path: "/admin/v1/refusals"}, &list); err != nil || len(list.Refusals) == 0 {
		t.Fatalf("got %v, %v", list, err)
	}
	for _, path := range paths {
		path = strings.Replace(path, refusedRequest, list.Refusals[0].ID, 1)
		if path == "/keys" || path == "/keys/"+keys["booking site"] { // meters and refusals to look at
			for range 23 {
				wantStatus(t, p.api, secrets["booking site"], 200)
			}
			p.refused(secrets["booking site"])
		}
		p.open(path)
		if lost := strings.Contains(p.text(), "Not found"); lost != (path == "/keys/missing" || path == "/nothing") {
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
	for name, csv := range map[string]string{"import-preview": "First Name;E-Mail;Comp-any\nMara;mara@example.net;Lind KG\nOda;oda@example.net;Hus\n", "import-faults": "first_name,email\n,x\nOda,y\n"} {
		p.open("/contacts/import")
		p.screen(1280, 900, "light")
		p.fill("#csv", csv)
		p.click("form .actions button")
		p.sees("What the import does")
		look(name)
	}
	p.open("/keys/new?preset=caller&name=reception&expiry=90d")
	p.screen(1280, 900, "light")
	p.click("button.main")
	p.sees("Waiting for the first request")
	look("created")
}

// load runs source, such as axe, in each page before its own scripts.
func (p *tab) load(source string) {
	p.t.Helper()
	p.do(chromedp.ActionFunc(func(ctx context.Context) error {
		_, err := page.AddScriptToEvaluateOnNewDocument(source).Do(ctx)
		return err
	}))
}

// look wants that the page is not wider than the screen and that axe finds no fault, in each of the
// forms, and takes pictures of it. At 1024 pixels only the width is new: the colours are those of 1280.
func (p *tab) look(name string) {
	p.t.Helper()
	p.t.Logf("look at %s", name) // a sign of life
	for _, s := range screenForms() {
		p.screen(s.width, s.height, s.scheme)
		p.fits(name+" "+s.String(), int(s.width))
		if s.width != 1024 {
			for _, fault := range p.faults(s.scheme == "dark") {
				p.t.Errorf("%s %s: %s", name, s, fault)
			}
		}
		p.picture(name, s)
	}
}

// TestBrowser_LooksByRole looks at the pages that differ for a viewer and for a key manager.
func TestBrowser_LooksByRole(t *testing.T) {
	t.Parallel() // it waits most of the time
	source := axeSource(t)
	a := newTestApp(t)
	keys, _ := fillBusiness(a)
	a.operate(200, "PATCH", "/admin/v1/business-context", `{"variables": {"opening_hours": "9 to 5"}}`)
	for _, role := range []string{RoleViewer, RoleKeyManager} {
		a.operate(201, "POST", "/admin/v1/operators", fmt.Sprintf(`{"name": %q, "password": %q}`, role, operatorPassword))
		a.setRoleOf(role, role)
	}
	data := a.config.Server.Data
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	p := openBrowserOn(t, data)
	p.load(source)
	records := []string{"/webhooks/1", "/agents/1", "/contacts/1", "/calls/1", "/schedules/1", "/owners/1", "/teams/1", "/do-not-call/1", "/variables/" + keys["opening_hours"], "/calendar/events/1"}
	for role, paths := range map[string][]string{
		RoleViewer:     append(records, "/keys", "/keys/"+keys["crm"], "/contacts", "/business-context", "/keys/new", "/status", "/calendar?week="+week().Format(time.DateOnly)),
		RoleKeyManager: {"/keys", "/keys/" + keys["crm"], "/owners/1", "/contacts/1"},
	} {
		p.open("/login")
		p.fill("#name", role)
		p.fill("#password", operatorPassword)
		p.click("button.main")
		p.sees("API Keys")
		for _, path := range paths {
			p.open(path)
			p.sees(plainRole(role))
			if changes := strings.Contains(p.text(), "Save"); changes != (role == RoleKeyManager && path == "/owners/1") {
				t.Errorf("%s: %s: the page has a form for a change: %v", role, path, changes)
			}
			p.look(role + " " + path)
		}
		p.click(".who button")
		p.sees("Password")
	}
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

// week is the Monday after the next, as the calendar has it filled.
func week() time.Time {
	now := time.Now().UTC().Truncate(24 * time.Hour)
	return now.AddDate(0, 0, 14-(int(now.Weekday())+6)%7)
}

// fillBusiness makes a business that has used the service for a week until now, and
// gives the ids and the secrets of its keys by their names, and the id of a
// variable that is not built in.
func fillBusiness(a *testApp) (ids, secrets map[string]string) {
	a.t.Helper()
	const span = 7 * 24 * time.Hour
	if age := time.Since(epoch); age > span {
		a.clocks.Pass(age - span)
	}
	add := func(path string, body map[string]any) map[string]any {
		a.t.Helper()
		data, err := json.Marshal(body)
		if err != nil {
			a.t.Fatal(err)
		}
		return a.operate(201, "POST", "/admin/v1/"+path, string(data))
	}
	type object = map[string]any
	add("operators", object{"name": "Ann", "password": operatorPassword})
	add("teams", object{"name": "Reception"})
	add("tokens", object{"name": "prometheus", "scope": "metrics", "allowed_ips": []string{"192.0.2.0/24", "2001:db8:1234:5678::/64"}})
	add("tokens", object{"name": evil, "expires_at": "never"})
	add("agents", object{"name": "Front desk", "role": "inbound agent", "phone_number": "+4930555001", "team_id": 1})
	add("agents", object{"name": evil})
	add("contacts", object{"first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "company": "Lind KG", "tags": []string{"Regular"}, "phone_numbers": []object{{"phone_number": "+4930555010", "phone_type": "mobile"}}})
	add("contacts", object{"first_name": evil, "phone_numbers": []object{{"phone_number": "+4930555011"}}})
	add("schedules", object{"time_zone": "Europe/Berlin"})
	add("calls", object{"agent_id": 1, "phone_number": "+4930555010", "contact_id": 1, "status": "completed", "summary": strings.Repeat("x", 300), "recording_url": "https://files.example.net/" + strings.Repeat("x", 300)})
	defer func() {
		err := a.Store.Update(func(tx *Tx) error {
			return addReplayable(tx, Attempt{Webhook: 1, Delivery: newDeliveryID(), Event: "call.ended", At: a.clock.Now(), Attempt: 6, Status: 500, Answer: "<h1>Internal Server Error</h1>"}, []byte(`{"event_type": "call.ended", "call": {"id": 1}}`))
		})
		if err != nil {
			a.t.Fatal(err)
		}
	}()
	add("webhooks", object{"name": "CRM", "url": "https://hooks.example.invalid/" + strings.Repeat("x", 300), "subscribed_events": []string{"call.ended"}})
	add("do-not-call", object{"phone_number": "+4930555099", "reason": "asked for it"})
	variable := add("variables", object{"name": "opening_hours", "display_name": "Opening hours", "variable_type": "text", "context_type": "business"})
	for _, e := range []struct {
		day, hour, minutes int
		title, status      string
	}{{0, 9, 45, "First visit", "confirmed"}, {0, 9, 30, "Phone call", "scheduled"}, {0, 14, 60, "Fitting", "scheduled"}, {1, 10, 90, "Site visit", "confirmed"}, {2, 8, 30, "Review", "confirmed"}, {2, 11, 60, "Lunch with Mara", "scheduled"}, {3, 13, 120, "Workshop", "confirmed"}, {4, 10, 45, "Follow-up", "scheduled"}, {12, 15, 30, evil, "scheduled"}} {
		start := week().AddDate(0, 0, e.day).Add(time.Duration(e.hour) * time.Hour)
		add("events", object{"title": e.title, "status": e.status, "start_time": start.Format(time.RFC3339), "end_time": start.Add(time.Duration(e.minutes) * time.Minute).Format(time.RFC3339)})
	}
	ids, secrets = fillKeys(a, span, func(body map[string]any) (id, key string) {
		made := add("keys", body)
		return made["id"].(string), made["key"].(string)
	})
	ids["opening_hours"] = fmt.Sprint(variable["id"])
	return ids, secrets
}

// fillKeys makes keys in every state and uses them, hour by hour.
func fillKeys(a *testApp, span time.Duration, add func(map[string]any) (id, key string)) (ids, secrets map[string]string) {
	a.t.Helper()
	type object = map[string]any
	caller, reader := []string{"can_read_calls", "can_initiate_calls", "can_read_agents", "can_read_contacts"}, []string{"can_read_agents", "can_read_calls"}
	ids, secrets = map[string]string{}, map[string]string{}
	for _, body := range []object{
		{"name": evil, "permissions": reader, "metadata": object{"note": strings.Repeat("unbroken", 30)}},
		{"name": "kiosk", "permissions": caller},
		{"name": "old import", "permissions": reader, "metadata": object{"note": "from the gateway before"}},
		{"name": "partner", "permissions": reader, "owner": "partner", "limits": object{RequestsPerMinute: 5}},
		{"name": "nightly report", "permissions": reader, "environment": "live", "expires_at": a.clocks.Read().Wall.Add(span + 3*24*time.Hour).UTC().Format(time.RFC3339)},
		{"name": "crm", "permissions": caller, "environment": "live", "metadata": object{"note": "connector on the old server"}},
		{"name": "ci-runner", "permissions": reader, "environment": "test", "metadata": object{"note": "GitHub secret KLEN_KEY"}},
		{"name": "booking site", "permissions": caller, "environment": "live", "limits": object{CallsPerDay: 10}, "metadata": object{"note": "environment of the web server"}},
	} {
		name := body["name"].(string)
		ids[name], secrets[name] = add(body)
	}
	change := func(name, verb, body string) map[string]any {
		return a.operate(200, "POST", "/admin/v1/keys/"+ids[name]+"/"+verb, body)
	}
	change(evil, "revoke", "")
	change("old import", "pause", "")
	for hour := range int(span / time.Hour) {
		for range 2 + hour%24/4 {
			a.ask("GET", "/api/v1/agents", secrets["booking site"], "")
		}
		if hour%24 > 6 {
			a.ask("GET", "/api/v1/calls", secrets["ci-runner"], "")
			a.ask("GET", "/api/v1/agents?api_key="+secrets["crm"], "", "")
		}
		for range hour % 9 {
			a.ask("GET", "/api/v1/agents", secrets["partner"], "")
		}
		if hour%24 == 3 {
			a.ask("GET", "/api/v1/calls", secrets["nightly report"], "")
			a.ask("GET", "/api/v1/contacts", secrets["nightly report"], "")
		}
		if hour == int(span/time.Hour)-2 {
			change("crm", "rotate", `{"overlap_seconds": 604800}`)
		}
		a.clocks.Pass(time.Hour)
	}
	for range 4 {
		if w := a.ask("POST", "/api/v1/calls", secrets["booking site"], `{"phone_number": "+4930555010", "agent_id": 1}`); w.Code >= 300 {
			a.t.Errorf("place a call: got %d %s", w.Code, w.Body)
		}
	}
	return ids, secrets
}
