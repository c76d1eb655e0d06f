package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fixture says what a store of testdata/stores holds. Its secrets were made for
// it and open nothing else.
type fixture struct {
	WrittenBy string `json:"written_by"`
	Pepper    string `json:"pepper"`
	Key       string `json:"key"`     // 5 calls a day, of which 2 are used; 60 requests a minute, of which 7 are
	Earlier   string `json:"earlier"` // the secret of that key before a rotation, which goes on to hold
	Revoked   string `json:"revoked"`
	Token     string `json:"token"`    // of the admin endpoint
	Password  string `json:"password"` // of the operator ada
	Records   int    `json:"records"`
}

const fixturePrefix = "fixture_" // of keys, so that they look like nobody's

// fillStore makes some of everything, by way of the endpoints.
func fillStore(a *testApp) (f fixture) {
	a.t.Helper()
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann", "balance": 25, "rate": 0.4}`)
	a.operate(201, "POST", "/admin/v1/teams", `{"name": "Reception", "members": ["ann", "bob"]}`)
	a.operate(201, "POST", "/admin/v1/agents", `{"owner": "ann", "name": "Front desk", "phone_number": "+4930555001", "team_id": 1}`)
	a.operate(201, "POST", "/admin/v1/contacts", `{"owner": "ann", "first_name": "Mara", "last_name": "Lind", "email": "mara@example.net", "phone_numbers": [{"phone_number": "+4930555010"}]}`)
	a.operate(201, "POST", "/admin/v1/do-not-call", `{"phone_number": "+4930555666", "reason": "asked us"}`)
	a.operate(201, "POST", "/admin/v1/schedules", `{"owner": "ann", "time_zone": "Europe/Berlin", "windows": {"monday": ["09:00-17:00"], "tuesday": ["09:00-17:00"]}}`)
	a.operate(201, "POST", "/admin/v1/webhooks", `{"name": "all", "url": "https://hooks.example.net/all", "subscribed_events": ["call.ended", "key.revoked"]}`)
	f.Token, _ = a.operate(201, "POST", "/admin/v1/tokens", `{"name": "deploy"}`)["token"].(string)
	f.Password = "correct horse battery staple 7"
	if _, err := a.Operators.Create(Deed{Actor: ActorSelf, Action: "test", Now: a.clock.Now()}, "ada", f.Password, ""); err != nil {
		a.t.Fatal(err)
	}
	id, earlier := a.key(everyPermission, `"owner": "ann"`, `"limits": {"calls_per_day_limit": 5}`, `"metadata": {"team": "blue"}`)
	f.Earlier = earlier
	f.Key, _ = a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", `{"overlap_seconds": 2592000}`)["key"].(string)
	gone, revoked := a.key(everyPermission)
	f.Revoked = revoked
	a.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
	for _, ask := range []struct {
		path, body string
		want       int
	}{
		{"/api/v1/calls", `{"phone_number": "+4930555044", "agent_id": 1}`, 201},
		{"/api/v1/calls", `{"phone_number": "+4930555010", "agent_id": 1, "contact_id": 1}`, 201},
		{"/api/v1/calendar/events/create", `{"title": "Visit", "start_time": "2026-02-09T10:00:00Z", "end_time": "2026-02-09T11:00:00Z"}`, 201},
		{"/api/v1/context-variables/create", `{"name": "tariff", "display_name": "Tariff", "variable_type": "text", "context_type": "business"}`, 201},
		{"/api/v1/business/context", `{"variables": {"tariff": "green"}}`, 200},
		{"/api/webhooks/create/", `{"name": "mine", "url": "https://hooks.example.net/mine", "subscribed_events": ["call.ended"]}`, 201},
		{"/api/v1/contacts/create", `{"first_name": "Oda"}`, 201},
	} {
		if w := a.ask("POST", ask.path, f.Key, ask.body); w.Code != ask.want {
			a.t.Fatalf("%s: got %d %s, want %d", ask.path, w.Code, w.Body, ask.want)
		}
	}
	a.operate(200, "PATCH", "/admin/v1/calls/1", `{"status": "completed", "summary": "A good talk.", "transcript": "Hello."}`)
	return f
}

// TestUpgrade opens a store of every format that was released and finds in it
// all that was stored. With LATCHKEY_WRITE_STORE set it first writes the store
// of the present format to testdata/stores, which is how the files there were
// made: once, by the first program of their format, and never again.
func TestUpgrade(t *testing.T) {
	if os.Getenv("LATCHKEY_WRITE_STORE") != "" {
		writeFixture(t)
	}
	for format := 1; format <= storeFormat; format++ {
		t.Run(fmt.Sprintf("format %d", format), func(t *testing.T) {
			f, data := readFixture(t, format)
			a := &testApp{t: t, config: DefaultConfig(), log: &lockedBuffer{}}
			a.config.Server.Data, a.config.Keys.Prefix = data, fixturePrefix
			a.clocks = &testClocks{fakeClocks: fakeClocks{Reading{Wall: epoch.Add(20 * time.Second), Boot: time.Hour + 20*time.Second, BootID: "one"}}}
			a.start()
			defer a.Close()
			f.holds(t, a)
		})
		t.Run(fmt.Sprintf("format %d with the program", format), func(t *testing.T) {
			f, data := readFixture(t, format)
			p := serveReal(t, data, "LATCHKEY_KEYS_PREFIX="+fixturePrefix)
			if status, _ := p.get(t, "/api/v1/agents", f.Key); status != 200 {
				t.Errorf("got %d, want 200", status)
			}
			if status, _ := p.get(t, "/api/v1/agents", f.Revoked); status != 401 {
				t.Errorf("a revoked key: got %d, want 401", status)
			}
			stdout, stderr, exit := run(t, "check", "--data", data)
			if exit != 0 || !strings.Contains(stdout, " 0 problems") {
				t.Errorf("check: got %d: %s%s", exit, stdout, stderr)
			}
		})
	}
}

// holds asks the service for what fillStore has stored.
func (f fixture) holds(t *testing.T, a *testApp) {
	t.Helper()
	var result CheckResult
	if err := json.Unmarshal(a.control("POST", "/admin/v1/check", "").Body.Bytes(), &result); err != nil || len(result.Problems) > 0 || result.Records < f.Records {
		t.Errorf("check: got %+v, %v; want %d records and no problem", result, err, f.Records)
	}
	own := object(t, a.ask("GET", "/api/v1/key", f.Key, "").Body.String())
	for name, want := range map[string]float64{"calls_per_day_limit": 2, "calendar_events_per_day_limit": 1, "requests_per_minute_limit": 7} {
		usage, _ := own["usage"].(map[string]any)
		if limit, _ := usage[name].(map[string]any); limit["used"] != want {
			t.Errorf("%s: got %v, want %v used", name, limit, want)
		}
	}
	for secret, want := range map[string]int{f.Key: 200, f.Earlier: 200, f.Revoked: 401, f.Key[:len(f.Key)-1] + "!": 401} {
		if w := a.ask("GET", "/api/v1/agents", secret, ""); w.Code != want {
			t.Errorf("got %d %s, want %d", w.Code, w.Body, want)
		}
	}
	call := func() int {
		return a.ask("POST", "/api/v1/calls", f.Key, `{"phone_number": "+4930555044", "agent_id": 1}`).Code
	}
	if got := []int{call(), call(), call(), call()}; fmt.Sprint(got) != "[201 201 201 429]" {
		t.Errorf("calls: got %v, want three and then the limit of 5 a day", got)
	}
	for path, want := range map[string]string{
		"/api/v1/calls/1": "A good talk.", "/api/v1/contacts?search=mara": "mara@example.net", "/api/v1/calendar/events": "Visit",
		"/api/v1/context-variables": "tariff", "/api/webhooks/": "hooks.example.net/mine", "/api/v1/agents": "Front desk",
	} {
		if w := a.ask("GET", path, f.Key, ""); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, want)
		}
	}
	for path, want := range map[string]string{
		"/admin/v1/do-not-call": "asked us", "/admin/v1/schedules": "Europe/Berlin", "/admin/v1/webhooks": "hooks.example.net/all",
		"/admin/v1/owners": `"balance":25`, "/admin/v1/keys": `"team":"blue"`, "/admin/v1/teams": "Reception",
	} {
		if w := a.control("GET", path, ""); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, want)
		}
	}
	if op, err := a.Operators.Authenticate("ada", f.Password); err != nil || op.Name != "ada" {
		t.Errorf("operator: got %v, %v", op, err)
	}
	r, w := httptest.NewRequest("GET", "/admin/v1/status", nil), httptest.NewRecorder()
	r.Header.Set("Authorization", "Bearer "+f.Token)
	if a.admin.ServeHTTP(w, r); w.Code != http.StatusOK {
		t.Errorf("token: got %d %s", w.Code, w.Body)
	}
}

func fixturePath(format int) string {
	return filepath.Join("testdata", "stores", fmt.Sprintf("format-%d", format))
}

// readFixture unpacks a store into a data folder.
func readFixture(t *testing.T, format int) (f fixture, data string) {
	t.Helper()
	text, err := os.ReadFile(fixturePath(format) + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	packed, err := os.Open(fixturePath(format) + ".db.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	db, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	data = filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	overwrite(t, data, storeFile, string(db))
	overwrite(t, data, pepperFile, f.Pepper+"\n")
	return f, data
}

func writeFixture(t *testing.T) {
	a := newTestApp(t, func(c *Config) { c.Keys.Prefix = fixturePrefix })
	f := fillStore(a)
	f.WrittenBy = ProgramVersion()
	pepper, err := os.ReadFile(PepperPath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	f.Pepper = strings.TrimSpace(string(pepper))
	if err := a.Close(); err != nil { // stores the exact counts
		t.Fatal(err)
	}
	if _, _, err := CompactStore(a.config.Server.Data, epoch); err != nil {
		t.Fatal(err)
	}
	result, err := CheckStoreFile(StorePath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	f.Records = result.Records
	a.App = nil
	db, err := os.ReadFile(StorePath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	_, err = z.Write(db)
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, ".", fixturePath(storeFormat)+".db.gz", packed.String())
	overwrite(t, ".", fixturePath(storeFormat)+".json", string(text)+"\n")
}
