package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// auditWalk makes each change of the admin endpoint once.
type auditWalk struct {
	*testApp
	t       *testing.T
	secrets []string
}

// made asks for something to change first, and gives a member of the answer.
func (w *auditWalk) made(path, body, member string) string {
	w.t.Helper()
	v := w.operate(201, "POST", path, body)
	w.note(v)
	return fmt.Sprint(v[member])
}

// note keeps the secrets of an answer.
func (w *auditWalk) note(v map[string]any) {
	for _, name := range []string{"key", "token", "secret"} {
		if s, ok := v[name].(string); ok {
			w.secrets = append(w.secrets, s)
		}
	}
	if lease, ok := v["lease"].(map[string]any); ok {
		w.note(lease)
	}
}

func (w *auditWalk) newKey() string {
	w.t.Helper()
	return w.made("/admin/v1/keys", `{"name": "k", "permissions": ["can_read_calls"]}`, "id")
}

func (w *auditWalk) newHook() string {
	w.t.Helper()
	return w.made("/admin/v1/webhooks", `{"name": "h", "url": "https://hooks.example.net/canary-path?x=canary-query", "subscribed_events": ["call.ended"]}`, "id")
}

// claimed claims a new call and gives its path and the lease as a body.
func (w *auditWalk) claimed() (path, body string) {
	w.t.Helper()
	w.queued()
	v := w.operate(200, "POST", "/admin/v1/calls/claim", `{"dialer": "d"}`)
	w.note(v)
	call, lease := v["call"].(map[string]any), v["lease"].(map[string]any)
	return fmt.Sprintf("/admin/v1/calls/%v", call["id"]), fmt.Sprintf(`{"lease_token": %q}`, lease["token"])
}

// queued has a key start a call.
func (w *auditWalk) queued() {
	w.t.Helper()
	agent := w.made("/admin/v1/agents", `{"name": "A", "phone_number": "+4930555001"}`, "id")
	_, secret := w.key(`["can_initiate_calls"]`)
	if got := w.ask("POST", "/api/v1/calls", secret, `{"phone_number": "+4930555944", "agent_id": `+agent+`}`); got.Code >= 300 {
		w.t.Fatalf("start a call: got %d %s", got.Code, got.Body)
	}
}

// changes gives for every endpoint what to ask for: a path and a body.
func (w *auditWalk) changes() map[string]func() (path, body string) {
	const v1 = "/admin/v1/"
	all := map[string]func() (string, string){
		"POST /admin/v1/keys":            func() (string, string) { return v1 + "keys", `{"name": "k", "permissions": ["can_read_calls"]}` },
		"PATCH /admin/v1/keys/:id":       func() (string, string) { return v1 + "keys/" + w.newKey(), `{"name": "l"}` },
		"POST /admin/v1/keys/:id/revoke": func() (string, string) { return v1 + "keys/" + w.newKey() + "/revoke", "" },
		"POST /admin/v1/keys/:id/pause":  func() (string, string) { return v1 + "keys/" + w.newKey() + "/pause", "" },
		"POST /admin/v1/keys/:id/resume": func() (string, string) {
			id := w.newKey()
			w.operate(200, "POST", v1+"keys/"+id+"/pause", "")
			return v1 + "keys/" + id + "/resume", ""
		},
		"POST /admin/v1/keys/:id/rotate": func() (string, string) { return v1 + "keys/" + w.newKey() + "/rotate", "" },
		"POST /admin/v1/keys/:id/rotate/finish": func() (string, string) {
			id := w.newKey()
			w.note(w.operate(200, "POST", v1+"keys/"+id+"/rotate", ""))
			return v1 + "keys/" + id + "/rotate/finish", ""
		},
		"POST /admin/v1/keys/import": func() (string, string) {
			return v1 + "keys/import", `[{"name": "i", "permissions": ["can_read_calls"], "sha256": "` + strings.Repeat("ab", 32) + `"}]`
		},
		"POST /admin/v1/tokens": func() (string, string) { return v1 + "tokens", `{"name": "t"}` },
		"POST /admin/v1/tokens/:id/revoke": func() (string, string) {
			return v1 + "tokens/" + w.made(v1+"tokens", `{"name": "t"}`, "id") + "/revoke", ""
		},
		"POST /admin/v1/reload": func() (string, string) {
			w.Reloader.From(func() (Config, error) { return w.config, nil }, new(slog.LevelVar))
			return v1 + "reload", ""
		},
		"POST /admin/v1/setup-link": func() (string, string) {
			for _, op := range w.operate(200, "GET", v1+"operators", "")["operators"].([]any) {
				w.operate(200, "DELETE", fmt.Sprint(v1, "operators/", op.(map[string]any)["id"]), "")
			}
			return v1 + "setup-link", ""
		},
		"POST /admin/v1/operators": func() (string, string) { return v1 + "operators", `{"name": "ann", "password": "canary password"}` },
		"POST /admin/v1/operators/:id/password": func() (string, string) {
			id := w.made(v1+"operators", `{"name": "bea", "password": "canary password"}`, "id")
			return v1 + "operators/" + id + "/password", `{"password": "canary password 2"}`
		},
		"DELETE /admin/v1/operators/:id": func() (string, string) {
			return v1 + "operators/" + w.made(v1+"operators", `{"name": "cay", "password": "canary password"}`, "id"), ""
		},
		"POST /admin/v1/calls": func() (string, string) {
			return v1 + "calls", `{"phone_number": "+4930555945", "agent_id": ` + w.made(v1+"agents", `{"name": "A"}`, "id") + `}`
		},
		"PATCH /admin/v1/calls/:id":      func() (string, string) { path, _ := w.claimed(); return path, `{"summary": "s"}` },
		"POST /admin/v1/calls/claim":     func() (string, string) { w.queued(); return v1 + "calls/claim", `{"dialer": "d"}` },
		"POST /admin/v1/calls/:id/start": func() (string, string) { path, body := w.claimed(); return path + "/start", body },
		"POST /admin/v1/calls/:id/complete": func() (string, string) {
			path, body := w.claimed()
			w.operate(200, "POST", path+"/start", body)
			return path + "/complete", body
		},
		"POST /admin/v1/calls/:id/fail": func() (string, string) { path, body := w.claimed(); return path + "/fail", body },
		"POST /admin/v1/webhooks": func() (string, string) {
			return v1 + "webhooks", `{"name": "h", "url": "https://hooks.example.net/canary-path", "subscribed_events": ["call.ended"]}`
		},
		"PATCH /admin/v1/webhooks/:id":     func() (string, string) { return v1 + "webhooks/" + w.newHook(), `{"name": "i"}` },
		"DELETE /admin/v1/webhooks/:id":    func() (string, string) { return v1 + "webhooks/" + w.newHook(), "" },
		"POST /admin/v1/webhooks/:id/test": func() (string, string) { return v1 + "webhooks/" + w.privateHook() + "/test", "" },
		"POST /admin/v1/webhooks/:id/redeliver": func() (string, string) {
			id := w.privateHook()
			hook, err := strconv.ParseUint(id, 10, 64)
			if err == nil {
				err = w.Store.Update(func(tx *Tx) error {
					return AddAttempt(tx, hook, Attempt{Delivery: NewDeliveryID(), Event: "call.ended", At: epoch, Attempt: 1, Body: []byte("{}")})
				})
			}
			if err != nil {
				w.t.Fatal(err)
			}
			return v1 + "webhooks/" + id + "/redeliver", `{"log_id": 1}`
		},
	}
	const event = `{"title": "Canary", "start_time": "2026-03-02T09:00:00Z", "end_time": "2026-03-02T10:00:00Z"}`
	all["POST /admin/v1/events"] = func() (string, string) { return v1 + "events", event }
	all["PATCH /admin/v1/events/:id"] = func() (string, string) {
		return v1 + "events/" + w.made(v1+"events", event, "id"), `{"title": "Canary2"}`
	}
	all["POST /admin/v1/events/:id/cancel"] = func() (string, string) {
		return v1 + "events/" + w.made(v1+"events", event, "id") + "/cancel", `{"reason": "Canary"}`
	}
	all["PATCH /admin/v1/business-context"] = func() (string, string) {
		return v1 + "business-context", `{"variables": {"visits": 3}, "auto_create_variables": true}`
	}
	for name, form := range map[string][2]string{
		"agents": {`{"name": "A"}`, `{"name": "B"}`}, "contacts": {`{"first_name": "Canary"}`, `{"first_name": "Canary2"}`}, "teams": {`{"name": "T"}`, `{"name": "U"}`},
		"owners": {`{"name": "o%d"}`, `{"rate": 2}`}, "do-not-call": {`{"phone_number": "+49305559%02d"}`, `{"reason": "asked"}`},
		"schedules": {`{"owner": "s%d", "time_zone": "UTC"}`, `{"buffer_minutes": 5}`},
		"variables": {`{"name": "v%d", "display_name": "V", "variable_type": "text", "context_type": "contact"}`, `{"description": "d"}`},
	} {
		n := 10
		one := func() string {
			n++
			return strings.Replace(strings.Replace(form[0], "%d", fmt.Sprint(n), 1), "%02d", fmt.Sprint(n), 1)
		}
		all["POST /admin/v1/"+name] = func() (string, string) { return v1 + name, one() }
		all["POST /admin/v1/"+name+"/import"] = func() (string, string) { return v1 + name + "/import", "[" + one() + "," + one() + "]" }
		all["PATCH /admin/v1/"+name+"/:id"] = func() (string, string) { return v1 + name + "/" + w.made(v1+name, one(), "id"), form[1] }
		all["DELETE /admin/v1/"+name+"/:id"] = func() (string, string) { return v1 + name + "/" + w.made(v1+name, one(), "id"), "" }
	}
	return all
}

// privateHook leads to where nothing listens, without being asked.
func (w *auditWalk) privateHook() string {
	w.t.Helper()
	return w.made("/admin/v1/webhooks", `{"name": "h", "url": "https://127.0.0.1:1/", "subscribed_events": ["call.ended"]}`, "id")
}

// TestAudit_EveryChange walks all endpoints of the admin door that are not GET.
// Whoever adds one makes its changes by Request.Update (or says with
// Request.Record that it did something), and adds it to auditWalk.changes.
func TestAudit_EveryChange(t *testing.T) {
	w := &auditWalk{testApp: newTestApp(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true }), t: t}
	changes := w.changes()
	for _, row := range w.Server.o.Admin {
		action := row.Method + " " + row.Path
		if row.Method == http.MethodGet || unaudited[action] != "" {
			continue
		}
		change := changes[action]
		if change == nil {
			t.Errorf("%s: auditWalk.changes does not know how to ask for it", action)
			continue
		}
		path, body := change()
		before := len(auditEntries(t, w.Store))
		got := w.control(row.Method, path, body)
		if got.Code >= 300 {
			t.Errorf("%s: got %d %s", action, got.Code, got.Body)
			continue
		}
		var answer map[string]any
		if json.Unmarshal(got.Body.Bytes(), &answer) == nil {
			w.note(answer)
		}
		all := auditEntries(t, w.Store)
		if len(all) != before+1 {
			t.Errorf("%s: left %d entries in the audit log, want 1: make the change by Request.Update", action, len(all)-before)
			continue
		}
		e := all[before]
		if e.Action != action || e.Result != DeedDone || e.Actor != "control socket" || e.Request == "" || !e.At.Equal(epoch) {
			t.Errorf("%s: got the entry %+v", action, e)
		}
		if id := strings.Split(path, "/"); strings.Contains(row.Path, ":id") && !strings.HasSuffix(e.Object, " "+id[4]) {
			t.Errorf("%s %s: the entry is about %q", action, path, e.Object)
		}
	}
	if p := auditProblems(t, w.Store); len(p) > 0 {
		t.Errorf("the chain: %q", p)
	}
	w.secrets = append(w.secrets, "canary password", "canary-path", "canary-query", "Canary", "argon2", "+49305559")
	w.hashes()
	wantNoSecrets(t, "the audit log", auditText(t, w.testApp), w.secrets)
}

// hashes adds what is stored of secrets to them.
func (w *auditWalk) hashes() {
	w.t.Helper()
	err := w.Store.View(func(tx *Tx) error {
		for k, err := range KeyTable.All(tx, false) {
			if err != nil {
				return err
			}
			w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(k.Hash))
		}
		for token, err := range tokenTable.All(tx, false) {
			if err != nil {
				return err
			}
			w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(token.Hash))
		}
		for hook, err := range webhookTable.All(tx, false) {
			if err != nil {
				return err
			}
			w.secrets = append(w.secrets, base64.StdEncoding.EncodeToString(hook.Secret))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}
