package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// saveBackup writes what GET /admin/v1/backup sends to a file.
func (a *testApp) saveBackup() string {
	a.t.Helper()
	w := a.control("GET", "/admin/v1/backup", "")
	if w.Code != 200 {
		a.t.Fatalf("got %d %s, want 200", w.Code, w.Body)
	}
	path := filepath.Join(a.t.TempDir(), "backup.db")
	if err := os.WriteFile(path, w.Body.Bytes(), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// TestBackup_Restore takes a backup, changes everything after it and puts it
// back: keys, counts and calls are those of the backup.
func TestBackup_Restore(t *testing.T) {
	a := newCallApp(t)
	_, kept := a.key(everyPermission, `"limits": {"calls_per_day_limit": 2}`)
	gone, _ := a.key(everyPermission)
	call := func(want int) {
		t.Helper()
		if w := a.ask("POST", "/api/v1/calls", kept, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != want {
			t.Errorf("got %d %s, want %d", w.Code, w.Body, want)
		}
	}
	call(201)
	backup := a.saveBackup()
	call(201)
	call(429)
	a.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
	_, later := a.key(everyPermission)
	if left, _ := filepath.Glob(filepath.Join(a.config.Server.Data, unsentPrefix+"*")); len(left) > 0 {
		t.Errorf("the copy was left behind: %v", left)
	}
	options := RestoreOptions{Config: a.config, From: backup, Now: epoch}
	if _, err := RestoreApp(RestoreAppOptions{RestoreOptions: options}); err == nil || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("while a server runs: got %v, want a refusal", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(storePath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	options.DryRun = true
	result, err := RestoreApp(RestoreAppOptions{RestoreOptions: options})
	if err != nil || result.Keys != 2 || result.Kept != "" || len(result.Check.Problems) > 0 {
		t.Errorf("dry run: got %+v, %v; want 2 keys", result, err)
	}
	if now, _ := os.ReadFile(storePath(a.config.Server.Data)); !bytes.Equal(now, before) {
		t.Error("the dry run has changed the database")
	}
	options.DryRun = false
	if result, err = RestoreApp(RestoreAppOptions{RestoreOptions: options}); err != nil {
		t.Fatal(err)
	}
	if old, _ := os.ReadFile(result.Kept); !bytes.Equal(old, before) {
		t.Errorf("%q does not hold what stood there before", result.Kept)
	}
	a.start()
	call(201)
	call(429)
	if w := a.ask("GET", "/api/v1/agents", later, ""); w.Code != 401 {
		t.Errorf("a key of after the backup: got %d, want 401", w.Code)
	}
	if v := a.operate(200, "GET", "/admin/v1/keys/"+gone, ""); v["status"] != "revoked" {
		t.Errorf("a key that was revoked after the backup: got %v, want revoked", v["status"])
	}
	if v := a.operate(200, "GET", "/admin/v1/audit?action=restore", ""); v["count"] != 1.0 {
		t.Errorf("the audit log says of the restore: got %v", v)
	}
}

func TestRestore_Refusals(t *testing.T) {
	a := newTestApp(t)
	a.key(everyPermission)
	good := a.saveBackup()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Replace(whole, []byte(`"name":"test"`), []byte(`"name":"tesT"`), 1)
	other := newTestApp(t)
	stranger := other.saveBackup()
	for _, tt := range []struct {
		name, want string
		from       []byte
		file       string
		other      bool
	}{
		{"damaged record", "checksum does not match", damaged, "", false},
		{"cut short", "", whole[:len(whole)/2], "", false},
		{"another file", "damaged or not a database", bytes.Repeat([]byte("x"), 20_000), "", false},
		{"missing file", "no such file", nil, filepath.Join(t.TempDir(), "none"), false},
		{"another store", "pepper is not the one", nil, stranger, false},
	} {
		file := tt.file
		if tt.from != nil {
			file = filepath.Join(t.TempDir(), "bad.db")
			if err := os.WriteFile(file, tt.from, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := RestoreApp(RestoreAppOptions{RestoreOptions: RestoreOptions{Config: a.config, From: file, Other: tt.other, Now: epoch}})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	entries, err := os.ReadDir(a.config.Server.Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), storeFile+".") {
			t.Errorf("%s was left behind", e.Name())
		}
	}
	a.start()
}

// With the pepper of the other store the backup may be restored, when asked
// for by name.
func TestRestore_Other(t *testing.T) {
	from, to := newTestApp(t), newTestApp(t)
	_, secret := from.key(everyPermission)
	backup := from.saveBackup()
	pepper, err := os.ReadFile(pepperPath(from.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(pepperPath(to.config.Server.Data), pepper, 0o600); err != nil {
		t.Fatal(err)
	}
	options := RestoreOptions{Config: to.config, From: backup, Now: epoch}
	if _, err := RestoreApp(RestoreAppOptions{RestoreOptions: options}); err == nil || !strings.Contains(err.Error(), "--other") {
		t.Errorf("got %v, want the flag to be named", err)
	}
	options.Other = true
	if _, err := RestoreApp(RestoreAppOptions{RestoreOptions: options}); err != nil {
		t.Fatal(err)
	}
	to.start()
	if w := to.ask("GET", "/api/v1/agents", secret, ""); w.Code != 200 {
		t.Errorf("got %d %s, want 200", w.Code, w.Body)
	}
}

func TestBackups_Schedule(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	a := newTestApp(t, func(c *Config) { c.Backup.Dir, c.Backup.Every, c.Backup.Keep = dir, time.Hour, 2 })
	names := func() (list []string) {
		found, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range found {
			list = append(list, filepath.Base(f))
		}
		return list
	}
	for i, want := range [][]string{
		{"latchkey-20260203T090000Z.db"},
		{"latchkey-20260203T090000Z.db"}, // half an hour is too soon
		{"latchkey-20260203T090000Z.db", "latchkey-20260203T100000Z.db"},
		{"latchkey-20260203T090000Z.db", "latchkey-20260203T100000Z.db"},
		{"latchkey-20260203T100000Z.db", "latchkey-20260203T110000Z.db"},
	} {
		if err := a.backups.Due(epoch.Add(time.Duration(i) * 30 * time.Minute)); err != nil {
			t.Fatal(err)
		}
		if got := names(); !slices.Equal(got, want) {
			t.Errorf("after %d half hours: got %v, want %v", i, got, want)
		}
	}
	if result, err := CheckStoreFile(filepath.Join(dir, names()[0]), a.config, "", nil); err != nil || len(result.Problems) > 0 {
		t.Errorf("got %v, %v; want a good copy", result, err)
	}
}

// A revoked secret's hash and a deleted contact must not go on in a copy.
func TestBackup_HoldsNothingDeleted(t *testing.T) {
	a := newTestApp(t)
	made := a.operate(201, "POST", "/admin/v1/contacts", `{"first_name": "Unmistakable"}`)
	if data, _ := os.ReadFile(storePath(a.config.Server.Data)); !bytes.Contains(data, []byte("Unmistakable")) {
		t.Fatal("the database does not hold the name, so its absence would show nothing")
	}
	id, err := json.Marshal(made["id"])
	if err != nil {
		t.Fatal(err)
	}
	a.operate(200, "DELETE", "/admin/v1/contacts/"+string(id), "")
	if data, _ := os.ReadFile(a.saveBackup()); bytes.Contains(data, []byte("Unmistakable")) {
		t.Error("the copy holds what was deleted")
	}
}

func TestCheckStore(t *testing.T) {
	a := newCallApp(t)
	_, key := a.key(everyPermission)
	for range 3 {
		a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`)
	}
	check := func() CheckResult {
		t.Helper()
		var result CheckResult
		w := httptest.NewRecorder()
		a.local.ServeHTTP(w, httptest.NewRequest("POST", "/admin/v1/check", nil))
		if err := json.Unmarshal(w.Body.Bytes(), &result); err != nil || w.Code != 200 {
			t.Fatalf("got %d %s: %s", w.Code, w.Body, a.log.String())
		}
		return result
	}
	if r := check(); len(r.Problems) > 0 || r.Records < 6 || r.Entries < 6 {
		t.Fatalf("a good store: got %+v", r)
	}
	entry := func(tx *Tx, index string) []byte {
		b := tx.Bolt.Bucket([]byte("calls/" + index))
		k, _ := b.Cursor().First()
		return bytes.Clone(k)
	}
	for _, tt := range []struct {
		name, want string
		harm       func(tx *Tx) error
	}{
		{"lost entry", "the record has no entry in the index call_id", func(tx *Tx) error { return tx.Delete("calls/call_id", entry(tx, "call_id")) }},
		{"entry too many", "the index entry has no record", func(tx *Tx) error {
			return tx.PutRaw("calls/queue", append(IDKey(1), IDKey(99)...), []byte{8})
		}},
		{"not an entry", "not an index entry", func(tx *Tx) error { return tx.PutRaw("calls/queue", []byte{1}, []byte{8}) }},
		{"lost record", "the index entry has no record", func(tx *Tx) error { return tx.Delete("calls", IDKey(2)) }},
		{"count", "its stored count is 77", func(tx *Tx) error { return tx.Put("counts", []byte("calls"), IDKey(77)) }},
		{"checksum", "checksum does not match", func(tx *Tx) error {
			raw := bytes.Clone(tx.Bolt.Bucket([]byte("calls")).Get(IDKey(1)))
			raw[len(raw)-2] ^= 1
			return tx.PutRaw("calls", IDKey(1), raw)
		}},
	} {
		if err := a.Store.Update(tt.harm); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(check().Problems, "\n"); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// TestBackups_Files lists and checks the files of scheduled backups.
func TestBackups_Files(t *testing.T) {
	dir := t.TempDir()
	a := newTestApp(t, func(c *Config) { c.Backup.Dir, c.Backup.Every, c.Backup.Keep = dir, time.Hour, 3 })
	a.key(everyPermission)
	list := func() (answer map[string]any, files []map[string]any) {
		t.Helper()
		answer = a.operate(200, "GET", "/admin/v1/backups", "")
		for _, row := range answer["backups"].([]any) {
			files = append(files, row.(map[string]any))
		}
		return answer, files
	}
	if answer, files := list(); len(files) > 0 || answer["last_at"] != nil || answer["next_at"] != "2026-02-03T09:00:00Z" || answer["keep"] != 3.0 || answer["every_seconds"] != 3600.0 {
		t.Errorf("before the first: got %v", answer)
	}
	stranger := filepath.Join(dir, "20200101T000000Z") // a file of somebody else
	for _, name := range []string{stranger, filepath.Join(dir, "notes.txt")} {
		if err := os.WriteFile(name, []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		if err := a.backups.Due(a.clock.Now()); err != nil {
			t.Fatal(err)
		}
		a.clocks.Pass(time.Hour)
	}
	answer, files := list()
	if len(files) != 3 || files[0]["name"] != "latchkey-20260203T120000Z.db" || files[0]["check"] != nil || files[0]["bytes"].(float64) < 10_000 || answer["last_at"] != "2026-02-03T12:00:00Z" || answer["next_at"] != "2026-02-03T13:00:00Z" {
		t.Errorf("got %v, want the newest three", answer)
	}
	if _, err := os.Stat(stranger); err != nil {
		t.Errorf("a file of somebody else: %v", err)
	}
	check := func(i int) map[string]any {
		t.Helper()
		row := a.operate(200, "POST", "/admin/v1/backups/"+files[i]["name"].(string)+"/check", "")
		return row["check"].(map[string]any)
	}
	if c := check(0); c["good"] != true || len(c["problems"].([]any)) > 0 || c["records"].(float64) < 2 || c["at"] != "2026-02-03T13:00:00Z" {
		t.Errorf("a good backup: got %v", c)
	}
	change := func(i int, how func(data []byte) []byte) {
		t.Helper()
		path := filepath.Join(dir, files[i]["name"].(string))
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, how(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change(1, func(data []byte) []byte {
		return bytes.Replace(data, []byte(`"name":"test"`), []byte(`"name":"tesT"`), 1)
	})
	if c := check(1); c["good"] != false || !strings.Contains(fmt.Sprint(c["problems"]), "checksum does not match") {
		t.Errorf("a changed backup: got %v", c)
	}
	change(2, func(data []byte) []byte { return data[:len(data)/2] })
	if c := check(2); c["good"] != false || !strings.Contains(fmt.Sprint(c["problems"]), "the file cannot be read: ") {
		t.Errorf("half a backup: got %v", c)
	}
	if _, now := list(); now[0]["check"] == nil || now[1]["check"] == nil {
		t.Errorf("got %v, want the results of the checks", now)
	}
	change(0, func(data []byte) []byte { return append(data, 0) })
	if _, now := list(); now[0]["check"] != nil {
		t.Error("a result is shown of a file that has changed since")
	}
	for _, name := range []string{"notes.txt", "20200101T000000Z", "latchkey-20200101T000000Z.db", "..%2Flatchkey.db", "%2Fetc%2Fpasswd"} {
		a.refuse("POST", "/admin/v1/backups/"+name+"/check", "", 404, "not_found", "")
	}
}

// TestBackups_OtherPepper checks a backup of a store whose pepper the service does not have.
func TestBackups_OtherPepper(t *testing.T) {
	dir := t.TempDir()
	a, other := newTestApp(t, func(c *Config) { c.Backup.Dir = dir }), newTestApp(t)
	data, err := os.ReadFile(other.saveBackup())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "latchkey-20260101T000000Z.db"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := a.operate(200, "POST", "/admin/v1/backups/latchkey-20260101T000000Z.db/check", "")["check"].(map[string]any)
	if c["good"] != false || c["not_verified"] == nil {
		t.Errorf("got %v, want that it was not verified", c)
	}
}
