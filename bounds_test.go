package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/constant"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

func TestCutText(t *testing.T) {
	const mark = "\n[cut at 3 characters]"
	for _, tt := range []struct {
		text string
		most int
		want string
	}{
		{"", 3, ""}, {"ab", 3, "ab"}, {"abc", 3, "abc"}, {"abcd", 3, "abc" + mark}, {"äöü", 3, "äöü"}, {"äöüß", 3, "äöü" + mark},
		{"abc" + mark, 3, "abc" + mark}, {"\U0001f511\U0001f511\U0001f511\U0001f511", 3, "\U0001f511\U0001f511\U0001f511" + mark}, {"abcd", 0, "abcd"},
	} {
		if got := CutText(tt.text, tt.most); got != tt.want {
			t.Errorf("CutText(%q, %d): got %q, want %q", tt.text, tt.most, got, tt.want)
		}
	}
}

func TestAppendText(t *testing.T) {
	for _, tt := range []struct {
		text, more string
		most       int
		want       string
	}{
		{"", "abc", 3, "abc"}, {"ab", "c", 3, "abc"}, {"ab", "cd", 3, "ab"}, {"äö", "üßüßüßüß", 10, "äöüßüßüßüß"}, {"äö", "üßüßüßüßü", 10, "äöüß [cut]"},
		{"longer than that", "x", 5, "longer than that"}, {"abcd", "efghijk", 10, "abcd"}, {"abc", "efghijklm", 10, "abce [cut]"},
	} {
		if got := AppendText(tt.text, tt.more, tt.most); got != tt.want {
			t.Errorf("AppendText(%q, %q, %d): got %q, want %q", tt.text, tt.more, tt.most, got, tt.want)
		}
	}
}

func TestFigure(t *testing.T) {
	for n, want := range map[int]string{0: "0", 7: "7", 999: "999", 1000: "1,000", 262144: "262,144", 1000007: "1,000,007"} {
		if got := Figure(n); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// textLeaf is a text in a request body that has a maxLength in openapi.json.
type textLeaf struct {
	path []string // names of members; "[]" is the first entry of an array, "*" a member of any name
	most int
}

// name returns the name of the member that messages begin with.
func (l textLeaf) name() string {
	path := l.path
	if len(path) > 2 && slices.Contains([]string{"keys", "owners", "webhooks", "tokens"}, path[0]) {
		path = path[2:] // messages begin with the entry, such as key 1, and then the member
	}
	return slices.DeleteFunc(slices.Clone(path), func(p string) bool { return p == "[]" || p == "*" })[0]
}

// textLeaves returns the texts of a schema that have a maxLength.
func textLeaves(s *openapi3.Schema, at []string) (list []textLeaf) {
	if s == nil {
		return nil
	}
	if s.MaxLength != nil {
		list = append(list, textLeaf{slices.Clone(at), int(*s.MaxLength)})
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		list = append(list, textLeaves(s.Properties[name].Value, append(slices.Clone(at), name))...)
	}
	if s.Items != nil {
		list = append(list, textLeaves(s.Items.Value, append(slices.Clone(at), "[]"))...)
	}
	if more := s.AdditionalProperties.Schema; more != nil {
		list = append(list, textLeaves(more.Value, append(slices.Clone(at), "*"))...)
	}
	return list
}

// with returns a JSON value in which the text at path is replaced.
func with(v any, path []string, text string) any {
	if len(path) == 0 {
		return text
	}
	if path[0] == "[]" {
		list, _ := v.([]any)
		if len(list) == 0 {
			list = []any{nil}
		}
		return append([]any{with(list[0], path[1:], text)}, list[1:]...)
	}
	fields, _ := v.(map[string]any)
	fields = maps.Clone(fields)
	if fields == nil {
		fields = map[string]any{}
	}
	fields[path[0]] = with(fields[path[0]], path[1:], text)
	return fields
}

// lengthCase is a request whose body has texts with a maximum. UNIQUE in the body is replaced by another word
// each time.
type lengthCase struct {
	method, path, body string
	schema             string // component of openapi.json that describes the body; "": that of the operation
	before             string // path of an event that is opened again before each request
}

// lengthCases has a row for each operation whose body has texts with a maximum.
func lengthCases(hook, variable float64) []lengthCase {
	const contact = `{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555010", "do_not_call": true}]}`
	const appointment = `{"title": "T", "start_time": "2026-02-09T10:00:00Z", "end_time": "2026-02-09T11:00:00Z"}`
	const variables = `{"name": "vUNIQUE", "display_name": "V", "variable_type": "select", "context_type": "contact", "select_options": ["a"]}`
	const webhook = `{"name": "W", "url": "https://hooks.example.net/x", "subscribed_events": ["call.ended"]}`
	const file = `{"keys": [{"ref": "rUNIQUE", "name": "K", "permissions": ["can_read_calls"]}], "owners": [{"name": "oUNIQUE"}], "tokens": [{"name": "tUNIQUE"}],
		"webhooks": [{"name": "W", "url": "https://hooks.example.net/x", "subscribed_events": ["call.ended"]}]}`
	const agent = `{"name": "A", "phone_number": "+4930555001"}`
	hooks, defined := fmt.Sprintf("/api/webhooks/%v/update", hook), fmt.Sprintf("/api/v1/context-variables/%v/update", variable)
	return []lengthCase{
		{"POST", "/api/v1/contacts/create", contact, "", ""}, {"PUT", "/api/v1/contacts/1/update", contact, "", ""}, {"PATCH", "/api/v1/contacts/1/update", contact, "", ""},
		{"POST", "/api/v1/context-variables/create", variables, "", ""}, {"PUT", defined, variables, "", ""}, {"PATCH", defined, variables, "", ""},
		{"POST", "/api/v1/calendar/events/create", appointment, "", ""}, {"PUT", "/api/v1/calendar/events/1/update", appointment, "", ""}, {"PATCH", "/api/v1/calendar/events/1/update", "{}", "", ""},
		{"POST", "/api/v1/calendar/events/1/cancel", "{}", "", "/api/v1/calendar/events/1/update"},
		{"POST", "/api/webhooks/create", webhook, "", ""}, {"PUT", hooks, webhook, "", ""}, {"PATCH", hooks, "{}", "", ""},
		{"POST", "/admin/v1/contacts", contact, "ContactForm", ""}, {"PATCH", "/admin/v1/contacts/1", contact, "ContactForm", ""},
		{"POST", "/admin/v1/variables", variables, "VariableForm", ""}, {"PATCH", fmt.Sprintf("/admin/v1/variables/%v", variable), variables, "VariableChange", ""},
		{"POST", "/admin/v1/events", appointment, "EventForm", ""}, {"PATCH", "/admin/v1/events/1", "{}", "EventChange", ""},
		{"POST", "/admin/v1/events/1/cancel", "{}", "", "/api/v1/calendar/events/1/update"},
		{"POST", "/admin/v1/webhooks", webhook, "", ""}, {"PATCH", "/admin/v1/webhooks/1", "{}", "", ""},
		{"POST", "/admin/v1/agents", agent, "", ""}, {"PATCH", "/admin/v1/agents/1", "{}", "", ""},
		{"POST", "/admin/v1/teams", `{"name": "T"}`, "", ""}, {"PATCH", "/admin/v1/teams/1", "{}", "", ""},
		{"POST", "/admin/v1/owners", "{}", "", ""}, {"POST", "/admin/v1/schedules", `{"time_zone": "UTC"}`, "", ""},
		{"POST", "/admin/v1/do-not-call", `{"phone_number": "+4930UNIQUE"}`, "", ""}, {"PATCH", "/admin/v1/do-not-call/1", "{}", "", ""},
		{"POST", "/admin/v1/keys", `{"name": "K", "permissions": ["can_read_calls"]}`, "", ""}, {"PATCH", "/admin/v1/keys/KEY", "{}", "KeyForm", ""},
		{"PATCH", "/admin/v1/business-context", `{"variables": {}}`, "", ""}, {"POST", "/admin/v1/calls/claim", "{}", "", ""},
		{"POST", "/admin/v1/calls", `{"owner": "ann", "phone_number": "+4930555010", "agent_id": 1}`, "", ""},
		{"POST", "/admin/v1/tokens", `{"name": "T"}`, "", ""}, {"POST", "/admin/v1/apply", file, "", ""},
		{"POST", "/admin/v1/operators", `{"name": "op UNIQUE", "password": "` + operatorPassword + `"}`, "", ""}, {"POST", "/admin/v1/operators/1/password", "{}", "", ""},
		{"POST", "/admin/v1/operators/invite", `{"name": "in UNIQUE", "role": "viewer"}`, "", ""}, {"PATCH", "/admin/v1/operators/1", `{"role": "admin"}`, "", ""},
	}
}

// textOf returns a text of n characters that the member accepts. Most have more bytes than characters.
func textOf(member string, n, unique int) string {
	head, tail, fill := strconv.Itoa(unique), "", "ä"
	switch member {
	case "url":
		head, fill = "https://hooks.example.net/"+head, "x"
	case "status", "stage", "ref":
		fill = "a"
	case "email":
		fill, tail = "a", "@example.net"
	}
	return head + strings.Repeat(fill, n-Length(head)-Length(tail)) + tail
}

// TestLengths sends to each endpoint each text that has a maxLength in openapi.json: of exactly that length, which
// must be stored, and longer by one character, which must be refused.
func TestLengths(t *testing.T) {
	a := newTestApp(t)
	f := fillStore(a)
	keys := a.operate(200, "GET", "/admin/v1/keys?owner=ann", "")["keys"].([]any)
	keyID := keys[0].(map[string]any)["id"].(string)
	a.operate(200, "PATCH", "/admin/v1/keys/"+keyID, `{"limits": {"requests_per_minute_limit": 100000, "calendar_events_per_day_limit": 1000}}`)
	ids := func(path, list string) float64 {
		w := a.ask("GET", path, f.Key, "")
		all := object(t, w.Body.String())[list].([]any)
		return all[len(all)-1].(map[string]any)["id"].(float64)
	}
	doc, err := description()
	if err != nil {
		t.Fatal(err)
	}
	walked, operations, unique := map[string]int{}, map[string]bool{}, 1_000_000
	ask := func(c lengthCase, body string) (int, string) {
		if c.before != "" {
			a.ask("PATCH", c.before, f.Key, `{"status": "scheduled", "customer_notes": ""}`)
		}
		path := strings.Replace(c.path, "KEY", keyID, 1)
		if strings.HasPrefix(path, "/admin/") {
			w := a.control(c.method, path, body)
			return w.Code, w.Body.String()
		}
		w := a.ask(c.method, path, f.Key, body)
		return w.Code, w.Body.String()
	}
	for _, c := range lengthCases(ids("/api/webhooks", "webhooks"), ids("/api/v1/context-variables", "variables")) {
		op, _ := described(t, c.method, strings.Replace(c.path, "KEY", keyID, 1))
		schema := op.RequestBody.Value.Content["application/json"].Schema.Value
		operations[op.OperationID] = true
		leaves := textLeaves(schema, nil)
		if c.schema != "" {
			leaves = append(leaves, textLeaves(doc.Components.Schemas[c.schema].Value, nil)...)
		}
		if len(leaves) == 0 {
			t.Errorf("%s %s has no text with a maxLength", c.method, c.path)
		}
		for _, leaf := range leaves {
			name := leaf.name()
			last := name
			for _, part := range leaf.path {
				if part != "[]" && part != "*" {
					last = part
				}
			}
			walked[fmt.Sprint(last, " ", leaf.most)]++
			for _, over := range []int{0, 1} {
				unique++
				body := object(t, strings.ReplaceAll(c.body, "UNIQUE", strconv.Itoa(unique)))
				text := textOf(last, leaf.most+over, unique)
				data, err := json.Marshal(with(body, leaf.path, text))
				if err != nil {
					t.Fatal(err)
				}
				status, answer := ask(c, string(data))
				where := fmt.Sprintf("%s %s: %v of %d characters", c.method, c.path, leaf.path, leaf.most+over)
				if over == 0 && status == 404 && strings.Contains(answer, "agent_not_found") {
					continue // the new owner with this name has no agents
				}
				if over == 0 && (status >= 300 || !strings.Contains("password dialer", name) && !stores(t, a, text)) {
					t.Errorf("%s: got %d %.300s, want it stored", where, status, answer)
				}
				if over == 1 && (status != 400 || !strings.Contains(answer, "validation_error") || !strings.Contains(answer, name) || !strings.Contains(answer, Figure(leaf.most)) || stores(t, a, text)) {
					t.Errorf("%s: got %d %.300s, want a refusal that names %s and %s", where, status, answer, name, Figure(leaf.most))
				}
			}
		}
	}
	for _, path := range doc.Paths.InMatchingOrder() {
		for method, op := range doc.Paths.Find(path).Operations() {
			if op.RequestBody == nil || op.RequestBody.Value.Content["application/json"] == nil {
				continue
			}
			if len(textLeaves(op.RequestBody.Value.Content["application/json"].Schema.Value, nil)) > 0 && !operations[op.OperationID] {
				t.Errorf("%s %s has texts with a maxLength, and no row in lengthCases", method, path)
			}
		}
	}
	wantLengths(t, walked)
}

// stores reports whether a record contains text.
func stores(t *testing.T, a *testApp, text string) (found bool) {
	t.Helper()
	err := a.Store.View(func(tx *Tx) error {
		return tx.Walk(func(_ string, _, stored []byte) error {
			found = found || strings.Contains(string(stored), text)
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// wantLengths wants each maximum in the source to be one that openapi.json has for a text of that name. walked has
// the names and the maxima that TestLengths has tried.
func wantLengths(t *testing.T, walked map[string]int) {
	t.Helper()
	s := readSource(t)
	read := 0
	for _, f := range s.files {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) != 3 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			name, isName := call.Args[0].(*ast.BasicLit)
			if !ok || !isName || sel.Sel.Name != "String" && sel.Sel.Name != "Strings" {
				return true
			}
			bound := call.Args[1]
			if list, ok := bound.(*ast.CompositeLit); ok {
				bound = list.Elts[len(list.Elts)-1]
			}
			most, exact := constant.Int64Val(s.Types[bound].Value)
			if !exact {
				t.Errorf("%s: the maximum is no constant", s.fset.Position(call.Pos()))
			}
			read++
			if most == AnyLength {
				return true
			}
			if member, _ := strconv.Unquote(name.Value); walked[fmt.Sprint(member, " ", most)] == 0 {
				t.Errorf("%s: %s has %d characters at most, which is in no request of openapi.json", s.fset.Position(call.Pos()), member, most)
			}
			return true
		})
	}
	if read < 40 {
		t.Errorf("got %d calls of String and Strings, want 40 or more", read)
	}
	for _, text := range contactTexts() {
		if text.most != AnyLength && walked[fmt.Sprint(text.name, " ", text.most)] == 0 {
			t.Errorf("contact: %s has %d characters at most, which is not in openapi.json", text.name, text.most)
		}
	}
	for _, text := range new(event).texts() {
		if walked[fmt.Sprint(text.name, " ", text.most)] == 0 {
			t.Errorf("event: %s has %d characters at most, which is not in openapi.json", text.name, text.most)
		}
	}
}

// TestLengths_OtherWays sends the texts of a contact in files, forms and commands. Each way has the maxima of
// contactTexts.
func TestLengths_OtherWays(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara"}`)
	unique := 2_000_000
	file := func(column, text string) string {
		if column == "first_name" {
			return "first_name\n" + text + "\n"
		}
		return "first_name," + column + "\nA," + text + "\n"
	}
	ways := map[string]func(column, text string) (bool, string){
		"CSV to the admin endpoint": func(column, text string) (bool, string) {
			w := askDoor(b.local, "POST", "/admin/v1/contacts/import", file(column, text), "Content-Type: text/csv")
			return w.Code == 201, w.Body.String()
		},
		"rows of JSON": func(column, text string) (bool, string) {
			row := map[string]string{"first_name": "A"}
			row[column] = text
			data, err := json.Marshal([]any{row})
			if err != nil {
				t.Fatal(err)
			}
			w := askDoor(b.local, "POST", "/admin/v1/contacts/import", string(data))
			return w.Code == 201, w.Body.String()
		},
		"command": func(column, text string) (bool, string) {
			exit, out, errs := b.run(file(column, text), "contacts", "import", "--csv", "-")
			return exit == 0, out + errs
		},
		"page of the import": func(column, text string) (bool, string) {
			w := b.upload(file(column, text))
			return w.Code == 303, w.Body.String()
		},
		"form": func(column, text string) (bool, string) {
			w := b.post("/contacts/1", column, text)
			return w.Code == 303, w.Body.String()
		},
	}
	for _, field := range contactTexts() {
		if field.most == AnyLength {
			continue
		}
		for way, send := range ways {
			for _, over := range []int{0, 1} {
				unique++
				text := textOf(field.name, field.most+over, unique)
				good, said := send(field.name, text)
				want := Figure(field.most)
				if good != (over == 0) || good != stores(t, b.testApp, text) || !good && (!strings.Contains(said, field.name) || !strings.Contains(said, want)) {
					t.Errorf("%s: %s of %d characters: got %t %.600s, want %t with %s", way, field.name, field.most+over, good, said, over == 0, want)
				}
			}
		}
	}
	for _, args := range [][]string{{"agents", "create", "--name"}, {"keys", "create", "--permission", "can_read_calls", "--name"}, {"owners", "create", "--name"}, {"teams", "create", "--name"}} {
		for _, over := range []int{0, 1} {
			unique++
			text := textOf("name", NameLength+over, unique)
			exit, out, errs := b.run("", append(slices.Clone(args), text)...)
			if (exit == 0) != (over == 0) || stores(t, b.testApp, text) != (over == 0) || over == 1 && !strings.Contains(errs, "the maximum is 200") {
				t.Errorf("%v of %d characters: got %d %s %s", args, NameLength+over, exit, out, errs)
			}
		}
	}
}

// TestLengths_StoredBefore opens a store with texts that are longer than they may be now.
func TestLengths_StoredBefore(t *testing.T) {
	a := newTestApp(t)
	f := fillStore(a)
	long := strings.Repeat("ä", NoteLength+7)
	err := a.Store.Update(func(tx *Tx) error {
		e, err := appointmentTable.Get(tx, IDKey(1))
		if err != nil {
			return err
		}
		e.Title, e.Description, e.CustomerNotes = long, long, long
		c, err2 := contactTable.Get(tx, IDKey(1))
		c.FirstName, c.Company = long, long
		w, err3 := findWebhook(tx, 1)
		w.Name = long
		return firstError(err2, err3, appointmentTable.Put(tx, e), contactTable.Put(tx, c), webhookTable.Put(tx, w))
	})
	if err != nil {
		t.Fatal(err)
	}
	const path, times = "/api/v1/calendar/events/1", `"start_time": "2026-02-09T10:00:00Z", "end_time": "2026-02-09T11:00:00Z"`
	for _, tt := range []struct {
		method, path, body string
		want               int
	}{
		{"PATCH", path + "/update", `{"location": "here"}`, 200},
		{"PATCH", path + "/update", `{"title": "` + long + `"}`, 200},
		{"PATCH", path + "/update", `{"title": "` + long + `x"}`, 400},
		{"PUT", path + "/update", `{"title": "` + long + `", "description": "` + long + `", "customer_notes": "` + long + `", ` + times + `}`, 200},
		{"POST", path + "/cancel", `{"reason": "ill"}`, 200},
		{"PATCH", "/api/v1/contacts/1/update", `{"last_name": "L"}`, 200},
		{"PATCH", "/api/v1/contacts/1/update", `{"company": "short"}`, 200},
		{"PATCH", "/api/v1/contacts/1/update", `{"company": "` + long + `"}`, 400},
	} {
		if w := a.ask(tt.method, tt.path, f.Key, tt.body); w.Code != tt.want {
			t.Errorf("%s %s %.60s: got %d %.200s, want %d", tt.method, tt.path, tt.body, w.Code, w.Body, tt.want)
		}
	}
	a.operate(200, "PATCH", "/admin/v1/webhooks/1", `{"name": "`+long+`", "is_active": false}`)
	e := object(t, a.ask("GET", path, f.Key, "").Body.String())
	if e["title"] != long || e["description"] != long || e["customer"].(map[string]any)["notes"] != long || e["status"] != "cancelled" {
		t.Errorf("got %.300v, want every text unchanged, and the event cancelled", e)
	}
	if c := object(t, a.ask("GET", "/api/v1/contacts/1", f.Key, "").Body.String()); c["first_name"] != long || c["company"] != "short" || c["last_name"] != "L" {
		t.Errorf("got %.300v", c)
	}
}

func firstError(list ...error) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestCalls_CutReports completes calls with texts that are too long.
func TestCalls_CutReports(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Bounds.TranscriptLength = 1000 })
	a.operate(201, "POST", "/admin/v1/agents", `{"owner": "ann", "name": "Front desk", "phone_number": "+4930555001"}`)
	_, key := a.key(everyPermission, `"owner": "ann"`)
	words := func(n int) string { return strings.Repeat("ä", n) }
	for _, report := range []string{"complete", "fail", "start", "PATCH", "POST"} {
		for _, over := range []int{-1, 0, 1, 100_000} {
			texts := fmt.Sprintf(`"summary": %q, "transcript": %q, "recording_url": %q`, words(NoteLength+over), words(1000+over), words(RecordingLength+over))
			var got map[string]any
			if report == "POST" {
				got = a.operate(201, "POST", "/admin/v1/calls", `{"owner": "ann", "agent_id": 1, "phone_number": "+4930555010", "status": "completed", `+texts+`}`)
			} else {
				if w := a.ask("POST", "/api/v1/calls", key, `{"agent_id": 1, "phone_number": "+4930555010"}`); w.Code != 201 {
					t.Fatalf("got %d %s", w.Code, w.Body)
				}
				path, token := a.lease("{}")
				if report == "PATCH" {
					got = a.operate(200, "PATCH", path, `{"status": "completed", `+texts+`}`)
				} else {
					got = a.operate(200, "POST", path+"/"+report, `{"lease_token": "`+token+`", `+texts+`}`)
				}
				if again := a.operate(200, "PATCH", path, fmt.Sprintf(`{"transcript": %q}`, got["transcript"])); again["transcript"] != got["transcript"] {
					t.Errorf("%s: a transcript that is sent back became %.2000v", report, again["transcript"])
				}
				if report == "start" {
					a.operate(200, "PATCH", path, `{"status": "completed"}`)
				}
			}
			for field, most := range map[string]int{"summary": NoteLength, "transcript": 1000, "recording_url": RecordingLength} {
				want := words(most + over)
				if over > 0 {
					want = words(most) + "\n[cut at " + Figure(most) + " characters]"
				}
				if got[field] != want {
					t.Errorf("%s: %s of %d characters: got %d: ...%s", report, field, most+over, Length(fmt.Sprint(got[field])), fmt.Sprint(got[field])[max(0, len(fmt.Sprint(got[field]))-60):])
				}
			}
		}
	}
}

// TestEvents_CancelledAgain cancels an event again and again, with the longest reasons.
func TestEvents_CancelledAgain(t *testing.T) {
	a := newTestApp(t)
	f := fillStore(a)
	reason := strings.Repeat("ü", ReasonLength)
	const path = "/api/v1/calendar/events/1"
	notes := ""
	for i := range 8 {
		a.ask("PATCH", path+"/update", f.Key, `{"status": "scheduled"}`)
		if w := a.ask("POST", path+"/cancel", f.Key, `{"reason": "`+reason+`"}`); w.Code != 200 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		e := object(t, a.ask("GET", path, f.Key, "").Body.String())
		before := notes
		notes = e["customer"].(map[string]any)["notes"].(string)
		if !strings.HasPrefix(notes, before) || Length(notes) > NoteLength || i < 4 && !strings.HasSuffix(notes, reason) || e["status"] != "cancelled" {
			t.Errorf("cancellation %d: got %d characters, %v", i, Length(notes), e["status"])
		}
	}
	if !strings.HasSuffix(notes, "ü [cut]") {
		t.Errorf("got %s at the end, want a mark", notes[len(notes)-40:])
	}
}
