package main

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// fakeDisk is the disk of a test, with 100 MB of which free bytes are free. So the mark is at 5 MB.
type fakeDisk struct{ free, promised atomic.Int64 }

func (a *testApp) fakeDisk(free int64) *fakeDisk {
	d := &fakeDisk{}
	d.free.Store(free)
	a.storage.mu.Lock()
	defer a.storage.mu.Unlock()
	a.storage.space = func() DiskSpace {
		return DiskSpace{Free: d.free.Load(), Size: 100_000_000, Promised: d.promised.Load()}
	}
	return d
}

// pressure is a state of the storage in which TestStorage_Walk makes each request.
type pressure struct {
	name      string
	full, low bool
	code      string // error of a request that stores something
}

var pressures = []pressure{
	{name: "enough space"},
	{name: "the owner is full", full: true, code: "storage_limit_exceeded"},
	{name: "the disk is low", low: true, code: "storage_unavailable"},
	{name: "both", full: true, low: true, code: "storage_unavailable"},
}

// storageWalk makes requests of keys and of the operator under a pressure.
type storageWalk struct {
	*auditWalk
	disk   *fakeDisk
	secret string // a key of the owner "tenant"
	admin  map[string]func() (path, body string)
	n      int
}

func newStorageWalk(t *testing.T) *storageWalk {
	m := newMailbox(t)
	a := newTestApp(t, func(c *Config) { c.Webhooks.AllowPrivateTargets, c.Mail = true, m.config(KeyRotated) })
	w := &storageWalk{auditWalk: &auditWalk{testApp: a, t: t}, disk: a.fakeDisk(50_000_000)}
	w.operate(201, "POST", "/admin/v1/owners", `{"name": "admin"}`)
	w.operate(201, "POST", "/admin/v1/owners", `{"name": "tenant"}`)
	_, w.secret = w.tenantKey()
	w.operate(200, "PATCH", "/admin/v1/owners/1", `{"storage_bytes": null}`) // of the owner admin
	w.admin = w.changes()
	return w
}

func (w *storageWalk) tenantKey() (id, secret string) {
	var all []string
	for _, p := range w.Keyring.Rights().Permissions() {
		all = append(all, `"`+p.Name+`"`)
	}
	return w.key("["+strings.Join(all, ",")+"]", `"owner": "tenant", "limits": {"requests_per_minute_limit": 100000, "calls_per_day_limit": 100000, "calendar_events_per_day_limit": 100000}`)
}

// press applies a pressure. No owner has a limit of its own, so the default fills all of them.
func (w *storageWalk) press(p pressure) {
	b := w.Store.Bounds()
	b.OwnerBytes = 0
	if p.full {
		b.OwnerBytes = 1
	}
	w.Store.SetBounds(b)
	w.disk.free.Store(50_000_000)
	if p.low {
		w.disk.free.Store(1_000_000)
	}
	w.storage.read()
}

// madeByKey creates something with the tenant's key and returns a member of the answer.
func (w *storageWalk) madeByKey(path, body, member string) string {
	w.t.Helper()
	w.n++
	body = strings.ReplaceAll(body, "NUM", fmt.Sprint(w.n))
	got := w.ask("POST", path, w.secret, body)
	if got.Code != 201 {
		w.t.Fatalf("POST %s: got %d %s", path, got.Code, got.Body)
	}
	return fmt.Sprint(object(w.t, got.Body.String())[member])
}

const (
	walkEvent = `{"title": "T NUM", "start_time": "2036-03-02T09:00:00Z", "end_time": "2036-03-02T10:00:00Z"}`
	walkHook  = `{"name": "h", "url": "https://127.0.0.1:1/", "subscribed_events": ["calendar.created"]}`
	walkVar   = `{"name": "vNUM", "display_name": "V", "variable_type": "text", "context_type": "contact"}`
)

func (w *storageWalk) contact() string {
	return w.madeByKey("/api/v1/contacts/create", `{"first_name": "Oda"}`, "id")
}
func (w *storageWalk) event() string {
	return w.madeByKey("/api/v1/calendar/events/create", walkEvent, "id")
}
func (w *storageWalk) hook() string { return w.madeByKey("/api/webhooks/create", walkHook, "id") }
func (w *storageWalk) variable() string {
	return w.madeByKey("/api/v1/context-variables/create", walkVar, "id")
}

// keyedChange is a request with a key: what it asks for, and whether it is refused under pressure.
type keyedChange struct {
	refused bool
	request func() (path, body string)
}

// keyedChanges returns a request for each route of the API that is not GET. The names of further
// requests of a route have more text behind the path.
func (w *storageWalk) keyedChanges() map[string]keyedChange {
	long := strings.Repeat("x", 300)
	const v1 = "/api/v1/"
	agent := w.made("/admin/v1/agents", `{"name": "A", "phone_number": "+4930555001", "owner": "tenant"}`, "id")
	verified := `{"key": "klen_unknown"}`
	all := map[string]keyedChange{}
	add := func(name string, refused bool, request func() (string, string)) {
		all[name] = keyedChange{refused, request}
	}
	add("POST /api/v1/calls", true, func() (string, string) {
		return v1 + "calls", `{"phone_number": "+4930555044", "agent_id": ` + agent + `}`
	})
	add("POST /api/v1/contacts/create", true, func() (string, string) { return v1 + "contacts/create", `{"first_name": "Eva"}` })
	add("PUT /api/v1/contacts/:contact_id/update", true, func() (string, string) {
		return v1 + "contacts/" + w.contact() + "/update", `{"first_name": "` + long[:100] + `"}`
	})
	add("PATCH /api/v1/contacts/:contact_id/update", true, func() (string, string) {
		return v1 + "contacts/" + w.contact() + "/update", `{"last_name": "` + long[:100] + `"}`
	})
	add("POST /api/v1/context-variables/create", true, func() (string, string) {
		w.n++
		return v1 + "context-variables/create", strings.ReplaceAll(walkVar, "NUM", fmt.Sprint("x", w.n))
	})
	for _, method := range []string{"PUT", "PATCH"} {
		add(method+" /api/v1/context-variables/:variable_id/update", true, func() (string, string) {
			return v1 + "context-variables/" + w.variable() + "/update", `{"display_name": "V", "description": "` + long + `"}`
		})
		add(method+" /api/v1/calendar/events/:event_id/update", true, func() (string, string) {
			return v1 + "calendar/events/" + w.event() + "/update", strings.Replace(walkEvent, `"title"`, `"description": "`+long+`", "title"`, 1)
		})
		add(method+" /api/webhooks/:id/update", true, func() (string, string) {
			return "/api/webhooks/" + w.hook() + "/update", `{"name": "h", "url": "https://127.0.0.1:1/` + long + `", "subscribed_events": ["calendar.created"]}`
		})
	}
	add("DELETE /api/v1/context-variables/:variable_id/delete", false, func() (string, string) { return v1 + "context-variables/" + w.variable() + "/delete", "" })
	add("POST /api/v1/contacts/:contact_id/context", true, func() (string, string) {
		w.n++
		return v1 + "contacts/" + w.contact() + "/context", fmt.Sprintf(`{"variables": {"c%d": %q}, "auto_create_variables": true}`, w.n, long)
	})
	add("POST /api/v1/business/context", true, func() (string, string) {
		w.n++
		return v1 + "business/context", fmt.Sprintf(`{"variables": {"b%d": %q}, "auto_create_variables": true}`, w.n, long)
	})
	add("POST /api/v1/calendar/events/create", true, func() (string, string) { return v1 + "calendar/events/create", walkEvent })
	add("POST /api/v1/calendar/events/:event_id/cancel", false, func() (string, string) {
		return v1 + "calendar/events/" + w.event() + "/cancel", `{"reason": "` + long + `"}`
	})
	for _, status := range []string{"cancelled", "completed", "no_show"} {
		add("PATCH /api/v1/calendar/events/:event_id/update to "+status, false, func() (string, string) {
			return v1 + "calendar/events/" + w.event() + "/update", `{"status": "` + status + `"}`
		})
	}
	add("PATCH /api/v1/calendar/events/:event_id/update to completed with more", true, func() (string, string) {
		return v1 + "calendar/events/" + w.event() + "/update", `{"status": "completed", "customer_notes": "` + long + `"}`
	})
	add("POST /api/webhooks/create", true, func() (string, string) { return "/api/webhooks/create", walkHook })
	add("PATCH /api/webhooks/:id/update to inactive", false, func() (string, string) { return "/api/webhooks/" + w.hook() + "/update", `{"is_active": false}` })
	add("DELETE /api/webhooks/:id/delete", false, func() (string, string) { return "/api/webhooks/" + w.hook() + "/delete", "" })
	add("POST /api/webhooks/:id/test", false, func() (string, string) { return "/api/webhooks/" + w.hook() + "/test", "" })
	add("POST /api/v1/verify", false, func() (string, string) { return v1 + "verify", verified })
	add("POST /api/v1/introspect", false, func() (string, string) { return v1 + "introspect", verified })
	return all
}

// TestStorage_Walk makes a request to every route under each pressure. A route of the API that is not
// GET needs a row in keyedChanges, and one of the admin endpoint a row in auditWalk.changes.
func TestStorage_Walk(t *testing.T) {
	w := newStorageWalk(t)
	changes := w.keyedChanges()
	for _, row := range w.Server.o.Keyed {
		name := row.Method + " " + row.Path
		if _, ok := changes[name]; !ok && row.Method != http.MethodGet {
			t.Errorf("%s: no request in keyedChanges; add one, and say whether it is refused when the storage is full", name)
		}
	}
	for _, row := range w.Server.o.Free {
		if name := row.Method + " " + row.Path; row.Method != http.MethodGet && !slices.Contains(endingRoutes, name) {
			t.Errorf("%s: no request in storageWalk.ends", name)
		}
	}
	for _, p := range pressures {
		t.Run(p.name, func(t *testing.T) {
			w.t = t
			for _, name := range slices.Sorted(maps.Keys(changes)) {
				w.press(pressures[0])
				path, body := changes[name].request()
				w.press(p)
				method, _, _ := strings.Cut(name, " ")
				got := w.ask(method, path, w.secret, body)
				if !changes[name].refused || p.code == "" {
					unread := name == "POST /api/v1/introspect" && got.Code == 400 // it reads a form, and stores nothing
					if got.Code >= 300 && !unread {
						t.Errorf("%s: got %d %s, want it to pass", name, got.Code, got.Body)
					}
					continue
				}
				if got.Code != 507 || !strings.Contains(got.Body.String(), p.code) || p.low != (got.Header().Get("Retry-After") != "") {
					t.Errorf("%s: got %d %s (Retry-After %q), want 507 %s", name, got.Code, got.Body, got.Header().Get("Retry-After"), p.code)
				}
			}
			w.reads(p)
			w.ends(p)
			w.operator(p)
		})
	}
}

// reads makes a request to each route for GET. The first list of variables stores the built-in ones,
// so a new owner asks.
func (w *storageWalk) reads(p pressure) {
	w.press(pressures[0])
	_, fresh := w.key(`["can_read_contacts","can_read_calls","can_read_calendar","can_read_agents"]`, fmt.Sprintf(`"owner": "fresh %s"`, p.name))
	w.press(p)
	for _, row := range w.Server.o.Keyed {
		if row.Method != http.MethodGet {
			continue
		}
		got := w.ask("GET", fill(row.Path, "1"), fresh, "")
		if got.Code >= 500 {
			w.t.Errorf("GET %s: got %d %s", row.Path, got.Code, got.Body)
		}
	}
}

// An event is cancelled with its whole reason if there is space for it, and otherwise with a short one.
func TestStorage_CancelReason(t *testing.T) {
	w := newStorageWalk(t)
	long := strings.Repeat("ä", 150)
	for _, reason := range []string{long, long[:200]} {
		for _, p := range pressures {
			w.press(pressures[0])
			id := w.event()
			w.press(p)
			if got := w.ask("POST", "/api/v1/calendar/events/"+id+"/cancel", w.secret, `{"reason": "`+reason+`"}`); got.Code != 200 {
				t.Errorf("%s: got %d %s, want 200", p.name, got.Code, got.Body)
			}
			want := "Cancelled: " + reason
			if p.code != "" && len(reason) > 200 {
				want = "Cancelled: " + long[:200] + " [cut]"
			}
			customer, _ := w.operate(200, "GET", "/admin/v1/events/"+id, "")["customer"].(map[string]any)
			if customer["notes"] != want {
				t.Errorf("%s: got the notes %q, want %q", p.name, customer["notes"], want)
			}
		}
	}
}

// endingRoutes are the routes at which a key revokes itself.
var endingRoutes = []string{"DELETE /api/v1/key", "POST /api/v1/key/revoke"}

// ends has keys revoke themselves.
func (w *storageWalk) ends(p pressure) {
	for _, route := range endingRoutes {
		w.press(pressures[0])
		_, secret := w.tenantKey()
		w.press(p)
		method, path, _ := strings.Cut(route, " ")
		if got := w.ask(method, path, secret, ""); got.Code != 200 {
			w.t.Errorf("%s: got %d %s, want 200", route, got.Code, got.Body)
		}
		if got := w.ask("GET", "/api/v1/key", secret, ""); got.Code != 401 {
			w.t.Errorf("a revoked key: got %d, want 401", got.Code)
		}
	}
}

// operator makes each change of the admin endpoint.
func (w *storageWalk) operator(p pressure) {
	w.auditWalk.t = w.t
	for _, row := range w.Server.o.Admin {
		name := row.Method + " " + row.Path
		change := w.admin[name]
		if change == nil {
			continue // TestAudit_EveryChange has every route
		}
		w.press(pressures[0])
		path, body := change()
		w.press(p)
		got := w.control(row.Method, path, body)
		again := name == "POST /admin/v1/keys/import" && got.Code == 409 // it was imported under the first pressure
		if got.Code >= 300 && !again {
			w.t.Errorf("%s: got %d %s, want it to pass", name, got.Code, got.Body)
		}
	}
}
