package main

import (
	"bytes"
	"html"
	"mime/multipart"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
)

// evil is a name that would run if a page forgot to escape it.
const evil = `"><img src=x onerror=alert(1)><script>alert(1)</script>`

// tame wants a page that shows evil as text alone.
func (b *browser) tame(where string, w *httptest.ResponseRecorder) {
	b.t.Helper()
	if body := w.Body.String(); strings.Contains(body, "<img") || strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") {
		b.t.Errorf("%s: the name is not shown as text: %s", where, body)
	}
}

// says wants a status and a text on a page.
func (b *browser) says(w *httptest.ResponseRecorder, status int, texts ...string) {
	b.t.Helper()
	if w.Code != status {
		b.t.Errorf("got %d %s, want %d", w.Code, w.Body, status)
	}
	for _, text := range texts {
		if body := w.Body.String(); !strings.Contains(body, text) && !strings.Contains(html.UnescapeString(body), text) {
			b.t.Errorf("got %s, want it to say %q", w.Body, text)
		}
	}
}

// sent wants to be led to another page, and gives its address.
func (b *browser) sent(w *httptest.ResponseRecorder, to string) string {
	b.t.Helper()
	at := w.Header().Get("Location")
	if w.Code != 303 || !strings.HasPrefix(at, to) {
		b.t.Fatalf("got %d to %q %s, want to be led to %s", w.Code, at, w.Body, to)
	}
	return at
}

// saveForm sends a page's form as it stands, with some fields changed.
func (b *browser) saveForm(path string, change ...string) *httptest.ResponseRecorder {
	b.t.Helper()
	page := b.get(path).Body.String()
	fields := map[string]bool{}
	for i := 0; i < len(change); i += 2 {
		fields[change[i]] = true
	}
	form := append([]string{}, change...)
	for _, m := range regexp.MustCompile(`name="(was\.[a-z_.]+)" value="([0-9a-f]+)"`).FindAllStringSubmatch(page, -1) {
		form = append(form, m[1], m[2])
		if name := strings.TrimPrefix(m[1], "was."); !fields[name] {
			form = append(form, name, inputOf(page, name))
		}
	}
	return b.post(path, form...)
}

// inputOf gives what stands in a field of a page.
func inputOf(page, name string) string {
	name = regexp.QuoteMeta(name)
	for _, pattern := range []string{
		`name="` + name + `" type="[a-z-]+"(?: step="\w+")? value="([^"]*)"`, `(?s)<textarea id="` + name + `"[^>]*>\n(.*?)</textarea>`,
		`(?s)<select id="` + name + `"(?:[^<]|<option|</option)*?value="([^"]*)" selected`,
	} {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(page); m != nil {
			return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&#34;", `"`, "&#43;", "+", "&amp;", "&", "&#39;", "'").Replace(m[1])
		}
	}
	return ""
}

// TestRecords_Life makes, changes and deletes one of each kind on the pages.
func TestRecords_Life(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	for _, tt := range []struct {
		path      string
		form      []string // of a new one; the first field has its name
		bad       []string // makes it wrong
		fault     string
		change    []string // of the record
		admin     string
		want      string // what the admin endpoint then tells
		deletions string // what the question says
	}{
		{"/agents", []string{"name", evil, "role", "inbound agent"}, []string{"phone_number", "12"}, "Number must be an E.164 number", []string{"phone_number", "+4930555001"},
			"agents", `"phone_number":"+4930555001"`, "calls that it has made stay"},
		{"/teams", []string{"name", evil, "members", "ann\r\nbob\r\n"}, []string{"name", " "}, "Name is missing", []string{"members", "ann"}, "teams", `"members":["ann"]`, "stays with its owner"},
		{"/owners", []string{"name", evil, "rate", "0.1"}, []string{"rate", "x"}, "Price of a minute must be a number", []string{"balance", "12.5"}, "owners", `"balance":12.5`, ""},
		{"/do-not-call", []string{"phone_number", "+4930555099", "reason", evil}, []string{"phone_number", "1"}, "Number must be an E.164 number", []string{"reason", evil + " twice"},
			"do-not-call", "twice", "are allowed again"},
		{"/contacts", []string{"first_name", evil, "phone.0.number", "+4930555010", "primary", "0"}, []string{"email", "nobody"}, "Mail must be an address", []string{"last_name", "Lind"},
			"contacts", `"last_name":"Lind"`, "Its calls stay"},
		{"/webhooks", []string{"name", evil, "url", "https://hooks.example.net/x", "subscribed_events", "call.ended"}, []string{"url", "javascript:alert(1)"}, "Address must be",
			[]string{"subscribed_events", "key.created"}, "webhooks", `"subscribed_events":["key.created"]`, "Nothing is sent"},
		{"/calls", []string{"phone_number", "+4930555010", "agent_id", "1", "status", "in-progress", "summary", evil}, []string{"ended_at", "yesterday"}, "Ended must be a date and a time",
			[]string{"status", "completed"}, "calls", `"status":"completed"`, ""},
	} {
		t.Run(tt.path, func(t *testing.T) {
			b.t = t
			b.says(b.get(tt.path+"/new"), 200, `name="`+tt.form[0]+`"`)
			w := b.post(tt.path, append(append([]string{}, tt.bad...), tt.form[len(tt.form)-2:]...)...)
			if w.Code != 400 || !strings.Contains(w.Body.String(), `role="alert"`) {
				t.Errorf("%v: got %d %s", tt.bad, w.Code, w.Body)
			}
			var made string
			if w = b.post(tt.path, tt.form...); tt.path == "/webhooks" {
				b.says(w, 201, "shown this once", `value="whsec_`)
				made = "/webhooks/1"
			} else {
				made, _, _ = strings.Cut(b.sent(w, tt.path+"/"), "?")
			}
			b.says(b.get(tt.path), 200)
			page := b.get(made + "?done=made")
			b.says(page, 200, "Created.")
			if tt.path != "/calls" {
				b.tame(tt.path, b.get(tt.path))
			}
			b.tame(made, page)

			if w := b.saveForm(made, tt.bad...); !strings.Contains(tt.fault, "Name is") {
				b.says(w, 400, tt.fault, `aria-invalid="true"`, `value="`+strings.TrimSpace(tt.bad[1]))
			} else {
				b.says(w, 400, tt.fault)
			}
			b.sent(b.saveForm(made, tt.change...), made+"?done=saved")
			id := made[strings.LastIndex(made, "/"):]
			if w := b.control("GET", "/admin/v1/"+tt.admin+id, ""); !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("got %s, want %s", w.Body, tt.want)
			}
			if tt.deletions == "" {
				if w := b.post(made + "/delete"); w.Code != 404 && w.Code != 405 {
					t.Errorf("deletion: got %d, want none", w.Code)
				}
				return
			}
			b.says(page, 200, `<dialog id="delete"`, tt.deletions)
			b.says(b.get(made+"/delete"), 200, tt.deletions, "cannot be undone")
			b.sent(b.post(made+"/delete"), tt.path+"?done=deleted")
			b.says(b.get(made), 404, "No such object")
		})
	}
}

// A form changes what was changed in it, and leaves alone what others have
// changed since it was shown.
func TestRecords_OnlyWhatChanged(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "model": "one"}`)
	page := b.get("/agents/1").Body.String()
	form := []string{"name", "Reception", "model", "one", "role", "inbound agent", "phone_number", "", "voice_id", "", "team_id", ""}
	for _, m := range regexp.MustCompile(`name="(was\.[a-z_]+)" value="([0-9a-f]+)"`).FindAllStringSubmatch(page, -1) {
		form = append(form, m[1], m[2])
	}
	b.operate(200, "PATCH", "/admin/v1/agents/1", `{"model": "two"}`)
	b.sent(b.post("/agents/1", form...), "/agents/1")
	if v := b.operate(200, "GET", "/admin/v1/agents/1", ""); v["name"] != "Reception" || v["model"] != "two" {
		t.Errorf("got %v, want the new name and the other's model", v)
	}
}

func TestRecords_Filters(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Night line", "owner": "ann"}`)
	b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010"}`)
	b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555011", "status": "completed"}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "stage": "customer", "tags": ["Regular"]}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Jon"}`)
	b.operate(201, "POST", "/admin/v1/do-not-call", `{"phone_number": "+4930555099", "reason": "by letter"}`)
	b.operate(201, "POST", "/admin/v1/owners", `{"name": "clinic"}`)
	for _, tt := range []struct{ path, has, hasNot string }{
		{"/agents?search=night", "Night line", "Front desk"}, {"/agents?owner=ann", "Night line", "Front desk"}, {"/calls?status=completed", "4930555011", "4930555010"},
		{"/calls?agent_id=2", "No call fits", "4930555010"}, {"/calls?type=inbound&agent_id=1", "4930555010", "No call fits"}, {"/contacts?search=mar", "Mara", "Jon"},
		{"/contacts?stage=customer", "Mara", "Jon"}, {"/contacts?tag=Regular", "Mara", "Jon"}, {"/contacts?status=contacted", "No contact fits", "Mara"},
		{"/do-not-call?search=letter", "4930555099", "fits"}, {"/do-not-call?search=9999", "No number fits", "4930555099"}, {"/owners?search=CLI", "clinic", "fits"},
	} {
		body := b.get(tt.path).Body.String()
		_, table, _ := strings.Cut(body, "</form>\n")
		_, table, _ = strings.Cut(table, "</form>")
		if !strings.Contains(table, tt.has) || strings.Contains(table, tt.hasNot) {
			t.Errorf("%s: got %s, want %q and not %q", tt.path, table, tt.has, tt.hasNot)
		}
	}
	b.says(b.get("/calls?status=odd"), 400, "Status must be one of")
	b.says(b.get("/calls?page=x"), 400, "whole number")
	for range 30 {
		b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara"}`)
	}
	b.says(b.get("/contacts?search=mara"), 200, "31 found", `href="/contacts?page=2&amp;search=mara"`)
	b.says(b.get("/contacts?page=2"), 200, "32 in all", "Page 2 of 2")
}

// What is stored as an address becomes a link only where it is one of the web.
func TestRecords_Addresses(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk"}`)
	for i, tt := range []struct{ url, link string }{
		{"https://files.example.net/1.mp3", `href="https://files.example.net/1.mp3"`}, {"javascript:alert(1)", ""}, {" javascript:alert(1)", ""}, {"data:text/html,x", ""}, {"//evil.example", ""},
	} {
		b.operate(201, "POST", "/admin/v1/calls", `{"agent_id": 1, "phone_number": "+4930555010", "recording_url": "`+tt.url+`"}`)
		r := b.request("GET", "/calls/"+string(rune('1'+i)))
		for _, c := range b.jar.Cookies(r.URL) {
			r.AddCookie(c)
		}
		w := httptest.NewRecorder()
		b.door.ServeHTTP(w, r)
		if page := w.Body.String(); strings.Contains(page, `href="`+strings.TrimSpace(tt.url)) != (tt.link != "") || strings.Contains(page, "href=\" ") {
			t.Errorf("%q: got %s", tt.url, page)
		}
	}
	for text, want := range map[string]string{"http://a.example/x": "http://a.example/x", "HTTPS://a.example": "https://a.example", "https:alert(1)": "", "mailto:x@example.net": "", "": ""} {
		if got := WebAddress(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestOwnerPages_Limits(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/owners", `{"name": "clinic"}`)
	b.says(b.get("/owners/1"), 200, `"`+OwnerCallsPerDay+`": 0`)
	stored := func() any {
		return b.operate(200, "GET", "/admin/v1/owners/1", "")["limits"].(map[string]any)[OwnerCallsPerDay]
	}
	b.sent(b.saveForm("/owners/1", "limits", `{"`+OwnerCallsPerDay+`": 5}`), "/owners/1?done=saved")
	if got := stored(); got != 5.0 {
		t.Errorf("got %v, want 5", got)
	}
	b.says(b.saveForm("/owners/1", "limits", `{"`+OwnerCallsPerDay+`": -1}`), 400, "must be a whole number from 0", `": -1}`)
	b.says(b.saveForm("/owners/1", "limits", `{"unknown": 1}`), 400, "Limits of all its keys together: owners have no limit")
	b.sent(b.saveForm("/owners/1", "limits", `{}`), "/owners/1?done=saved")
	if got := stored(); got != 0.0 {
		t.Errorf("got %v, want the default", got)
	}
}

func TestContactPages_Numbers(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+4930555010"}, {"phone_number": "+4930555011"}], "custom_context": {"a": 1, "b": "x"}}`)
	b.says(b.get("/contacts/1"), 200, `value="&#43;4930555010"`, "do not call")
	stored := func() string { return b.control("GET", "/admin/v1/contacts/1", "").Body.String() }
	rows := []string{"phone.0.id", "1", "phone.0.number", "+4930555010", "phone.1.id", "2", "phone.1.number", "+4930555011", "phone.2.number", "+4930555012", "phone.1.stop", "yes", "phone.1.reason", "asked", "primary", "2"}
	b.sent(b.saveForm("/contacts/1", append(rows, "custom_context", `{"b": "y", "c": 1.50}`)...), "/contacts/1")
	for _, want := range []string{`"phone":"+4930555012"`, `"dnc_reason":"asked"`, `"custom_context":{"b":"y","c":1.50}`} {
		if got := stored(); !strings.Contains(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	rows[3] = "12"
	b.says(b.saveForm("/contacts/1", rows...), 400, "must be an E.164 number", `value="12"`)
	rows[3] = ""
	b.says(b.saveForm("/contacts/1", rows...), 400, "cannot be taken away")
	b.says(b.saveForm("/contacts/1", "custom_context", "[1]"), 400, "Values for prompts must be a JSON object")
	b.says(b.get("/contacts/1/delete"), 200, "+4930555011 is marked as not to be called")
}

func TestContactPages_Import(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/contacts/import"), 200, "first_name")
	load := func(file, pasted string) *httptest.ResponseRecorder {
		var buf bytes.Buffer
		form := multipart.NewWriter(&buf)
		part, err := form.CreateFormFile("file", "contacts.csv")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write([]byte(file))
		_ = form.WriteField("csv", pasted)
		_ = form.Close()
		r := httptest.NewRequest("POST", "http://127.0.0.1:8081/contacts/import", &buf)
		r.Header.Set("Content-Type", form.FormDataContentType())
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		return b.send(r)
	}
	bad := "first_name,email\n" + `"""><img src=x><script>alert(1)</script>",nobody` + "\nJon,\n,x@example.net\n"
	w := load(bad, "")
	b.says(w, 400, "Nothing was imported", `<td class="number">1</td>`, `<td class="number">3</td>`, "email must be an address", "first_name")
	b.tame("import", w)
	if strings.Contains(w.Body.String(), `<td class="number">2</td>`) {
		t.Error("a good row is among the bad ones")
	}
	b.says(load("", "name\nx\n"), 400, "Unknown column")
	b.says(load("", " "), 400, "Choose a file")
	if v := b.operate(200, "GET", "/admin/v1/contacts", ""); v["count"] != 0.0 {
		t.Errorf("got %v, want nothing stored", v["count"])
	}
	b.sent(load("first_name\nMara\nJon\n", ""), "/contacts?done=imported")
	b.sent(load("", "first_name\r\nAnn\r\n"), "/contacts?done=imported")
	if v := b.operate(200, "GET", "/admin/v1/contacts", ""); v["count"] != 3.0 {
		t.Errorf("got %v, want 3", v["count"])
	}
}

func TestHookPages(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/webhooks", `{"name": "W", "url": "https://hooks.example.invalid/x", "subscribed_events": ["call.ended"]}`)
	b.sent(b.post("/webhooks/1/pause"), "/webhooks/1?done=paused")
	b.says(b.get("/webhooks/1"), 200, "Resume")
	b.sent(b.post("/webhooks/1/resume"), "/webhooks/1?done=resumed")
	b.says(b.post("/webhooks/1/test", "event_type", "key.created"), 400, "must be one of")
	b.says(b.post("/webhooks/1/redeliver", "log_id", "7"), 404)
	b.says(b.post("/webhooks/1/redeliver", "log_id", "x"), 400)
	b.says(b.post("/webhooks/9/pause"), 404)
}
