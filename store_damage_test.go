package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/clock"
	"latchkey/tests/program"
)

// seen is all that a store's records and index entries say, and the first
// error that stood in the way of reading them.
func seen(tx *Tx) (map[string]string, error) {
	all := map[string]string{}
	var first error
	_ = tx.Walk(func(bucket string, key, stored []byte) error {
		at, value, err := bucket+"\x00"+string(key), stored, error(nil)
		if strings.Contains(bucket, "/") {
			_, err = entryKey(bucket, key, stored)
		} else {
			value, err = Unseal(bucket, key, stored)
		}
		if all[at] = string(value); err != nil && first == nil {
			first = err
		}
		return nil
	})
	return all, first
}

// contents is seen of a good file.
func contents(t *testing.T, path string) (all map[string]string) {
	t.Helper()
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	err = f.View(func(tx *Tx) (err error) { all, err = seen(tx); return err })
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return all
}

// places lists where in a file the keys and values of its records and entries
// stand, as the first and the one after the last byte.
func places(t *testing.T, path string, whole []byte) (list [][2]int) {
	t.Helper()
	f, err := OpenFile(path, ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_ = f.View(func(tx *Tx) error {
		return tx.Walk(func(_ string, key, stored []byte) error {
			// bbolt keeps a value right behind its key.
			pair := append(bytes.Clone(key), stored...)
			if at := bytes.Index(whole, pair); at >= 0 && bytes.Count(whole, pair) == 1 {
				list = append(list, [2]int{at, at + len(pair)})
			}
			return nil
		})
	})
	return list
}

// filledStore gives a file with some of everything, its contents and the app
// whose folder it is, closed.
func filledStore(t *testing.T) (a *testApp, f fixture, whole []byte) {
	t.Helper()
	a = newTestApp(t)
	f = fillStore(a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.App = nil
	if _, _, err := CompactStore(a.config.Server.Data, epoch, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(storePath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	return a, f, whole
}

// TestDamage_Records turns over one bit after another of what the store holds.
// Each time the check must find it, and each record must either be what it was
// or be an error.
func TestDamage_Records(t *testing.T) {
	a, _, whole := filledStore(t)
	path := filepath.Join(t.TempDir(), "damaged.db")
	spots := places(t, storePath(a.config.Server.Data), whole)
	if len(spots) < 60 {
		t.Fatalf("found %d records and entries in the file, which is too few for a test", len(spots))
	}
	good := contents(t, storePath(a.config.Server.Data))
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		spot := spots[random.IntN(len(spots))]
		at, bit := spot[0]+random.IntN(spot[1]-spot[0]), byte(1)<<random.IntN(8)
		damaged := bytes.Clone(whole)
		damaged[at] ^= bit
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		result, err := CheckStoreFile(path, Config{}, "", nil)
		if err == nil && len(result.Problems) == 0 {
			t.Errorf("byte %d, bit %08b: the check finds nothing", at, bit)
		}
		f, err := OpenFile(path, ReadOnly)
		if err != nil {
			continue // the header
		}
		_ = f.View(func(tx *Tx) error {
			for name, want := range good {
				bucket, key, _ := strings.Cut(name, "\x00")
				if strings.Contains(bucket, "/") {
					continue
				}
				if value, err := tx.Get(bucket, []byte(key)); err == nil && value != nil && string(value) != want {
					t.Errorf("byte %d, bit %08b: %s is read as %q, it was %q", at, bit, name, value, want)
				}
			}
			return nil
		})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDamage_Anywhere does so anywhere in the file, also in the pages of the
// tree, with the real program: it must end by itself, and what it calls good
// must be good. LATCHKEY_DAMAGE says how often.
func TestDamage_Anywhere(t *testing.T) {
	n := program.Long(t, "LATCHKEY_DAMAGE", 40)
	a, _, whole := filledStore(t)
	path := storePath(a.config.Server.Data)
	good := contents(t, path)
	bad := filepath.Join(t.TempDir(), "damaged.db")
	random := rand.New(rand.NewPCG(3, 4))
	found := 0
	for range n {
		at, bit := random.IntN(len(whole)), byte(1)<<random.IntN(8)
		damaged := bytes.Clone(whole)
		damaged[at] ^= bit
		if err := os.WriteFile(bad, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := program.Command(t, "check", bad, "--data", a.config.Server.Data) // whose pepper verifies the MACs
		late := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() })
		out, _ := cmd.CombinedOutput()
		late.Stop()
		switch exit := cmd.ProcessState.ExitCode(); {
		case exit == 1 && strings.Contains(string(out), "latchkey: "):
			found++
		case exit == 0:
			f, err := OpenFile(bad, ReadOnly)
			if err != nil {
				t.Errorf("byte %d, bit %08b: good for check, and then: %v", at, bit, err)
				continue
			}
			_ = f.View(func(tx *Tx) error {
				if now, err := seen(tx); err != nil || fmt.Sprint(now) != fmt.Sprint(good) {
					t.Errorf("byte %d, bit %08b: the check finds nothing, and the records are others: %v", at, bit, err)
				}
				return nil
			})
			_ = f.Close()
		default:
			t.Errorf("byte %d, bit %08b: got exit code %d: %.2000s", at, bit, exit, out)
		}
	}
	if found == 0 {
		t.Errorf("none of %d flips was found", n)
	}
}

// TestDamage_Use asks a service whose store has a damaged record or entry. It
// may refuse to start; what it answers with success must be what it answered
// before.
func TestDamage_Use(t *testing.T) {
	a, f, whole := filledStore(t)
	data := a.config.Server.Data
	spots := places(t, storePath(data), whole)
	paths := []string{"/api/v1/agents", "/api/v1/calls/1", "/api/v1/contacts", "/api/v1/calendar/events", "/api/webhooks/"}
	ask := func() (answers []string, codes []int) {
		for _, path := range paths {
			w := a.ask("GET", path, f.Key, "")
			answers, codes = append(answers, w.Body.String()), append(codes, w.Code)
		}
		return answers, codes
	}
	a.start()
	good, _ := ask()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(5, 6))
	refused, failed := 0, 0
	for range 60 {
		spot := spots[random.IntN(len(spots))]
		at := spot[0] + random.IntN(spot[1]-spot[0])
		damaged := bytes.Clone(whole)
		damaged[at] ^= 1 << random.IntN(8)
		overwrite(t, data, storeFile, string(damaged))
		app, err := OpenApp(AppOptions{Config: a.config, Clock: clock.NewClockFrom(a.clocks.Read), Create: true, Log: a.logger().Logger})
		if err != nil {
			refused++
			continue
		}
		a.App = app
		if a.api, err = app.Server.API(); err != nil {
			t.Fatal(err)
		}
		answers, codes := ask()
		for i, path := range paths {
			switch {
			case codes[i] != 200:
				failed++
			case answers[i] != good[i] && !fewer(answers[i], good[i]):
				t.Errorf("byte %d: %s answers %s, before it was %s", at, path, answers[i], good[i])
			}
		}
		_ = app.Close()
	}
	a.App = nil
	if failed == 0 {
		t.Error("no damage was met at use, so this shows nothing")
	}
	t.Logf("of 60: %d refused at the start, %d answers refused", refused, failed)
}

// fewer says whether an answer has less in it than the earlier one, and no text
// that was not there: an entry that has moved in its index is not found, which
// only a check can tell.
func fewer(now, before string) bool {
	return len(now) < len(before) && !slices.ContainsFunc(quoted(now), func(s string) bool { return !slices.Contains(quoted(before), s) })
}

// quoted lists what stands in quotes in a JSON body.
func quoted(body string) (list []string) {
	for i, part := range strings.Split(body, `"`) {
		if i%2 == 1 {
			list = append(list, part)
		}
	}
	return list
}

// TestDamage_Files gives the real program what is no store at all.
func TestDamage_Files(t *testing.T) {
	a, _, whole := filledStore(t)
	from := a.config.Server.Data
	for _, tt := range []struct {
		name string
		harm func(t *testing.T, dir string)
		want string
	}{
		{"zero bytes", func(t *testing.T, dir string) { overwrite(t, dir, storeFile, "") }, "restore a backup"},
		{"one page", func(t *testing.T, dir string) { overwrite(t, dir, storeFile, string(whole[:4096])) }, "restore a backup"},
		{"half", func(t *testing.T, dir string) { overwrite(t, dir, storeFile, string(whole[:len(whole)/2])) }, "restore a backup"},
		{"another kind of file", func(t *testing.T, dir string) { overwrite(t, dir, storeFile, strings.Repeat("text ", 9999)) }, "restore a backup"},
		{"other byte order", func(t *testing.T, dir string) {
			other := bytes.Clone(whole)
			for _, page := range []int{0, os.Getpagesize()} {
				for i := page; i < page+80; i += 4 {
					other[i], other[i+1], other[i+2], other[i+3] = other[i+3], other[i+2], other[i+1], other[i]
				}
			}
			overwrite(t, dir, storeFile, string(other))
		}, "opposite byte order"},
		{"a folder", func(t *testing.T, dir string) {
			remove(t, dir, storeFile)
			if err := os.Mkdir(filepath.Join(dir, storeFile), 0o700); err != nil {
				t.Fatal(err)
			}
		}, "not a regular file"},
		{"gone", func(t *testing.T, dir string) { remove(t, dir, storeFile) }, "restore a backup"},
		{"pepper gone", func(t *testing.T, dir string) { remove(t, dir, pepperFile) }, "put the file back"},
		{"pepper of another", func(t *testing.T, dir string) { overwrite(t, dir, pepperFile, strings.Repeat("ab", 32)) }, "put the right pepper file back"},
		{"pepper empty", func(t *testing.T, dir string) { overwrite(t, dir, pepperFile, "") }, "is empty"},
		{"readable by all", func(t *testing.T, dir string) {
			if err := os.Chmod(filepath.Join(dir, storeFile), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "chmod go-rwx"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
			t.Fatal(err)
		}
		for path, mode := range map[string]os.FileMode{dir: 0o700, storePath(dir): 0o600, pepperPath(dir): 0o600} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		tt.harm(t, dir)
		before, _ := os.ReadFile(storePath(dir))
		_, stderr, exit := program.Run(t, "keys", "list", "--data", dir)
		if exit != 1 && tt.name != "readable by all" || !strings.Contains(stderr, tt.want) || strings.Contains(stderr, "goroutine") {
			t.Errorf("%s: got %d %s, want %q", tt.name, exit, stderr, tt.want)
		}
		if now, _ := os.ReadFile(storePath(dir)); exit != 0 && !bytes.Equal(now, before) {
			t.Errorf("%s: the file was changed", tt.name)
		}
	}
}

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
	if _, err := a.Operators.Create(AuditContext{Actor: ActorSelf, Action: "test", Now: a.clock.Now()}, "ada", f.Password, ""); err != nil {
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
	for format := 1; format <= StoreFormat; format++ {
		t.Run(fmt.Sprintf("format %d", format), func(t *testing.T) {
			f, data := readFixture(t, format)
			a := &testApp{t: t, config: defaultConfig(), log: &lockedBuffer{}}
			a.config.Server.Data, a.config.Keys.Prefix = data, fixturePrefix
			a.clocks = &testClocks{Reading: clock.Reading{Wall: epoch.Add(20 * time.Second), Boot: time.Hour + 20*time.Second, BootID: "one"}}
			a.start()
			defer a.Close()
			if format < 3 {
				f.Records -= 4 // the counts of calls by state, which format 3 does not have
			}
			f.holds(t, a)
		})
		t.Run(fmt.Sprintf("format %d with the program", format), func(t *testing.T) {
			f, data := readFixture(t, format)
			p := program.Serve(t, data, "LATCHKEY_KEYS_PREFIX="+fixturePrefix)
			if status, _ := p.Get(t, "/api/v1/agents", f.Key); status != 200 {
				t.Errorf("got %d, want 200", status)
			}
			if status, _ := p.Get(t, "/api/v1/agents", f.Revoked); status != 401 {
				t.Errorf("a revoked key: got %d, want 401", status)
			}
			stdout, stderr, exit := program.Run(t, "check", "--data", data)
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
	_, limited := a.key(everyPermission, `"owner": "ann"`, `"resources": {"contacts": [1]}`) // by a list that format 4 has added
	if got := object(t, a.ask("GET", "/api/v1/calls", limited, "").Body.String()); got["count"] != 1.0 {
		t.Errorf("a limited key: got %v calls, want the one with its contact", got["count"])
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
	pepper, err := os.ReadFile(pepperPath(a.config.Server.Data))
	if err != nil {
		t.Fatal(err)
	}
	f.Pepper = strings.TrimSpace(string(pepper))
	if err := a.Close(); err != nil { // stores the exact counts
		t.Fatal(err)
	}
	if _, _, err := CompactStore(a.config.Server.Data, epoch, nil); err != nil {
		t.Fatal(err)
	}
	result, err := CheckStoreFile(storePath(a.config.Server.Data), a.config, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Records = result.Records
	a.App = nil
	db, err := os.ReadFile(storePath(a.config.Server.Data))
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
	overwrite(t, ".", fixturePath(StoreFormat)+".db.gz", packed.String())
	overwrite(t, ".", fixturePath(StoreFormat)+".json", string(text)+"\n")
}
