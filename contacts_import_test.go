package main

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestContactImport_Duplicates expects the answer to list every row that has an address or a number
// of another contact of its owner, or of an earlier row.
func TestContactImport_Duplicates(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "email": "Mara@Example.net", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "owner": "ann", "email": "oda@example.net", "phone_numbers": [{"phone_number": "+4930555011"}]}`)
	const file = "first_name,email,phone,owner\nA,mara@EXAMPLE.net,+4930555010,\nB,new@example.net,+4930555011,\nC,NEW@example.net,,\nD,new@example.net,,ann\nE,,+4930555011,ann\nF,,,\n"
	const want = `[{"by":["email","phone"],"contact_id":1,"line":2,"other_row":null,"row":1},{"by":["email"],"contact_id":%s,"line":4,"other_row":2,"row":3},` +
		`{"by":["phone"],"contact_id":2,"line":6,"other_row":null,"row":5}]`
	before := a.operate(200, "GET", "/admin/v1/owners", "")["count"]
	w := askDoor(a.local, "POST", "/admin/v1/contacts/import?dry_run=true", file, "Content-Type: text/csv")
	dry := object(t, w.Body.String())
	wantText(t, dry["duplicates"], fmt.Sprintf(want, "null"))
	if n := a.operate(200, "GET", "/admin/v1/contacts", "")["count"]; w.Code != 200 || n != 2.0 || dry["importable"] != true || before != a.operate(200, "GET", "/admin/v1/owners", "")["count"] {
		t.Errorf("got %d %v, and %v contacts after a dry run", w.Code, dry, n)
	}
	w = askDoor(a.local, "POST", "/admin/v1/contacts/import", file, "Content-Type: text/csv")
	wantText(t, object(t, w.Body.String())["duplicates"], fmt.Sprintf(want, "4"))
	exit, out, errs := a.run(file, "contacts", "import", "--csv", "--dry-run", "-")
	if exit != 0 || !strings.Contains(out, "contact 1 (email,phone)") || !strings.Contains(out, "line 6 of the file (row 5): contact 2") {
		t.Errorf("exit %d %s%s, want the duplicates", exit, out, errs)
	}
	w = askDoor(a.local, "POST", "/admin/v1/contacts/import", "first_name,phone\n"+strings.Repeat("A,+4930555010\n", 60), "Content-Type: text/csv")
	if got := object(t, w.Body.String()); got["duplicate_count"] != 60.0 || len(got["duplicates"].([]any)) != maxRowFaults {
		t.Errorf("got %v, want 60 duplicates and %d of them listed", got["duplicate_count"], maxRowFaults)
	}
}

// wantText compares a value, as JSON, with a text.
func wantText(t *testing.T, got any, want string) {
	t.Helper()
	if text, err := json.Marshal(got); err != nil || string(text) != want {
		t.Errorf("got  %s, %v\nwant %s", text, err, want)
	}
}

// TestContactImport_UpdateBy updates contacts by rows, and imports the same file twice.
func TestContactImport_UpdateBy(t *testing.T) {
	for _, by := range []string{"email", "phone"} {
		a := newTestApp(t)
		a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "company": "Lind", "email": "Mara@Example.net", "tags": ["x"], "phone_numbers": [{"phone_number": "+4930555010", "do_not_call": true}]}`)
		a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Other", "owner": "ann", "email": "mara@example.net", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
		const file = "first_name,last_name,email,phone,company\n,Lind,mara@example.net,+4930555010,\nOda,,oda@example.net,+4930555020,Hus\n"
		for round, want := range []string{"[update 1] [create -]", "[update 1] [update 3]"} {
			path := "/admin/v1/contacts/import?update_by=" + by
			dry := object(t, askDoor(a.local, "POST", path+"&dry_run=true", file, "Content-Type: text/csv").Body.String())
			got := ""
			for _, v := range dry["contacts"].([]any) {
				row := v.(map[string]any)
				got += strings.ReplaceAll(fmt.Sprintf(" [%v %v]", row["result"], row["id"]), "<nil>", "-")
			}
			if strings.TrimSpace(got) != want {
				t.Errorf("%s, round %d: got %s, want %s", by, round, got, want)
			}
			if w := askDoor(a.local, "POST", path, file, "Content-Type: text/csv"); w.Code != 201 || object(t, w.Body.String())["duplicate_count"] != 0.0 {
				t.Errorf("%s, round %d: got %d %s", by, round, w.Code, w.Body)
			}
			mara := a.operate(200, "GET", "/admin/v1/contacts/1", "")
			phones := mara["phone_numbers"].([]any)
			if mara["full_name"] != "Mara Lind" || mara["company"] != "Lind" || fmt.Sprint(mara["tags"]) != "[x]" || len(phones) != 1 || phones[0].(map[string]any)["do_not_call"] != true {
				t.Errorf("%s, round %d: got %v, want only the cells of the file changed", by, round, mara)
			}
		}
		if other := a.operate(200, "GET", "/admin/v1/contacts/2", ""); other["full_name"] != "Other" {
			t.Errorf("%s: got %v, want the contact of another owner untouched", by, other)
		}
		// Two contacts that fit refuse the row, and with it the file.
		a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Twin", "email": "mara@example.net", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
		exit, out, errs := a.run(file+"Zoe,,zoe@example.net,,\n", "contacts", "import", "--csv", "--update-by", by, "-")
		if n := a.operate(200, "GET", "/admin/v1/contacts", "")["count"]; exit != 1 || n != 4.0 || !strings.Contains(errs, "line 2 of the file (row 1): "+by+" is that of several contacts, such as 1 and 4") {
			t.Errorf("%s: exit %d %s%s, %v contacts; want the row refused", by, exit, out, errs, n)
		}
	}
	a := newTestApp(t)
	a.refuse("POST", "/admin/v1/contacts/import?update_by=name", "[]", 400, "validation_error", "update_by must be email or phone")
	a.refuse("POST", "/admin/v1/agents/import?update_by=email", "[]", 400, "validation_error", "update_by cannot be used")
	if exit, _, errs := a.run("[]", "contacts", "import", "--update-by", "name", "-"); exit != 2 || !strings.Contains(errs, "Try: latchkey") {
		t.Errorf("exit %d %s, want a usage error", exit, errs)
	}
}

// TestImports_DryRun runs the import of every kind of record dry, and wants nothing stored, no
// entry in the audit log, and the refusal that the import has.
func TestImports_DryRun(t *testing.T) {
	w := &auditWalk{testApp: newTestApp(t), t: t}
	tried := 0
	for action, change := range w.changes() {
		if !strings.HasSuffix(action, "/import") {
			continue
		}
		tried++
		path, body := change()
		before := len(auditEntries(t, w.Store))
		for _, tt := range []struct {
			body string
			good bool
		}{{body, true}, {strings.TrimSuffix(body, "]") + `, {"name": 5, "first_name": 5, "phone_number": 5, "owner": 5}]`, false}} {
			answer := object(t, askDoor(w.local, "POST", path+"?dry_run=true", tt.body, "Content-Type: application/json").Body.String())
			if answer["dry_run"] != true || answer["importable"] != tt.good || (answer["error"] == nil) != tt.good {
				t.Errorf("%s: got %v, want importable %v", path, answer, tt.good)
			}
		}
		if n := len(auditEntries(t, w.Store)); n != before {
			t.Errorf("%s: a dry run left %d entries in the audit log", path, n-before)
		}
		w.operate(201, "POST", path, body) // nothing of the dry run is in the way
	}
	if tried < 8 {
		t.Errorf("tried %d imports, want all", tried)
	}
}

// TestImports_Columns compares the columns in docs/import.md with those of the importers.
func TestImports_Columns(t *testing.T) {
	a := newTestApp(t)
	text, err := os.ReadFile("docs/import.md")
	if err != nil {
		t.Fatal(err)
	}
	for of, columns := range map[string][]string{"contacts": contactColumns(), "keys": (&keyImport{keyring: a.Keyring}).importForm().Columns} {
		_, table, _ := strings.Cut(string(text), "| Column of "+of+" | Meaning | Example |\n")
		table, _, _ = strings.Cut(table, "\n\n")
		got := map[string]bool{}
		for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|.*\\| `[^`]+` \\|$").FindAllStringSubmatch(table, -1) {
			got[row[1]] = true
		}
		for _, column := range columns {
			if !got[column] {
				t.Errorf("docs/import.md has no row for the column %s of %s, with an example", column, of)
			}
			delete(got, column)
		}
		if len(got) > 0 {
			t.Errorf("docs/import.md has columns of %s that do not exist: %v", of, got)
		}
	}
}

// TestContactImport_Skip leaves out rows that are contacts already, on every way in.
func TestContactImport_Skip(t *testing.T) {
	const file = "First Name\tE-Mail\tphone\nA\tmara@EXAMPLE.net\t\nB\tnew@example.net\t\nC\tNEW@example.net\t\nD\t\t+4930555010\nE\t\t\n"
	fresh := func() *testApp {
		a := newTestApp(t)
		a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Mara", "email": "Mara@Example.net", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
		return a
	}
	a := fresh()
	const path = "/admin/v1/contacts/import?skip_duplicates=true"
	dry := object(t, askDoor(a.local, "POST", path+"&dry_run=true", file, "Content-Type: text/csv").Body.String())
	if dry["message"] != "An import would create 2 contacts, and skip 3. Owner: admin." || dry["skipped"] != 3.0 || dry["duplicate_count"] != 3.0 || dry["importable"] != true {
		t.Errorf("got %v", dry)
	}
	wantText(t, dry["csv"], `{"columns":[{"column":"first_name","name":"First Name"},{"column":"email","name":"E-Mail"},{"column":"phone","name":"phone"}],"separator":"tab"}`)
	got := ""
	for _, v := range dry["contacts"].([]any) {
		row := v.(map[string]any)
		got += fmt.Sprintf("%v %v %v; ", row["name"], row["result"], row["message"])
	}
	const want = "A skip It has the same email as contact 1.; B create <nil>; C skip It has the same email as row 2.; D skip It has the same phone as contact 1.; E create <nil>; "
	if got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	for _, send := range []func(a *testApp) string{
		func(a *testApp) string {
			return askDoor(a.local, "POST", path, file, "Content-Type: text/csv").Body.String()
		},
		func(a *testApp) string {
			return askDoor(a.local, "POST", path, `[{"first_name": "A", "email": "mara@example.net"}, {"first_name": "B", "email": "new@example.net"}, {"first_name": "C", "email": "new@example.net"},
				{"first_name": "D", "phone_numbers": [{"phone_number": "+4930555010"}]}, {"first_name": "E"}]`, "Content-Type: application/json").Body.String()
		},
		func(a *testApp) string {
			_, out, errs := a.run(file, "contacts", "import", "--csv", "--skip-duplicates", "-")
			return out + errs
		},
	} {
		a := fresh()
		if said := send(a); !strings.Contains(said, "Imported 2 contacts, 3 skipped.") {
			t.Errorf("got %s", said)
		}
		if n := a.operate(200, "GET", "/admin/v1/contacts", "")["count"]; n != 3.0 {
			t.Errorf("got %v contacts, want 3", n)
		}
		if said := send(a); !strings.Contains(said, "skipped.") {
			t.Errorf("again: got %s", said)
		}
	}
	a.refuse("POST", path+"&update_by=email", "[]", 400, "validation_error", "cannot be used together")
	a.refuse("POST", "/admin/v1/agents/import?skip_duplicates=true", "[]", 400, "validation_error", "skip_duplicates cannot be used for agents")
	a.refuse("POST", "/admin/v1/keys/import?skip_duplicates=true", "[]", 400, "validation_error", "skip_duplicates cannot be used for keys")
	if w := askDoor(a.local, "POST", path, "first_name,First-Name\nA,B\n", "Content-Type: text/csv"); w.Code != 400 || !strings.Contains(w.Body.String(), "are both first_name") {
		t.Errorf("one column under two names: got %d %s", w.Code, w.Body)
	}
}
