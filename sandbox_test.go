package main

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// sandboxKey makes a sandbox key of the default owner, or of the one in more.
func (a *testApp) sandboxKey(more ...string) string {
	a.t.Helper()
	_, secret := a.key(everyPermission, append(more, `"sandbox": true`, `"limits": {"requests_per_minute_limit": 1000000}`)...)
	return secret
}

// play has the calls of sandboxes go on as they do in a running service.
func (a *testApp) play(pass time.Duration) {
	a.t.Helper()
	a.clocks.Pass(pass)
	if err := a.dialer.Play(a.clock.Now()); err != nil {
		a.t.Fatal(err)
	}
}

// shownTo returns the decoded body of an answer to a key.
func (a *testApp) shownTo(key, path string) map[string]any {
	a.t.Helper()
	w := a.ask("GET", path, key, "")
	if w.Code != 200 {
		a.t.Fatalf("%s: got %d %s", path, w.Code, w.Body)
	}
	return object(a.t, w.Body.String())
}

// membersOf returns a member of each object in a list.
func membersOf(list any, member string) (all []string) {
	for _, one := range list.([]any) {
		all = append(all, fmt.Sprint(one.(map[string]any)[member]))
	}
	return all
}

func TestSandbox_Filled(t *testing.T) {
	a := newCallApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Of another", "owner": "bob", "phone_number": "+4930555003"}`)
	key := a.sandboxKey()
	if !strings.HasPrefix(key, "klen_test_") || !keytext.WellFormed(key, "klen_") {
		t.Errorf("got the secret %s", key)
	}
	_, live := a.key(everyPermission)
	agents, lives := a.shownTo(key, "/api/v1/agents")["agents"], a.shownTo(live, "/api/v1/agents")["agents"]
	if got, want := membersOf(agents, "assistant_id"), membersOf(lives, "assistant_id"); len(got) != 2 || !slices.Equal(got, want) {
		t.Errorf("got copies of %v, want those of %v", got, want)
	}
	if got := membersOf(agents, "id"); slices.ContainsFunc(got, func(id string) bool { return slices.Contains(membersOf(lives, "id"), id) }) {
		t.Errorf("the copies are the agents themselves: %v", got)
	}
	if got := membersOf(a.shownTo(key, "/api/v1/contacts")["contacts"], "first_name"); len(got) != 3 {
		t.Errorf("got the contacts %v, want three", got)
	}
	assistant := membersOf(lives, "assistant_id")[0]
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555101", "agent_id": "`+assistant+`"}`); w.Code != 201 {
		t.Errorf("a call by the assistant id of the live agent: got %d %s", w.Code, w.Body)
	}
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555103", "agent_id": "`+assistant+`"}`); code(w) != "do_not_call" {
		t.Errorf("the contact that is not to be called: got %d %s", w.Code, w.Body)
	}
	carl := a.sandboxKey(`"owner": "carl"`)
	if got := membersOf(a.shownTo(carl, "/api/v1/agents")["agents"], "can_make_calls"); !slices.Equal(got, []string{"true"}) {
		t.Errorf("an owner without agents: got %v, want one that can make calls", got)
	}
}

// TestSandbox_WrongEntry has an index entry of an assistant id that leads to another agent of the same sandbox.
func TestSandbox_WrongEntry(t *testing.T) {
	a := newCallApp(t)
	key := a.sandboxKey()
	list := a.shownTo(key, "/api/v1/agents")["agents"].([]any)
	first, second := list[0].(map[string]any), list[1].(map[string]any)
	id := []byte(first["assistant_id"].(string))
	entry := func(agent any) []byte { return slices.Concat(id, IDKey(uint64(agent.(float64)))) }
	err := a.Store.Update(func(tx *Tx) error {
		wrong := entry(second["id"])
		return errors.Join(tx.Delete("agents/assistant", entry(first["id"])), tx.PutRaw("agents/assistant", wrong, sealEntry(wrong, 8)))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = a.Store.View(func(tx *Tx) error {
		scope, err := ScopeOf(tx, SandboxOf(1))
		if err == nil {
			_, err = FindAgent(tx, scope, string(id))
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "does not belong to its record") {
		t.Errorf("got %v, want an error about the entry", err)
	}
}

// firstAgent returns the id of the first agent that a key sees.
func (a *testApp) firstAgent(key string) int {
	return int(a.shownTo(key, "/api/v1/agents")["agents"].([]any)[0].(map[string]any)["id"].(float64))
}

// TestSandbox_Unmixed looks at each list of the operator in both spaces: no record is in both lists, and each says what it is.
func TestSandbox_Unmixed(t *testing.T) {
	a := newHookApp(t, inMemory(t))
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001", "owner": "ann"}`)
	made := 0
	_, live := a.key(everyPermission, `"owner": "ann"`, `"limits": {"requests_per_minute_limit": 1000000}`)
	for _, key := range []string{live, a.sandboxKey(`"owner": "ann"`)} {
		agent := a.firstAgent(key)
		o := owned{a, key, agent, &made}
		for kind := range things {
			o.thing(kind)
		}
	}
	for _, list := range []string{"agents", "contacts", "calls", "events", "variables", "webhooks"} {
		seen := map[string]string{}
		for _, sandbox := range []string{"false", "true"} {
			for _, owner := range []string{"", "&owner=ann"} {
				if owner != "" && list == "webhooks" {
					continue
				}
				path := "/admin/v1/" + list + "?sandbox=" + sandbox + owner
				if list == "events" {
					path += "&start_date=2026-01-01&end_date=2026-12-31"
				}
				rows := a.operate(200, "GET", path, "")[list]
				if len(rows.([]any)) == 0 {
					t.Errorf("%s has nothing", path)
				}
				for i, id := range membersOf(rows, "id") {
					if had, ok := seen[id]; ok && had != sandbox {
						t.Errorf("%s: %s is in both lists", path, id)
					}
					seen[id] = sandbox
					row := rows.([]any)[i].(map[string]any)
					if fmt.Sprint(row["sandbox"]) != sandbox || row["owner"] != "ann" {
						t.Errorf("%s: got %v of %v", path, row["sandbox"], row["owner"])
					}
				}
			}
		}
		a.refuse("GET", "/admin/v1/"+list+"?sandbox=yes", "", 400, "validation_error", "sandbox")
	}
	if got := a.operate(200, "GET", "/admin/v1/owners", "")["count"]; got != 1.0 {
		t.Errorf("got %v owners, want ann alone", got)
	}
	for filter, want := range map[string]float64{"": 2, "?sandbox=true": 1, "?sandbox=false": 1, "?owner=ann": 2} {
		if got := a.operate(200, "GET", "/admin/v1/keys"+filter, "")["count"]; got != want {
			t.Errorf("keys%s: got %v, want %v", filter, got, want)
		}
	}
}

func TestSandbox_CallsPlayOut(t *testing.T) {
	a := newCallApp(t)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"balance": 0, "rate": 1}`)
	a.operate(201, "POST", "/admin/v1/do-not-call", `{"phone_number": "+4930555044"}`)
	key := a.sandboxKey()
	agent := membersOf(a.shownTo(key, "/api/v1/agents")["agents"], "assistant_id")[0]
	start := func(variables string) string {
		t.Helper()
		w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": "`+agent+`", "variables": `+variables+`}`)
		if w.Code != 201 {
			t.Fatalf("%s: got %d %s", variables, w.Code, w.Body)
		}
		return object(t, w.Body.String())["call_id"].(string)
	}
	completed, busy, cut := start(`{}`), start(`{"sandbox_outcome": "busy"}`), start(`{"sandbox_outcome": "disconnected"}`)
	state := func(id string) string {
		t.Helper()
		c := a.shownTo(key, "/api/v1/calls/"+id)
		return fmt.Sprint(c["status"], " ", c["duration_seconds"], " ", c["transcript"] != nil, c["recording_url"] != nil, c["summary"] != nil, " ", a.operate(200, "GET", "/admin/v1/calls/"+id, "")["error_reason"])
	}
	for _, step := range []struct {
		pass                 time.Duration
		completed, busy, cut string
	}{
		{0, "queued <nil> false false false ", "queued <nil> false false false ", "queued <nil> false false false "},
		{time.Second, "in-progress <nil> false false false ", "failed <nil> false false false busy", "in-progress <nil> false false false "},
		{time.Second, "completed 1 true true true ", "failed <nil> false false false busy", "failed 1 false false false disconnected"},
		{time.Hour, "completed 1 true true true ", "failed <nil> false false false busy", "failed 1 false false false disconnected"},
	} {
		a.play(step.pass)
		if step.pass == time.Second {
			a.restart()
		}
		if got := a.operate(200, "POST", "/admin/v1/calls/claim", "")["call"]; got != nil {
			t.Errorf("a dialer got %v", got)
		}
		for id, want := range map[string]string{completed: step.completed, busy: step.busy, cut: step.cut} {
			if got := state(id); got != want {
				t.Errorf("after %s more: got %s, want %s", step.pass, got, want)
			}
		}
	}
	late := start(`{"sandbox_outcome": "completed"}`)
	a.play(time.Minute) // the server was down meanwhile
	if got := state(late); got != "completed 1 true true true " {
		t.Errorf("after a minute without the service: got %s", got)
	}
	if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": "`+agent+`", "variables": {"sandbox_outcome": "voicemail"}}`); w.Code != 400 || !strings.Contains(w.Body.String(), "completed, twilio-failed-to-connect-call, no-answer, busy") {
		t.Errorf("an unknown outcome: got %d %s", w.Code, w.Body)
	}
	if got := a.operate(200, "GET", "/admin/v1/owners/1", "")["balance"]; got != 0.0 {
		t.Errorf("the balance is %v, want 0: calls of a sandbox cost nothing", got)
	}
	if got := a.operate(200, "GET", "/admin/v1/agents", "")["agents"].([]any)[1].(map[string]any)["total_calls"]; got != 0.0 {
		t.Errorf("the live agent has %v calls", got)
	}
}

func TestSandbox_Reset(t *testing.T) {
	a := newHookApp(t, inMemory(t))
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001", "owner": "ann"}`)
	made := 0
	_, live := a.key(everyPermission, `"owner": "ann"`, `"limits": {"requests_per_minute_limit": 1000000}`)
	key := a.sandboxKey(`"owner": "ann"`)
	of := func(key string) owned {
		agent := a.firstAgent(key)
		return owned{a, key, agent, &made}
	}
	lives, sandboxes := of(live), of(key)
	var ids []string
	for kind := range things {
		ids = append(ids, lives.thing(kind))
		sandboxes.thing(kind)
	}
	if w := a.ask("POST", "/api/v1/business/context", key, `{"variables": {"company_name": "Test"}}`); w.Code != 200 {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	before := lives.all(ids)
	answer := a.operate(200, "POST", "/admin/v1/sandbox/reset", `{"owner": "ann"}`)
	if answer["count"].(float64) < 9 {
		t.Errorf("got %v", answer)
	}
	seen := 0
	err := a.Store.View(func(tx *Tx) error {
		for _, table := range tables() {
			one, ok := table.(anyTable)
			if !ok || !one.settings().owned {
				continue
			}
			name := one.settings().name
			eachRecord(tx, one, Forward, func(record any, err error) bool {
				seen++
				if owner := one.owner(record); IsSandbox(owner) && !slices.Contains([]string{"replays", "webhook_events", "webhook_bodies"}, name) {
					t.Errorf("%s: got %v after the reset", name, record)
				}
				return true
			})
		}
		ann, err := OwnerNamed(tx, "ann")
		if err != nil {
			return err
		}
		values, err := BusinessContext(tx, SandboxOf(ann.ID))
		if !tx.Has(businessBucket, IDKey(SandboxOf(ann.ID))) || len(values) > 0 {
			t.Errorf("the business context is %v", values)
		}
		return err
	})
	if err != nil || seen < 5 {
		t.Fatalf("looked at %d records, %v", seen, err)
	}
	if now := lives.all(ids); now != before {
		t.Errorf("live records were changed from\n%s\nto\n%s", before, now)
	}
	if got := membersOf(a.shownTo(key, "/api/v1/contacts")["contacts"], "first_name"); len(got) != 3 {
		t.Errorf("got the contacts %v, want those of a new sandbox", got)
	}
	a.refuse("POST", "/admin/v1/sandbox/reset", `{"owner": "nobody"}`, 404, "not_found", "nobody")
	a.refuse("POST", "/admin/v1/sandbox/reset", `{}`, 400, "missing_parameter", "owner")
}

func TestSandbox_Keys(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.MaxPerOwner = 2 })
	made := a.operate(201, "POST", "/admin/v1/keys", `{"name": "k", "permissions": ["can_read_calls"], "owner": "ann", "sandbox": true}`)
	id, secret := made["id"].(string), made["key"].(string)
	if made["sandbox"] != true || made["owner"] != "ann" || made["hint"] != "klen_test_..."+secret[len(secret)-4:] {
		t.Errorf("got %v", made)
	}
	rotated := a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", `{"overlap_seconds": 60}`)
	if next := rotated["key"].(string); !strings.HasPrefix(next, "klen_test_") {
		t.Errorf("rotated to %s", next)
	} else if own := a.shownTo(next, "/api/v1/key"); own["sandbox"] != true || own["owner"] != "ann" {
		t.Errorf("got %v", own)
	}
	if w := a.ask("GET", "/api/v1/key", secret, ""); w.Code != 200 {
		t.Errorf("the previous secret: got %d %s", w.Code, w.Body)
	}
	if text := auditText(t, a); !strings.Contains(text, `"sandbox":true`) || strings.Contains(text, fmt.Sprint(SandboxOf(1))) {
		t.Errorf("the audit log has\n%s", text)
	}
	a.refuse("PATCH", "/admin/v1/keys/"+id, `{"sandbox": false}`, 400, "validation_error", "sandbox")
	if moved := a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"owner": "bob", "sandbox": true}`); moved["sandbox"] != true || moved["owner"] != "bob" {
		t.Errorf("got %v", moved)
	}
	a.key(`["can_read_calls"]`, `"owner": "bob"`)
	a.key(`["can_read_calls"]`, `"owner": "bob"`)
	a.refuse("POST", "/admin/v1/keys", `{"name": "k", "permissions": ["can_read_calls"], "owner": "bob"}`, 409, "conflict", "max_per_owner")
	a.key(`["can_read_calls"]`, `"owner": "bob"`, `"sandbox": true`)
	// A program of an earlier version looks for a secret under its hash alone.
	if found := a.Keyring.peppers.Hashes(keytext.DigestOf(secret)); a.Store.View(func(tx *Tx) error {
		for _, hash := range found {
			if id, err := tx.GetSigned("key_hashes", hash); id != nil || err != nil {
				t.Errorf("got %s, %v under the hash of a live key", id, err)
			}
		}
		return nil
	}) != nil {
		t.Error("cannot read")
	}
}

// TestSandbox_Limits charges the day of a sandbox key: the live owner's is untouched, and its own limits apply to both.
func TestSandbox_Limits(t *testing.T) {
	a := newCallApp(t)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"limits": {"owner_calls_per_day_limit": 1}}`)
	key := a.sandboxKey()
	_, live := a.key(everyPermission)
	agent := membersOf(a.shownTo(live, "/api/v1/agents")["agents"], "assistant_id")[0]
	call := func(key string) int {
		return a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": "`+agent+`"}`).Code
	}
	if got := []int{call(key), call(key), call(live), call(live)}; !slices.Equal(got, []int{201, 429, 201, 429}) {
		t.Errorf("got %v, want one call in each space", got)
	}
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"limits": {"owner_calls_per_day_limit": 2}}`)
	if got := []int{call(key), call(live), call(key)}; !slices.Equal(got, []int{201, 201, 429}) {
		t.Errorf("with a higher limit: got %v", got)
	}
}

// TestSandbox_Guard asks a guarded route as each family of proxies does, with a sandbox key: it is refused unless the route has sandbox = true.
func TestSandbox_Guard(t *testing.T) {
	a := newTestApp(t, func(c *Config) {
		c.Routes = []RouteRow{{Path: "/live/*rest", Limits: nil}, {Path: "/both/*rest", Sandbox: true}}
	})
	id, _ := a.key(`["can_read_calls"]`, `"sandbox": true`)
	secret := a.sandboxKey()
	for _, family := range families {
		w := a.put(proxyQuestion{family: family, method: "GET", address: "/live/1", fields: []string{"X-Api-Key: " + secret}})
		if status, refusal := refusalTo(t, family, w); status != 403 || refusal != "permission_denied" || !strings.Contains(w.Body.String(), "sandbox key") {
			t.Errorf("%s: got %d %s %s", family, status, refusal, w.Body)
		}
		if w := a.put(proxyQuestion{family: family, method: "GET", address: "/both/1", fields: []string{"X-Api-Key: " + secret}}); w.Code != 200 || w.Header().Get("X-Auth-Sandbox") != "true" {
			t.Errorf("%s: got %d %s %v", family, w.Code, w.Body, w.Header())
		}
	}
	for path, want := range map[string]bool{"/live/1": false, "/both/1": true} {
		if got := a.operate(200, "POST", "/admin/v1/keys/"+id+"/explain", `{"method": "GET", "path": "`+path+`"}`); got["allowed"] != want || !want && got["refused_by"] != "permission" {
			t.Errorf("explain %s: got %v", path, got)
		}
	}
}

// TestSandbox_Verify asks about keys of each kind with keys of each kind.
func TestSandbox_Verify(t *testing.T) {
	a := newTestApp(t)
	_, live := a.key(`["can_verify_keys"]`)
	_, sandbox := a.key(`["can_verify_keys"]`, `"sandbox": true`)
	for _, tt := range []struct {
		by, of, accept string
		code           string
		active         bool
	}{
		{live, live, "", "valid", true}, {live, sandbox, "", "permission_denied", false}, {live, sandbox, "true", "valid", true},
		{sandbox, live, "", "invalid_key", false}, {sandbox, live, "true", "invalid_key", false}, {sandbox, sandbox, "", "valid", true},
	} {
		body := `{"key": "` + tt.of + `"}`
		if tt.accept != "" {
			body = `{"key": "` + tt.of + `", "sandbox": ` + tt.accept + `}`
		}
		w := a.ask("POST", "/api/v1/verify", tt.by, body)
		if got := object(t, w.Body.String()); got["code"] != tt.code || got["valid"] != (tt.code == "valid") {
			t.Errorf("%+v: got %s", tt, w.Body)
		}
		r := httptest.NewRequest("POST", "/api/v1/introspect", strings.NewReader("token="+tt.of+"&sandbox="+tt.accept))
		r.Header.Set("Authorization", "Bearer "+tt.by)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		w = httptest.NewRecorder()
		a.api.ServeHTTP(w, r)
		conform(t, r, w)
		if got := object(t, w.Body.String()); got["active"] != tt.active {
			t.Errorf("%+v: introspection got %s", tt, w.Body)
		}
	}
}

// TestSandbox_Webhooks has one call of each space end: the webhooks of a space receive the events of that space alone.
func TestSandbox_Webhooks(t *testing.T) {
	a := newCallApp(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true })
	_, live := a.key(everyPermission)
	sandbox := a.sandboxKey()
	events := `"subscribed_events": ["call.started", "call.ended", "call.transcript", "call.recording", "call.summary"]`
	const operators, lives, sandboxes = "1", "2", "3"
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "all", "url": "http://127.0.0.1:1/", "subscribed_events": ["call.queued", "call.started", "call.ended", "key.created"]}`)
	for _, key := range []string{live, sandbox} {
		if w := a.ask("POST", "/api/webhooks/create", key, `{"name": "w", "url": "http://127.0.0.1:1/", `+events+`}`); w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
	}
	waiting := func() (counts []string) {
		for _, id := range []string{operators, lives, sandboxes} {
			counts = append(counts, fmt.Sprint(a.operate(200, "GET", "/admin/v1/webhooks/"+id, "")["waiting"]))
		}
		return counts
	}
	for _, tt := range []struct {
		key  string
		want []string
	}{
		{sandbox, []string{"0", "0", "5"}},
		{live, []string{"3", "2", "5"}}, // queued, started and ended; started and ended
	} {
		agent := membersOf(a.shownTo(tt.key, "/api/v1/agents")["agents"], "assistant_id")[0]
		w := a.ask("POST", "/api/v1/calls", tt.key, `{"phone_number": "+4930555944", "agent_id": "`+agent+`"}`)
		if w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		a.play(2 * time.Second)
		if tt.key == live {
			id := object(t, w.Body.String())["call_id"].(string)
			a.operate(200, "PATCH", "/admin/v1/calls/"+id, `{"status": "in-progress"}`)
			a.operate(200, "PATCH", "/admin/v1/calls/"+id, `{"status": "completed"}`)
		}
		if got := waiting(); !slices.Equal(got, tt.want) {
			t.Errorf("got %v deliveries, want %v", got, tt.want)
		}
	}
	if got := membersOf(a.operate(200, "GET", "/admin/v1/webhooks?sandbox=true", "")["webhooks"], "id"); !slices.Equal(got, []string{sandboxes}) {
		t.Errorf("got the webhooks %v of sandboxes", got)
	}
}

// TestSandbox_Tables looks at all tables with records of owners: each has the set by which lists tell sandboxes from the rest.
func TestSandbox_Tables(t *testing.T) {
	looked := 0
	for _, table := range tables() {
		one, ok := table.(anyTable)
		if !ok || !one.settings().owned || !one.settings().lists {
			continue
		}
		looked++
		for owner, want := range map[uint64]int{1: 0, SandboxOf(1): 1} {
			record := one.blank()
			reflect.ValueOf(record).Elem().FieldByName("Owner").SetUint(owner)
			if got := valuesOf(one, sandboxed.Set, record); len(got) != want {
				t.Errorf("%s: a record of owner %d has %v in the SandboxSet", one.settings().name, owner, got)
			}
		}
	}
	if looked < 7 {
		t.Errorf("looked at %d tables", looked)
	}
}

// TestDashboard_Spaces shows the lists of both spaces with records in each: a page has those of one, and says of sandboxes that they are.
func TestDashboard_Spaces(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/agents", `{"name": "Alive", "phone_number": "+4930555001"}`)
	b.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Alive"}`)
	_, live := b.key(everyPermission, `"metadata": {"note": "Alive"}`)
	b.shownTo(live, "/api/v1/agents")
	key := b.sandboxKey(`"metadata": {"note": "Trial"}`)
	b.shownTo(key, "/api/v1/contacts")
	look := func(path, want, not string) {
		t.Helper()
		w := b.get(path)
		if page := w.Body.String(); w.Code != 200 || !strings.Contains(page, want) || strings.Contains(page, not) {
			t.Errorf("%s: got %d, want %q and not %q", path, w.Code, want, not)
		}
	}
	look("/contacts", "Alive", "Cleo")
	look("/keys", ">Alive<", ">Trial<")
	look("/do-not-call", `href="/do-not-call"`, "note sandbox")
	look("/requests", "/api/v1/agents", "/api/v1/contacts")
	look("/", `href="/do-not-call"`, "note sandbox")
	if w := b.post("/space", "space", "sandbox", "next", "//evil.example/"); w.Code != 303 || w.Header().Get("Location") != "/" {
		t.Errorf("got %d to %s", w.Code, w.Header().Get("Location"))
	}
	if w := b.post("/space", "space", "sandbox", "next", "/contacts"); w.Header().Get("Location") != "/contacts" {
		t.Errorf("got to %s", w.Header().Get("Location"))
	}
	look("/contacts", "Cleo", "Alive")
	look("/contacts", "note sandbox", `href="/do-not-call"`)
	look("/keys", ">Trial<", ">Alive<")
	look("/requests", "/api/v1/contacts", "/api/v1/agents")
	if w := b.get("/"); w.Code != 303 || w.Header().Get("Location") != "/keys" {
		t.Errorf("the overview: got %d to %s, want the keys, because it is of live keys", w.Code, w.Header().Get("Location"))
	}
	for path, want := range map[string]int{"/admin/v1/overview": 1, "/admin/v1/usage": 1, "/admin/v1/overview?range=1h": 1} {
		if total := b.operate(200, "GET", path, "")["total"].(map[string]any)["requests"]; fmt.Sprint(total) != fmt.Sprint(want) {
			t.Errorf("%s: got %v requests, want %d: those of live keys", path, total, want)
		}
	}
	b.refuse("GET", "/admin/v1/requests?sandbox=1", "", 400, "validation_error", "sandbox must be true or false")
	look("/keys/new", `name="sandbox" value="yes" checked`, "Alive")
	if w := b.post("/agents", "name", "New"); w.Code != 409 {
		t.Errorf("a live agent while the pages show sandboxes: got %d", w.Code)
	}
	if w := b.post("/keys", "name", "made here", "permission", "can_read_calls", "sandbox", "yes", "expiry", "90d", "nonce", "n1"); w.Code != 201 || !strings.Contains(w.Body.String(), "klen_test_") {
		t.Errorf("got %d", w.Code)
	}
	look("/owners/1", `href="/owners/1/empty"`, "Alive")
	look("/owners/1/empty", "Empty the sandbox of <bdi>admin</bdi>?", "Alive")
	if w := b.post("/owners/1/empty"); w.Code != 303 || w.Header().Get("Location") != "/owners/1?done=emptied" {
		t.Errorf("empty the sandbox: got %d to %s", w.Code, w.Header().Get("Location"))
	}
	look("/owners/1?done=emptied", "The sandbox is empty.", "Alive")
	look("/contacts", "note sandbox", "Cleo")
	b.post("/space", "space", "live", "next", "/contacts")
	look("/contacts", "Alive", "Cleo")
	look("/owners/1", "admin", "/empty")
}
