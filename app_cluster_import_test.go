package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"latchkey/internal/cluster/fake"
)

// shareSmall makes the store of the app one of a cluster that takes few records in one change.
func (a *testApp) shareSmall(writes int) {
	a.t.Helper()
	if a.Store.replica != nil { // as LATCHKEY_TEST_ENGINE=fake does
		a.Store.replica.(*replica).most.records = writes
		return
	}
	if err := ShareStore(a.Store, ShareOptions{Engine: fake.New(1, 0).Engine(fake.Faults{}), Node: "a", Tables: tables(), MaxWrites: writes}); err != nil {
		a.t.Fatal(err)
	}
}

// TestImports_Parts imports more rows of every kind than a cluster takes at once.
func TestImports_Parts(t *testing.T) {
	w := &commandWalk{testApp: newTestApp(t), dir: t.TempDir()}
	args, tried := w.args(), 0
	rows := func(name string, count int) string {
		var list []string
		for range count {
			text, err := os.ReadFile(args[name]()[0])
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, strings.TrimSuffix(strings.TrimPrefix(string(text), "["), "]"))
		}
		return "[" + strings.Join(list, ",") + "]"
	}
	w.shareSmall(40)
	for name := range args {
		if !strings.HasSuffix(name, " import") {
			continue
		}
		tried++
		kind := strings.Fields(name)[0]
		file := rows(name, 60)
		path := "/admin/v1/" + kind + "/import"
		said := object(t, askDoor(w.local, "POST", path, file, "Content-Type: application/json").Body.String())
		fit, _ := said["max_rows"].(float64)
		if said["error"] != "import_too_large" || fit < 1 || fit >= 60 || !strings.Contains(fmt.Sprint(said["message"]), fmt.Sprintf("about %v of the 60 rows fit", fit)) {
			t.Errorf("%s: got %v, want how many rows fit", name, said)
			continue
		}
		// The first record of an owner may bring others with it.
		if exit, _, errs := w.testApp.run(rows(name, 1), kind, "import", "-"); exit != 0 {
			t.Errorf("%s: exit %d, %s", name, exit, errs)
		}
		before := w.operate(200, "GET", "/admin/v1/"+kind, "")["count"].(float64)
		exit, out, errs := w.testApp.run(file, kind, "import", "-")
		if exit != 0 || !regexp.MustCompile(`^Imported 60 rows in \d+ parts\.\n`).MatchString(out) {
			t.Errorf("%s: exit %d, %s%s", name, exit, out, errs)
		}
		if n := w.operate(200, "GET", "/admin/v1/"+kind, "")["count"].(float64); n != before+60 {
			t.Errorf("%s: got %v records after %v, want 60 more", name, n, before)
		}
	}
	if tried < 8 {
		t.Errorf("tried %d imports, want all", tried)
	}
}

// TestImports_PartFails lets the server refuse the second part of an import.
func TestImports_PartFails(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string // in the error, with the number of rows of a part in place of N and the next
	}{
		{409, `{"error": "conflict", "message": "row 2: it is there. Nothing was imported.", "error_count": 1, "errors": [{"row": 2, "line": 3, "message": "it is there"}]}`,
			`rows 1 to (\d+) are imported, rows (\d+) to 60 are not imported; rows to correct: 1\n  line (\d+) of the file \(row (\d+)\): it is there`},
		{503, `{"error": "service_unavailable", "message": "It may have happened."}`,
			`rows 1 to (\d+) are imported, rows (\d+) to \d+ are perhaps imported, so look before you import them again, rows \d+ to 60 are not imported: It may have happened.`},
	} {
		a := newTestApp(t)
		a.shareSmall(30)
		var file strings.Builder
		file.WriteString("first_name\tphone\n")
		for n := range 60 {
			fmt.Fprintf(&file, "\"A%d\"\t+4930555%04d\n", n, n)
		}
		done, admin := 0, a.local
		a.local = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/import") {
				if done == 1 {
					w.Header().Set("Content-Type", "application/json")
					w.WriteHeader(tt.status)
					_, _ = w.Write([]byte(tt.body))
					return
				}
				said := httptest.NewRecorder()
				if admin.ServeHTTP(said, r); said.Code == http.StatusCreated {
					done++
				}
				w.WriteHeader(said.Code)
				_, _ = w.Write(said.Body.Bytes())
				return
			}
			admin.ServeHTTP(w, r)
		})
		exit, out, errs := a.run(file.String(), "contacts", "import", "--csv", "-")
		m := regexp.MustCompile(tt.want).FindStringSubmatch(errs)
		if exit != 1 || m == nil || !strings.Contains(out, "Imported "+m[1]+" rows.") {
			t.Errorf("exit %d, %s%s, want %s", exit, out, errs, tt.want)
			continue
		}
		var stored, second, line, row int
		_, _ = fmt.Sscan(strings.Join(m[1:], " "), &stored, &second, &line, &row)
		if n := a.operate(200, "GET", "/admin/v1/contacts", "")["count"]; n != float64(stored) || second != stored+1 || len(m) > 3 && (row != stored+2 || line != row+1) {
			t.Errorf("got %v contacts and %q", n, m)
		}
	}
}

// TestImportPage_Parts imports more contacts on the page than a cluster takes at once.
func TestImportPage_Parts(t *testing.T) {
	b := newDashboard(t)
	b.shareSmall(40)
	before := len(auditEntries(t, b.Store))
	var file strings.Builder
	file.WriteString("first_name,phone\n")
	for n := range 60 {
		fmt.Fprintf(&file, "A%d,+4930555%04d\n", n, n)
	}
	w := b.upload(file.String())
	if to := w.Header().Get("Location"); w.Code != 303 || to != "/contacts?done=imported-60-0-0" {
		t.Errorf("got %d %s, %s", w.Code, to, w.Body)
	}
	if n := b.operate(200, "GET", "/admin/v1/contacts", "")["count"]; n != 60.0 {
		t.Errorf("got %v contacts, want 60", n)
	}
	if n := len(auditEntries(t, b.Store)) - before; n < 2 {
		t.Errorf("got %d entries in the audit log, want one for each part", n)
	}
}
