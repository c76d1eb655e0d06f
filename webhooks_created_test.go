package main

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// namesOf returns the names of the webhooks in a member of a key's answer.
func namesOf(v any) (names []string) {
	for _, row := range v.([]any) {
		names = append(names, row.(map[string]any)["name"].(string))
	}
	return names
}

// TestHooks_CreatedBy creates webhooks with two keys of an owner, as the operator, and as earlier
// versions stored them. Each key is shown with its own, and a revocation ends those alone.
func TestHooks_CreatedBy(t *testing.T) {
	a := newHookApp(t)
	v := newReceiver(t)
	first, key := a.key(everyPermission)
	second, other := a.key(everyPermission)
	create := func(key, name string) {
		w := a.ask("POST", "/api/webhooks/create", key, fmt.Sprintf(`{"name": %q, "url": %q, "subscribed_events": ["call.ended"]}`, name, v.URL))
		if w.Code != 201 || strings.Contains(w.Body.String(), first) || strings.Contains(w.Body.String(), "created_by") {
			t.Fatalf("create %s: got %d %s, want it without the key", name, w.Code, w.Body)
		}
	}
	create(key, "one")
	create(other, "two")
	create(key, "three")
	create(key, "old")
	a.hook(v.URL, "", "call.ended")
	err := a.Store.Update(func(tx *Tx) error {
		w, err := findWebhook(tx, 4)
		if err != nil {
			return err
		}
		w.CreatedBy = "" // leaves the member and the entry in the index out
		return webhookTable.Put(tx, w)
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range (&WebhookAdmin{}).Routes() {
		if row.Method == "DELETE" || strings.HasSuffix(row.Path, "/create") {
			continue
		}
		body := map[string]string{"PATCH": `{"name": "one"}`, "PUT": `{"name": "one", "url": "` + v.URL + `", "subscribed_events": ["call.ended"]}`}[row.Method]
		w := a.ask(row.Method, strings.Replace(row.Path, ":id", "1", 1), key, body)
		if got := w.Body.String(); w.Code != 200 || strings.Contains(got, first) || strings.Contains(got, "created_by") {
			t.Errorf("%s %s: got %d %s, want it without the key", row.Method, row.Path, w.Code, got)
		}
	}
	for id, want := range map[uint64]any{1: first, 2: second, 3: first, 4: nil, 5: nil} {
		if got, listed := a.webhook(id)["created_by"]; got != want || !listed {
			t.Errorf("webhook %d: created by %v, want %v", id, got, want)
		}
	}
	for _, row := range a.operate(200, "GET", "/admin/v1/webhooks", "")["webhooks"].([]any) {
		if row := row.(map[string]any); row["name"] == "one" && row["created_by"] != first {
			t.Errorf("the list has %v", row)
		}
	}
	if got := namesOf(a.operate(200, "GET", "/admin/v1/keys/"+first, "")["webhooks"]); !slices.Equal(got, []string{"one", "three"}) {
		t.Errorf("the key is shown with %v", got)
	}
	if w := a.control("POST", "/admin/v1/keys/"+first+"/revoke", `{"end_webhooks": "yes"}`); w.Code != 400 || !strings.Contains(w.Body.String(), "end_webhooks") {
		t.Errorf("a text: got %d %s", w.Code, w.Body)
	}

	// Revoked alone, the key leaves its webhooks; revoked again, it takes them along.
	before := len(auditEntries(t, a.Store))
	got := a.operate(200, "POST", "/admin/v1/keys/"+first+"/revoke", "")
	if !slices.Equal(namesOf(got["webhooks"]), []string{"one", "three"}) || len(got["ended_webhooks"].([]any)) > 0 || got["status"] != "revoked" {
		t.Errorf("revoked: got %v", got)
	}
	got = a.operate(200, "POST", "/admin/v1/keys/"+first+"/revoke", `{"end_webhooks": true}`)
	if !slices.Equal(namesOf(got["ended_webhooks"]), []string{"one", "three"}) || len(got["webhooks"].([]any)) > 0 {
		t.Errorf("revoked again: got %v", got)
	}
	a.operate(200, "POST", "/admin/v1/keys/"+first+"/revoke", `{"end_webhooks": true}`) // changes nothing
	got = a.operate(200, "POST", "/admin/v1/keys/"+second+"/revoke", `{"end_webhooks": true}`)
	if !slices.Equal(namesOf(got["ended_webhooks"]), []string{"two"}) || got["status"] != "revoked" {
		t.Errorf("revoked with its webhooks: got %v", got)
	}
	entries := auditEntries(t, a.Store)[before:]
	want := []struct{ object, changes string }{
		{"key " + first, "[key " + first + "]"}, {"key " + first, "[webhook 1 webhook 3]"}, {"key " + second, "[key " + second + " webhook 2]"},
	}
	if len(entries) != len(want) {
		t.Fatalf("got %d audit entries, want %d", len(entries), len(want))
	}
	for i, e := range entries {
		var objects []string
		for _, c := range e.Changes {
			objects = append(objects, c.Object)
		}
		if fmt.Sprint(objects) != want[i].changes || e.Object != want[i].object {
			t.Errorf("audit entry %d is about %s and changes %v, want %v", i, e.Object, objects, want[i])
		}
	}
	var left []string
	for _, row := range a.operate(200, "GET", "/admin/v1/webhooks", "")["webhooks"].([]any) {
		left = append(left, row.(map[string]any)["name"].(string))
	}
	if slices.Sort(left); !slices.Equal(left, []string{"old", "test"}) {
		t.Errorf("left are %v, want those of before and of the operator", left)
	}
	err = a.Store.View(func(tx *Tx) error {
		result, err := CheckStore(tx, append(WebhookTables(), OutboxTables()...))
		if len(result.Problems) > 0 {
			t.Errorf("check: %q", result.Problems)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCommands_RevokeWebhooks revokes a key by the command, first alone, then with its webhooks.
func TestCommands_RevokeWebhooks(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	id, key := w.key(everyPermission)
	made := w.ask("POST", "/api/webhooks/create", key, `{"name": "spy", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)
	if made.Code != 201 {
		t.Fatal(made.Body)
	}
	var out bytes.Buffer
	if exit, errs := w.run(&out, "keys", "revoke", id); exit != 0 || !strings.Contains(out.String(), "created webhook") || !strings.Contains(out.String(), "spy") || !strings.Contains(errs, "latchkey keys revoke "+id+" --end-webhooks") {
		t.Errorf("revoke: exit %d, %s%s", exit, out.String(), errs)
	}
	w.webhook(1)
	out.Reset()
	if exit, errs := w.run(&out, "keys", "revoke", id, "--end-webhooks"); exit != 0 || !strings.Contains(out.String(), "deleted webhook") || errs != "What the key did: latchkey keys activity "+id+"\n" {
		t.Errorf("revoke --end-webhooks: exit %d, %s%s", exit, out.String(), errs)
	}
	w.operate(404, "GET", "/admin/v1/webhooks/1", "")
	if exit, errs := w.run(io.Discard, "keys", "revoke", id, "--end-webhook"); exit != 2 || !strings.Contains(errs, "Try: latchkey keys revoke --help") {
		t.Errorf("a wrong flag: exit %d, %s", exit, errs)
	}
}

// TestKeyPages_RevokeWebhooks revokes keys on the page, without and with the box ticked.
func TestKeyPages_RevokeWebhooks(t *testing.T) {
	b := newDashboard(t)
	for _, box := range [][]string{nil, {"end_webhooks", "yes"}} {
		id, key := b.key(everyPermission)
		made := b.ask("POST", "/api/webhooks/create", key, `{"name": "spy", "url": "https://hooks.example.net/spy", "subscribed_events": ["call.ended"]}`)
		if made.Code != 201 {
			t.Fatal(made.Body)
		}
		hook := fmt.Sprintf("%.0f", object(t, made.Body.String())["id"])
		b.tells("/keys/"+id, `<a href="/webhooks/`+hook+`"><bdi>spy</bdi></a>`)
		b.tells("/keys/"+id+"/revoke", "Delete these webhooks too", "https://hooks.example.net/spy", `name="end_webhooks"`)
		b.tells("/webhooks/"+hook, id)
		if w := b.post("/keys/"+id+"/revoke", append(box, "confirm", "test")...); w.Code != 303 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		want := 200
		if box != nil {
			want = 404
		}
		if w := b.control("GET", "/admin/v1/webhooks/"+hook, ""); w.Code != want {
			t.Errorf("revoked with %v: the webhook answers %d, want %d", box, w.Code, want)
		}
		if w := b.control("GET", "/admin/v1/keys/"+id, ""); !strings.Contains(w.Body.String(), `"status":"revoked"`) {
			t.Errorf("got %s, want it revoked", w.Body)
		}
	}
}

// TestHooks_CreatedBySelfRevoked has a key that revokes itself: its webhooks go on, and the audit entry
// and the event to the operator list them. The answer to the key does not.
func TestHooks_CreatedBySelfRevoked(t *testing.T) {
	a := newHookApp(t)
	operators := newReceiver(t)
	a.hook(operators.URL, "", KeyRevoked)
	for _, hooks := range []int{0, 2} {
		id, key := a.key(everyPermission)
		for n := range hooks {
			body := fmt.Sprintf(`{"name": "left %d", "url": "https://hooks.example.net/?token=hidden", "subscribed_events": ["call.ended"]}`, n)
			if w := a.ask("POST", "/api/webhooks/create", key, body); w.Code != 201 {
				t.Fatalf("create: got %d %s", w.Code, w.Body)
			}
		}
		if w := a.ask("DELETE", "/api/v1/key", key, ""); w.Code != 200 || strings.Contains(w.Body.String(), "webhooks") {
			t.Errorf("got %d %s, want an answer without webhooks", w.Code, w.Body)
		}
		entries := auditEntries(t, a.Store)
		if got := fmt.Sprint(entries[len(entries)-1].Detail); strings.Count(got, "left ") != hooks || strings.Contains(got, "hidden") {
			t.Errorf("%d webhooks: got the audit entry %+v, want their names and no URL", hooks, entries[len(entries)-1])
		}
		a.send()
		events := ""
		for _, r := range operators.all() {
			events = r.body
		}
		if !strings.Contains(events, id) || strings.Count(events, `"left `) != hooks || strings.Contains(events, "hidden") {
			t.Errorf("%d webhooks: got the event %s, want their names and no URL", hooks, events)
		}
	}
}
