package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/constant"
	"strings"
	"testing"
)

// unbounded lists the tables whose records have no bound of size, with the reason.
var unbounded = map[string]string{
	"contact_phones":   "has no records",
	"agents":           "only the operator changes agents, and each field has a maximum",
	"do_not_call":      "only the operator changes the list, and each field has a maximum",
	"owners":           "only the operator changes owners, and each field has a maximum",
	"teams":            "only the operator changes teams, and each field has a maximum",
	"schedules":        "only the operator changes schedules, and a day has a fixed number of minutes",
	"keys":             "only the operator changes keys, and each field has a maximum",
	"owner_limits":     "only the operator changes limits, and their names are known",
	"admin_tokens":     "only the operator changes tokens, and each field has a maximum",
	"operators":        "only the operator changes operators, and each field has a maximum",
	"factors":          "only operators have factors, at most 23 each, and each field has a maximum",
	"sessions":         "has no fields that a client chooses",
	"audit":            "is written by the service, which shortens values",
	"key_requests":     "has no fields that a client chooses",
	"mails":            "is written by the service, which shortens lines and bounds their number",
	"limits_reached":   "has no fields that a client chooses",
	"owner_storage":    "only the operator changes storage limits",
	"sandboxes":        "has no fields that a client chooses",
	"storage_warnings": "has no fields that a client chooses",
	"webhook_events":   "has no fields that a client chooses",
	"webhook_bodies":   "holds an event about a record, which is bounded itself",
	"webhook_backlogs": "has no fields that a client chooses",
	"webhook_log":      "is written by the service, which shortens answers",
	"webhook_queues":   "has no fields that a client chooses",
}

// TestRecordBytes_EveryTable wants each table to have a bound of size or a reason to have none, and each other use
// of the store by a resource that keys can write to check the size itself.
func TestRecordBytes_EveryTable(t *testing.T) {
	s := readSource(t)
	seen := map[string]bool{}
	for _, f := range s.files {
		ast.Inspect(f, func(n ast.Node) bool {
			lit, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			index, ok := lit.Type.(*ast.IndexExpr)
			if !ok || fmt.Sprint(index.X) != "Table" {
				return true
			}
			fields := map[string]string{}
			for _, e := range lit.Elts {
				pair := e.(*ast.KeyValueExpr)
				if value := s.Types[pair.Value].Value; value != nil && value.Kind() == constant.String {
					fields[fmt.Sprint(pair.Key)] = constant.StringVal(value)
				}
			}
			name := fields["Name"]
			seen[name] = true
			if (fields["Bounded"] != "") == (unbounded[name] != "") {
				t.Errorf("%s: the table %s of %v must either have Bounded or a reason in unbounded", s.fset.Position(lit.Pos()), name, index.Index)
			}
			return true
		})
	}
	for name := range unbounded {
		if !seen[name] {
			t.Errorf("there is no table %s", name)
		}
	}
	if len(seen) < 20 {
		t.Errorf("got %d tables, want 20 or more", len(seen))
	}
}

// recordSize returns the size of a stored record, as RecordBytes counts it.
func recordSize(t *testing.T, s *Store, bucket string, id uint64) (n int) {
	t.Helper()
	err := s.View(func(tx *Tx) error {
		value, err := tx.Get(bucket, IDKey(id))
		n = len(value)
		return err
	})
	if err != nil || n == 0 {
		t.Fatalf("%s %d: got %d bytes, %v", bucket, id, n, err)
	}
	return n
}

// TestRecordBytes changes a record of each bounded kind with a key, so that it has exactly the allowed size, a byte
// less and a byte more.
func TestRecordBytes(t *testing.T) {
	a := newTestApp(t)
	f := fillStore(a)
	a.operate(200, "PATCH", "/admin/v1/keys/"+a.operate(200, "GET", "/admin/v1/keys?owner=ann", "")["keys"].([]any)[0].(map[string]any)["id"].(string), `{"limits": {"requests_per_minute_limit": 100000}}`)
	a.ask("POST", "/api/v1/context-variables/create", f.Key, `{"name": "filler", "display_name": "F", "variable_type": "text", "context_type": "business"}`)
	ann := uint64(0)
	_ = a.Store.View(func(tx *Tx) error {
		o, err := OwnerNamed(tx, "ann")
		ann = o.ID
		return err
	})
	options := func(fill string) string { return `{"variable_type": "select", "select_options": ["x` + fill + `"]}` }
	for _, c := range []struct {
		what, bucket string
		id           uint64
		method, path string
		body         func(fill string) string
	}{
		{"contact", "contacts", 1, "PATCH", "/api/v1/contacts/1/update", func(fill string) string { return `{"company": "` + fill + `"}` }},
		{"event", "events", 1, "PATCH", "/api/v1/calendar/events/1/update", func(fill string) string { return `{"description": "` + fill + `"}` }},
		{"webhook", "webhooks", 2, "PATCH", "/api/webhooks/2/update", func(fill string) string { return `{"url": "https://hooks.example.net/` + fill + `"}` }},
		{"context variable", "variables", 3, "PATCH", "/api/v1/context-variables/3/update", options},
		{"business context", "business_context", ann, "POST", "/api/v1/business/context", func(fill string) string { return `{"variables": {"filler": "` + fill + `"}}` }},
	} {
		ask := func(n int) (int, string) {
			w := a.ask(c.method, c.path, f.Key, c.body(strings.Repeat("x", n)))
			return w.Code, w.Body.String()
		}
		a.Store.SetBounds(Bounds{})
		if status, said := ask(100); status != 200 {
			t.Fatalf("%s: got %d %s", c.what, status, said)
		}
		most := recordSize(t, a.Store, c.bucket, c.id)
		a.Store.SetBounds(Bounds{RecordBytes: most})
		for _, n := range []int{99, 100} {
			if status, said := ask(n); status != 200 {
				t.Errorf("%s of %d bytes, where %d are allowed: got %d %s", c.what, most-100+n, most, status, said)
			}
		}
		status, said := ask(101)
		want := fmt.Sprintf("The %s would be %d bytes; at most %d (record_bytes) are stored.", c.what, most+1, most)
		if status != 400 || !strings.Contains(said, "validation_error") || !strings.Contains(said, want) || recordSize(t, a.Store, c.bucket, c.id) != most {
			t.Errorf("%s: got %d %s, want %s", c.what, status, said, want)
		}
		// A lowered bound: what is stored can be read, and changed if it does not grow.
		a.Store.SetBounds(Bounds{RecordBytes: most - 50})
		for n, want := range map[int]int{100: 200, 101: 400} {
			if status, said := ask(n); status != want {
				t.Errorf("%s that is too large already, by %d: got %d %s, want %d", c.what, n-50, status, said, want)
			}
		}
		if status, said := ask(70); status != 200 {
			t.Errorf("%s that shrinks: got %d %s", c.what, status, said)
		}
		if status, said := ask(71); status != 400 {
			t.Errorf("%s that grows again: got %d %s", c.what, status, said)
		}
	}
	a.Store.SetBounds(Bounds{RecordBytes: 100})
	if w := a.ask("POST", "/api/v1/calls", f.Key, `{"agent_id": 1, "phone_number": "+4930555010"}`); w.Code != 400 || !strings.Contains(w.Body.String(), "The call would be") {
		t.Errorf("a new call: got %d %s", w.Code, w.Body)
	}
	if w := a.retry(f.Key, "name-1", `{"agent_id": 1, "phone_number": "+4930555010"}`); w.Code != 400 {
		t.Errorf("a new call with an Idempotency-Key: got %d %s", w.Code, w.Body)
	}
	a.operate(200, "PATCH", "/admin/v1/contacts/1", `{"company": "`+strings.Repeat("x", 150)+`"}`) // not for the operator
	a.operate(201, "POST", "/admin/v1/events", `{"owner": "ann", "title": "T", "start_time": "2026-02-09T10:00:00Z", "end_time": "2026-02-09T11:00:00Z"}`)
	a.operate(200, "PATCH", "/admin/v1/calls/2", `{"status": "completed", "transcript": "`+strings.Repeat("x", 500)+`"}`)
	err := a.Store.UpdateBy(Writer{Owner: ann, Finishes: true}, func(tx *Tx) error {
		e, err := appointmentTable.Get(tx, IDKey(1))
		e.Status, e.CustomerNotes = eventCancelled, strings.Repeat("x", 1000)
		return firstError(err, appointmentTable.Put(tx, e))
	})
	if err != nil {
		t.Errorf("a change that ends something: got %v", err)
	}
}

// TestContext_Bounds sets values in every way with as many values and as many bytes as are allowed, and one more.
func TestContext_Bounds(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Bounds.ContextValues, c.Bounds.ContextBytes = 10, 1024 })
	f := fillStore(a)
	a.operate(200, "PATCH", "/admin/v1/keys/"+a.operate(200, "GET", "/admin/v1/keys?owner=ann", "")["keys"].([]any)[0].(map[string]any)["id"].(string), `{"limits": {"requests_per_minute_limit": 100000, "calls_per_day_limit": 1000}}`)
	fresh := func(method, path, body string) func() { return func() { a.ask(method, path, f.Key, body) } }
	replaced := fresh("PATCH", "/api/v1/contacts/1/update", `{"custom_context": null, "industry_context": null}`)
	contact := func(field, more string) func(string) string {
		return func(values string) string { return `{"first_name": "A", "` + field + `": ` + values + more + `}` }
	}
	call := func(values string) string {
		return `{"agent_id": 1, "owner": "ann", "phone_number": "+4930555010", "variables": ` + values + `}`
	}
	assigned := func(values string) string {
		return `{"owner": "ann", "auto_create_variables": true, "variables": ` + values + `}`
	}
	for _, c := range []struct {
		before       func()
		method, path string
		body         func(values string) string
	}{
		{replaced, "POST", "/api/v1/contacts/create", contact("custom_context", "")},
		{replaced, "PUT", "/api/v1/contacts/1/update", contact("custom_context", "")},
		{replaced, "PATCH", "/api/v1/contacts/1/update", contact("custom_context", "")},
		{replaced, "PATCH", "/api/v1/contacts/1/update", contact("industry_context", "")},
		{replaced, "POST", "/admin/v1/contacts", contact("custom_context", `, "owner": "ann"`)},
		{replaced, "PATCH", "/admin/v1/contacts/1", contact("industry_context", "")},
		{replaced, "POST", "/admin/v1/contacts/import", func(values string) string { return `[{"first_name": "A", "custom_context": ` + values + `}]` }},
		{replaced, "POST", "/api/v1/contacts/1/context", assigned},
		{func() {}, "POST", "/api/v1/business/context", assigned},
		{func() {}, "PATCH", "/admin/v1/business-context", assigned},
		{replaced, "POST", "/api/v1/calls", call},
		{replaced, "POST", "/admin/v1/calls", call},
	} {
		ask := func(values string) (int, string) {
			w := a.ask
			if strings.HasPrefix(c.path, "/admin/") {
				got := a.control(c.method, c.path, c.body(values))
				return got.Code, got.Body.String()
			}
			got := w(c.method, c.path, f.Key, c.body(values))
			return got.Code, got.Body.String()
		}
		many := func(n int) string {
			values := map[string]any{}
			for i := range n {
				values[fmt.Sprint("v", i)] = i
			}
			data, _ := json.Marshal(values)
			return string(data)
		}
		large := func(n int) string { return `{"v0":"` + strings.Repeat("x", n-len(`{"v0":""}`)) + `"}` }
		for _, tt := range []struct {
			values, want string
		}{
			{many(9), ""}, {many(10), ""}, {many(11), "11 values; the maximum is 10 (context_values)"},
			{large(1023), ""}, {large(1024), ""}, {large(1025), "1,025 bytes of JSON; the maximum is 1,024 (context_bytes)"},
		} {
			c.before()
			if c.path == "/api/v1/contacts/1/context" || strings.HasSuffix(c.path, "context") {
				dropVariables(a, f.Key)
			}
			status, said := ask(tt.values)
			if (status < 300) != (tt.want == "") || tt.want != "" && (status != 400 || !strings.Contains(said, "validation_error") || !strings.Contains(said, tt.want)) {
				t.Errorf("%s %s %.40s: got %d %.300s, want %q", c.method, c.path, tt.values, status, said, tt.want)
			}
		}
	}
}

// dropVariables clears the business context and deletes the variables of the key's owner.
func dropVariables(a *testApp, key string) {
	all := object(a.t, a.ask("GET", "/api/v1/context-variables", key, "").Body.String())["variables"].([]any)
	values := map[string]any{}
	for _, v := range all {
		v := v.(map[string]any)
		if v["context_type"] == "business" {
			values[v["name"].(string)] = nil
		}
	}
	data, _ := json.Marshal(map[string]any{"variables": values})
	a.ask("POST", "/api/v1/business/context", key, string(data))
	for _, v := range all {
		a.ask("DELETE", fmt.Sprintf("/api/v1/context-variables/%v/delete", v.(map[string]any)["id"]), key, "")
	}
}

// TestBounds_Reload lowers each bound by a reload, under what is stored already, and raises it again.
func TestBounds_Reload(t *testing.T) {
	a, file, _ := reloading(t, "[[permission]]\nname = \"can_a\"\ndescription = \"A.\"\n")
	_, key := a.key(everyPermission, `"owner": "ann"`, `"limits": {"requests_per_minute_limit": 100000}`)
	use := func(text string) {
		t.Helper()
		writeConfig(t, file, "[bounds]\n"+text)
		if status, err := a.Reloader.Reload(epoch); err != nil || len(status.Restart) > 1 { // 1: the permission of the start is gone
			t.Fatalf("got %v %v, want bounds that need no restart", status, err)
		}
	}
	ask := func(want int, method, path, body, part string) {
		t.Helper()
		if w := a.ask(method, path, key, body); w.Code != want || !strings.Contains(w.Body.String(), part) {
			t.Errorf("%s %s %.60s: got %d %.300s, want %d with %q", method, path, body, w.Code, w.Body, want, part)
		}
	}
	values := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`"v%d": "%s"`, i, strings.Repeat("x", 100)))
		}
		return "{" + strings.Join(list, ", ") + "}"
	}
	const contact, hook = "/api/v1/contacts/1/update", `{"name": "W", "url": "https://hooks.example.net/x", "subscribed_events": ["call.ended"]}`
	variable := func(name string) string {
		return `{"name": "` + name + `", "display_name": "V", "variable_type": "text", "context_type": "contact"}`
	}
	use("")
	ask(201, "POST", "/api/v1/contacts/create", `{"first_name": "A", "custom_context": `+values(300)+`}`, "")
	ask(201, "POST", "/api/webhooks/create", hook, "")
	ask(201, "POST", "/api/webhooks/create", hook, "")
	for i := range 10 {
		ask(201, "POST", "/api/v1/context-variables/create", variable(fmt.Sprint("v", i)), "")
	}
	use("context_values = 100\nwebhooks = 2\nvariables = 12\n")
	ask(400, "PATCH", contact, `{"custom_context": {"more": 1}}`, "301 values; the maximum is 100 (context_values)")
	ask(200, "PATCH", contact, `{"custom_context": {"v0": "another"}}`, "another")
	ask(200, "PATCH", contact, `{"custom_context": {"v0": null}}`, "")
	ask(200, "PATCH", contact, `{"last_name": "L"}`, `"v299":`)
	ask(400, "POST", "/api/webhooks/create", hook, "The owner already has 2 webhooks; the maximum is 2 (webhooks).")
	ask(400, "POST", "/api/v1/context-variables/create", variable("one_more"), "There are 12 context variables; the maximum is 12 (variables).") // two are built in
	use("webhooks = 1\nvariables = 10\nrecord_bytes = 16384\ncontext_bytes = 1024\n")
	ask(400, "POST", "/api/webhooks/create", hook, "The owner already has 2 webhooks; the maximum is 1 (webhooks).")
	ask(400, "PATCH", contact, `{"custom_context": {"more": 1}}`, "context_bytes")
	ask(400, "PATCH", contact, `{"last_name": "A longer name"}`, "record_bytes")
	ask(200, "PATCH", contact, `{"last_name": ""}`, "")
	ask(200, "GET", "/api/v1/contacts/1", "", `"v299":`)
	ask(200, "PATCH", "/api/webhooks/1/update", `{"name": "renamed"}`, "")
	use("webhooks = 3\nvariables = 13\n")
	ask(201, "POST", "/api/webhooks/create", hook, "")
	ask(201, "POST", "/api/v1/context-variables/create", variable("one_more"), "")
	ask(200, "PATCH", contact, `{"last_name": "A longer name", "custom_context": {"more": 1}}`, "")
	writeConfig(t, file, "[bounds]\nrecord_bytes = 16383\n")
	if _, err := a.Reloader.Reload(epoch); err == nil || !strings.Contains(err.Error(), "bounds.record_bytes must be a whole number from 16384 to 16777216") {
		t.Errorf("a bound that is too low: got %v", err)
	}
	ask(200, "PATCH", contact, `{"last_name": "An even longer name"}`, "")
}
