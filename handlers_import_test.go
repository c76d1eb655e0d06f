package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/token"
	"mime/multipart"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	ucli "github.com/urfave/cli/v3"

	"latchkey/cli"
)

// run runs a command on the service and returns its exit code and output.
func (a *testApp) run(stdin string, args ...string) (exit int, stdout, stderr string) {
	a.t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"latchkey", "--data", a.config.Server.Data}, args...)
	exit = cli.Run(context.Background(), args, a.environment(stdin, &out, &errs))
	return exit, out.String(), errs.String()
}

// upload sends a CSV as the page for the import of contacts does, and confirms it if that is offered.
func (b *browser) upload(data string) *httptest.ResponseRecorder {
	b.t.Helper()
	w := b.sendImport(data, nil)
	if !strings.Contains(w.Body.String(), `value="import"`) {
		return w
	}
	form := formOf(b.t, w.Body.String(), "/contacts/import")
	form.Set("do", "import")
	return b.sendImport("", form)
}

// sendImport sends the form for the import of contacts, with a file unless it is "" and there are fields.
func (b *browser) sendImport(file string, fields url.Values) *httptest.ResponseRecorder {
	b.t.Helper()
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	for name, values := range fields {
		for _, value := range values {
			if name != "file" {
				_ = form.WriteField(name, value)
			}
		}
	}
	if file != "" || fields == nil {
		part, err := form.CreateFormFile("file", "contacts.csv")
		if err != nil {
			b.t.Fatal(err)
		}
		_, _ = part.Write([]byte(file))
	}
	_ = form.Close()
	r := httptest.NewRequest("POST", "http://127.0.0.1:8081/contacts/import", &body)
	r.Header.Set("Content-Type", form.FormDataContentType())
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	return b.send(r)
}

// unstorable lists JSON values that could not be stored as they are sent.
var unstorable = []string{`"\ud800"`, `"x\udc00\ud800"`, "\"\xff\"", `"\u0000"`, "1e999", "-1e400", strings.Repeat("9", 401), `{"\udc00": 1}`, "[[1e999]]"}

// TestBody_Unstorable sends values that could not be stored as they are sent, and JSON that is none,
// to every endpoint that takes a body. Each refuses them and names no other fault.
func TestBody_Unstorable(t *testing.T) {
	a := newTestApp(t)
	fillStore(a)
	_, key := a.key(strings.Replace(everyPermission, "[", `["can_verify_keys",`, 1), `"limits": {"requests_per_minute_limit": 100000}`)
	described := object(t, string(openAPI))["paths"].(map[string]any)
	asked := 0
	for _, row := range slices.Concat(a.Server.o.Keyed, a.Server.o.Free, a.Server.o.Admin) {
		var parts []string
		for part := range strings.SplitSeq(row.Path, "/") {
			if name, ok := strings.CutPrefix(part, ":"); ok {
				part = "{" + name + "}"
			}
			parts = append(parts, part)
		}
		path, _ := described[strings.Join(parts, "/")].(map[string]any)
		operation, _ := path[strings.ToLower(row.Method)].(map[string]any)
		content := fmt.Sprint(operation["requestBody"])
		if endpointRules[row.Method+" "+row.Path].Proof.own() { // is refused before its body is read
			continue
		}
		if operation["requestBody"] == nil || strings.Contains(content, "x-www-form-urlencoded") || strings.HasSuffix(row.Path, "/restore") {
			continue
		}
		asked++
		for _, value := range unstorable {
			w := askDoor(a.doorOf(row.Path), row.Method, fill(row.Path, "1"), `{"any": `+value+`}`, "Authorization: Bearer "+key)
			if w.Code != 400 && !(w.Code == 404 && strings.Contains(row.Path, ":")) {
				t.Errorf("%s %s %.40q: got %d %.200s, want 400", row.Method, row.Path, value, w.Code, w.Body)
			}
			if w.Code == 400 && !strings.Contains(w.Body.String(), "any") {
				t.Errorf("%s %s %.40q: got %.300s, want the member named", row.Method, row.Path, value, w.Body)
			}
		}
	}
	if asked < 30 {
		t.Errorf("asked %d endpoints, want all that take a body", asked)
	}
}

// TestNumbers_KeepTheirDigits sends numbers in every place that holds any value, and reads them from
// everywhere they are shown.
func TestNumbers_KeepTheirDigits(t *testing.T) {
	const numbers = `[0,-0,1E5,1.0,12345678901234567890,0.1000000000000000055511151231257827,1e-999,1.79e308]`
	b := newDashboard(t)
	a := b.testApp
	_, key := a.key(everyPermission)
	a.operate(201, "POST", "/admin/v1/agents", `{"owner": "admin", "name": "Desk", "role": "outbound agent", "phone_number": "+4930555001"}`)
	a.hook("https://hooks.example.net/x", "", "call.started", "call.ended", "call.queued")
	post := func(path, body string) {
		t.Helper()
		if w := a.ask("POST", path, key, body); w.Code >= 300 {
			t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
		}
	}
	post("/api/v1/contacts/create", `{"first_name": "A", "custom_context": {"n": `+numbers+`, "note": "old"}, "industry_context": {"n": `+numbers+`}}`)
	post("/api/v1/calls", `{"phone_number": "+4930555044", "agent_id": 1, "variables": {"n": `+numbers+`}}`)
	post("/api/v1/contacts/1/context", `{"variables": {"score": 12345678901234567890}, "auto_create_variables": true}`)
	post("/api/v1/business/context", `{"variables": {"score": 12345678901234567890, "ratio": 1.0}, "auto_create_variables": true}`)
	a.operate(201, "POST", "/admin/v1/contacts/import", `[{"first_name": "B", "custom_context": {"n": `+numbers+`}}]`)
	holds := func(where, text string, wants ...string) {
		t.Helper()
		flat := strings.NewReplacer(" ", "", "\n", "", "&#34;", `"`, "&#43;", "+").Replace(text)
		for _, want := range wants {
			if !strings.Contains(flat, want) {
				t.Errorf("%s: got %s, want %s", where, text, want)
			}
		}
	}
	everywhere := func() {
		t.Helper()
		for _, path := range []string{"/api/v1/contacts/1", "/admin/v1/contacts/1", "/admin/v1/contacts/2"} {
			holds(path, askDoor(a.doorOf(path), "GET", path, "", "Authorization: Bearer "+key).Body.String(), `"n":`+numbers)
		}
		holds("call", a.control("GET", "/admin/v1/calls/1", "").Body.String(), `"n":`+numbers)
		holds("business", a.control("GET", "/admin/v1/business-context", "").Body.String(), `"score":12345678901234567890`, `"ratio":1.0`)
		for _, command := range [][]string{{"contacts", "list"}, {"calls", "list"}} {
			exit, out, errs := a.run("", append(command, "--json")...)
			if exit != 0 {
				t.Errorf("%v: exit %d %s", command, exit, errs)
			}
			if command[0] == "contacts" {
				holds("contacts list --json", out, `"n":`+numbers, `"score":12345678901234567890`)
			}
			if exit, _, errs := a.run("", command...); exit != 0 {
				t.Errorf("%v: exit %d %s", command, exit, errs)
			}
		}
		holds("contact page", b.get("/contacts/1").Body.String(), `"n":`+numbers, "12345678901234567890")
		holds("business page", b.get("/business-context").Body.String(), `value="12345678901234567890"`, `value="1.0"`)
		for _, path := range []string{"/contacts", "/calls"} {
			b.says(b.get(path), 200)
		}
	}
	everywhere()
	var queued string
	err := a.Store.View(func(tx *Tx) error {
		for d, err := range bodyTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			queued += string(d.Body)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	holds("webhook", queued, `"n":`+numbers)
	// Another value is changed by the form.
	page := b.get("/contacts/1").Body.String()
	holds("form", page, `"note":"old"`)
	b.sent(b.saveForm("/contacts/1", "custom_context", `{"n": `+numbers+`, "note": "new", "score": 12345678901234567890}`), "/contacts/1?done=saved")
	everywhere()
	a.restart()
	b = newBrowser(a)
	b.post("/login", "name", "ann", "password", operatorPassword)
	everywhere()
}

// TestNumbers_StoredBefore shows numbers that no float holds, which an earlier version has stored.
func TestNumbers_StoredBefore(t *testing.T) {
	b := newDashboard(t)
	_, key := b.key(everyPermission)
	b.operate(201, "POST", "/admin/v1/contacts", `{"owner": "admin", "first_name": "A"}`)
	err := b.Store.Update(func(tx *Tx) error {
		c, err := contactTable.Get(tx, IDKey(1))
		if err != nil {
			return err
		}
		c.CustomContext = Values{"x": json.Number("1e999"), "y": json.Number("-1e999")}
		c.IndustryContext = Values{"x": json.Number("1e999")}
		return contactTable.Put(tx, c)
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, status := range map[string]int{"/contacts": 200, "/contacts/1": 200, "/activity": 200} {
		b.says(b.get(path), status)
	}
	b.says(b.get("/contacts/1"), 200, "1e999")
	if w := askDoor(b.api, "GET", "/api/v1/contacts/1", "", "Authorization: Bearer "+key); w.Code != 200 || !strings.Contains(w.Body.String(), `"x":1e999`) {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	for _, args := range [][]string{{"contacts", "list"}, {"contacts", "list", "--json"}, {"audit", "list"}} {
		if exit, out, errs := b.run("", args...); exit != 0 {
			t.Errorf("%v: exit %d %s%s", args, exit, out, errs)
		}
	}
	b.sent(b.saveForm("/contacts/1", "first_name", "B"), "/contacts/1?done=saved")
}

// TestNumbers_OneDecoder wants JSON of any shape to be decoded by strictjson alone, CSV to be read
// by csvtable alone, and what the clients send to be encoded by strictjson. Other decoders would
// round numbers, and encoders would replace what is not UTF-8.
func TestNumbers_OneDecoder(t *testing.T) {
	typed := map[string]string{ // files that may decode JSON into a Go type, which has no any, and how often
		"audit.go": "the log's own types", "calls.go": "Values", "admin_passkeys.go": "the stored passkey", "admin_tickets.go": "tickets that the service has encrypted", "contacts_variables.go": "Values", "handlers_body.go": "the type that the caller names", "keys_permissions.go": "names",
		"keys_activity.go": "KeyActivity and KeyPlace", "keys_ring.go": "LastUse", "store_authors.go": "Authors", "store_file.go": "the header of the file", "store_migrate.go": "unfinishedMigration", "store_list_format3.go": "records of format 2", "store_list_format4.go": "records of format 3", "store_rows_format3.go": "keys of format 2", "store_outbox.go": "records of formats 2 and 3", "store_owners.go": "the owner of a record", "store_records.go": "checked below", "webhooks_outbox.go": "recipients", "cli/client.go": "ClientError",
	}
	for _, f := range sources(t, token.NewFileSet(), "*.go", "cli/*.go", "dashboard/*.go") {
		name := f.name
		ast.Inspect(f.File, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, _ := sel.X.(*ast.Ident)
			if pkg == nil {
				return true
			}
			switch call := pkg.Name + "." + sel.Sel.Name; call {
			case "json.NewDecoder", "csv.NewReader":
				t.Errorf("%s: uses %s; use strictjson.Decode or csvtable.Read", name, call)
			case "json.Unmarshal":
				if typed[name] == "" {
					t.Errorf("%s: uses json.Unmarshal; use strictjson.Decode, or say here which type is decoded", name)
				}
			case "json.Marshal":
				if strings.Contains(name, "/") {
					t.Errorf("%s: uses json.Marshal; use strictjson.Encode", name)
				}
			}
			return true
		})
	}
	checked := 0
	for _, table := range tables() {
		method, ok := reflect.TypeOf(table).MethodByName("Get")
		if !ok {
			continue // a check of another kind, such as that of the chain of the audit log
		}
		checked++
		noFloats(t, method.Type.Out(0), fmt.Sprintf("%T", table), map[reflect.Type]bool{})
	}
	if checked < 15 {
		t.Errorf("checked %d tables, want all", checked)
	}
}

// noFloats wants a stored type to have no member whose numbers json.Unmarshal would decode as
// float64.
func noFloats(t *testing.T, of reflect.Type, where string, seen map[reflect.Type]bool) {
	t.Helper()
	decodes := reflect.TypeFor[json.Unmarshaler]()
	if seen[of] || of.Implements(decodes) || reflect.PointerTo(of).Implements(decodes) {
		return
	}
	seen[of] = true
	switch of.Kind() {
	case reflect.Interface:
		t.Errorf("%s: json.Unmarshal decodes the numbers in it as float64; use Values or json.RawMessage", where)
	case reflect.Struct:
		for i := range of.NumField() {
			if f := of.Field(i); f.IsExported() && f.Tag.Get("json") != "-" {
				noFloats(t, f.Type, where+"."+f.Name, seen)
			}
		}
	case reflect.Map, reflect.Slice, reflect.Pointer, reflect.Array:
		noFloats(t, of.Elem(), where, seen)
	}
}

// TestImports_EveryWayIn sends CSV by every way in, and wants the same rows named in the same words,
// or the same contacts stored.
func TestImports_EveryWayIn(t *testing.T) {
	const utf8 = "first_name,last_name\nJürgen,Müller\n"
	const latin = "first_name,last_name\nJ\xfcrgen,M\xfcller\n"
	const wide = "\xff\xfef\x00i\x00r\x00s\x00t\x00_\x00n\x00a\x00m\x00e\x00\t\x00l\x00a\x00s\x00t\x00_\x00n\x00a\x00m\x00e\x00\r\x00\n\x00J\x00\xfc\x00r\x00g\x00e\x00n\x00\t\x00M\x00\xfc\x00l\x00l\x00e\x00r\x00"
	rows := "first_name,email\n\"a\nb\",x@example.net\n,\nOda,nobody\nMara,m@example.net,1\nJ\xfcr,\n"
	for _, tt := range []struct {
		what, data string
		want       []string // in each refusal; nil: stored as Jürgen Müller
	}{
		{"UTF-8", utf8, nil},
		{"with a mark and line ends of Windows", "\ufeff" + strings.ReplaceAll(utf8, "\n", "\r\n"), nil},
		{"semicolons", strings.ReplaceAll(utf8, ",", ";"), nil},
		{"UTF-16 with tabs", wide, nil},
		{"Latin-1", latin, []string{"line 2 of the file (row 1): first_name is not valid UTF-8", "windows-1252"}},
		{"a column twice", "first_name,email,first_name\nA,,B\n", []string{`The column "first_name" appears twice`}},
		{"an unknown column", "first_name,shoe\nA,39\n", []string{`The column "shoe" does not exist`}},
		{"empty", "", []string{"empty"}},
		{"blank", " \n\n", []string{"empty"}},
		{"NUL", "first_name\na\x00b\n", []string{"line 2 of the file (row 1): first_name contains a NUL character"}},
		{"many faults", rows, []string{"line 4 of the file (row 2)", "line 5 of the file (row 3)", "line 6 of the file (row 4)", "line 7 of the file (row 5)", "email must be an address", "The row has 3 cells", "first_name is not valid UTF-8"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			b := newDashboard(t)
			file := filepath.Join(t.TempDir(), "people.csv")
			if err := os.WriteFile(file, []byte(tt.data), 0o600); err != nil {
				t.Fatal(err)
			}
			for way, send := range map[string]func() (bool, string){
				"admin endpoint": func() (bool, string) {
					w := askDoor(b.local, "POST", "/admin/v1/contacts/import", tt.data, "Content-Type: text/csv")
					return w.Code == 201, w.Body.String()
				},
				"command": func() (bool, string) {
					exit, out, errs := b.run("", "contacts", "import", file)
					if exit != 0 && !strings.Contains(errs, file) {
						t.Errorf("got %s, want the file named", errs)
					}
					return exit == 0, out + errs
				},
				"standard input": func() (bool, string) {
					exit, out, errs := b.run(tt.data, "contacts", "import", "--csv", "-")
					return exit == 0, out + errs
				},
				"dashboard": func() (bool, string) {
					w := b.upload(tt.data)
					return w.Code == 303, w.Body.String()
				},
			} {
				before := b.operate(200, "GET", "/admin/v1/contacts", "")["count"].(float64)
				good, said := send()
				list := b.operate(200, "GET", "/admin/v1/contacts?limit=1", "")
				if tt.want == nil {
					if names := fmt.Sprint(list["contacts"]); !good || list["count"] != before+1 || !strings.Contains(names, "Jürgen Müller") {
						t.Errorf("%s: got %s, %s", way, said, names)
					}
					continue
				}
				said = strings.NewReplacer("&#34;", `"`, `\"`, `"`, "</td><td>", ": ").Replace(said)
				if way == "admin endpoint" { // a program reads row and line, and the message has the first row
					for _, m := range []string{"2", "3", "4", "5"} {
						said += fmt.Sprintf(" line %s of the file (row %s)", map[string]string{"2": "4", "3": "5", "4": "6", "5": "7"}[m], m)
					}
				}
				for _, want := range tt.want {
					if good || !strings.Contains(said, want) {
						t.Errorf("%s: got %s, want it refused with %q", way, said, want)
					}
				}
				if list["count"] != before {
					t.Errorf("%s: something was stored", way)
				}
			}
		})
	}
}

// TestImports_Rows wants row, line and column of every fault in an answer, from both importers and
// both forms, fifty at most.
func TestImports_Rows(t *testing.T) {
	a := newTestApp(t)
	for _, tt := range []struct{ of, kind, body, want string }{
		{"contacts", "text/csv", "first_name,email,phone\nA,nobody,\n\"B\n\",b@example.net,12\nC,,\nD\n\n,,\n", `[[1 2 email] [2 3 phone] [4 6 -] [5 8 first_name]] 4`},
		{"contacts", "application/json", `[{"first_name": "A", "email": "nobody"}, {"first_name": "B", "phone_numbers": [{"phone_number": "12"}]}, 5]`, `[[1 - email] [2 - phone_numbers[0].phone_number] [3 - -]] 3`},
		{"contacts", "application/json", `[{"first_name": "A"}, {"first_name": "B", "tags": ["\ud800"]}]`, `[[2 - tags[0]]] 1`},
		{"owners", "application/json", `[{"name": "a"}, {"name": 5}]`, `[[2 - name]] 1`},
		{"keys", "text/csv", "name,sha256,permissions,calls_per_day_limit\na,12,can_read_calls,\nb," + sha("b") + ",can_fly,\nc," + sha("c") + ",can_read_calls,many\nd," + sha("d") + ",can_read_calls,0\ne," + sha("d") + ",can_read_calls,\n",
			`[[1 2 sha256] [2 3 permissions] [3 4 calls_per_day_limit] [4 5 calls_per_day_limit] [5 6 -]] 5`},
		{"keys", "application/json", `[{"name": "a", "sha256": "` + sha("a") + `", "permissions": ["can_read_calls"], "limits": {"calls_per_day_limit": 0}}, {"name": "b"}]`, `[[1 - limits.calls_per_day_limit] [2 - sha256]] 2`},
	} {
		w := askDoor(a.local, "POST", "/admin/v1/"+tt.of+"/import", tt.body, "Content-Type: "+tt.kind)
		said := object(t, w.Body.String())
		list, _ := said["errors"].([]any)
		var got []string
		for _, v := range list {
			row := v.(map[string]any)
			got = append(got, strings.ReplaceAll(fmt.Sprint([]any{row["row"], row["line"], row["column"]}), "<nil>", "-"))
		}
		if shown := fmt.Sprint(got, " ", said["error_count"]); w.Code != 400 || shown != tt.want {
			t.Errorf("%s %.60q: got %d %s %v, want %s", tt.of, tt.body, w.Code, shown, said["message"], tt.want)
		}
	}
	for _, tt := range []struct{ of, kind, body, want string }{ // the words of messages
		{"contacts", "text/csv", "First Name;Phone\nA;12\n", `(row 1): Phone must be an E.164 number`},
		{"contacts", "text/csv", "First Name;E-mail\nA;nobody\n", `"column":"email","line":2,"message":"E-mail must be an address`},
		{"contacts", "text/csv", "E-mail\na@example.net\n", `"column":"first_name","line":2,"message":"first_name is missing`},
		{"contacts", "text/csv", "Name;Telefon;email\nA;1;\n", `The columns \"Name\" and \"Telefon\" do not exist. The columns are first_name,`},
		{"keys", "text/csv", "Name,SHA256,permissions\na,12,can_read_calls\n", `(row 1): SHA256 `},
		{"contacts", "application/json", " [{\"first_name\": \"A\",}]", `not valid JSON at character 22.`},
		{"contacts", "application/json", "{\"contacts\": [\n{]}", `not valid JSON at character 2 of line 2.`},
		{"contacts", "application/x-www-form-urlencoded", "first_name=A", `The body is a form (application/x-www-form-urlencoded). Send one JSON object`},
	} {
		w := askDoor(a.local, "POST", "/admin/v1/"+tt.of+"/import", tt.body, "Content-Type: "+tt.kind)
		if w.Code != 400 || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s %.60q: got %d %s, want %s", tt.of, tt.body, w.Code, w.Body, tt.want)
		}
	}
	for of, want := range map[string]string{"contacts": "1 contact. Owner: admin.", "do_not_call": "1 number.", "owners": "1 owner."} {
		row := map[string]string{"contacts": `{"first_name": "A"}`, "do_not_call": `{"phone_number": "+4930555010"}`, "owners": `{"name": "A"}`}[of]
		path := "/admin/v1/" + strings.ReplaceAll(of, "_", "-") + "/import"
		dry, done := a.operate(200, "POST", path+"?dry_run=true", "["+row+"]"), a.operate(201, "POST", path, "["+row+"]")
		if dry["message"] != "An import would create "+want || done["message"] != "Imported "+want {
			t.Errorf("got %v and %v, want %s", dry["message"], done["message"], want)
		}
	}
	_, _, errs := a.run("first_name\n"+strings.Repeat("\"\"\n", 60), "contacts", "import", "--csv", "-")
	if n := strings.Count(errs, "of the file (row"); n != maxRowFaults || !strings.Contains(errs, "and 10 more") || !strings.Contains(errs, "rows to correct: 60") {
		t.Errorf("got %d rows in %s, want %d and how many more", n, errs, maxRowFaults)
	}
}

// TestImports_Charset converts a CSV whose charset is named, by the endpoint and by the command.
func TestImports_Charset(t *testing.T) {
	a := newTestApp(t)
	const latin = "first_name\nJ\xfcrgen\n"
	if w := askDoor(a.local, "POST", "/admin/v1/contacts/import", latin, "Content-Type: text/csv; charset=windows-1252"); w.Code != 201 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if exit, _, errs := a.run(latin, "contacts", "import", "--csv", "--charset", "iso-8859-1", "-"); exit != 0 {
		t.Errorf("exit %d %s", exit, errs)
	}
	if w := askDoor(a.local, "POST", "/admin/v1/keys/import", "name,sha256,permissions\nM\xfcller,"+sha("m")+",can_read_calls\n", "Content-Type: text/csv; charset=windows-1252"); w.Code != 201 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if got := fmt.Sprint(a.operate(200, "GET", "/admin/v1/contacts", ""), a.keyNames()); strings.Count(got, "Jürgen") < 2 || !strings.Contains(got, "Müller") {
		t.Errorf("got %s", got)
	}
	for kind, want := range map[string]string{"text/csv; charset=ebcdic": "not known", "text/csv; charset": "Content-Type cannot be read"} {
		if w := askDoor(a.local, "POST", "/admin/v1/contacts/import", "first_name\nA\n", "Content-Type: "+kind); w.Code != 400 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want 400 %q", kind, w.Code, w.Body, want)
		}
	}
	if exit, _, _ := a.run("[]", "contacts", "import", "--charset", "latin1", "-"); exit != 2 {
		t.Errorf("exit %d for the charset of JSON, want 2", exit)
	}
}

// TestContactPages_Preview looks at what an import would do, with each choice for duplicates, and then
// imports it.
func TestContactPages_Preview(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "email": "mara@example.net"}`)
	count := func(want float64) {
		t.Helper()
		if v := b.operate(200, "GET", "/admin/v1/contacts", ""); v["count"] != want {
			t.Errorf("got %v contacts, want %v", v["count"], want)
		}
	}
	const file = "First Name;E-Mail;tags\nMaria;mara@example.net;\"a;b\"\n<script>x</script>;;\n"
	w := b.sendImport("", url.Values{"csv": {file}, "twins": {"create"}})
	b.says(w, 200, "Nothing is imported yet.", "<dt>Cells separated by</dt><dd>semicolons</dd>", "<dt>New</dt><dd>2</dd>", "1, each creates another contact", "<dt>Wrong</dt><dd>none</dd>",
		"<bdi>First Name</bdi><br><span class=\"soft\">is first_name</span>", "<bdi>a;b</bdi>", "<td>line 2 of the file (row 1)</td><td>contact 1</td>", "Import 2 contacts", "Maria;mara@example.net")
	b.tame("preview", w)
	skip := b.sendImport("", url.Values{"csv": {file}, "twins": {"skip"}})
	b.says(skip, 200, "<dt>New</dt><dd>1</dd>", "1 to leave out", "Import 1 contact<", `value="skip" selected`)
	b.says(b.sendImport("", url.Values{"csv": {file}, "twins": {"email"}}), 200, "<dt>New</dt><dd>1</dd>", "1 to update", "Import 2 contacts", `value="email" selected`)
	b.says(b.sendImport("", url.Values{"csv": {"first_name\n\"\"\n"}}), 200, "1 of 1 rows cannot be imported", "<td>line 2 of the file (row 1)</td>", "Check again")
	b.says(b.sendImport("", url.Values{"csv": {"first_name,email\nMara,mara@example.net\n"}, "twins": {"skip"}}), 200, "There is nothing to import: no row is new.")
	b.says(b.sendImport("", url.Values{"csv": {file}, "data": {"%"}}), 400, "Choose it again")
	count(1)
	form := formOf(t, skip.Body.String(), "/contacts/import")
	form.Set("do", "import")
	w = b.sendImport("", form)
	to := b.sent(w, "/contacts?done=imported-1-0-1")
	b.says(b.get(to), 200, "Imported: 1 created, 1 left out because they are here already.")
	count(2)
	form.Set("twins", "email")
	b.sent(b.sendImport("", form), "/contacts?done=imported-1-1-0")
	if v := b.operate(200, "GET", "/admin/v1/contacts/1", ""); v["full_name"] != "Maria" {
		t.Errorf("got %v, want the contact updated", v)
	}
	b.says(b.get("/contacts?done=imported-9-9-9"), 200)
	if page := b.get("/contacts?done=imported-9-9-9").Body.String(); strings.Contains(page, "Imported:") {
		t.Error("an address makes the page say that something was imported")
	}
}

// TestContactPages_Bytes imports files whose text a browser would not send back as it was: the second
// request has their bytes.
func TestContactPages_Bytes(t *testing.T) {
	for what, tt := range map[string]struct{ file, charset string }{
		"UTF-16":       {"\xff\xfef\x00i\x00r\x00s\x00t\x00_\x00n\x00a\x00m\x00e\x00\n\x00J\x00\xfc\x00r\x00g\x00e\x00n\x00\n\x00", ""},
		"windows-1252": {"first_name\nJ\xfcrgen\n", "windows-1252"},
		"UTF-8":        {"\ufefffirst_name\r\nJürgen\r\n", ""},
	} {
		b := newDashboard(t)
		w := b.sendImport(tt.file, url.Values{"charset": {tt.charset}, "twins": {"create"}})
		b.says(w, 200, "<bdi>J\u00fcrgen</bdi>", "Import 1 contact<")
		form := formOf(t, w.Body.String(), "/contacts/import")
		form.Set("do", "import")
		b.sent(b.sendImport("", form), "/contacts?done=imported-1-0-0")
		if list := fmt.Sprint(b.operate(200, "GET", "/admin/v1/contacts", "")["contacts"]); !strings.Contains(list, "full_name:J\u00fcrgen") {
			t.Errorf("%s: got %s", what, list)
		}
	}
	b := newDashboard(t)
	b.says(b.sendImport("first_name\n"+strings.Repeat("\xfc", 900_000), nil), 413, "too large for this page")
}

// TestImport_Owner gives the rows that name no owner the one of the parameter, for each kind of record that has an owner, over HTTP and with
// the command. The answer says whose the records are.
func TestImport_Owner(t *testing.T) {
	a := newTestApp(t)
	for name, row := range map[string]string{
		"agents": `"name": "Ada"`, "contacts": `"first_name": "Mara"`, "schedules": `"time_zone": "Europe/Berlin"`, "variables": `"name": "tone", "display_name": "Tone", "variable_type": "text", "context_type": "contact"`,
		"keys": `"name": "ci", "permissions": ["can_read_calls"], "sha256": "SHA"`,
	} {
		digest := func(n int) string { return strings.ReplaceAll(row, "SHA", strings.Repeat(fmt.Sprint(n), 64)) }
		path, rows := "/admin/v1/"+name+"/import", "[{"+digest(1)+"}, {"+digest(2)+`, "owner": "ben"}]`
		for _, dry := range []string{"?dry_run=true&owner=ann", "?owner=ann"} {
			w := a.control("POST", path+dry, rows)
			answer := object(t, w.Body.String())
			if fmt.Sprint(answer["owner_names"]) != "[ann ben]" || !strings.HasSuffix(fmt.Sprint(answer["message"]), " Owners: ann, ben.") {
				t.Errorf("%s%s: got %d %s", path, dry, w.Code, w.Body)
			}
		}
		at := "/admin/v1/" + name + "?owner=ann"
		if name == "variables" { // every owner has some that are built in
			at += "&search=tone"
		}
		if n := a.operate(200, "GET", at, "")["count"]; n != 1.0 {
			t.Errorf("%s: got %v of ann, want 1", name, n)
		}
		exit, out, errs := a.run("[{"+digest(3)+"}]", name, "import", "--owner", "cat", "-")
		if exit != 0 || !strings.Contains(out, "Owner: cat.") {
			t.Errorf("%s import: got %d %s%s", name, exit, out, errs)
		}
	}
	a.refuse("POST", "/admin/v1/teams/import?owner=ann", "[]", 400, "validation_error", "which have no owner")
	a.refuse("POST", "/admin/v1/contacts/import?owner="+strings.Repeat("x", NameLength+1), "[]", 400, "validation_error", "owner")
}

// TestCommands_UpdateAgent changes an agent with the command; its owner stays.
func TestCommands_UpdateAgent(t *testing.T) {
	a := newTestApp(t)
	id := fmt.Sprint(a.operate(201, "POST", "/admin/v1/agents", `{"name": "Ada", "role": "inbound agent", "owner": "ann"}`)["id"])
	exit, out, errs := a.run("", "agents", "update", id, "--name", "Bea", "--phone", "+4930555001")
	got := a.operate(200, "GET", "/admin/v1/agents/"+id, "")
	if exit != 0 || !strings.Contains(out, "Bea") || got["name"] != "Bea" || got["phone_number"] != "+4930555001" || got["role"] != "inbound agent" || got["owner"] != "ann" {
		t.Errorf("got %d %s%s, %v", exit, out, errs, got)
	}
	if exit, _, errs := a.run("", "agents", "update", id); exit != 2 || !strings.Contains(errs, "nothing to change") {
		t.Errorf("without a flag: got %d %s", exit, errs)
	}
}

// TestCommands_Delete wants a sentence for each kind of record that can be deleted, and only JSON with --json.
func TestCommands_Delete(t *testing.T) {
	a := newTestApp(t)
	for name, tt := range map[string][2]string{
		"agents": {`{"name": "Ada"}`, "Deleted the agent "}, "contacts": {`{"first_name": "Mara"}`, "Calls and events keep what they have of the person"},
		"teams": {`{"name": "Reception"}`, "Deleted the team "}, "do-not-call": {`{"phone_number": "+4930555044"}`, "The number can be called again."},
	} {
		id := fmt.Sprint(a.operate(201, "POST", "/admin/v1/"+name, tt[0])["id"])
		if exit, out, errs := a.run("", name, "delete", id); exit != 0 || !strings.Contains(out, tt[1]) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s delete: got %d %s%s, want %q", name, exit, out, errs, tt[1])
		}
	}
	id := fmt.Sprint(a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara"}`)["id"])
	if exit, out, _ := a.run("", "contacts", "delete", id, "--json"); exit != 0 || object(t, out)["message"] != "Deleted." {
		t.Errorf("with --json: got %d %s", exit, out)
	}
}

// TestCommands_BadText passes text that is not UTF-8 to every flag of every command that creates or
// changes something, and wants it refused.
func TestCommands_BadText(t *testing.T) {
	a := newTestApp(t)
	tried := 0
	var walk func(c *ucli.Command, names []string)
	walk = func(c *ucli.Command, names []string) {
		for _, sub := range c.Commands {
			walk(sub, append(slices.Clone(names), sub.Name))
		}
		if last := names[max(0, len(names)-1):]; len(last) == 0 || last[0] != "create" && last[0] != "update" && last[0] != "cancel" {
			return
		}
		for _, flag := range c.Flags {
			name := flag.Names()[0]
			if doc, ok := flag.(ucli.DocGenerationFlag); !ok || !doc.TakesValue() || name == "help" {
				continue
			}
			value := "M\xfcller"
			if name == "metadata" {
				value = "a=" + value
			}
			args := append(slices.Clone(names), "--"+name, value)
			if c.ArgsUsage == "KEY" {
				args = append(args, "key_1")
			} else if c.ArgsUsage != "" {
				args = append(args, "1")
			}
			tried++
			exit, out, errs := a.run("", args...)
			if exit == 0 || !strings.Contains(errs, "not valid UTF-8") && exit != 2 && !strings.Contains(errs, "password") {
				t.Errorf("%q: exit %d %s%s, want it refused as not UTF-8", args, exit, out, errs)
			}
		}
	}
	walk(cli.Tree(a.environment("", &bytes.Buffer{}, &bytes.Buffer{})), nil)
	if tried < 40 {
		t.Errorf("tried %d flags, want those of all commands that create something", tried)
	}
	for _, text := range []string{`[{"first_name": "\ud800"}]`, "[{\"first_name\": \"\xff\"}]", "\xff\xfe[\x00]\x00", `[{"first_name": "A", "custom_context": {"a": 1e999}}]`, ""} {
		if exit, out, errs := a.run(text, "contacts", "import", "-"); exit != 1 {
			t.Errorf("%q: exit %d %s%s, want 1", text, exit, out, errs)
		}
	}
	if n := a.operate(200, "GET", "/admin/v1/contacts", "")["count"]; n != 0.0 {
		t.Errorf("got %v contacts, want none", n)
	}
}

// TestPages_BadText sends text that is not UTF-8 in every field of the forms that create something.
func TestPages_BadText(t *testing.T) {
	b := newDashboard(t)
	for path, fields := range map[string][]string{
		"/keys": {"name", "owner", "note"}, "/contacts": {"first_name", "tags", "custom_context"}, "/agents": {"name", "model"}, "/teams": {"name", "members"},
		"/owners": {"name"}, "/variables": {"name", "display_name", "description"}, "/do-not-call": {"reason"}, "/webhooks": {"name"}, "/events": {"title", "notes"},
	} {
		for _, field := range fields {
			value := "M\xfcller"
			if field == "custom_context" {
				value = `{"a": "` + value + `"}`
			}
			form := []string{field, value, "permission", "can_read_calls", "expiry", "never", "phone_number", "+4930555001"}
			if w := b.post(path, form...); w.Code < 400 || w.Code >= 500 {
				t.Errorf("%s %s: got %d, want it refused", path, field, w.Code)
			}
		}
	}
	if w := b.post("/contacts", "first_name", "A", "custom_context", `{"a": 1e999}`); w.Code != 400 {
		t.Errorf("got %d for a number that no program holds", w.Code)
	}
	if w := b.control("POST", "/admin/v1/operators", "{\"name\": \"\xff\", \"password\": \"correct horse battery\"}"); w.Code != 400 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	if _, err := b.Operators.Create(AuditContext{Now: epoch}, "M\xfcller", operatorPassword, ""); err == nil {
		t.Error("an operator's name that is not UTF-8 is taken")
	}
}
