package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// activity returns the activity of a key, once what is in memory is stored. query begins with ? or is "".
func (a *testApp) activity(id, query string) map[string]any {
	a.t.Helper()
	if err := a.Keyring.Flush(); err != nil {
		a.t.Fatal(err)
	}
	return a.operate(200, "GET", "/admin/v1/keys/"+id+"/activity"+query, "")
}

// deedsIn returns the entries of an answer as lines: kind, what was done, number of requests.
func deedsIn(answer map[string]any) (lines []string) {
	for _, v := range answer["activity"].([]any) {
		row := v.(map[string]any)
		line := row["kind"].(string)
		for _, o := range row["objects"].([]any) {
			object := o.(map[string]any)
			line += fmt.Sprintf(" %s %s", object["did"], object["object"])
		}
		for _, name := range []string{"status", "error", "network", "carrier_before", "carrier"} {
			if row[name] != nil {
				line += fmt.Sprint(" ", row[name])
			}
		}
		if n := row["requests"].(float64); n > 1 {
			line += fmt.Sprintf(" x%v", n)
		}
		lines = append(lines, line)
	}
	return lines
}

// use makes a request with a key from an address, sent in a way.
func (a *testApp) use(secret, address, way string) int {
	a.t.Helper()
	r := httptest.NewRequest("GET", "/api/v1/calls", nil)
	switch r.RemoteAddr = netip.AddrPortFrom(netip.MustParseAddr(address), 40000).String(); way {
	case CarrierQuery:
		r.URL.RawQuery = "api_key=" + secret
	case CarrierHeader:
		r.Header.Set("X-API-Key", secret)
	default:
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	w := httptest.NewRecorder()
	a.api.ServeHTTP(w, r)
	return w.Code
}

// TestActivity_Guarded has what keys sent through guarded routes, directly and behind a proxy that asks. What changes nothing or
// was not done is left out.
func TestActivity_Guarded(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.URL.Query().Get("status"))
		if err != nil {
			t.Errorf("%s: %v", r.URL, err)
		}
		w.WriteHeader(status)
	}))
	defer upstream.Close()
	a := newDashboard(t, func(c *Config) {
		c.Permissions = []permissionRow{{Name: "can_use"}}
		c.Routes = []RouteRow{{Path: "/orders/*rest", Permission: []string{"can_use"}, Upstream: upstream.URL, Timeout: time.Minute}}
	})
	id, key := a.key(`["can_use"]`)
	for _, tt := range []struct {
		method string
		status int
	}{{"POST", 201}, {"POST", 201}, {"GET", 200}, {"HEAD", 200}, {"OPTIONS", 204}, {"PUT", 404}, {"PUT", 500}, {"PUT", 303}, {"DELETE", 204}, {"PURGE", 200}, {"POST", 201}} {
		if w := a.ask(tt.method, fmt.Sprint("/orders/7?status=", tt.status), key, ""); w.Code != tt.status {
			t.Fatalf("%s: got %d %s, want %d", tt.method, w.Code, w.Body, tt.status)
		}
	}
	upstream.Close()
	if w := a.ask("POST", "/orders/7?status=201", key, ""); w.Code != 502 {
		t.Errorf("without an upstream: got %d %s", w.Code, w.Body)
	}
	answer := a.activity(id, "?kind=write")
	got := deedsIn(answer)
	slices.Sort(got)
	if want := []string{"write 200", "write 201 x3", "write 204", "write 303"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	last := answer["activity"].([]any)[3].(map[string]any) // the entry that was made first
	if last["method"] != "POST" || last["route"] != "/orders/*rest" || last["request_id"] == nil {
		t.Errorf("got %v", last)
	}
	if got := fmt.Sprint(answer["written"]); got != "[map[count:6 did:sent kind:guarded request]]" {
		t.Errorf("the summary says %s", got)
	}
	var out bytes.Buffer
	w := &commandWalk{testApp: a.testApp, dir: t.TempDir()}
	if exit, errs := w.run(&out, "keys", "activity", id); exit != 0 || !strings.Contains(out.String(), "guarded request sent: 6") || !strings.Contains(out.String(), "POST /orders/*rest, answered with 201 by the upstream, 3 times since") {
		t.Errorf("exit %d, got %s%s", exit, out.String(), errs)
	}
	a.tells("/keys/"+id+"/activity", "sent 6 guarded requests", "3 guarded requests answered with 201 by the upstream", "POST /orders/*rest")

	b := newAuthz(t)
	id, key = b.key(`["can_read_calls"]`)
	q := proxyQuestion{family: "nginx", method: "PUT", address: "/free/17?x=1", fields: []string{"X-Api-Key: " + key}}
	for _, address := range []string{"/free/17", "/free/18", "/up/1"} {
		q.address = address
		b.put(q)
	}
	q.method, q.address = "GET", "/free/17"
	b.put(q)
	got = deedsIn(b.activity(id, ""))
	got = slices.DeleteFunc(got, func(line string) bool {
		return !strings.HasPrefix(line, "write") && !strings.HasPrefix(line, "refusal")
	})
	slices.Sort(got)
	if want := []string{"refusal 403 permission_denied", "write x2"}; !slices.Equal(got, want) {
		t.Errorf("behind a proxy: got %q, want %q", got, want)
	}
}

// unwritten has the routes that are not GET and change no record, with the reason.
var unwritten = map[string]string{
	"POST /api/v1/verify": "only checks a key", "POST /api/v1/introspect": "only checks a key",
}

// authorsWalk creates records with the first key of an owner and changes them with the second.
type authorsWalk struct {
	*storageWalk
	first, second string // ids of the keys
	other         string // the secret of the second
}

// TestAuthors_Walk makes a request to each route of keys that writes. Each has an entry in the activity of its key, with what
// it has created, changed or deleted, and the operator sees in the record which keys did it. No answer to a key, event or
// file has the id of a key.
func TestAuthors_Walk(t *testing.T) {
	w := &authorsWalk{storageWalk: newStorageWalk(t)}
	receiver := newReceiver(t)
	w.testApp.hook(receiver.URL, "tenant", "call.ended", "calendar.created", "calendar.updated", "calendar.cancelled")
	w.testApp.hook(receiver.URL, "", "call.queued", "key.revoked")
	w.second, w.other = w.tenantKey()
	w.first = w.keyOf(w.secret)
	changes := w.keyedChanges()
	forbidden := func(name, text string) {
		t.Helper()
		for _, word := range []string{w.first, w.second, `"created_by":`, `"updated_by":`, `"created_by" :`} {
			if strings.Contains(text, word) {
				t.Errorf("%s: got %s in %s", name, word, text)
			}
		}
	}
	for _, row := range w.Server.o.Keyed {
		name := row.Method + " " + row.Path
		if row.Method == http.MethodGet || unwritten[name] != "" {
			continue
		}
		change, ok := changes[name]
		if !ok {
			t.Errorf("%s: no request in keyedChanges", name)
			continue
		}
		path, body := change.request() // creates with the first key what the second changes
		before := len(deedsIn(w.activity(w.second, "?limit=1000")))
		got := w.ask(row.Method, path, w.other, body)
		if got.Code >= 300 {
			t.Errorf("%s: got %d %s", name, got.Code, got.Body)
			continue
		}
		forbidden(name, got.Body.String())
		answer := w.activity(w.second, "?kind=write&limit=1000")
		if len(deedsIn(w.activity(w.second, "?limit=1000"))) == before {
			t.Errorf("%s: no entry in the activity of the key", name)
			continue
		}
		entry := answer["activity"].([]any)[0].(map[string]any)
		if entry["route"] != row.Path || entry["method"] != row.Method || entry["request_id"] == nil || len(entry["objects"].([]any)) == 0 {
			t.Errorf("%s: got the entry %v", name, entry)
		}
		for _, o := range entry["objects"].([]any) {
			w.checkAuthors(name, o.(map[string]any))
		}
	}
	for _, row := range w.Server.o.Keyed {
		if row.Method == http.MethodGet {
			forbidden(row.Path, w.ask("GET", fill(row.Path, "1"), w.other, "").Body.String())
		}
	}
	for _, row := range w.Server.o.Open {
		forbidden(row.Path, w.ask("GET", fill(row.Path, "1"), "", "").Body.String())
	}
	w.send()
	if len(receiver.all()) < 3 {
		t.Errorf("got %d events, want those of calls and of the calendar", len(receiver.all()))
	}
	for _, r := range receiver.all() {
		forbidden("an event", r.body)
	}
	w.ask("DELETE", "/api/v1/key", w.other, "")
	if got := deedsIn(w.activity(w.second, "?kind=write")); got[0] != "write changed key "+w.second {
		t.Errorf("after it revoked itself: got %q", got[0])
	}
	err := w.Store.View(func(tx *Tx) error {
		result, err := CheckStore(tx, tables())
		if len(result.Problems) > 0 {
			t.Errorf("check: %q", result.Problems)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// keyOf returns the id of the key with a secret.
func (w *authorsWalk) keyOf(secret string) string {
	key, _, err := w.Keyring.Find(secret)
	if err != nil {
		w.t.Fatal(err)
	}
	return key.ID
}

// checkAuthors compares the keys that the operator sees in a record with what the second key did.
func (w *authorsWalk) checkAuthors(name string, o map[string]any) {
	w.t.Helper()
	object, did := o["object"].(string), o["did"].(string)
	kind, id, _ := strings.Cut(object, " ")
	path := map[string]string{"business": "/admin/v1/business-context?owner=tenant"}[kind]
	if path == "" {
		path = "/admin/v1/" + kind + "s/" + id
	}
	if did == "deleted" {
		w.operate(404, "GET", path, "")
		return
	}
	got := w.operate(200, "GET", path, "")
	wantCreated, wantUpdated := any(w.first), any(w.second)
	if did == "created" || kind == "business" { // the business context is new as well
		wantCreated = w.second
	}
	if did == "created" || kind == "business" || did == "used" {
		wantUpdated = nil
	}
	if got["created_by"] != wantCreated || got["updated_by"] != wantUpdated {
		w.t.Errorf("%s: %s %s has created_by %v and updated_by %v, want %v and %v", name, did, object, got["created_by"], got["updated_by"], wantCreated, wantUpdated)
	}
}

// TestAuthors_Others has records of the operator, of the service and of earlier versions, which no key has made, and a change of
// the operator, which leaves the keys of a record as they are.
func TestAuthors_Others(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(everyPermission)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Oda"}`)
	a.ask("POST", "/api/v1/contacts/create", key, `{"first_name": "Ida"}`)
	a.operate(200, "PATCH", "/admin/v1/contacts/2", `{"first_name": "Ina"}`)
	a.ask("PATCH", "/api/v1/contacts/1/update", key, `{"last_name": "Lind"}`)
	a.ask("GET", "/api/v1/context-variables", key, "")
	for path, want := range map[string][2]any{
		"/admin/v1/contacts/1": {nil, id}, "/admin/v1/contacts/2": {id, nil}, "/admin/v1/variables/1": {nil, nil},
	} {
		if got := a.operate(200, "GET", path, ""); got["created_by"] != want[0] || got["updated_by"] != want[1] {
			t.Errorf("%s: got %v and %v, want %v", path, got["created_by"], got["updated_by"], want)
		}
	}
	if got := deedsIn(a.activity(id, "?kind=write")); !slices.Equal(got, []string{"write changed contact 1", "write created contact 2"}) {
		t.Errorf("got %q", got)
	}
}

// TestActivity_Leak is a leak from its first request on: where the key was used, how it was sent, what it wrote, and what was
// refused, in the summary and in the entries.
func TestActivity_Leak(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 4}`)
	tick := func() { a.clocks.Pass(time.Second) }
	a.use(key, "192.0.2.9", CarrierBearer)
	tick()
	a.activity(id, "")
	a.use(key, "192.0.2.9", CarrierBearer) // nothing new
	tick()
	a.use(key, "192.0.2.70", CarrierBearer) // another address of the network
	tick()
	a.use(key, "2001:db8:1:2::3", CarrierQuery)
	tick()
	for range 5 {
		if code := a.use(key, "203.0.113.5", CarrierQuery); code != 429 {
			t.Fatalf("got %d, want 429", code)
		}
		tick()
	}
	a.activity(id, "")
	a.use(key, "203.0.113.5", CarrierQuery) // joins the refusals that are stored
	tick()
	answer := a.activity(id, "")
	want := []string{
		"refusal 429 rate_limit_exceeded x6", "network 203.0.113.0/24 query", "network 2001:db8:1::/48 query", "carrier bearer query",
		"address 192.0.2.0/24 bearer", "network 192.0.2.0/24 bearer", "carrier bearer",
	}
	got := deedsIn(answer)
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("got %q, want %q", got, line)
		}
	}
	if len(got) != len(want) || answer["refused"] != 6.0 || answer["network_count"] != 3.0 || answer["key_name"] != "test" || answer["removed"] != 0.0 {
		t.Errorf("got %q, %v", got, answer)
	}
	networks := answer["networks"].([]any)
	if first := networks[0].(map[string]any); first["network"] != "192.0.2.0/24" || first["first_at"] != "2026-02-03T09:00:00.000Z" {
		t.Errorf("got the first network %v", first)
	}
	if got := deedsIn(a.activity(id, "?kind=network&limit=2&page=2")); !slices.Equal(got, []string{"network 192.0.2.0/24 bearer"}) {
		t.Errorf("the second page of the networks is %q", got)
	}
	if got := a.activity(id, "?since=2026-02-03T09:00:03Z"); got["count"] != 4.0 {
		t.Errorf("since the leak: got %q", deedsIn(got))
	}
	for query, text := range map[string]string{"?kind=x": "kind must be", "?since=x": "since must be", "?page=0": "page must be"} {
		a.refuse("GET", "/admin/v1/keys/"+id+"/activity"+query, "", 400, "validation_error", text)
	}
	a.operate(404, "GET", "/admin/v1/keys/key_0/activity", "")

	// The restarted service knows what was seen before.
	a.restart()
	a.clocks.Pass(time.Minute)
	a.use(key, "192.0.2.9", CarrierBearer)
	if got := deedsIn(a.activity(id, "")); len(got) != len(want)+1 || got[0] != "carrier query bearer" {
		t.Errorf("after a restart: got %q", got)
	}
}

// TestActivity_Bounds writes more entries than are kept, and lets time pass.
func TestActivity_Bounds(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Bounds.ActivityEntries, c.Bounds.ActivityKeep = 100, 48*time.Hour })
	id, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1000}`)
	other, _ := a.key(everyPermission)
	for range 130 {
		if w := a.ask("POST", "/api/v1/contacts/create", key, `{"first_name": "Oda"}`); w.Code != 201 {
			t.Fatal(w.Body)
		}
	}
	answer := a.activity(id, "")
	if answer["kept"] != 100.0 || answer["removed"] != 32.0 || a.activity(other, "")["kept"] != 0.0 { // with its network and how it was sent
		t.Errorf("kept %v, removed %v", answer["kept"], answer["removed"])
	}
	sweeper := NewActivitySweeper(a.Store)
	rows := func() (n int) {
		_ = a.Store.View(func(tx *Tx) error { n = tx.Count(activityBucket) + tx.Count(placesBucket); return nil })
		return n
	}
	before := rows()
	if err := sweeper.Sweep(a.clock.Now().Add(47 * time.Hour)); err != nil || rows() != before {
		t.Errorf("within the time: %v, %d rows of %d are left", err, rows(), before)
	}
	for range 2 { // the second begins anew
		if err := sweeper.Sweep(a.clock.Now().Add(49 * time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if n := rows(); n != 1 {
		t.Errorf("%d rows are left, want only how the key was sent last", n)
	}
	b := a.Store.Bounds()
	b.ActivityEntries = 0
	a.Store.SetBounds(b)
	for range 130 {
		a.ask("POST", "/api/v1/contacts/create", key, `{"first_name": "Oda"}`)
	}
	b.ActivityEntries = 110
	a.Store.SetBounds(b)
	if err := sweeper.Sweep(a.clock.Now()); err != nil || a.activity(id, "")["kept"] != 110.0 {
		t.Errorf("a lowered bound: %v, kept %v", err, a.activity(id, "")["kept"])
	}
}

// TestActivity_Memory notes more than there is room for: what is left out is counted, and once it is stored there is room again.
func TestActivity_Memory(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 100000}`)
	for i := range maxNotes + 5 {
		a.use(key, fmt.Sprintf("192.0.%d.1", i), CarrierBearer)
	}
	answer := a.activity(id, "?limit=100")
	if got := deedsIn(answer); !slices.Contains(got, "left_out x5") || answer["network_count"] != float64(maxNotes) {
		t.Errorf("got %q", got)
	}
	if n := a.Keyring.notes.used.Load(); n != 0 {
		t.Errorf("%d notes are counted after the flush", n)
	}
	a.Keyring.notes.used.Store(maxAllNotes)
	a.use(key, "198.51.100.1", CarrierBearer)
	a.Keyring.notes.used.Store(0)
	if got := deedsIn(a.activity(id, "?limit=100")); !slices.Contains(got, "left_out x6") {
		t.Errorf("without room: got %q", got)
	}
	err := a.Store.Update(func(tx *Tx) error {
		for i := range maxPlaces {
			if _, err := seePlace(tx, placeRow(id, placeAddress, fmt.Sprint(i)), a.clock.Now()); err != nil {
				return err
			}
		}
		return nil
	})
	a.use(key, "203.0.113.1", CarrierBearer)
	if got := deedsIn(a.activity(id, "?limit=100")); err != nil || !slices.Contains(got, "left_out x7") {
		t.Errorf("with too many addresses: %v, got %q", err, got)
	}
}

// TestActivity_Flush has a store that cannot write: nothing is lost, and what was noted meanwhile is stored with it.
func TestActivity_Flush(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	_, holder, err := a.Keyring.Find(key)
	if err != nil {
		t.Fatal(err)
	}
	a.use(key, "192.0.2.9", CarrierBearer)
	use, notes := holder.Take()
	if notes == nil || len(notes.places) != 1 {
		t.Fatalf("got %+v", notes)
	}
	a.use(key, "203.0.113.9", CarrierBearer)
	if holder.Return(use, notes) {
		t.Error("the entry is listed already, and is listed again")
	}
	if got := deedsIn(a.activity(holder.Key().ID, "")); len(got) != 3 {
		t.Errorf("got %q, want both networks and the carrier", got)
	}
	if other := (*keyNotes)(nil).with(nil); other != nil {
		t.Errorf("got %v", other)
	}
}

// TestActivity_Rollback has a write that fails: it leaves no entry.
func TestActivity_Rollback(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(everyPermission)
	r := &Request{Request: httptest.NewRequest("POST", "/", nil), Key: a.shared(key), Now: a.clock.Now(), Route: "/x"}
	failed := errors.New("no")
	err := r.Update(a.Store, func(tx *Tx) error {
		if err := contactTable.Put(tx, contact{ID: 9, FirstName: "Oda"}); err != nil {
			return err
		}
		return failed
	})
	if !errors.Is(err, failed) || len(deedsIn(a.activity(id, ""))) > 0 {
		t.Errorf("got %v, %q", err, deedsIn(a.activity(id, "")))
	}
	many := func(tx *Tx) error {
		for i := range uint64(maxTouched + 3) {
			if err := contactTable.Put(tx, contact{ID: i + 1, FirstName: "Oda"}); err != nil {
				return err
			}
		}
		return contactTable.Put(tx, contact{ID: 1, FirstName: "Ida"}) // created and changed: one record
	}
	if err := r.Update(a.Store, many); err != nil {
		t.Fatal(err)
	}
	row := a.activity(id, "")["activity"].([]any)[0].(map[string]any)
	if len(row["objects"].([]any)) != maxTouched || row["more_objects"] != 3.0 {
		t.Errorf("got %v", row)
	}
}

// shared returns the key with a secret.
func (a *testApp) shared(secret string) *Key {
	a.t.Helper()
	key, _, err := a.Keyring.Find(secret)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

// TestCommands_Activity shows the activity of a key by the command.
func TestCommands_Activity(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	id, key := w.key(everyPermission)
	w.ask("POST", "/api/v1/contacts/create", key, `{"first_name": "Oda"}`)
	w.ask("GET", "/api/v1/calls?api_key="+key, "", "")
	if err := w.Keyring.Flush(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	exit, errs := w.run(&out, "keys", "activity", id, "--limit", "2")
	for _, text := range []string{"contact created: 1", "192.0.2.0/24 since", "bearer since", "query since", "sent as query, before as bearer"} {
		if exit != 0 || !strings.Contains(out.String(), text) {
			t.Errorf("exit %d, got %s%s, want %q", exit, out.String(), errs, text)
		}
	}
	if !strings.Contains(errs, "page 1 of 2") {
		t.Errorf("got %q, want the number of pages", errs)
	}
	out.Reset()
	if exit, errs := w.run(&out, "keys", "activity", id, "--since", "2026-02-03", "--kind", "write", "--json"); exit != 0 || !strings.Contains(out.String(), `"contact 1"`) {
		t.Errorf("--json: exit %d, got %s%s", exit, out.String(), errs)
	}
	out.Reset()
	if exit, errs := w.run(&out, "keys", "activity", id, "--since", "1h"); exit != 0 || strings.Contains(out.String(), "contact 1") { // the clock of the test is in the past
		t.Errorf("--since 1h: exit %d, got %s%s", exit, out.String(), errs)
	}
	for _, since := range []string{"soon", "-24h", "0"} {
		if exit, errs := w.run(&out, "keys", "activity", id, "--since", since); exit != 2 || !strings.Contains(errs, "--since must be a day such as") || !strings.Contains(errs, "Try: latchkey keys activity --help") {
			t.Errorf("--since %s: exit %d, %s", since, exit, errs)
		}
	}
}

// TestKeyPages_Activity looks at the tab of a key, with its filters, and at the question before it is revoked.
func TestKeyPages_Activity(t *testing.T) {
	b := newDashboard(t)
	id, key := b.key(everyPermission, `"limits": {"requests_per_minute_limit": 40}`)
	b.tells("/keys/"+id+"/activity", "Nothing yet.", `href="/keys/`+id+`/activity" aria-current="page"`)
	for range 30 {
		b.ask("POST", "/api/v1/contacts/create", key, `{"first_name": "Oda"}`)
	}
	for range 12 {
		b.ask("GET", "/api/v1/calls", key, "")
	}
	if err := b.Keyring.Flush(); err != nil {
		t.Fatal(err)
	}
	b.tells("/keys/"+id+"/activity", "created 30 contacts", "2 requests", "192.0.2.0/24", "bearer token", "2 requests refused with", `<a href="/errors/rate_limit_exceeded">429 rate_limit_exceeded</a>`, "Page 1 of 2")
	b.tells("/keys/"+id+"/activity?kind=write", "Page 1 of 2", `<a href="/contacts/30">contact 30</a>`, "POST /api/v1/contacts/create", "Show all", `kind=write&amp;page=2`)
	b.tells("/keys/"+id+"/activity?kind=network&since=2026-02-03", "First request from the network 192.0.2.0/24")
	b.tells("/keys/"+id+"/activity?since=2026-02-05", "No entries match.")
	b.tells("/keys/"+id+"/revoke", "What the key did: created 30 contacts; 2 requests refused; used from", `href="/keys/`+id+`/activity"`)
	if w := b.get("/keys/" + id + "/activity?since=x"); w.Code != 400 || !strings.Contains(w.Body.String(), "since must be") && !strings.Contains(w.Body.String(), "Since must be") {
		t.Errorf("a wrong day: got %d", w.Code)
	}
}

// TestBrowser_KeyActivity looks at the tab with entries of every kind, and at the question before the key is revoked, in
// every width, light and dark.
func TestBrowser_KeyActivity(t *testing.T) {
	t.Parallel() // it waits most of the time
	source := axeSource(t)
	a := newTestApp(t)
	keys, secrets := fillBusiness(a)
	id, key := keys["booking site"], secrets["booking site"]
	for i, way := range []string{CarrierBearer, CarrierQuery, CarrierHeader} {
		a.use(key, fmt.Sprintf("203.0.%d.5", i), way)
		a.use(key, fmt.Sprintf("2001:db8:%d:2::3", i), way)
	}
	a.use(key, "203.0.1.77", CarrierBearer)
	for i := range 30 {
		a.ask("POST", "/api/v1/contacts/create", key, fmt.Sprintf(`{"first_name": "Oda %d"}`, i))
	}
	a.ask("DELETE", "/api/webhooks/99/delete", key, "")
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	p := openBrowserOn(t, a.config.Server.Data)
	p.load(source)
	p.open("/keys")
	p.login(operatorPassword)
	p.sees("Create New API Key")
	for path, text := range map[string]string{"/keys/" + id + "/activity": "What it did", "/keys/" + id + "/activity?kind=network": "First request from the network", "/keys/" + id + "/revoke": "What the key did"} {
		p.open(path)
		p.sees(text)
		p.look(path)
	}
}
