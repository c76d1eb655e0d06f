package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/julienschmidt/httprouter"
)

// contactDesk sends requests to the handlers of contacts and teams, as owners do.
type contactDesk struct {
	t     *testing.T
	store *Store
	rows  []Route
	now   time.Time
}

func newContactDesk(t *testing.T) *contactDesk {
	t.Helper()
	s := newTestStore(t)
	c := NewContacts(s, ReadContacts|WriteContacts)
	d := &contactDesk{t: t, store: s, now: time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)}
	d.rows = slices.Concat(c.Routes(), c.AdminRoutes(), NewTeams(s).AdminRoutes())
	return d
}

// owner returns the id of an owner.
func (d *contactDesk) owner(name string) uint64 {
	d.t.Helper()
	var o owner
	err := d.store.Update(func(tx *Tx) (err error) {
		o, err = EnsureOwner(tx, name, d.now)
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return o.ID
}

// row returns the route for a path. A literal segment takes precedence over a
// wildcard.
func (d *contactDesk) row(method, path string) (found Route, params httprouter.Params) {
	d.t.Helper()
	parts, best := strings.Split(path, "/"), -1
	for _, row := range d.rows {
		names, values := strings.Split(row.Path, "/"), httprouter.Params{}
		if row.Method != method || len(names) != len(parts) {
			continue
		}
		literals := 0
		for i, name := range names {
			if strings.HasPrefix(name, ":") {
				values = append(values, httprouter.Param{Key: name[1:], Value: parts[i]})
			} else if name == parts[i] {
				literals++
			}
		}
		if literals+len(values) == len(parts) && literals > best {
			found, params, best = row, values, literals
		}
	}
	if best < 0 {
		d.t.Fatalf("no row for %s %s", method, path)
	}
	return found, params
}

// ask sends one request as an owner, or to the admin listener if owner is "". An
// error that a client would see as server_error ends the test.
func (d *contactDesk) ask(owner, method, target, body string) (int, map[string]any) {
	d.t.Helper()
	kind := "application/json"
	if strings.HasPrefix(body, "first_name") || strings.HasPrefix(body, "email") {
		kind = "text/csv"
	}
	in := httptest.NewRequest(method, target, strings.NewReader(body))
	in.Header.Set("Content-Type", kind)
	row, params := d.row(method, in.URL.Path)
	r := &Request{Request: in, Params: params, Parameters: row.Query, Now: d.now, MaxBody: 1 << 20}
	if owner != "" {
		r.Key = &Key{StoredKey: StoredKey{Owner: d.owner(owner), OwnerName: owner}}
	}
	out := httptest.NewRecorder()
	if err := row.Handle(out, r); err != nil {
		e := Public(err)
		if e.Code == ErrServer.Code {
			d.t.Fatalf("%s %s %s: %v", method, target, body, err)
		}
		return e.Status, map[string]any{"error": e.Code, "message": e.Message}
	}
	dec := json.NewDecoder(out.Body)
	dec.UseNumber()
	answer := map[string]any{}
	if err := dec.Decode(&answer); err != nil {
		d.t.Fatal(err)
	}
	return out.Code, answer
}

// must sends a request like ask. The test fails if the request does.
func (d *contactDesk) must(owner, method, target, body string) map[string]any {
	d.t.Helper()
	status, answer := d.ask(owner, method, target, body)
	if status >= 300 {
		d.t.Fatalf("%s %s %s: got %d %v, want success", method, target, body, status, answer)
	}
	return answer
}

// make creates a contact and returns its path.
func (d *contactDesk) make(owner, body string) string {
	d.t.Helper()
	return fmt.Sprint("/api/v1/contacts/", d.must(owner, "POST", "/api/v1/contacts/create", body)["id"])
}

// refused checks the answer to a request that must fail. The request must change
// nothing, and the message must contain part.
func (d *contactDesk) refused(owner, method, target, body string, want *Error, part string) {
	d.t.Helper()
	before := d.everything()
	status, answer := d.ask(owner, method, target, body)
	if status != want.Status || answer["error"] != want.Code {
		d.t.Errorf("%s %s %s: got %d %v, want %d %s", method, target, body, status, answer, want.Status, want.Code)
	} else if !strings.Contains(answer["message"].(string), part) {
		d.t.Errorf("%s %s %s: got message %q, want %q in it", method, target, body, answer["message"], part)
	}
	if after := d.everything(); before != after {
		d.t.Errorf("%s %s %s: the store has changed\nfrom %s\nto   %s", method, target, body, before, after)
	}
}

// everything returns all contacts and all entries of their indexes as text.
func (d *contactDesk) everything() string {
	d.t.Helper()
	var all strings.Builder
	err := d.store.View(func(tx *Tx) error {
		for c, err := range contactTable.All(tx, Forward) {
			if err != nil {
				return err
			}
			text, err := json.Marshal(c)
			if err != nil {
				return err
			}
			fmt.Fprintf(&all, "%s\n", text)
		}
		for entry, key := range contactTable.Find(tx, "phone", nil, Forward) {
			fmt.Fprintf(&all, "phone %q %x\n", entry, key)
		}
		for _, bucket := range bucketsWith(tx, listBucket(contactTable.Name, "")) {
			for key, stored := range tx.Range(bucket, nil) {
				fmt.Fprintf(&all, "%s %q %x\n", bucket, key, stored)
			}
		}
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all.String()
}

// equalJSON compares an answer with JSON text.
func equalJSON(t *testing.T, got any, want string) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(want))
	dec.UseNumber()
	var w any
	if err := dec.Decode(&w); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, w) {
		text, _ := json.Marshal(got)
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

const maraBody = `{"first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "company": "Lind KG",
	"website": "https://lind.example.net", "stage": "customer", "status": "contacted", "address": "Hafenweg 4", "city": "Kiel",
	"state": "SH", "zip_code": "24103", "country": "DE", "timezone": "Europe/Berlin", "tags": ["Regular"], "team_id": 1,
	"phone_numbers": [{"phone_number": "+4930555010", "phone_type": "mobile"}], "custom_context": {"loyalty_tier": "blue"}}`

// TestContacts_Shapes compares the answers with the examples in the contract.
func TestContacts_Shapes(t *testing.T) {
	d := newContactDesk(t)
	d.must("", "POST", "/admin/v1/teams", `{"name": "Reception"}`)
	made := d.must("admin", "POST", "/api/v1/contacts/create", maraBody)
	d.must("", "PATCH", "/admin/v1/contacts/1", `{"last_call_date": "2026-02-03T09:17:10Z"}`)
	const full = `{ "id": 1, "first_name": "Mara", "last_name": "Lind", "full_name": "Mara Lind", "email": "mara@example.net",
  "company": "Lind KG", "website": "https://lind.example.net", "stage": "customer", "stage_display": "Customer",
  "status": "contacted", "status_display": "Contacted",
  "address": { "street": "Hafenweg 4", "city": "Kiel", "state": "SH", "zip_code": "24103", "country": "DE" },
  "timezone": "Europe/Berlin", "created_date": "2026-01-05T08:00:00Z", "last_call_date": "2026-02-03T09:17:10Z",
  "phone_numbers": [{ "id": 1, "phone_number": "+4930555010", "phone_type": "mobile", "primary": true,
                      "do_not_call": false, "dnc_date": null, "dnc_reason": null }],
  "tags": ["Regular"], "recent_notes": [],
  "custom_context": { "loyalty_tier": "blue" }, "industry_context": {},
  "team": { "id": 1, "name": "Reception" }, "owner": { "id": 1, "name": "admin" } }`
	equalJSON(t, d.must("admin", "GET", "/api/v1/contacts/1", ""), full)
	equalJSON(t, d.must("admin", "GET", "/api/v1/contacts", ""), `{ "count": 1, "page": 1, "limit": 25, "pages": 1,
  "contacts": [{
    "id": 1, "first_name": "Mara", "last_name": "Lind", "full_name": "Mara Lind", "email": "mara@example.net",
    "company": "Lind KG", "stage": "customer", "status": "contacted", "phone": "+4930555010",
    "created_date": "2026-01-05T08:00:00Z", "last_call_date": "2026-02-03T09:17:10Z",
    "tags": ["Regular"], "team": { "id": 1, "name": "Reception" } }] }`)
	changed := d.must("admin", "PATCH", "/api/v1/contacts/1/update", `{}`)
	if made["message"] != "Created." || changed["message"] != "Updated." || made["last_call_date"] != nil {
		t.Errorf("got messages %v, %v, last call %v; want Created., Updated., null", made["message"], changed["message"], made["last_call_date"])
	}
	for _, answer := range []map[string]any{made, changed} {
		delete(answer, "message")
		answer["last_call_date"] = "2026-02-03T09:17:10Z"
		equalJSON(t, answer, full)
	}
}

func TestContacts_Defaults(t *testing.T) {
	d := newContactDesk(t)
	status, got := d.ask("admin", "POST", "/api/v1/contacts/create", `{"first_name": "Jon", "stage": null, "team_id": null, "tags": null,
		"phone_numbers": null, "custom_context": null, "last_name": null, "country": null, "unknown": [1], "id": 99, "last_call_date": 5}`)
	if status != http.StatusCreated {
		t.Fatalf("got %d %v, want 201", status, got)
	}
	equalJSON(t, got, `{"id": 1, "first_name": "Jon", "last_name": "", "full_name": "Jon", "email": "", "company": "", "website": "",
		"stage": "lead", "stage_display": "Lead", "status": "not_contacted", "status_display": "Not Contacted", "timezone": "UTC",
		"address": {"street": "", "city": "", "state": "", "zip_code": "", "country": "US"}, "created_date": "2026-01-05T08:00:00Z",
		"last_call_date": null, "phone_numbers": [], "tags": [], "recent_notes": [], "custom_context": {}, "industry_context": {},
		"team": null, "owner": {"id": 1, "name": "admin"}, "message": "Created."}`)
	list := d.must("admin", "GET", "/api/v1/contacts", "")
	row := list["contacts"].([]any)[0].(map[string]any)
	if team, there := row["team"]; !there || team != nil || row["phone"] != "" {
		t.Errorf("got team %v (%t), phone %v; want null and no number", team, there, row["phone"])
	}
	equalJSON(t, d.must("somebody", "GET", "/api/v1/contacts", ""), `{"count": 0, "page": 1, "limit": 25, "pages": 0, "contacts": []}`)
}

func TestContacts_Foreign(t *testing.T) {
	d := newContactDesk(t)
	d.make("admin", `{"first_name": "Mara"}`)
	for _, owner := range []string{"other", "admin"} {
		ids := []string{"2", "0", "-1", "abc", "18446744073709551616"}
		if owner == "other" {
			ids = append(ids, "1")
		}
		for _, id := range ids {
			path := "/api/v1/contacts/" + id
			d.refused(owner, "GET", path, "", ErrNotFound, "")
			d.refused(owner, "PUT", path+"/update", `{"first_name": "X"}`, ErrNotFound, "")
			d.refused(owner, "PATCH", path+"/update", `{"first_name": "X"}`, ErrNotFound, "")
		}
	}
}

func TestContacts_Teams(t *testing.T) {
	d := newContactDesk(t)
	d.must("", "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann", "ben"]}`)
	d.must("", "POST", "/admin/v1/teams", `{"name": "Sales", "members": ["ben"]}`)
	path := d.make("ann", `{"first_name": "Mara", "team_id": 1, "phone_numbers": [{"phone_number": "+4930555010", "do_not_call": true}]}`)
	d.make("ben", `{"first_name": "Jon", "team_id": 2}`)
	d.make("ben", `{"first_name": "Kim", "team_id": 1}`)
	for _, tt := range []struct{ owner, want string }{{"ann", "3 1"}, {"ben", "3 2 1"}, {"eve", ""}} {
		if got := d.ids(tt.owner, ""); got != tt.want {
			t.Errorf("%s: got contacts %q, want %q", tt.owner, got, tt.want)
		}
	}
	got := d.must("ben", "PATCH", path+"/update", `{"last_name": "Lind"}`)
	if owner := got["owner"].(map[string]any)["name"]; owner != "ann" {
		t.Errorf("got owner %v after a change by another member, want ann", owner)
	}
	d.refused("ann", "PATCH", path+"/update", `{"team_id": 2}`, ErrTeamAccess, "")
	for owner, want := range map[string]bool{"ann": true, "ben": true, "eve": false} {
		d.blocked(owner, "+4930555010", want)
	}
	d.must("ann", "PATCH", path+"/update", `{"team_id": null}`)
	d.refused("ben", "GET", path, "", ErrNotFound, "")
	d.blocked("ben", "+4930555010", false)
	d.must("", "DELETE", "/admin/v1/teams/1", "")
	if got := d.must("ben", "GET", "/api/v1/contacts/3", ""); got["team"] != nil {
		t.Errorf("got team %v after it was deleted, want null", got["team"])
	}
}

// ids returns the ids in a list, in the same order.
func (d *contactDesk) ids(owner, query string) string {
	d.t.Helper()
	path := "/api/v1/contacts?"
	if owner == "" {
		path = "/admin/v1/contacts?"
	}
	var ids []string
	for _, row := range d.must(owner, "GET", path+query, "")["contacts"].([]any) {
		ids = append(ids, fmt.Sprint(row.(map[string]any)["id"]))
	}
	return strings.Join(ids, " ")
}

// blocked checks ContactBlocks.
func (d *contactDesk) blocked(owner, phone string, want bool) {
	d.t.Helper()
	id := d.owner(owner)
	err := d.store.View(func(tx *Tx) error {
		scope, err := ScopeOf(tx, id)
		if err != nil {
			return err
		}
		got, err := ContactBlocks(tx, scope, phone)
		if got != want {
			d.t.Errorf("%s for %s: got blocked %t, want %t", phone, owner, got, want)
		}
		return err
	})
	if err != nil {
		d.t.Fatal(err)
	}
}

func TestContacts_Filters(t *testing.T) {
	d := newContactDesk(t)
	d.make("admin", `{"first_name": "Mara", "last_name": "Lind", "email": "m@example.net", "stage": "customer", "tags": ["VIP", "Regular"]}`)
	d.make("admin", `{"first_name": "Jon", "last_name": "Amarant", "status": "active", "tags": ["VIP"]}`)
	d.make("admin", `{"first_name": "\u00c9mile", "email": "MARA.two@example.net", "stage": "customer", "status": "active"}`)
	d.make("other", `{"first_name": "Mara", "stage": "customer"}`)
	for _, tt := range []struct{ query, want string }{
		{"", "3 2 1"},
		{"unknown=1&stage=", "3 2 1"},
		{"search=MARA", "3 2 1"},
		{"search=lind", "1"},
		{"search=%C3%A9m", "3"},
		{"search=nobody", ""},
		{"stage=customer", "3 1"},
		{"stage=Customer", ""},
		{"status=active", "3 2"},
		{"stage=customer&status=active", "3"},
		{"tag=VIP", "2 1"},
		{"tag=vip", ""},
		{"tag=VIP&search=mara&stage=customer", "1"},
		{"limit=2", "3 2"},
		{"limit=2&page=2", "1"},
		{"limit=2&page=3", ""},
		{"limit=1&page=2&search=mara", "2"},
	} {
		if got := d.ids("admin", tt.query); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.query, got, tt.want)
		}
	}
	for _, tt := range []struct{ query, want string }{{"owner=other", "4"}, {"owner=nobody", ""}, {"stage=customer", "4 3 1"}, {"tag=VIP&search=jon", "2"}} {
		if got := d.ids("", tt.query); got != tt.want {
			t.Errorf("admin %q: got %q, want %q", tt.query, got, tt.want)
		}
	}
}

func TestContacts_Pages(t *testing.T) {
	d := newContactDesk(t)
	var rows []string
	for i := range 230 {
		rows = append(rows, fmt.Sprintf(`{"first_name": "N%d"}`, i))
	}
	d.must("", "POST", "/admin/v1/contacts/import", "["+strings.Join(rows, ",")+"]")
	for _, tt := range []struct {
		query, want string
		rows        int
	}{
		{"", "230 1 25 10", 25},
		{"limit=1000", "230 1 100 3", 100},
		{"limit=100&page=3", "230 3 100 3", 30},
		{"limit=100&page=4", "230 4 100 3", 0},
		{"search=N22&limit=10&page=2", "11 2 10 2", 1},
	} {
		got := d.must("admin", "GET", "/api/v1/contacts?"+tt.query, "")
		head := fmt.Sprint(got["count"], " ", got["page"], " ", got["limit"], " ", got["pages"])
		if n := len(got["contacts"].([]any)); head != tt.want || n != tt.rows {
			t.Errorf("%q: got %s and %d rows, want %s and %d", tt.query, head, n, tt.want, tt.rows)
		}
	}
}

func TestContacts_BadPages(t *testing.T) {
	d := newContactDesk(t)
	for _, query := range []string{"page=0", "page=x", "limit=0", "limit=-1", "limit=1.5"} {
		d.refused("admin", "GET", "/api/v1/contacts?"+query, "", ErrValidation, query[:4])
	}
}

// TestContacts_Unread checks that a list without filters reads only the records
// that it shows.
func TestContacts_Unread(t *testing.T) {
	d := newContactDesk(t)
	for range 3 {
		d.make("admin", `{"first_name": "Mara"}`)
	}
	err := d.store.Update(func(tx *Tx) error { return tx.Put("contacts", IDKey(1), []byte("damaged")) })
	if err != nil {
		t.Fatal(err)
	}
	if got := d.ids("admin", "limit=2"); got != "3 2" {
		t.Errorf("got %q, want \"3 2\"", got)
	}
}

// TestContacts_PhoneIndex checks that ContactBlocks still works after phone numbers
// have changed.
func TestContacts_PhoneIndex(t *testing.T) {
	d := newContactDesk(t)
	path := d.make("admin", `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+49305550101", "do_not_call": true}, {"phone_number": "+4930555020"}]}`)
	d.blocked("admin", "+49305550101", true)
	d.blocked("admin", "+4930555010", false) // a prefix of another number
	d.blocked("admin", "+4930555020", false)
	d.blocked("other", "+49305550101", false)
	d.must("admin", "PATCH", path+"/update", `{"phone_numbers": [{"id": 1, "phone_number": "+4930555011"}]}`)
	d.blocked("admin", "+49305550101", false)
	d.blocked("admin", "+4930555011", true)
	d.make("admin", `{"first_name": "Twin", "phone_numbers": [{"phone_number": "+4930555011"}]}`)
	d.blocked("admin", "+4930555011", true)
	d.must("", "DELETE", "/admin/v1/contacts/1", "")
	d.blocked("admin", "+4930555011", false)
}

func TestContacts_Permissions(t *testing.T) {
	for _, write := range []Permission{ReadContacts | WriteContacts, WriteContacts} {
		for _, row := range NewContacts(nil, write).Routes() {
			want := write
			if row.Method == "GET" {
				want = ReadContacts
			}
			if row.Permission != want || row.Spends != "" {
				t.Errorf("%s %s: got %v, want %v", row.Method, row.Path, row.Permission.Names(), want.Names())
			}
		}
	}
}

func TestContacts_Admin(t *testing.T) {
	d := newContactDesk(t)
	d.must("", "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann"]}`)
	status, got := d.ask("", "POST", "/admin/v1/contacts", `{"first_name": "Mara", "owner": "ann", "team_id": 1, "last_call_date": "2026-02-03T09:17:10Z",
		"phone_numbers": [{"phone_number": "+4930555010"}]}`)
	if status != http.StatusCreated || got["owner"] != "ann" || got["phone"] != "+4930555010" || fmt.Sprint(got["team_id"]) != "1" || got["last_call_date"] != "2026-02-03T09:17:10Z" {
		t.Errorf("got %d %v, want 201 and the contact", status, got)
	}
	got = d.must("", "PATCH", "/admin/v1/contacts/1", `{"last_name": "Lind", "last_call_date": null}`)
	if got["full_name"] != "Mara Lind" || got["owner"] != "ann" || got["last_call_date"] != nil || len(got["phone_numbers"].([]any)) != 1 {
		t.Errorf("got %v, want only the sent members changed", got)
	}
	d.refused("", "PATCH", "/admin/v1/contacts/1", `{"owner": "ben"}`, ErrTeamAccess, "")
	d.refused("", "PATCH", "/admin/v1/contacts/1", `{"owner": 5}`, ErrValidation, "owner")
	d.refused("", "PATCH", "/admin/v1/contacts/1", `{"last_call_date": "yesterday"}`, ErrValidation, "last_call_date")
	d.refused("", "POST", "/admin/v1/contacts", `{"last_name": "Lind"}`, ErrMissingFirstName, "")
	d.must("", "PATCH", "/admin/v1/contacts/1", `{"owner": "ben", "team_id": null}`)
	if ann, ben := d.ids("ann", ""), d.ids("ben", ""); ann != "" || ben != "1" {
		t.Errorf("got %q for ann, %q for ben; want the contact with ben", ann, ben)
	}
	d.must("", "DELETE", "/admin/v1/contacts/1", "")
	d.refused("", "GET", "/admin/v1/contacts/1", "", ErrNotFound, "")
	if text := d.everything(); text != "" {
		t.Errorf("got %s after the deletion, want nothing", text)
	}
}

func TestContacts_Record(t *testing.T) {
	c := contact{ID: 31, FirstName: "Mara", Email: "mara@example.net", Notes: []note{
		{ID: 1, Content: "old", CreatedAt: time.Unix(0, 0), NoteType: "activity"},
		{ID: 2, Content: "new", CreatedAt: time.Unix(0, 0), NoteType: "call_note", CallResult: "interested"},
	}}
	if got, want := fmt.Sprint(c.Brief()), "map[company: email:mara@example.net id:31 name:Mara]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	d := newContactDesk(t)
	_ = d.store.View(func(tx *Tx) error {
		text, err := json.Marshal(c.full(tx, Scope{})["recent_notes"])
		const want = `[{"call_result":"interested","content":"new","created_at":"1970-01-01T00:00:00Z","id":2,"note_type":"call_note"},` +
			`{"call_result":null,"content":"old","created_at":"1970-01-01T00:00:00Z","id":1,"note_type":"activity"}]`
		if string(text) != want || err != nil {
			t.Errorf("got %s, %v\nwant %s", text, err, want)
		}
		return err
	})
}
