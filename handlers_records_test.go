package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/csvtable"
)

// FuzzLoadConfig: what is taken is a config that says the same when it is
// printed and loaded again.
func FuzzLoadConfig(f *testing.F) {
	for _, pattern := range []string{"config.example.toml", "testdata/config/*.toml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatal(pattern, err)
		}
		for _, name := range files {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data))
		}
	}
	f.Add("[[limit]]\nname = \"x\"\nwindow = \"1h\"\ndefault = 5\n[[permission]]\nname = \"p\"\ndescription = \"d\"\n[[route]]\npath = \"/a/:b/*c\"\npermission = [\"p\"]\nlimits = [\"x\"]\nupstream = \"http://127.0.0.1:1\"\n")
	file := filepath.Join(f.TempDir(), "latchkey.toml")
	load := func(t *testing.T, text string) (Config, Sources, error) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return LoadConfig(file, nil, nil)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, sources, err := load(t, text)
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := c.Print(&b, sources); err != nil {
			t.Fatal(err)
		}
		again, _, err := load(t, b.String())
		if err != nil || !reflect.DeepEqual(again, c) {
			t.Errorf("got %+v, %v\nwant %+v from\n%s", again, err, c, &b)
		}
	})
}

// FuzzRedactor: a secret does not get into the log by what stands beside it.
func FuzzRedactor(f *testing.F) {
	f.Add("key=", "&x")
	f.Add("klen_", "")
	f.Add("Bearer ", "\n")
	f.Fuzz(func(t *testing.T, before, after string) {
		const secret = "klen_7Hq2Lw9Zx4Vb6Nm8Kp3Rt5Yc1Df0GsAAAAAA"
		if got := NewRedactor("klen_").Text(before + secret + after); strings.Contains(got, secret[5:5+30]) {
			t.Errorf("got %q", got)
		}
	})
}

// FuzzImports: lines of CSV for keys and contacts are stored all or not at all,
// each once, and never are a fault of ours.
func FuzzImports(f *testing.F) {
	hash := func(n int) string { return fmt.Sprintf("%064x", n) }
	f.Add("name,sha256,permissions\na,"+hash(1)+",can_read_calls\nb,"+hash(2)+",can_read_calls\n", true)
	f.Add("name,sha256,permissions,requests_per_minute_limit,metadata.x\na,"+hash(3)+",can_read_calls,5,\"y\nz\"\n", true)
	f.Add("name,sha256,permissions\na,"+hash(4)+",can_read_calls\nb,"+hash(4)+",\n", true)
	f.Add("\ufefffirst_name,phone,tags\nA,+4930123456,x;y\nB,,\n", false)
	f.Add("first_name,phone\nA\n", false)
	f.Add("first_name,first_name\n\"A,B\n", false)
	f.Add("first_name;tags\nA;\"x;y\"\n", false)
	f.Add("first_name\temail\nJ\xfcrgen\t\n", false)
	f.Add("\xff\xfef\x00i\x00r\x00s\x00t\x00_\x00n\x00a\x00m\x00e\x00\n\x00\xfc\x00", false)
	a := newTestApp(f)
	f.Fuzz(func(t *testing.T, text string, keys bool) {
		a.t = t
		list := "/admin/v1/contacts"
		if keys {
			list = "/admin/v1/keys"
		}
		before := a.operate(200, "GET", list+"?limit=1", "")["count"].(float64)
		r, w := httptest.NewRequest("POST", list+"/import", strings.NewReader(text)), httptest.NewRecorder()
		r.Header.Set("Content-Type", "text/csv")
		a.local.ServeHTTP(w, r)
		stored := a.operate(200, "GET", list+"?limit=1", "")["count"].(float64) - before
		var answer struct{ Count float64 }
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code >= 500 {
			t.Fatalf("%q: got %d %s", text, w.Code, w.Body)
		}
		if w.Code >= 300 {
			answer.Count = 0
		}
		table, err := csvtable.Read([]byte(text), "")
		if stored != answer.Count || stored > 0 && (err != nil || int(stored) != len(table.Rows)) {
			t.Errorf("%q: got %d %s, stored %v of %d rows", text, w.Code, w.Body, stored, len(table.Rows))
		}
		if stored == 0 {
			return
		}
		if shown := a.control("GET", fmt.Sprintf("%s?limit=%v", list, stored), "").Body.String(); strings.Contains(shown, "\ufffd") && !strings.Contains(text, "\ufffd") && !strings.HasPrefix(text, "\xff\xfe") && !strings.HasPrefix(text, "\xfe\xff") {
			t.Errorf("%q: a character was replaced", text)
		}
	})
}

// FuzzEndpoints sends any body and query to any endpoint of both listeners, with
// every right: the answer is one that is described, and never a fault of ours.
func FuzzEndpoints(f *testing.F) {
	a := newTestApp(f, func(c *Config) { c.Webhooks.AllowPrivateTargets = true })
	_, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000000000, "calls_per_day_limit": 1000000000, "calendar_events_per_day_limit": 1000000000}`)
	f.Cleanup(func() { a.t = f })
	var rows []Route
	for _, row := range slices.Concat(a.Server.o.Keyed, a.Server.o.Free, a.Server.o.Open, a.Server.o.Admin) {
		stays := row.Path == "/api/v1/key/revoke" || row.Path == "/admin/v1/backup" || row.Path == "/admin/v1/check" || row.Path == "/admin/v1/reload" ||
			row.Path == "/admin/v1/calls/claim" || strings.HasSuffix(row.Path, "/test") || row.Method == "DELETE"
		if !stays { // those are slow, wait, call out, or take away what the others are about
			rows = append(rows, row)
		}
	}
	bodies := []string{
		`{"name": "a", "permissions": ["can_read_calls"], "limits": {"requests_per_minute_limit": 5}, "metadata": {"a": "b"}, "allowed_ips": ["10.0.0.0/8"], "expires_at": "2030-01-01T00:00:00Z"}`,
		`{"first_name": "A", "phone_numbers": [{"phone_number": "+4930123456", "phone_type": "mobile"}], "tags": ["x"], "custom_fields": {"a": 1}}`,
		`{"title": "T", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z", "video_conference_url": "https://a/", "status": "confirmed"}`,
		`{"agent_id": 1, "phone_number": "+4930123456", "contact_id": 1}`, `{"url": "https://a.example/", "subscribed_events": ["call.ended"]}`,
		`{"owner": "1", "timezone": "Europe/Berlin", "hours": {"monday": ["09:00-17:00"]}}`, `{"key": "klen_x", "method": "GET", "path": "/"}`, `[]`, ``, `{"keys": [{}]}`,
	}
	for i := range rows {
		f.Add(uint16(i), bodies[i%len(bodies)], "page=1&status=active&start_date=2026-03-02", "1")
	}
	f.Fuzz(func(t *testing.T, n uint16, body, query, id string) {
		row := rows[int(n)%len(rows)]
		u, err := url.ParseRequestURI(fill(row.Path, url.PathEscape(id)) + "?" + query)
		if err != nil || len(body) > 1<<16 {
			return
		}
		a.t = t
		a.clocks.Pass(time.Second)
		r := httptest.NewRequest(row.Method, "/", strings.NewReader(body))
		r.URL, r.RequestURI = u, u.RequestURI()
		w, door := httptest.NewRecorder(), a.api
		if strings.HasPrefix(row.Path, "/admin/") {
			door = a.local
		} else {
			r.Header.Set("X-API-Key", key)
		}
		door.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusNotImplemented || w.Body.Len() > 8<<20 {
			t.Fatalf("%s %s with %q: got %d %.500s", row.Method, u, body, w.Code, w.Body)
		}
		if kind := w.Header().Get("Content-Type"); kind == "application/json" && !json.Valid(w.Body.Bytes()) || strings.Contains(w.Body.String(), key) && !strings.Contains(body+query+id, key) {
			t.Errorf("%s %s with %q: got %d %.500s", row.Method, u, body, w.Code, w.Body)
		}
	})
}

// TestRecords_Search looks for a record by a part of its text in every list that has the parameter
// search, as openapi.json says: in capitals, with its letters composed and not, by words in another
// order and without accents.
func TestRecords_Search(t *testing.T) {
	b := newDashboard(t)
	_, key := b.key(everyPermission)
	const stored, asked = "Ju\u0308rgen Stra\u00dfe", "J\u00dcRGEN STRASSE"
	bodies := map[string]string{ // what to create, with stored in place of %s
		"/admin/v1/keys": `{"name": "%s", "permissions": ["can_read_calls"]}`, "/admin/v1/agents": `{"name": "%s"}`, "/admin/v1/owners": `{"name": "%s"}`,
		"/admin/v1/contacts":    `{"first_name": "Ju\u0308rgen", "last_name": "Stra\u00dfe"}`,
		"/admin/v1/do-not-call": `{"phone_number": "+4930555001", "reason": "%s"}`, "/api/v1/contacts": "",
		"/admin/v1/variables": `{"name": "strasse", "display_name": "S", "variable_type": "text", "context_type": "contact"}`,
	}
	seen := 0
	for path, methods := range object(t, string(openAPI))["paths"].(map[string]any) {
		get, _ := methods.(map[string]any)["get"].(map[string]any)
		if !strings.Contains(fmt.Sprint(get["parameters"]), "name:search ") {
			continue
		}
		seen++
		body, ok := bodies[path]
		if !ok {
			t.Errorf("%s has the parameter search; say here what to create", path)
			continue
		}
		if body != "" {
			b.operate(201, "POST", path, strings.ReplaceAll(body, "%s", stored))
		}
	}
	if seen != len(bodies) {
		t.Errorf("got %d lists with the parameter search, want %d", seen, len(bodies))
	}
	for path := range bodies {
		search, plain := asked, "strasse jurg"
		if strings.HasSuffix(path, "variables") { // their names have only a-z, 0-9 and _
			search, plain = "STRASSE", "ass str"
		}
		for text, want := range map[string]float64{search: 1, plain: 1, search + " Mara": 0} {
			w := askDoor(b.doorOf(path), "GET", path+"?search="+url.QueryEscape(text), "", "Authorization: Bearer "+key)
			if got := object(t, w.Body.String())["count"]; got != want {
				t.Errorf("%s: got %v for %q, want %v", path, got, text, want)
			}
		}
	}
	for path := range bodies { // a bound on the work of one request
		w := askDoor(b.doorOf(path), "GET", path+"?search=a+b+c+d+e+f+g+h+i+j+k+l+m+n+o+p+q", "", "Authorization: Bearer "+key)
		if w.Code != 400 || !strings.Contains(w.Body.String(), "search must have at most 16 different words; got 17.") {
			t.Errorf("%s: got %d %s for 17 words", path, w.Code, w.Body)
		}
	}
	b.says(b.get("/contacts?search="+url.QueryEscape(asked)), 200, stored)
}

// TestRecords_UnknownFields wants a member that an admin endpoint does not know refused by its name: in the
// body of every operation, also of those that take none, in rows of imports and beside them, by the commands,
// inside of arrays, and by the one endpoint of the API that is as strict. What openapi.json names is accepted, in
// requests and as part of a record that is sent back.
func TestRecords_UnknownFields(t *testing.T) {
	b := newDashboard(t)
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	fillStore(b.testApp)
	id, _ := b.key(everyPermission)
	const unknown = "There is no field"
	send := func(method, path, body string) string {
		path = strings.NewReplacer("keys/{id}", "keys/"+id, "{id}", "1").Replace(path)
		if strings.HasPrefix(path, "/admin/v1/factors") || path == "/admin/v1/confirm" || path == "/admin/v1/recovery-codes" { // about the login that asks
			return b.operateBy(method, path, body).Body.String()
		}
		return askDoor(b.local, method, path, body).Body.String()
	}
	b.operateBy("POST", "/admin/v1/confirm", `{"password": "`+operatorPassword+`"}`)
	seen, imports, bare := 0, 0, 0
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if !strings.HasPrefix(path, "/admin/v1/") || method == "GET" {
				continue
			}
			if op.RequestBody == nil {
				if said := send(method, path, `{"surplus": 1}`); !strings.Contains(said, unknown+` \"surplus\": `) {
					t.Errorf("%s %s: got %s, want the body refused", method, path, said)
				}
				bare++
				continue
			}
			if kind, found := strings.CutSuffix(path, "/import"); found {
				imports++
				name := strings.ReplaceAll(strings.TrimPrefix(kind, "/admin/v1/"), "do-not-call", "do_not_call")
				if said := send("POST", path, `[{"surplus": 1}]`); !strings.Contains(said, unknown) || !strings.Contains(said, `"column":"surplus"`) {
					t.Errorf("POST %s: got %s, want the unknown field refused with its name", path, said)
				}
				if said := send("POST", path+"?dry_run=true", `[{"surplus": 1}]`); !strings.Contains(said, `"importable":false`) {
					t.Errorf("POST %s: got %s, want a dry run that says so", path, said)
				}
				if said := send("POST", path, fmt.Sprintf(`{%q: [], "dry_run": true}`, name)); !strings.Contains(said, unknown+` \"dry_run\". The fields are `+name) {
					t.Errorf("POST %s: got %s, want the unknown field refused beside the rows", path, said)
				}
				if said := send("POST", path, fmt.Sprintf(`{%q: 1, "count": 0, "page": 1, "limit": 50, "pages": 0}`, name)); strings.Contains(said, unknown) {
					t.Errorf("POST %s: got %s, want a list accepted as it was answered", path, said)
				}
				continue
			}
			seen++
			members := map[string]any{"zzz_surplus": 1} // the last one in the order in which they are checked
			for at, content := range contentsOf(op) {
				record := method == "PATCH" || strings.Count(path, "/") == 3 && at != "body" && path != "/admin/v1/apply" && path != "/admin/v1/confirm"
				schema := schemaOf(content)
				if schema == nil || at != "body" && (at[0] != '2' || !record) {
					continue
				}
				for name := range schema.Properties {
					if at == "body" || name != "key" && name != "token" && name != "secret" && name != "recovery_codes" { // those who create something get these
						members[name] = nil
					}
				}
			}
			body, _ := json.Marshal(members)
			if said := send(method, path, string(body)); !strings.Contains(said, unknown+` \"zzz_surplus\". The fields are `) {
				t.Errorf("%s %s with %s: got %s, want the unknown field refused, and no other", method, path, body, said)
			}
		}
	}
	if seen < 50 || imports < 8 || bare < 22 {
		t.Errorf("got %d operations, %d imports and %d without a body", seen, imports, bare)
	}
	_, asker := b.key(`["can_verify_keys"]`)
	if w := b.ask("POST", "/api/v1/verify", asker, `{"key": "klen_a", "permision": "can_read_calls"}`); w.Code != 400 || !strings.Contains(w.Body.String(), unknown+` \"permision\"`) {
		t.Errorf("got %d %s for a misspelt permission, want it refused", w.Code, w.Body)
	}
	if w := b.ask("POST", "/api/webhooks/create", asker, `{"surplus": 1}`); strings.Contains(w.Body.String(), unknown) {
		t.Errorf("got %s, want the API to ignore unknown fields", w.Body)
	}
	for _, tt := range []struct{ path, body, want string }{
		{"contacts", `{"first_name": "A", "phone": "+4930555010"}`, unknown + ` \"phone\"`},
		{"contacts", `{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555010", "type": "mobile"}]}`, `phone_numbers[0]: ` + unknown + ` \"type\"`},
		{"contacts/import", `[{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555010", "type": "mobile"}]}]`, `"column":"phone_numbers[0].type"`},
		{"schedules", `{"owner": "bob"}`, `time_zone is missing.`},
		{"schedules/import", `[{"owner": "bob", "hours": {}, "time_zone": "UTC"}]`, `row 1: ` + unknown + ` \"hours\". The fields are owner, time_zone, windows`},
	} {
		if said := send("POST", "/admin/v1/"+tt.path, tt.body); !strings.Contains(said, tt.want) {
			t.Errorf("%s %s: got %s, want %s", tt.path, tt.body, said, tt.want)
		}
	}
	if exit, _, errs := b.run(`[{"owner": "bob", "timezone": "UTC"}]`, "schedules", "import", "-"); exit == 0 || !strings.Contains(errs, unknown+` "timezone"`) {
		t.Errorf("got %d %s", exit, errs)
	}
	schedule := b.operate(201, "POST", "/admin/v1/schedules", `{"time_zone": "Europe/Berlin"}`)
	back, _ := json.Marshal(schedule)
	b.operate(200, "PATCH", fmt.Sprint("/admin/v1/schedules/", schedule["id"]), string(back))
	if c := b.operate(200, "GET", "/admin/v1/schedules", ""); c["count"] != 2.0 {
		t.Errorf("got %v, want those of ann and admin", c)
	}
}
