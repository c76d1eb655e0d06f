package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"
)

// refusal is a body and the error with which it must be refused.
type refusal struct {
	body string
	want *Error
	part string // text that the message must contain
}

// newRefusalDesk returns a desk with two contacts, each with a phone number, and a
// team of another owner.
func newRefusalDesk(t *testing.T) *contactDesk {
	t.Helper()
	d := newContactDesk(t)
	d.must("", "POST", "/admin/v1/teams", `{"name": "Theirs", "members": ["other"]}`)
	d.make("admin", `{"first_name": "Mara", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
	d.make("admin", `{"first_name": "Jon", "phone_numbers": [{"phone_number": "+4930555011"}]}`)
	return d
}

// tooMany returns a JSON array with 101 copies of the same value.
func tooMany(entry string) string {
	return "[" + strings.Repeat(entry+",", 100) + entry + "]"
}

// refusedAll sends bad bodies with all three methods.
func (d *contactDesk) refusedAll(list []refusal) {
	d.t.Helper()
	for _, tt := range list {
		d.refused("admin", "POST", "/api/v1/contacts/create", tt.body, tt.want, tt.part)
		d.refused("admin", "PUT", "/api/v1/contacts/1/update", tt.body, tt.want, tt.part)
		d.refused("admin", "PATCH", "/api/v1/contacts/1/update", tt.body, tt.want, tt.part)
	}
}

func TestContactForm_BadTexts(t *testing.T) {
	d := newRefusalDesk(t)
	d.refusedAll([]refusal{
		{``, ErrJSON, ""},
		{`{"first_name": `, ErrJSON, ""},
		{`[]`, ErrJSON, ""},
		{`null`, ErrJSON, ""},
		{`{"first_name": ""}`, ErrMissingFirstName, ""},
		{`{"first_name": null}`, ErrMissingFirstName, ""},
		{`{"first_name": " "}`, ErrMissingFirstName, ""},
		{`{"first_name": 5}`, ErrValidation, "first_name must be a string"},
		{`{"first_name": "A", "last_name": ["B"]}`, ErrValidation, "last_name"},
		{`{"first_name": "A", "email": true}`, ErrValidation, "email"},
		{`{"first_name": "A", "email": "a.example.net"}`, ErrValidation, "email"},
		{`{"first_name": "A", "email": "a@b@example.net"}`, ErrValidation, "email"},
		{`{"first_name": "A", "email": "a b@example.net"}`, ErrValidation, "email"},
		{`{"first_name": "A", "email": "@example.net"}`, ErrValidation, "email"},
		{`{"first_name": "A", "address": {"street": "x"}}`, ErrValidation, "address must be a string"},
		{`{"first_name": "A", "zip_code": 24103}`, ErrValidation, "zip_code"},
		{`{"first_name": "A", "stage": "Hot Lead"}`, ErrValidation, "stage"},
		{`{"first_name": "A", "status": ""}`, ErrValidation, "status"},
		{`{"first_name": "A", "status": 1}`, ErrValidation, "status"},
		{`{"first_name": "A", "timezone": "Mars/Base"}`, ErrValidation, "timezone"},
		{`{"first_name": "A", "timezone": "Local"}`, ErrValidation, "timezone"},
		{`{"first_name": "A", "timezone": "../../etc/passwd"}`, ErrValidation, "timezone"},
	})
	d.refused("admin", "POST", "/api/v1/contacts/create", `{}`, ErrMissingFirstName, "first_name")
	d.refused("admin", "PUT", "/api/v1/contacts/1/update", `{"stage": "Bad"}`, ErrMissingFirstName, "first_name")
}

func TestContactForm_BadTeamsTagsContexts(t *testing.T) {
	d := newRefusalDesk(t)
	d.refusedAll([]refusal{
		{`{"first_name": "A", "team_id": "1"}`, ErrValidation, "team_id"},
		{`{"first_name": "A", "team_id": 1.5}`, ErrValidation, "team_id"},
		{`{"first_name": "A", "team_id": 0}`, ErrValidation, "team_id"},
		{`{"first_name": "A", "team_id": -1}`, ErrValidation, "team_id"},
		{`{"first_name": "A", "team_id": 77}`, ErrTeamNotFound, "77"},
		{`{"first_name": "A", "team_id": 1}`, ErrTeamAccess, ""},
		{`{"first_name": "A", "tags": "VIP"}`, ErrValidation, "tags"},
		{`{"first_name": "A", "tags": [1]}`, ErrValidation, "tags"},
		{`{"first_name": "A", "tags": ["VIP", ""]}`, ErrValidation, "tags[1]"},
		{`{"first_name": "A", "tags": ["VIP", null]}`, ErrValidation, "tags[1]"},
		{`{"first_name": "A", "tags": ` + tooMany(`"x"`) + `}`, ErrValidation, "tags"},
		{`{"first_name": "A", "custom_context": []}`, ErrValidation, "custom_context"},
		{`{"first_name": "A", "industry_context": "x"}`, ErrValidation, "industry_context"},
	})
}

func TestContactForm_BadPhones(t *testing.T) {
	d := newRefusalDesk(t)
	d.refusedAll([]refusal{
		{`{"first_name": "A", "phone_numbers": "+4930555044"}`, ErrValidation, "phone_numbers"},
		{`{"first_name": "A", "phone_numbers": ["+4930555044"]}`, ErrValidation, "phone_numbers[0]"},
		{`{"first_name": "A", "phone_numbers": [null]}`, ErrValidation, "phone_numbers[0]"},
		{`{"first_name": "A", "phone_numbers": [{"phone_type": "home"}]}`, ErrValidation, "phone_numbers[0].phone_number is missing"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": null}]}`, ErrValidation, "phone_numbers[0].phone_number is missing"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": 4930555044}]}`, ErrValidation, "phone_numbers[0].phone_number must be a string"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555044"}, {"phone_number": "030 555"}]}`, ErrValidation, "phone_numbers[1].phone_number"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555044", "primary": "yes"}]}`, ErrValidation, "phone_numbers[0].primary"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555044", "do_not_call": 1}]}`, ErrValidation, "phone_numbers[0].do_not_call"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555044", "phone_type": 1}]}`, ErrValidation, "phone_numbers[0].phone_type"},
		{`{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555044", "dnc_reason": 1}]}`, ErrValidation, "phone_numbers[0].dnc_reason"},
		{`{"first_name": "A", "phone_numbers": ` + tooMany(`{"phone_number": "+4930555044"}`) + `}`, ErrValidation, "at most 100"},
	})
}

// TestContactForm_BadIDs sends ids of phone numbers that the contact does not have.
func TestContactForm_BadIDs(t *testing.T) {
	d := newRefusalDesk(t)
	for _, method := range []string{"PUT", "PATCH"} {
		for _, tt := range []struct{ id, part string }{
			{`2`, "phone_numbers[0].id"}, // of the other contact
			{`99`, "phone_numbers[0].id"},
			{`"1"`, "phone_numbers[0].id"},
			{`0`, "phone_numbers[0].id"},
			{`1, "phone_type": "home"}, {"phone_number": "+4930555045", "id": 1`, "phone_numbers[1].id"},
		} {
			body := `{"first_name": "A", "phone_numbers": [{"phone_number": "+4930555044", "id": ` + tt.id + `}]}`
			d.refused("admin", method, "/api/v1/contacts/1/update", body, ErrValidation, tt.part)
		}
	}
}

func TestContactForm_Update(t *testing.T) {
	d := newContactDesk(t)
	d.must("", "POST", "/admin/v1/teams", `{"name": "Reception"}`)
	path := d.make("admin", maraBody)
	d.must("", "PATCH", "/admin/v1/contacts/1", `{"last_call_date": "2026-02-03T09:17:10Z"}`)
	before := d.must("admin", "GET", path, "")

	got := d.must("admin", "PATCH", path+"/update", `{"stage": "qualified_lead", "tags": ["A", "B", "A"], "industry_context": {"x": 1}, "email": null}`)
	want := maps.Clone(before)
	want["stage"], want["stage_display"], want["message"], want["email"] = "qualified_lead", "Qualified Lead", "Updated.", ""
	want["tags"], want["industry_context"] = []any{"A", "B"}, map[string]any{"x": json.Number("1")}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("PATCH: got  %v\nwant %v", got, want)
	}

	d.now = d.now.Add(time.Hour)
	equalJSON(t, d.must("admin", "PUT", path+"/update", `{"first_name": "Mia", "custom_context": {"a": 1}}`), `{"id": 1,
		"first_name": "Mia", "last_name": "", "full_name": "Mia", "email": "", "company": "", "website": "",
		"stage": "lead", "stage_display": "Lead", "status": "not_contacted", "status_display": "Not Contacted", "timezone": "UTC",
		"address": {"street": "", "city": "", "state": "", "zip_code": "", "country": "US"}, "created_date": "2026-01-05T08:00:00Z",
		"last_call_date": "2026-02-03T09:17:10Z", "phone_numbers": [], "tags": [], "recent_notes": [], "custom_context": {"a": 1},
		"industry_context": {}, "team": null, "owner": {"id": 1, "name": "admin"}, "message": "Updated."}`)
}

func TestContactForm_Context(t *testing.T) {
	d := newContactDesk(t)
	path := d.make("admin", `{"first_name": "Mara", "custom_context": {"a": 12345678901234567890, "b": {"c": 1.50}, "n": null}}`)
	for _, tt := range []struct{ method, body, want string }{
		{"PATCH", `{}`, `{"a": 12345678901234567890, "b": {"c": 1.50}}`},
		{"PATCH", `{"custom_context": {"b": {"d": "<&>"}, "e": [1e3]}}`, `{"a": 12345678901234567890, "b": {"d": "<&>"}, "e": [1e3]}`},
		{"PATCH", `{"custom_context": {"a": null, "none": null}}`, `{"b": {"d": "<&>"}, "e": [1e3]}`},
		{"PUT", `{"first_name": "Mara", "custom_context": {"z": false}}`, `{"z": false}`},
		{"PATCH", `{"custom_context": {}}`, `{"z": false}`},
		{"PATCH", `{"custom_context": null}`, `{}`},
	} {
		equalJSON(t, d.must("admin", tt.method, path+"/update", tt.body)["custom_context"], tt.want)
		equalJSON(t, d.must("admin", "GET", path, "")["custom_context"], tt.want)
	}
}

// TestContactForm_Phones checks the rules for phone numbers step by step. A number
// is written as "id number type flags", with * for primary and ! for do not
// call, followed by its date and reason.
func TestContactForm_Phones(t *testing.T) {
	d := newContactDesk(t)
	path := d.make("admin", `{"first_name": "Mara", "phone_numbers": [{"id": 44, "phone_number": "+4930555001"},
		{"phone_number": "+4930555002", "phone_type": "work", "primary": true}, {"phone_number": "+4930555003", "primary": true, "do_not_call": true}]}`)
	for i, tt := range []struct{ method, phones, want string }{
		{"PATCH", ``, "1 +4930555001 | 2 +4930555002 work * | 3 +4930555003 !08:00"},
		{"PATCH", `[]`, "1 +4930555001 | 2 +4930555002 work * | 3 +4930555003 !08:00"},
		{"PATCH", `[{"id": 3, "phone_number": "+4930555003", "do_not_call": true, "dnc_reason": "asked", "phone_type": "home"}]`,
			"1 +4930555001 | 2 +4930555002 work * | 3 +4930555003 home !08:00 asked"},
		{"PATCH", `[{"id": 3, "phone_number": "+4930555033"}]`, "1 +4930555001 | 2 +4930555002 work * | 3 +4930555033 home !08:00 asked"},
		{"PATCH", `[{"id": 3, "phone_number": "+4930555033", "do_not_call": false, "dnc_reason": "no"}]`, "1 +4930555001 | 2 +4930555002 work * | 3 +4930555033 home"},
		{"PATCH", `[{"id": 3, "phone_number": "+4930555033", "do_not_call": true}]`, "1 +4930555001 | 2 +4930555002 work * | 3 +4930555033 home !13:00"},
		{"PATCH", `[{"phone_number": "+4930555004"}]`, "1 +4930555001 | 2 +4930555002 work * | 3 +4930555033 home !13:00 | 4 +4930555004"},
		{"PATCH", `[{"id": 4, "phone_number": "+4930555004", "primary": true}, {"id": 1, "phone_number": "+4930555001", "primary": true}]`,
			"1 +4930555001 | 2 +4930555002 work | 3 +4930555033 home !13:00 | 4 +4930555004 *"},
		{"PATCH", `[{"id": 4, "phone_number": "+4930555004", "primary": false}]`,
			"1 +4930555001 * | 2 +4930555002 work | 3 +4930555033 home !13:00 | 4 +4930555004"},
		{"PUT", `[{"phone_number": "+4930555005"}, {"id": 3, "phone_number": "+4930555033", "do_not_call": true}, {"id": 2, "phone_number": "+4930555002"}]`,
			"5 +4930555005 * | 3 +4930555033 !13:00 | 2 +4930555002"},
		{"PUT", `[{"id": 3, "phone_number": "+4930555033"}]`, "3 +4930555033 *"},
		{"PUT", ``, ""},
	} {
		d.now = time.Date(2026, 1, 5, 8+i, 0, 0, 0, time.UTC)
		body := `{"first_name": "Mara"`
		if tt.phones != "" {
			body += `, "phone_numbers": ` + tt.phones
		}
		var got []string
		for _, v := range d.must("admin", tt.method, path+"/update", body+"}")["phone_numbers"].([]any) {
			got = append(got, phoneText(v.(map[string]any)))
		}
		if text := strings.Join(got, " | "); text != tt.want {
			t.Errorf("step %d, %s %s:\ngot  %q\nwant %q", i, tt.method, tt.phones, text, tt.want)
		}
	}
	if text := d.everything(); strings.Contains(text, "+49") {
		t.Errorf("got %s, want no number left", text)
	}
}

func phoneText(p map[string]any) string {
	text := fmt.Sprint(p["id"], " ", p["phone_number"])
	if p["phone_type"] != "" {
		text += fmt.Sprint(" ", p["phone_type"])
	}
	if p["primary"] == true {
		text += " *"
	}
	if p["do_not_call"] == true {
		text += " !" + p["dnc_date"].(string)[11:16]
	}
	if p["dnc_reason"] != nil {
		text += fmt.Sprint(" ", p["dnc_reason"])
	}
	return text
}

func TestContactForm_Import(t *testing.T) {
	d := newContactDesk(t)
	const path = "/admin/v1/contacts/import"
	d.must("", "POST", "/admin/v1/teams", `{"name": "Reception"}`)
	const head = "first_name,last_name,email,company,website,address,city,state,zip_code,country,status,stage,timezone,team_id,tags,phone,phone_type,do_not_call,owner\n"
	const mara = "Mara,Lind,mara@example.net,Lind KG,https://lind.example.net,Hafenweg 4,Kiel,SH,24103,DE,contacted,customer,Europe/Berlin,1,Regular; VIP;,+4930555010,mobile,TRUE,\n"
	if strings.TrimSpace(head) != strings.Join(contactColumns(), ",") {
		t.Errorf("got columns %v, want %s", contactColumns(), head)
	}
	for _, tt := range []struct {
		body string
		want *Error
		part string
	}{
		{head + mara + ",No,first,name,,,,,,,,,,,,,,,\n", ErrMissingFirstName, "line 3 of the file (row 2): first_name"},
		{"first_name,phone\nMara,+4930555010\nJon,555\n", ErrValidation, "line 3 of the file (row 2): phone must be an E.164 number"},
		{"first_name,team_id\nMara,1\nJon,x\n", ErrValidation, "line 3 of the file (row 2): team_id"},
		{"first_name,team_id\nMara,1\nJon,9\n", ErrTeamNotFound, "row 2"},
		{"first_name,team_id,owner\nMara,1,\nJon,1,other\n", ErrTeamAccess, "row 2"},
		{"first_name,phone,do_not_call\nMara,+4930555010,maybe\n", ErrValidation, "line 2 of the file (row 1): do_not_call"},
		{"first_name,phone,do_not_call\nMara,,true\n", ErrValidation, "line 2 of the file (row 1): do_not_call"},
		{"first_name,email\nMara,nowhere\n", ErrValidation, "line 2 of the file (row 1): email"},
		{"first_name,nickname\nMara,M\n", ErrValidation, "nickname"},
		{`[{"first_name": "Mara"}, {"first_name": "Jon", "tags": [""]}]`, ErrValidation, "row 2: tags[0]"},
	} {
		d.refused("", "POST", path, tt.body, tt.want, tt.part)
	}
	status, got := d.ask("", "POST", path, head+mara+"Jon,,,,,,,,,,,,,007,,,home,false,other\n")
	if status != ErrTeamNotFound.Status {
		t.Errorf("got %d %v for a team with leading zeros, want the team 7 not found", status, got)
	}
	equalJSON(t, d.must("", "POST", path, head+mara+"Jon,,,,,,,,,,,,,,,,home,false,other\n"), `{"count": 2, "message": "Imported 2 contacts. Owners: admin, other.", "owner_names": ["admin", "other"], "update_by": null, "updated": 0, "skipped": 0, "duplicates": [], "duplicate_count": 0}`)
	list := d.must("", "GET", "/admin/v1/contacts", "")["contacts"].([]any)
	jon, full := list[0].(map[string]any), list[1].(map[string]any)
	if jon["owner"] != "other" || jon["phone"] != "" || jon["stage"] != "lead" {
		t.Errorf("got %v, want Jon of other with defaults", jon)
	}
	equalJSON(t, full["tags"], `["Regular", "VIP"]`)
	if full["phone"] != "+4930555010" || full["owner"] != "admin" || full["timezone"] != "Europe/Berlin" || fmt.Sprint(full["team_id"]) != "1" {
		t.Errorf("got %v, want the columns of the file", full)
	}
	d.blocked("admin", "+4930555010", true)
	d.must("", "POST", path, `{"contacts": [{"first_name": "Kim", "custom_context": {"a": 1.0}}]}`)
	if got := d.ids("", ""); got != "3 2 1" {
		t.Errorf("got contacts %q, want \"3 2 1\"", got)
	}
}

// TestContactForm_Codes compares the error codes with the texts of the contract.
func TestContactForm_Codes(t *testing.T) {
	d := newRefusalDesk(t)
	for _, tt := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", "create", `{`, 400, "invalid_json"},
		{"POST", "create", `{}`, 400, "missing_first_name"},
		{"POST", "create", `{"first_name": "A", "tags": 1}`, 400, "validation_error"},
		{"POST", "create", `{"first_name": "A", "team_id": 1}`, 403, "team_access_denied"},
		{"POST", "create", `{"first_name": "A", "team_id": 2}`, 404, "team_not_found"},
		{"PUT", "1/update", `{`, 400, "invalid_json"},
		{"PUT", "1/update", `{"last_name": "A"}`, 400, "missing_first_name"},
		{"PATCH", "1/update", `{"tags": 1}`, 400, "validation_error"},
		{"PATCH", "1/update", `{"team_id": 1}`, 403, "team_access_denied"},
		{"PATCH", "1/update", `{"team_id": 2}`, 404, "team_not_found"},
		{"PATCH", "9/update", `{}`, 404, "not_found"},
		{"GET", "9", ``, 404, "not_found"},
	} {
		status, answer := d.ask("admin", tt.method, "/api/v1/contacts/"+tt.path, tt.body)
		if status != tt.status || answer["error"] != tt.code {
			t.Errorf("%s %s %s: got %d %v, want %d %s", tt.method, tt.path, tt.body, status, answer["error"], tt.status, tt.code)
		}
	}
}
