package tests

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"latchkey/tests/program"
)

// sieve finds any 12 characters in a row of secrets, as they are and in the
// forms that programs give them.
type sieve struct {
	what   map[string]string // a form of a part: of which secret
	sizes  map[int]bool
	starts [1 << 16]bool // the first two bytes of every form
}

// add puts the part of a secret behind its prefix into the sieve.
func (s *sieve) add(what, secret string) {
	for _, prefix := range []string{"klen_", "lka_", "whsec_"} {
		secret = strings.TrimPrefix(secret, prefix)
	}
	for i := 0; i+12 <= len(secret); i++ {
		part := secret[i : i+12]
		digits := hex.EncodeToString([]byte(part))
		escaped := ""
		for j := 0; j < len(digits); j += 2 {
			escaped += "%" + digits[j:j+2]
		}
		forms := []string{part, digits, strings.ToUpper(digits), escaped, strings.ToUpper(escaped),
			// Twelve bytes that begin at a multiple of three; of three parts in a row one does.
			base64.StdEncoding.EncodeToString([]byte(part)), base64.URLEncoding.EncodeToString([]byte(part))}
		for _, form := range forms {
			s.what[form] = what
			s.sizes[len(form)] = true
			s.starts[int(form[0])<<8|int(form[1])] = true
		}
	}
}

// find tells what of the secrets is in some bytes.
func (s *sieve) find(data []byte) (found []string) {
	for size := range s.sizes {
		for i := 0; i+size <= len(data); i++ {
			if s.starts[int(data[i])<<8|int(data[i+1])] {
				if what, ok := s.what[string(data[i:i+size])]; ok {
					found = append(found, fmt.Sprintf("%s at %d, in %d bytes", what, i, size))
					i += size
				}
			}
		}
	}
	return found
}

func TestSieve(t *testing.T) {
	s := &sieve{what: map[string]string{}, sizes: map[int]bool{}}
	const secret = "klen_7Hq2Lw9Zx4Vb6Nm8Kp3Rt5Yc1Df0Gs1aB2c3"
	s.add("key", secret)
	for _, text := range []string{
		secret, "xx" + secret[9:21], hex.EncodeToString([]byte(secret)), fmt.Sprintf("%X", secret[8:22]), base64.StdEncoding.EncodeToString([]byte("a" + secret)),
		base64.RawURLEncoding.EncodeToString([]byte("ab" + secret)), base64.StdEncoding.EncodeToString([]byte(secret)), "%37%48%71%32%4c%77%39%5a%78%34%56%62%36",
	} {
		if s.find([]byte("before "+text+" after")) == nil {
			t.Errorf("%s passes", text)
		}
	}
	if got := s.find([]byte("klen_...B2c3 7Hq2Lw9Zx4V and " + secret[:16])); got != nil {
		t.Errorf("got %q", got)
	}
}

// setupPath is where a set-up link leads, without its token.
const setupPath = "/setup?token="

// TestProgram_Canaries lives a service's life with known secrets of every kind,
// and looks for them in all it has written and told: the database with its free
// pages, backups, log, metrics, audit log, refusals, pages, errors, webhooks,
// and what the process says of all its goroutines when it is made to end.
func TestProgram_Canaries(t *testing.T) {
	w := newWire(t, "LATCHKEY_LOG_LEVEL=debug", "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	admin := "http://" + w.doors["admin"]
	s := &sieve{what: map[string]string{}, sizes: map[int]bool{}}
	var told bytes.Buffer // all answers but those that show a secret, which are wanted to
	hooked := make(chan []byte, 100)
	sink := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		hooked <- append(body, fmt.Sprint(r.Header)...)
	}))
	defer sink.Close()
	send := func(method, url, body string, fields ...string) *http.Response {
		t.Helper()
		r, err := http.NewRequest(method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		for _, f := range fields {
			name, value, _ := strings.Cut(f, ": ")
			r.Header.Set(name, value)
		}
		a, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		_, _ = io.Copy(&told, a.Body)
		a.Header.Del("Set-Cookie")
		fmt.Fprintln(&told, a.Status, a.Header)
		return a
	}
	makes := func(path, body string) (v struct{ ID, Key, Token, Secret, Path string }) {
		t.Helper()
		var out map[string]any
		w.operate("POST", "/admin/v1/"+path, body, &out)
		for name, into := range map[string]*string{"id": &v.ID, "key": &v.Key, "token": &v.Token, "secret": &v.Secret, "path": &v.Path} {
			if out[name] != nil {
				*into = fmt.Sprint(out[name])
			}
		}
		return v
	}
	// Secrets of every kind, each in some state.
	pepper, err := os.ReadFile(filepath.Join(w.Data, pepperFile))
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := hex.DecodeString(strings.TrimSpace(string(pepper)))
	s.add("pepper", strings.TrimSpace(string(pepper)))
	s.add("pepper, its bytes", string(raw))
	setup := strings.TrimPrefix(makes("setup-link", "").Path, setupPath)
	password := "Canary " + rand.Text()
	s.add("set-up token", setup)
	s.add("password", password)
	form := "Content-Type: application/x-www-form-urlencoded"
	get := func(path string, fields ...string) { send("GET", admin+path, "", fields...) }
	other := map[bool]string{true: "1", false: "0"}[setup[0] == '0'] + setup[1:]
	if a := send("GET", admin+setupPath+other, ""); a.StatusCode != 403 {
		t.Errorf("another set-up token: got %d", a.StatusCode)
	}
	told.Reset() // the form for a set-up has its token
	a := send("POST", admin+"/setup", url.Values{"name": {"Ann"}, "password": {password}, "token": {setup}}.Encode(), form)
	if a.StatusCode != 303 || len(a.Cookies()) != 0 {
		t.Fatalf("set-up: got %d", a.StatusCode)
	}
	r, _ := http.NewRequest("POST", admin+"/login", strings.NewReader(url.Values{"name": {"Ann"}, "password": {password}}.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	login, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || len(login.Cookies()) != 2 {
		t.Fatalf("login: %v, %v", login, err)
	}
	login.Body.Close()
	cookie := "Cookie: " + login.Cookies()[0].Name + "=" + login.Cookies()[0].Value
	s.add("session", login.Cookies()[0].Value)
	s.add("cookie of a known browser", login.Cookies()[1].Value)
	send("POST", admin+"/login", url.Values{"name": {"Ann"}, "password": {"x" + password}}.Encode(), form)
	send("POST", admin+"/account", url.Values{"old": {"x" + password}, "password": {password}}.Encode(), form, cookie)
	hook := makes("webhooks", fmt.Sprintf(`{"name": "h", "url": %q, "subscribed_events": ["call.ended", "key.created", "key.revoked"]}`, sink.URL+"/hook"))
	s.add("webhook secret", hook.Secret)
	token, old := makes("tokens", `{"name": "ops"}`), makes("tokens", `{"name": "old"}`)
	s.add("admin token", token.Token)
	s.add("revoked admin token", old.Token)
	w.operate("POST", "/admin/v1/tokens/"+old.ID+"/revoke", "", nil)
	body := `{"name": "k", "permissions": ["can_read_agents", "can_verify_keys", "can_use", "can_read_contacts"]}`
	live, revoked, rotated := makes("keys", body), makes("keys", body), makes("keys", body)
	next := makes("keys/"+rotated.ID+"/rotate", `{"overlap_seconds": 3600}`)
	keys := map[string]string{"key": live.Key, "revoked key": revoked.Key, "rotated key": rotated.Key, "key after a rotation": next.Key, "key of the wire": w.key}
	// They are used, in the right places and in wrong ones.
	for name, key := range keys {
		s.add(name, key)
		for _, field := range []string{"X-API-Key: " + key, "Authorization: Bearer " + key, "Authorization: Basic " + key, "Authorization: " + key, "Cookie: latchkey_session=" + key, "X-Forwarded-For: " + key, "User-Agent: " + key} {
			send("GET", w.URL+"/api/v1/agents", "", field)
			send("GET", admin+"/admin/v1/keys", "", field)
		}
		for _, path := range []string{"/api/v1/agents?api_key=" + key, "/up/x?api_key=" + key, "/up/" + key, "/api/v1/" + key, "/api/v1/contacts/" + key, "/api/v1/calls?status=" + key, "/api/v1/agents?api_key=" + key + "x&api_key=" + key} {
			send("GET", w.URL+path, "")
		}
		for _, path := range []string{"/keys/" + key, "/keys?search=" + key, "/login?next=/" + key, "/admin/v1/keys/" + key, "/admin/v1/keys?status=" + key} {
			if !strings.Contains(path, "search=") && !strings.Contains(path, "next=") { // a form says back what was put into it
				get(path, cookie)
			}
		}
		send("POST", w.URL+"/api/v1/verify", fmt.Sprintf(`{"key": %q}`, key), "X-API-Key: "+live.Key)
		send("POST", w.URL+"/api/v1/contacts/create", `{"first_name": "x", "`+key, "X-API-Key: "+w.key)
		send(key, w.URL+"/api/v1/agents", "") // as the method
	}
	w.operate("POST", "/admin/v1/keys/"+revoked.ID+"/revoke", "", nil)
	for _, secret := range []string{token.Token, old.Token, hook.Secret, setup, login.Cookies()[0].Value} {
		send("GET", admin+"/admin/v1/keys", "", "Authorization: Bearer "+secret)
		send("GET", w.URL+"/api/v1/agents?api_key="+secret, "")
		send("POST", admin+"/setup", url.Values{"name": {"Eve"}, "password": {password}, "token": {secret}}.Encode(), form)
	}
	<-hooked // at least one has come
	for _, path := range []string{"/keys", "/keys/" + live.ID, "/keys/" + rotated.ID, "/webhooks", "/webhooks/1", "/audit", "/status", "/account", "/owners", "/metrics", "/admin/v1/audit?limit=1000", "/admin/v1/refusals?limit=1000",
		"/admin/v1/keys?limit=1000", "/admin/v1/keys/" + live.ID + "/usage", "/admin/v1/tokens", "/admin/v1/webhooks", "/admin/v1/webhooks/1/logs", "/admin/v1/operators", "/admin/v1/status"} {
		get(path, cookie)
	}
	backup, err := http.NewRequest("GET", admin+"/admin/v1/backup", nil)
	if err != nil {
		t.Fatal(err)
	}
	backup.Header.Set("Authorization", "Bearer "+token.Token)
	copied, err := http.DefaultTransport.RoundTrip(backup)
	if err != nil || copied.StatusCode != 200 {
		t.Fatalf("backup: %v, %v", copied, err)
	}
	defer copied.Body.Close()
	data, err := io.ReadAll(copied.Body)
	if err != nil {
		t.Fatal(err)
	}
	places := map[string][]byte{"the backup": data, "the answers": told.Bytes()}
	for len(hooked) > 0 {
		places["the webhooks"] = append(places["the webhooks"], <-hooked...)
	}
	_ = w.Cmd.Process.Signal(syscall.SIGQUIT) // all goroutines, with what they were called with
	w.Wait(t)
	places["the log and the goroutines"] = []byte(w.Out.String())
	if !strings.Contains(w.Out.String(), "goroutine ") {
		t.Error("the process did not tell of its goroutines")
	}
	err = filepath.WalkDir(w.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == filepath.Join(w.Data, pepperFile) {
			return err
		}
		places[filepath.Base(path)], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for place, data := range places {
		looked += len(data)
		if found := s.find(data); found != nil {
			at := 0
			_, _ = fmt.Sscanf(found[0][strings.LastIndex(found[0], " at ")+4:], "%d", &at)
			t.Errorf("%s: %s near %q", place, found, data[max(0, at-120):min(len(data), at)])
		}
	}
	t.Logf("%d bytes in %d places, %d forms of parts of secrets", looked, len(places), len(s.what))
}

// TestProgram_KeyLife goes through the commands with the real program: with a
// server and without one.
func TestProgram_KeyLife(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	create := func(name string, more ...string) (id, key string) {
		t.Helper()
		out, errs, exit := program.Run(t, append([]string{"keys", "create", "--data", data, "--name", name, "--permission", "can_read_agents", "--json"}, more...)...)
		if exit != 0 {
			t.Fatalf("create: exit %d, %s", exit, errs)
		}
		return member(t, out, "id"), member(t, out, "key")
	}
	id, first := create("first", "--environment", "live", "--owner", "ann")
	out, errs, exit := program.Run(t, "keys", "rotate", id, "--overlap", "7d", "--data", data)
	second := strings.TrimSpace(out)
	if exit != 0 || !wellFormed(second) || !strings.Contains(errs, "stays valid for 7d") {
		t.Fatalf("rotate: exit %d, %q, %s", exit, out, errs)
	}
	status := func(when string, want map[string]int) {
		t.Helper()
		for key, code := range want {
			if got, _ := p.Get(t, "/api/v1/agents", key); got != code {
				t.Errorf("%s, %s: got %d, want %d", when, key[len(key)-4:], got, code)
			}
		}
	}
	status("in the overlap", map[string]int{first: 200, second: 200})
	if out, _, exit := program.Run(t, "keys", "show", "--data", data, id); exit != 0 || !strings.Contains(out, "secret until ") || strings.Count(out, "by header") != 2 {
		t.Errorf("show: exit %d, %s", exit, out)
	}
	if _, errs, exit := program.Run(t, "keys", "rotate", "--data", data, "--finish", "--if-unused", "1h", id); exit != 1 || !strings.Contains(errs, "was used") {
		t.Errorf("finish while used: exit %d, %s", exit, errs)
	}
	if _, errs, exit := program.Run(t, "keys", "rotate", "--data", data, "--finish", id); exit != 0 {
		t.Errorf("finish: exit %d, %s", exit, errs)
	}
	status("finished", map[string]int{first: 401, second: 200})
	if out, _, exit := program.Run(t, "keys", "explain", "--data", data, id, "--method", "GET", "--path", "/api/v1/calls"); exit != 0 || !strings.Contains(out, "refused by permission: 403 permission_denied") {
		t.Errorf("explain: exit %d, %s", exit, out)
	}
	if out, _, exit := program.Run(t, "keys", "list", "--data", data, "--environment", "live", "--owner", "ann"); exit != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("list: exit %d, %s", exit, out)
	}
	headerID, headerKey := create("header", "--query-allowed", "false")
	for _, step := range []struct {
		allowed string
		want    int
	}{{"", 401}, {"true", 200}, {"false", 401}, {"default", 200}} {
		if step.allowed != "" {
			program.Run(t, "keys", "update", "--data", data, headerID, "--query-allowed", step.allowed)
		}
		if got := getQuery(t, p.URL+"/api/v1/agents?api_key="+headerKey); got != step.want {
			t.Errorf("query-allowed %q: got %d, want %d", step.allowed, got, step.want)
		}
	}
	leakedLog(t, data, p, second, headerKey, create)
}

// leakedLog is about keys leaked and its exit codes.
func leakedLog(t *testing.T, data string, p *program.Server, live, other string, create func(string, ...string) (string, string)) {
	t.Helper()
	goneID, gone := create("gone")
	program.Run(t, "keys", "revoke", "--data", data, goneID)
	oldID, old := create("rotated")
	out, _, _ := program.Run(t, "keys", "rotate", "--data", data, oldID)
	present := strings.TrimSpace(out)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a/access.log": "GET /\nGET /?api_key=" + live + " 200\n" + live + "\n", "a/b/dump.bin": "\x00" + other + "\xff" + gone + newSecret("klen_"), "old.txt": old + "\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	secrets := []string{live, other, gone, old}
	for _, step := range []struct {
		args []string
		exit int
		want []string
	}{
		{[]string{dir}, 1, []string{"3 live keys were found", "access.log:2", "dump.bin:1", "revoked", "unknown to the server: 1"}},
		{[]string{filepath.Join(dir, "nothing")}, 1, []string{"no such file"}},
		{[]string{"--pattern"}, 0, []string{"klen_(test_)?[0-9A-Za-z]{36}"}},
		{nil, 2, []string{"Try: latchkey keys leaked --help"}},
		{[]string{dir, "--revoke"}, 0, []string{"revoked now", "ended now"}},
		{[]string{dir}, 0, []string{"revoked"}},
	} {
		out, errs, exit := program.Run(t, append([]string{"keys", "leaked", "--data", data}, step.args...)...)
		for _, want := range step.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("leaked %v: got %s%s, want %q", step.args, out, errs, want)
			}
		}
		if exit != step.exit {
			t.Errorf("leaked %v: got exit %d, want %d; %s", step.args, exit, step.exit, errs)
		}
		for _, secret := range secrets {
			if strings.Contains(out+errs, secret[5:20]) {
				t.Errorf("leaked %v prints a secret", step.args)
			}
		}
	}
	for key, want := range map[string]int{live: 401, other: 401, old: 401, present: 200} {
		if got, _ := p.Get(t, "/api/v1/agents", key); got != want {
			t.Errorf("%s: got %d, want %d", key[len(key)-4:], got, want)
		}
	}
	export := filepath.Join(dir, "export.json")
	if err := os.WriteFile(export, []byte(`{"keys": [{"token": "`+fmt.Sprintf("%x", sha256.Sum256([]byte("sk-x")))+`", "key_alias": "x", "models": ["m"]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p.Stop(t)
	if _, errs, exit := program.Run(t, "keys", "import", "--data", data, export, "--from", "litellm"); exit != 1 || !strings.Contains(errs, "--permission") {
		t.Errorf("import without a permission: exit %d, %s", exit, errs)
	}
	if out, errs, exit := program.Run(t, "keys", "import", "--data", data, export, "--from", "litellm", "--permission", "all"); exit != 0 || !strings.Contains(out, "Imported 1 key") || !strings.Contains(errs, "models has no counterpart") {
		t.Errorf("import: exit %d, %s%s", exit, out, errs)
	}
	if _, errs, exit := program.Run(t, "keys", "import", "--data", data, export, "--from", "kong"); exit != 2 || !strings.Contains(errs, "unkey or litellm") {
		t.Errorf("import from elsewhere: exit %d, %s", exit, errs)
	}
}

// member gives a text member of a JSON object.
func member(t *testing.T, object, name string) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(object), &v); err != nil {
		t.Fatalf("%v in %s", err, object)
	}
	text, _ := v[name].(string)
	return text
}

// getQuery asks with nothing but what the URL has.
func getQuery(t *testing.T, url string) int {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	return answer.StatusCode
}
