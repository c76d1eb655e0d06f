package main

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"latchkey/internal/strictjson"
)

// applied sends a request to apply and wants it to succeed. It returns the plan as one line for each change.
func (a *testApp) applied(body string) (plan string, answer map[string]any) {
	a.t.Helper()
	answer = a.operate(200, "POST", "/admin/v1/apply", body)
	var lines []string
	for _, v := range answer["plan"].([]any) {
		step := v.(map[string]any)
		line := fmt.Sprintf("%v %v %v:", step["action"], step["kind"], step["name"])
		for _, v := range step["fields"].([]any) {
			field := v.(map[string]any)
			line += fmt.Sprintf(" %v=%v>%v", field["field"], field["before"], field["after"])
		}
		lines = append(lines, line)
	}
	if int(answer["count"].(float64)) != len(lines) {
		a.t.Errorf("count is %v, want %d", answer["count"], len(lines))
	}
	return strings.Join(lines, "\n"), answer
}

// wantPlan applies a body after a dry run of it, and wants both to have this plan.
func (a *testApp) wantPlan(body, want string) (answer map[string]any) {
	a.t.Helper()
	before := a.contents()
	planned, dry := a.applied(strings.Replace(body, "{", `{"dry_run": true, `, 1))
	if planned != want {
		a.t.Errorf("the plan is\n%s\nwant\n%s", planned, want)
	}
	if list := dry["secrets"].([]any); len(list) > 0 {
		a.t.Error("a dry run shows secrets")
	}
	if a.contents() != before {
		a.t.Error("a dry run has changed the store")
	}
	made, answer := a.applied(strings.Replace(body, "{", fmt.Sprintf(`{"fingerprint": %q, `, dry["fingerprint"]), 1))
	if made != planned {
		a.t.Errorf("it did\n%s\nbut the plan was\n%s", made, planned)
	}
	return answer
}

// contents returns all records of the tables that an apply can change, with the audit log and the events.
func (a *testApp) contents() string {
	a.t.Helper()
	var b strings.Builder
	err := a.Store.View(func(tx *Tx) error {
		for _, bucket := range []string{"keys", "key_hashes", "owners", "owner_limits", "webhooks", "admin_tokens"} {
			for key, value := range tx.Range(bucket, nil) {
				fmt.Fprintf(&b, "%s %x %x\n", bucket, key, value)
			}
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
	for _, e := range auditEntries(a.t, a.Store) {
		if e.Result == auditDone {
			fmt.Fprintln(&b, e)
		}
	}
	return b.String()
}

// exported returns the answer of export as JSON.
func (a *testApp) exported() string {
	a.t.Helper()
	data, err := strictjson.Encode(a.operate(200, "GET", "/admin/v1/export", ""))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(data)
}

func TestApply_Keys(t *testing.T) {
	a := newTestApp(t)
	body := `{"owners": [{"name": "acme", "rate": 0.5}], "keys": [
		{"ref": "b/ci", "name": "ci", "permissions": ["can_read_calls"], "owner": "acme", "limits": {"requests_per_minute_limit": 120}, "metadata": {"a": "1"}},
		{"ref": "two", "name": "ci", "permissions": ["can_read_agents"], "paused": true}]}`
	answer := a.wantPlan(body, `create owner acme: name=<nil>>acme rate=<nil>>0.5
create key ci: limits.requests_per_minute_limit=<nil>>120 metadata.a=<nil>>1 name=<nil>>ci owner=<nil>>acme permissions=<nil>>[can_read_calls] ref=<nil>>b/ci
create key ci: name=<nil>>ci paused=<nil>>true permissions=<nil>>[can_read_agents] ref=<nil>>two`)
	secrets := answer["secrets"].([]any)
	if len(secrets) != 2 {
		t.Fatalf("got %d secrets, want 2", len(secrets))
	}
	first, second := secrets[0].(map[string]any), secrets[1].(map[string]any)
	if got := a.ask("GET", "/api/v1/key", first["secret"].(string), ""); got.Code != 200 || strings.Contains(got.Body.String(), "b/ci") {
		t.Errorf("the first key: got %d %s, want 200 without the ref", got.Code, got.Body)
	}
	if got := a.ask("GET", "/api/v1/key", second["secret"].(string), ""); got.Code != 401 {
		t.Errorf("the paused key: got %d, want 401", got.Code)
	}

	before := a.contents()
	if plan, _ := a.applied(body); plan != "" || a.contents() != before {
		t.Errorf("applied again: got the plan %q, want none and no change of the store", plan)
	}
	again := strings.NewReplacer(`"rate": 0.5`, `"rate": 5e-1`, `["can_read_calls"]`, `["can_read_calls", "can_read_calls"]`).Replace(body)
	if plan, _ := a.applied(again); plan != "" || a.contents() != before {
		t.Errorf("the same in another spelling: got the plan %q, want none and no change of the store", plan)
	}

	a.wantPlan(`{"keys": [{"ref": "b/ci", "name": "ci2", "permissions": ["can_read_agents"], "limits": {"calls_per_day_limit": 3}}, {"ref": "two", "name": "ci", "permissions": ["can_read_agents"]}]}`,
		`change key ci: limits.calls_per_day_limit=<nil>>3 limits.requests_per_minute_limit=120><nil> metadata.a=1><nil> name=ci>ci2 owner=acme><nil> permissions=[can_read_calls]>[can_read_agents]
change key ci: paused=true><nil>`)
	if got := a.ask("GET", "/api/v1/key", second["secret"].(string), ""); got.Code != 200 {
		t.Errorf("the resumed key: got %d, want 200", got.Code)
	}

	a.wantPlan(`{"prune": true, "keys": [{"ref": "two", "name": "ci", "permissions": ["can_read_agents"]}]}`, `revoke key ci2:`)
	if got := a.ask("GET", "/api/v1/key", first["secret"].(string), ""); got.Code != 401 {
		t.Errorf("the pruned key: got %d, want 401", got.Code)
	}
	// The ref of a revoked key can be used again, and kinds that the body does not have stay.
	a.wantPlan(`{"prune": true, "owners": [], "webhooks": [], "keys": [{"ref": "b/ci", "name": "new", "permissions": ["can_read_agents"]}, {"ref": "two", "name": "ci", "permissions": ["can_read_agents"]}]}`,
		`create key new: name=<nil>>new permissions=<nil>>[can_read_agents] ref=<nil>>b/ci`)
}

// A key without a ref is named by its id, and keeps being one without a ref.
func TestApply_Adopt(t *testing.T) {
	a := newTestApp(t)
	id, _ := a.key(`["can_read_calls"]`)
	a.wantPlan(fmt.Sprintf(`{"keys": [{"ref": %q, "name": "other", "permissions": ["can_read_calls"]}]}`, id), `change key test: name=test>other`)
	if shown := a.operate(200, "GET", "/admin/v1/keys/"+id, ""); shown["ref"] != nil {
		t.Errorf("the key has the ref %v, want none", shown["ref"])
	}
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"ref": "mine"}`)
	a.wantPlan(`{"keys": [{"ref": "mine", "name": "third", "permissions": ["can_read_calls"]}]}`, `change key other: name=other>third`)
	a.refuse("POST", "/admin/v1/apply", fmt.Sprintf(`{"keys": [{"ref": %q, "name": "x", "permissions": ["can_read_calls"]}]}`, id), 400, "validation_error", "names the key "+id+" already")
	a.refuse("POST", "/admin/v1/keys", `{"name": "x", "ref": "mine", "permissions": ["can_read_calls"]}`, 409, "conflict", "names the key "+id+" already")
	a.refuse("POST", "/admin/v1/keys", `{"name": "x", "ref": "a b", "permissions": ["can_read_calls"]}`, 400, "validation_error", "ref must have")
	other, _ := a.key(`["can_read_calls"]`, `"ref": "free"`)
	a.refuse("PATCH", "/admin/v1/keys/"+other, `{"ref": "mine"}`, 409, "conflict", "names the key")
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"ref": null}`)
	a.operate(200, "PATCH", "/admin/v1/keys/"+other, `{"ref": "mine"}`)
}

func TestApply_WebhooksAndTokens(t *testing.T) {
	a := newTestApp(t)
	body := `{"webhooks": [{"name": "w", "url": "https://hooks.example.net/a", "subscribed_events": ["key.created", "call.ended"]},
		{"name": "v", "url": "https://hooks.example.net/a", "subscribed_events": ["call.ended"], "owner": "ann", "is_active": false}],
		"tokens": [{"name": "prometheus", "scope": "metrics"}, {"name": "deploy", "expires_at": "never"}]}`
	answer := a.wantPlan(body, `create webhook w: name=<nil>>w subscribed_events=<nil>>[call.ended key.created] url=<nil>>https://hooks.example.net/a
create webhook v: is_active=<nil>>false name=<nil>>v owner=<nil>>ann subscribed_events=<nil>>[call.ended] url=<nil>>https://hooks.example.net/a
create token prometheus: name=<nil>>prometheus scope=<nil>>metrics
create token deploy: expires_at=<nil>>never name=<nil>>deploy`)
	if n := len(answer["secrets"].([]any)); n != 4 {
		t.Errorf("got %d secrets, want 4", n)
	}
	before := a.contents()
	if plan, _ := a.applied(body); plan != "" || a.contents() != before {
		t.Errorf("applied again: got the plan %q, want none and no change of the store", plan)
	}
	a.wantPlan(strings.Replace(strings.Replace(body, `"is_active": false`, `"is_active": true`, 1), `"name": "w"`, `"name": "x"`, 1), `change webhook w: name=w>x
change webhook v: is_active=false><nil>`)
	a.refuse("POST", "/admin/v1/apply", `{"tokens": [{"name": "prometheus", "scope": "read"}]}`, 400, "validation_error", "a token cannot be changed")
	a.wantPlan(`{"prune": true, "webhooks": [{"name": "v", "url": "https://hooks.example.net/a", "subscribed_events": ["call.ended"], "owner": "ann"}], "tokens": []}`,
		"delete webhook x:\nrevoke token prometheus:\nrevoke token deploy:")
}

// A webhook that a key has created is neither exported nor pruned.
func TestApply_WebhooksOfKeys(t *testing.T) {
	a := newTestApp(t)
	_, secret := a.key(`["can_read_calls"]`)
	if got := a.ask("POST", "/api/webhooks/create", secret, `{"name": "own", "url": "https://hooks.example.net/own", "subscribed_events": ["call.ended"]}`); got.Code != 201 {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	if text := a.exported(); strings.Contains(text, "hooks.example.net") {
		t.Errorf("it is exported: %s", text)
	}
	a.wantPlan(`{"prune": true, "webhooks": []}`, "")
}

func TestApply_AllOrNothing(t *testing.T) {
	a := newTestApp(t)
	before := a.contents()
	a.refuse("POST", "/admin/v1/apply", `{"owners": [{"name": "acme"}], "keys": [{"ref": "a", "name": "a", "permissions": ["can_read_calls"]}, {"ref": "b", "name": "b", "permissions": ["nope"]}]}`,
		400, "validation_error", "key 2: ")
	if a.contents() != before {
		t.Error("something was stored")
	}
	_, dry := a.applied(`{"dry_run": true, "keys": [{"ref": "a", "name": "a", "permissions": ["can_read_calls"]}]}`)
	a.key(`["can_read_calls"]`, `"ref": "a"`)
	before = a.contents()
	body := fmt.Sprintf(`{"fingerprint": %q, "keys": [{"ref": "a", "name": "a", "permissions": ["can_read_calls"]}]}`, dry["fingerprint"])
	a.refuse("POST", "/admin/v1/apply", body, 409, "conflict", "has changed since the plan")
	if a.contents() != before {
		t.Error("something was stored with the fingerprint of another plan")
	}
}

// Every mistake is named at once, each with its entry and field.
func TestApply_Mistakes(t *testing.T) {
	a := newTestApp(t)
	got := a.control("POST", "/admin/v1/apply", `{
		"owners": [{"name": "o", "rate": -1, "limits": {"nope": 1, "owner_requests_per_minute_limit": -1}}, {"rate": 1}],
		"keys": [
			{"ref": "a b", "name": "", "permissions": ["nope"], "limits": {"x": 1, "requests_per_minute_limit": "a"}, "colour": "red", "allowed_ips": ["x"], "expires_at": "2020-01-01T00:00:00Z", "environment": "A", "paused": 1},
			{"name": 5},
			{"ref": "twice", "name": "k", "permissions": ["can_read_calls"]},
			{"ref": "twice", "name": "k", "permissions": ["can_read_calls"]}],
		"webhooks": [{"url": "ftp://x"}],
		"tokens": [{"name": "t", "scope": "nope", "allowed_ips": ["x"]}]}`)
	var answer struct {
		Errors []struct {
			Kind, Field, Message string
			Row                  int
		}
		Count int `json:"error_count"`
	}
	if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil {
		t.Fatal(err)
	}
	var places []string
	for _, e := range answer.Errors {
		places = append(places, fmt.Sprintf("%s %d %s", e.Kind, e.Row, e.Field))
	}
	want := []string{
		"owner 1 rate", "owner 1 limits.nope", "owner 1 limits.owner_requests_per_minute_limit", "owner 2 name",
		"key 1 colour", "key 1 ref", "key 1 name", "key 1 permissions", "key 1 limits.requests_per_minute_limit", "key 1 limits.x", "key 1 environment", "key 1 allowed_ips", "key 1 expires_at", "key 1 paused",
		"key 2 name", "key 2 permissions", "key 2 ref", "key 4 ref",
		"webhook 1 name", "webhook 1 url", "webhook 1 subscribed_events", "token 1 scope", "token 1 allowed_ips",
	}
	slices.Sort(places)
	slices.Sort(want)
	if got.Code != 400 || !slices.Equal(places, want) || answer.Count != len(want) {
		t.Errorf("got %d with the mistakes\n%s\nwant\n%s", got.Code, strings.Join(places, "\n"), strings.Join(want, "\n"))
	}
}

// TestApply_Fields wants a row for each field of the bodies that create the records, so that a file can have what the
// endpoints accept, and an export what a file has.
func TestApply_Fields(t *testing.T) {
	a := newTestApp(t)
	doc, err := loaded()
	if err != nil {
		t.Fatal(err)
	}
	forms := map[string]string{"key": "KeyForm", "owner": "OwnerForm", "webhook": "WebhookForm", "token": "TokenForm"}
	more := map[string][]string{"key": {"paused"}, "webhook": {"owner", "is_active"}}
	for _, kind := range a.applier().kinds() {
		want := more[kind.name]
		for name := range doc.Components.Schemas[forms[kind.name]].Value.Properties {
			if !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
		var got []string
		for _, f := range kind.fields {
			got = append(got, f.name)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("the fields of %s in a file are %q, those of the body that creates one %q: add a row in admin_applykinds.go", kind.name, got, want)
		}
	}

	full := fullEntries(a)
	for member, text := range full {
		var entries []map[string]any
		if err := json.Unmarshal([]byte(text), &entries); err != nil {
			t.Fatal(err)
		}
		for _, kind := range a.applier().kinds() {
			for _, f := range kind.fields {
				if kind.member == member && !slices.ContainsFunc(entries, func(fields map[string]any) bool { return fields[f.name] != nil }) {
					t.Errorf("fullEntries has no %s of %s: add one that is not the default", f.name, member)
				}
			}
		}
		a.applied(fmt.Sprintf(`{%q: %s}`, member, text))
		var stored map[string][]map[string]any
		if err := json.Unmarshal([]byte(a.exported()), &stored); err != nil {
			t.Fatal(err)
		}
		for _, fields := range entries {
			if list := stored[member]; !slices.ContainsFunc(list, func(one map[string]any) bool { return reflect.DeepEqual(one, fields) }) {
				t.Errorf("the export has %v, want the entry %v", list, fields)
			}
		}
	}
}

// fullEntries returns entries of each kind that together have every field, with another value than the default. It creates what they
// refer to in each of the services.
func fullEntries(services ...*testApp) map[string]string {
	for _, a := range services {
		a.operate(201, "POST", "/admin/v1/agents", `{"name": "Desk", "owner": "full"}`)
	}
	end := *Seconds(epoch.AddDate(0, 1, 0))
	return map[string]string{
		"owners": `[{"name": "full", "balance": 5, "rate": 0.25, "limits": {"owner_requests_per_minute_limit": 5}, "storage_bytes": 100000}]`,
		"keys": `[{"ref": "full", "name": "full", "owner": "full", "permissions": ["can_read_agents", "can_read_calls"], "limits": {"requests_per_minute_limit": 5},
			"environment": "live", "allowed_ips": ["192.0.2.0/24"], "resources": {"agents": [1]}, "query_allowed": false, "expires_at": "` + end + `", "paused": true, "metadata": {"note": "n"}},
			{"ref": "try", "name": "try", "sandbox": true, "permissions": ["can_read_agents"]}]`,
		"webhooks": `[{"name": "full", "url": "https://hooks.example.net/full", "subscribed_events": ["call.ended", "call.started"], "owner": "full", "is_active": false}]`,
		"tokens":   `[{"name": "full", "scope": "metrics", "allowed_ips": ["192.0.2.0/24"], "expires_at": "` + end + `"}]`,
	}
}

// applier returns the applier of the service.
func (a *testApp) applier() *applier { return NewApplier(a.Store, a.applyParts()) }

// TestApply_RoundTrip applies the export of one store to an empty one, and wants the same export of that.
func TestApply_RoundTrip(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"usual":                func(*Config) {},
		"keys with a lifetime": func(c *Config) { c.Keys.DefaultExpiry = 90 * 24 * 3600 * 1e9 },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newTestApp(t, change), newTestApp(t, change)
			for member, entry := range fullEntries(a, b) {
				a.applied(fmt.Sprintf(`{%q: %s}`, member, entry))
			}
			a.key(`["can_read_calls"]`)
			a.key(`["can_read_calls"]`, `"owner": "bob"`, `"expires_at": null`, `"ref": "no-end"`)
			a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "w", "url": "https://hooks.example.net/x", "subscribed_events": ["key.created"]}`)
			a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "w2", "url": "https://hooks.example.net/x", "subscribed_events": ["key.created"]}`)
			revoked, _ := a.key(`["can_read_calls"]`)
			a.operate(200, "POST", "/admin/v1/keys/"+revoked+"/revoke", "")
			text := a.exported()
			before := a.contents()
			if plan, _ := a.applied(strings.Replace(text, "{", `{"prune": true, `, 1)); plan != "" || a.contents() != before {
				t.Errorf("an export changes the store that it is of: %s", plan)
			}
			b.applied(text)
			if again := b.exported(); again != text {
				t.Errorf("got\n%s\nwant\n%s", again, text)
			}
			for _, secret := range []string{"klen_", "whsec_", "lka_", "hash"} {
				if strings.Contains(text, secret) {
					t.Errorf("the export contains %s: %s", secret, text)
				}
			}
		})
	}
}

// A caller needs what each of the changes needs, and an admin token creates no token.
func TestApply_Rights(t *testing.T) {
	a := newTestApp(t)
	key, hook, token := `"keys": [{"ref": "r", "name": "k", "permissions": ["can_read_calls"]}]`, `"webhooks": [{"name": "w", "url": "https://hooks.example.net/r", "subscribed_events": ["call.ended"]}]`, `"tokens": [{"name": "t"}]`
	a.operate(201, "POST", "/admin/v1/tokens", `{"name": "t"}`)
	a.operate(200, "POST", "/admin/v1/apply", "{"+hook+"}")
	ask := func(scope, body string) *httptest.ResponseRecorder {
		t.Helper()
		secret := a.operate(201, "POST", "/admin/v1/tokens", fmt.Sprintf(`{"name": "ask", "scope": %q}`, scope))["token"].(string)
		r := httptest.NewRequest("POST", "/admin/v1/apply", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+secret)
		w := httptest.NewRecorder()
		a.admin.ServeHTTP(w, r)
		conform(t, r, w)
		return w
	}
	other := strings.Replace(hook, "/r", "/s", 1)
	for _, tt := range []struct {
		scope, body string
		want        int
	}{
		{"read", "{" + key + "}", 403}, {"metrics", "{}", 403}, {"dialer", "{}", 403},
		{"keys", `{"dry_run": true, ` + key + "}", 200}, {"write", `{"dry_run": true, ` + key + "}", 403},
		{"keys", `{"dry_run": true, ` + other + "}", 403}, {"write", `{"dry_run": true, ` + other + "}", 200},
		{"keys", "{" + hook + "," + token + "}", 200}, // nothing to change
		{"keys", `{"prune": true, "webhooks": []}`, 403}, {"write", `{"prune": true, "tokens": []}`, 403},
		{"keys", `{"dry_run": true, ` + key + "," + other + "}", 403}, {"all", `{"dry_run": true, ` + key + "," + other + "," + token + "}", 200},
		{"all", `{"tokens": [{"name": "new"}]}`, 403}, {"all", `{"dry_run": true, "tokens": [{"name": "new"}]}`, 403},
	} {
		if got := ask(tt.scope, tt.body); got.Code != tt.want {
			t.Errorf("%s %s: got %d %s, want %d", tt.scope, tt.body, got.Code, got.Body, tt.want)
		}
	}
	if keys := a.operate(200, "GET", "/admin/v1/keys", ""); keys["count"] != 0.0 {
		t.Errorf("there are %v keys, want none", keys["count"])
	}
	if got := ask("all", `{"prune": true, "tokens": []}`); got.Code != 409 || !strings.Contains(got.Body.String(), "which sends this request") {
		t.Errorf("a token that would revoke itself: got %d %s, want 409", got.Code, got.Body)
	}
}

// A file that is larger than a cluster takes at once is refused, also by a dry run.
func TestApply_Cluster(t *testing.T) {
	a := newTestApp(t)
	a.shareSmall(40)
	var keys []string
	for i := range 60 {
		keys = append(keys, fmt.Sprintf(`{"ref": "k%d", "name": "k", "permissions": ["can_read_calls"]}`, i))
	}
	before := a.contents()
	for _, dry := range []string{"true", "false"} {
		a.refuse("POST", "/admin/v1/apply", `{"dry_run": `+dry+`, "keys": [`+strings.Join(keys, ",")+"]}", 413, "import_too_large", "Apply the file in parts")
	}
	if a.contents() != before {
		t.Error("something was stored")
	}
	a.wantPlan(`{"keys": [`+keys[0]+"]}", "create key k: name=<nil>>k permissions=<nil>>[can_read_calls] ref=<nil>>k0")
}

// The events of a key are those of the endpoints that make the same change.
func TestApply_Events(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "w", "url": "https://hooks.example.net/x", "subscribed_events": ["key.created", "key.paused", "key.resumed", "key.revoked"]}`)
	entry := `{"ref": "r", "name": "k", "permissions": ["can_read_calls"]`
	for _, body := range []string{`[` + entry + `}]`, `[` + entry + `, "paused": true}]`, `[` + entry + `}]`, `[]`} {
		a.applied(`{"prune": true, "keys": ` + body + "}")
	}
	hook := a.operate(200, "GET", "/admin/v1/webhooks", "")["webhooks"].([]any)[0].(map[string]any)
	if hook["waiting"] != 4.0 {
		t.Errorf("got %v events, want 4", hook["waiting"])
	}
	if got := a.newestSentence(); got != "The control socket applied a file (1 record)" {
		t.Errorf("got %q", got)
	}
}
