// Package tests drives the built program from outside: over HTTP, its control
// socket, the command line and the file system. It imports nothing of it but
// helpers for tests. What it has to know it writes out, as a reader of the
// documentation would.
package tests

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"latchkey/internal/certs/certstest"
	"latchkey/tests/program"
)

// The files of a data folder.
const (
	storeFile  = "latchkey.db"
	pepperFile = "pepper"
	markFile   = "store.id"
	lockFile   = "lock"
)

func TestMain(m *testing.M) {
	if err := os.Chdir(".."); err != nil { // to name docs and packaging as the documentation does
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(program.Main(m))
}

// overwrite writes a file that only its owner may read.
func overwrite(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// newSecret returns a key as the program makes them, which no server knows: the
// prefix, 30 characters, and the CRC-32 of those in 6 base62 digits.
func newSecret(prefix string) string {
	body := []byte(prefix)
	for range 30 {
		body = append(body, base62[rand.IntN(62)])
	}
	sum, digits := crc32.ChecksumIEEE(body), [6]byte{}
	for i := range digits {
		digits[5-i] = base62[sum%62]
		sum /= 62
	}
	return string(body) + string(digits[:])
}

// wellFormed reports whether a text has the form of a key of the usual prefix.
func wellFormed(secret string) bool {
	if len(secret) != len("klen_")+36 || !strings.HasPrefix(secret, "klen_") {
		return false
	}
	sum := uint32(0)
	for _, c := range []byte(secret[len(secret)-6:]) {
		digit := strings.IndexByte(base62, c)
		if digit < 0 {
			return false
		}
		sum = sum*62 + uint32(digit)
	}
	return sum == crc32.ChecksumIEEE([]byte(secret[:len(secret)-6]))
}

// TestProgram_Journey is the tour of the README with the real program.
func TestProgram_Journey(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	if _, errs, exit := program.Run(t, "agents", "create", "--data", data, "--name", "Front desk", "--phone", "+4930555001"); exit != 0 {
		t.Fatalf("agents create: exit %d, %s", exit, errs)
	}
	out, errs, exit := program.Run(t, "keys", "create", "--data", data, "--name", "first", "--permission", "can_read_agents", "--limit", "requests_per_minute_limit=5", "--json")
	var made struct{ ID, Key string }
	if err := json.Unmarshal([]byte(out), &made); exit != 0 || err != nil || made.Key == "" {
		t.Fatalf("keys create: exit %d, %s %s", exit, out, errs)
	}
	if got, _ := p.Get(t, "/api/v1/agents", made.Key); got != 200 {
		t.Errorf("agents: got %d, want 200", got)
	}
	out, errs, exit = program.Run(t, "keys", "create", "--data", data, "--name", "second", "--permission", "all")
	if exit != 0 || !wellFormed(strings.TrimSpace(out)) || !strings.Contains(errs, p.URL+"/api/v1/key") || strings.Contains(errs, strings.TrimSpace(out)) {
		t.Errorf("for people: exit %d, printed %q and %q; want the key alone, then where to try it", exit, out, errs)
	}
	if out, _, _ := program.Run(t, "keys", "list", "--data", data); !strings.HasPrefix(out, "ID ") || !strings.Contains(out, "can_read_calls +6") {
		t.Errorf("list: got %q", out)
	}
	if got, _ := p.Get(t, "/api/v1/calls", made.Key); got != 403 {
		t.Errorf("calls: got %d, want 403", got)
	}
	for range 3 {
		p.Get(t, "/api/v1/agents", made.Key)
	}
	if got, wait := p.Get(t, "/api/v1/agents", made.Key); got != 429 || wait == "" {
		t.Errorf("over the limit: got %d, Retry-After %q; want 429 and a time", got, wait)
	}
	if _, errs, exit := program.Run(t, "keys", "revoke", "--data", data, made.ID); exit != 0 {
		t.Errorf("revoke: exit %d, %s", exit, errs)
	}
	if got, _ := p.Get(t, "/api/v1/agents", made.Key); got != 401 {
		t.Errorf("revoked: got %d, want 401", got)
	}
	if exit := p.Stop(t); exit != 0 {
		t.Errorf("SIGTERM: got exit %d, want 0; %s", exit, p.Out.String())
	}
	out, errs, exit = program.Run(t, "keys", "list", "--data", data, "--status", "revoked")
	if exit != 0 || !strings.Contains(out, made.ID) {
		t.Errorf("list with no server: exit %d, %s %s", exit, out, errs)
	}
	p = program.Serve(t, data)
	if got, _ := p.Get(t, "/api/v1/agents", made.Key); got != 401 {
		t.Errorf("revoked, after a restart: got %d, want 401", got)
	}
	if strings.Contains(p.Out.String(), made.Key[5:]) {
		t.Error("the key stands in the log")
	}
}

func TestProgram_Refusals(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	taken := strings.TrimPrefix(p.URL, "http://")
	if _, err := net.ResolveTCPAddr("tcp", taken); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string
	}{
		{"second server", []string{"serve", "--data", data, "--listen", "127.0.0.1:0"}, 1, fmt.Sprintf("in use by process %d", p.Cmd.Process.Pid)},
		{"port taken", []string{"serve", "--data", other, "--listen", taken, "--admin-listen", "127.0.0.1:0"}, 1, "server.listen"},
		{"no data folder", []string{"keys", "list", "--data", filepath.Join(other, "none")}, 1, "there is no data folder"},
		{"unknown command", []string{"kees"}, 2, "Try: latchkey --help"},
		{"unknown subcommand", []string{"keys", "creat"}, 2, "Try: latchkey keys --help"},
		{"unknown flag", []string{"keys", "create", "--nam", "x"}, 2, "Try: latchkey keys create --help"},
		{"a command nearly", []string{"key", "list"}, 2, `unknown command "key"; did you mean keys?`},
		{"a subcommand nearly", []string{"keys", "lst"}, 2, "did you mean list?"},
		{"a subcommand by another word", []string{"keys", "delete"}, 2, "did you mean revoke?"},
		{"a flag nearly", []string{"keys", "create", "--permissions", "x"}, 2, "did you mean --permission?"},
		{"flags missing", []string{"keys", "create", "--data", data}, 2, "--name and --permission are needed"},
		{"bad limit", []string{"keys", "create", "--data", data, "--name", "x", "--permission", "all", "--limit", "many"}, 2, "--limit must be NAME=NUMBER"},
		{"bad end", []string{"keys", "create", "--data", data, "--name", "x", "--permission", "all", "--expires", "soon"}, 2, "--expires"},
		{"bad permission", []string{"keys", "create", "--data", data, "--name", "x", "--permission", "can_fly"}, 1, "unknown permission"},
		{"no id", []string{"keys", "revoke", "--data", data}, 2, "one KEY is needed"},
		{"unknown id", []string{"keys", "revoke", "--data", data, "key_0123"}, 1, "There is no key key_0123."},
		{"unknown name", []string{"keys", "revoke", "--data", data, "none"}, 1, `the id, name or hint "none"`},
		{"no token", []string{"keys", "list", "--url", "http://127.0.0.1:1"}, 1, "admin token"},
		{"open address", []string{"serve", "--data", other, "--listen", "0.0.0.0:0"}, 1, "insecure_http"},
		{"no config file", []string{"serve", "--config", "/nowhere.toml"}, 1, "/nowhere.toml"},
	} {
		out, errs, exit := program.Run(t, tt.args...)
		if exit != tt.exit || !strings.Contains(errs, tt.want) || out != "" {
			t.Errorf("%s: got exit %d, %q, printed %q; want %d with %q", tt.name, exit, errs, out, tt.exit, tt.want)
		}
		if _, err := os.Stat(other); !os.IsNotExist(err) {
			t.Errorf("%s: left the data folder behind", tt.name)
		}
	}
	if !strings.Contains(p.Out.String(), "latchkey admin setup-link") {
		t.Error("the log of a start without an operator does not say how to create one")
	}
	if got, _ := p.Get(t, "/healthz", ""); got != 200 {
		t.Errorf("the first server: got %d, want 200 still", got)
	}
}

// TestProgram_OwnPermissions gives keys permissions of the configuration, without the contract: by name, by all, and
// from an export.
func TestProgram_OwnPermissions(t *testing.T) {
	dir := t.TempDir()
	data, export := filepath.Join(dir, "data"), filepath.Join(dir, "keys.json")
	overwrite(t, dir, "latchkey.toml", "[contract]\nenabled = false\n[[permission]]\nname = \"can_read_reports\"\n[[permission]]\nname = \"can_write_reports\"\n")
	overwrite(t, dir, "keys.json", fmt.Sprintf(`[{"id": "key_9", "name": "from elsewhere", "hash": "%x", "permissions": ["can_read_reports", "can_fly"]}]`, sha256.Sum256([]byte("elsewhere"))))
	program.Serve(t, data, "--config", filepath.Join(dir, "latchkey.toml"))
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want []string
		not  string
	}{
		{"no permission", []string{"keys", "create", "--name", "x"}, 2, []string{": --permission is needed; permissions are all, ", "can_read_reports", "can_write_reports", "can_verify_keys"}, "can_read_calls"},
		{"nothing", []string{"keys", "create"}, 2, []string{"--name and --permission are needed", "can_read_reports"}, "can_read_calls"},
		{"no name", []string{"keys", "create", "--permission", "all"}, 2, []string{": --name is needed"}, "--permission is"},
		{"all", []string{"keys", "create", "--name", "x", "--permission", "all", "--json"}, 0, []string{`"permissions": [`, "can_read_reports", "can_write_reports"}, "can_verify_keys"},
		{"all others", []string{"keys", "update", "x", "--permission", "all", "--json"}, 0, []string{"can_read_reports"}, "can_verify_keys"},
		{"an unknown one", []string{"keys", "create", "--name", "y", "--permission", "can_read_calls"}, 1, []string{`unknown permission "can_read_calls"`, "can_write_reports"}, "can_read_agents"},
		{"an export", []string{"keys", "import", "--from", "unkey", export}, 0, []string{"Imported 1 key", `the permission "can_fly" has no counterpart`}, "can_read_reports"},
		{"its key", []string{"keys", "show", "from elsewhere"}, 0, []string{"can_read_reports"}, "can_write_reports"},
	} {
		out, errs, exit := program.Run(t, append(tt.args, "--data", data)...)
		if exit != tt.exit || strings.Contains(out+errs, tt.not) {
			t.Errorf("%s: got exit %d, %s %s; want %d without %s", tt.name, exit, out, errs, tt.exit, tt.not)
		}
		for _, want := range tt.want {
			if !strings.Contains(out+errs, want) {
				t.Errorf("%s: got %s %s; want %q in it", tt.name, out, errs, want)
			}
		}
	}
}

// TestProgram_Owners names owners by name and id, and makes one by a typing error.
func TestProgram_Owners(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	p := program.Serve(t, data)
	for _, tt := range []struct {
		args []string
		exit int
		want string // in what is printed
		not  string // not there; "" for anything
	}{
		{[]string{"keys", "create", "--name", "a", "--permission", "all", "--owner", "acme"}, 0, "Made the owner acme (1).", ""},
		{[]string{"keys", "create", "--name", "b", "--permission", "all", "--owner", "acme"}, 0, "shown", "Made"},
		{[]string{"keys", "update", "b", "--owner", "acmee"}, 0, "Made the owner acmee (2).", ""},
		{[]string{"webhooks", "create", "--name", "w", "--target", "https://hooks.example.net/", "--event", "call.ended", "--owner", "acmeee"}, 0, "Made the owner acmeee (3).", ""},
		{[]string{"teams", "create", "--name", "t", "--member", "acme,five"}, 0, "Made the owner five (4).", "acme ("},
		{[]string{"keys", "create", "--name", "c", "--owner", "six"}, 2, "--permission is needed", "Made"},
		{[]string{"owners", "update", "acme", "--limit", "owner_requests_per_minute_limit=600"}, 0, "600", ""},
		{[]string{"owners", "list"}, 0, "OWN LIMITS", "BALANCE"},
		{[]string{"owners", "show", "1"}, 0, "acme", ""},
		{[]string{"owners", "show", "acme"}, 0, "600", "BALANCE"},
		{[]string{"owners", "show", "acm"}, 1, `there is no owner with the id or name "acm"`, ""},
		{[]string{"owners", "update", "2", "--balance", "12.5", "--rate", "0.1"}, 0, "BALANCE", ""},
		{[]string{"owners", "list"}, 0, "BALANCE", ""},
	} {
		out, errs, exit := program.Run(t, append(tt.args, "--data", data)...)
		if exit != tt.exit || !strings.Contains(out+errs, tt.want) || tt.not != "" && strings.Contains(out+errs, tt.not) {
			t.Errorf("%s: got exit %d, %s %s; want %d, with %q, without %q", strings.Join(tt.args, " "), exit, out, errs, tt.exit, tt.want, tt.not)
		}
	}
	var made struct{ Token string }
	if err := p.Socket().Do(t.Context(), "POST", "/admin/v1/tokens", map[string]any{"name": "x", "scope": "keys"}, &made); err != nil {
		t.Fatal(err)
	}
	// The token on standard input serves all requests of a command.
	cmd := program.Command(t, "keys", "update", "a", "--owner", "seven", "--url", "http://"+p.Admin, "--token-file", "-")
	cmd.Stdin = strings.NewReader(made.Token + "\n")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "Made the owner seven (5).") {
		t.Errorf("with a token on standard input: got %v, %s", err, out)
	}
	if exit := p.Stop(t); exit != 0 || !strings.Contains(p.Out.String(), `"msg":"listening","version":`) || !strings.Contains(p.Out.String(), `"msg":"stopped","version":`) {
		t.Errorf("got exit %d, log %s; want the version when it begins and when it ends", exit, p.Out)
	}
}

func TestProgram_Demo(t *testing.T) {
	p := program.Serve(t, "", "--demo")
	key := ""
	for deadline := time.Now().Add(time.Minute); key == "" && time.Now().Before(deadline); {
		for _, word := range strings.Fields(p.Out.String()) {
			if k, ok := strings.CutPrefix(word, "KEY=klen_"); ok && strings.Contains(p.Out.String(), "agent_id\": 2}'\n") {
				key = "klen_" + k
			}
		}
	}
	before, _, _ := strings.Cut(p.Out.String(), "This is a demo")
	if !strings.HasPrefix(before, "Starting the demo") || !strings.Contains(before, `"msg":"listening"`) || strings.Contains(before, `"msg":"request"`) {
		t.Errorf("before the key: got %s, want what it does, the addresses and no requests", before)
	}
	login := regexp.MustCompile(`(http://\S+)/login    name: (\S+)    password: (\S+)`).FindStringSubmatch(p.Out.String())
	if login == nil {
		t.Fatalf("got %s, want it to say how to log in to the dashboard", p.Out.String())
	}
	r, err := http.NewRequestWithContext(context.Background(), "POST", login[1]+"/login", strings.NewReader(url.Values{"name": {login[2]}, "password": {login[3]}, "next": {"/keys"}}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if answer, err := http.DefaultTransport.RoundTrip(r); err != nil || answer.StatusCode != 303 || answer.Header.Get("Location") != "/keys" {
		t.Errorf("log in: got %v %v", answer, err)
	}
	for _, path := range []string{"/api/v1/agents", "/api/v1/contacts?search=mara", "/api/v1/calls", "/api/v1/calls/1", "/api/v1/contacts/1"} {
		if got, _ := p.Get(t, path, key); got != 200 {
			t.Errorf("%s: got %d, want 200", path, got)
		}
	}
	p.Stop(t)
	if strings.Contains(p.Out.String(), "webhook delivery failed") {
		t.Error("a failed delivery is logged below the key")
	}
	if _, after, _ := strings.Cut(p.Out.String(), "This is a demo"); strings.Contains(after, "/admin/v1/") || !strings.Contains(after, `"route":"/api/v1/agents"`) {
		t.Errorf("after the key: got %s, want only the requests of the test", after)
	}
}

// TestProgram_TokenOverTCP goes the way of an operator who is elsewhere.
func TestProgram_TokenOverTCP(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	admin := "http://" + p.Admin
	out, errs, exit := program.Run(t, "admin", "token", "create", "--data", data, "--name", "ops")
	if exit != 0 {
		t.Fatalf("token create: exit %d, %s", exit, errs)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, errs, exit := program.Run(t, "admin", "token", "list", "--url", admin, "--token-file", file); exit != 0 || !strings.Contains(out, "ops") {
		t.Errorf("over TCP: exit %d, %s %s", exit, out, errs)
	}
	if _, errs, exit := program.Run(t, "admin", "token", "list", "--url", p.URL, "--token-file", file); exit != 1 || !strings.Contains(errs, "must be the URL of the admin listener") {
		t.Errorf("the API listener: got %d %q", exit, errs)
	}
	c := program.Command(t, "admin", "token", "list", "--url", admin)
	c.Env = append(c.Env, "LATCHKEY_ADMIN_TOKEN_FILE="+file)
	if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "ops") {
		t.Errorf("with the token's file in the environment: %v %s", err, out)
	}
	if err := os.WriteFile(file, []byte(newSecret("lka_")), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, errs, exit := program.Run(t, "keys", "list", "--url", admin, "--token-file", file); exit != 1 || !strings.Contains(errs, "admin token is not valid") {
		t.Errorf("with a wrong token: exit %d, %s", exit, errs)
	}
}

// TestCommands_Events makes, lists and cancels an event, and makes a context
// variable, with the real program.
func TestCommands_Events(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	program.Serve(t, data)
	for _, tt := range []struct {
		args []string
		exit int
		want string // in what is printed
	}{
		{[]string{"events", "create", "--title", "Fitting", "--start", "2036-03-02T09:00:00+01:00", "--end", "2036-03-02T09:45:00+01:00", "--owner", "ann"}, 0, "2036-03-02T08:00:00.000Z"},
		{[]string{"events", "create", "--title", "Fitting", "--start", "tomorrow", "--end", "2036-03-02T09:45:00+01:00"}, 1, "start_time must be"},
		{[]string{"events", "create"}, 2, "--title is needed"},
		{[]string{"events", "list"}, 0, "TITLE"},
		{[]string{"events", "cancel", "1", "--reason", "ill"}, 0, "cancelled"},
		{[]string{"events", "cancel", "9"}, 1, "There is no event 9."},
		{[]string{"variables", "create", "--name", "visits", "--display-name", "Visits", "--type", "number", "--context", "contact"}, 0, "visits"},
		{[]string{"variables", "list"}, 0, "preferred_language"},
		{[]string{"variables", "delete", "1"}, 1, "Built-in"},
	} {
		out, errs, exit := program.Run(t, append(tt.args, "--data", data)...)
		if exit != tt.exit || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: exit %d, %s %s; want %d and %q", strings.Join(tt.args, " "), exit, out, errs, tt.exit, tt.want)
		}
	}
}

// sign returns the signature of a delivery.
func sign(secret, body string) string {
	mac := hmac.New(sha256.New, []byte(secret))
	_, _ = io.WriteString(mac, body)
	return hex.EncodeToString(mac.Sum(nil))
}

// TestProgram_Webhooks uses the commands beside the real program, and kills it
// while a receiver has a delivery in hand.
func TestProgram_Webhooks(t *testing.T) {
	type delivery struct{ id, signature, body string }
	arrived, release, ended := make(chan delivery, 100), make(chan struct{}, 100), make(chan struct{}, 100)
	v := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- delivery{r.Header.Get("X-Klen-Delivery"), r.Header.Get("X-Klen-Signature"), string(body)}
		select {
		case <-release:
		case <-r.Context().Done():
		}
		ended <- struct{}{}
	}))
	defer v.Close()
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	latchkey := func(want int, args ...string) (out, errs string) {
		t.Helper()
		out, errs, exit := program.Run(t, append(args, "--data", data)...)
		if exit != want {
			t.Fatalf("%v: exit %d, %s %s", args, exit, out, errs)
		}
		return out, errs
	}
	if _, errs := latchkey(2, "webhooks", "create", "--name", "x"); !strings.Contains(errs, "--name, --target and --event are needed") {
		t.Errorf("got %s", errs)
	}
	if _, errs := latchkey(1, "webhooks", "create", "--name", "x", "--target", v.URL, "--event", "key.flown"); !strings.Contains(errs, `unknown event "key.flown"`) {
		t.Errorf("got %s", errs)
	}
	out, errs := latchkey(0, "webhooks", "create", "--name", "watch", "--target", v.URL, "--event", "all")
	secret := strings.TrimSpace(out)
	if !strings.HasPrefix(secret, "whsec_") || strings.Contains(errs, secret) {
		t.Fatalf("got %q and %q, want the secret alone", out, errs)
	}
	release <- struct{}{}
	if out, _ := latchkey(0, "webhooks", "test", "1", "--event", "key.created"); out != "Delivered. The receiver answered 200.\n" {
		t.Errorf("test: got %q", out)
	}
	<-arrived
	for i := range 4 {
		latchkey(0, "keys", "create", "--name", fmt.Sprintf("number %d", i), "--permission", "can_read_calls")
	}
	var got []delivery
	release <- struct{}{}
	got = append(got, <-arrived, <-arrived) // the second is in hand
	p.Kill()
	for range 3 {
		<-ended
	}
	p = program.Serve(t, data, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	for range 3 {
		release <- struct{}{}
		got = append(got, <-arrived)
	}
	if got[2] != got[1] {
		t.Errorf("after the crash: got %v, want what was in hand once more: %v", got[2], got[1])
	}
	for i, d := range append(got[:2:2], got[3:]...) {
		if !strings.Contains(d.body, fmt.Sprintf(`"name":"number %d"`, i)) || d.signature != sign(secret, d.body) {
			t.Errorf("delivery %d: got %v", i, d)
		}
	}
	if exit := p.Stop(t); exit != 0 {
		t.Errorf("SIGTERM: got exit %d", exit)
	}
	select {
	case d := <-arrived:
		t.Errorf("got %v too, want nothing twice but what was in hand", d)
	default:
	}
	out, _ = latchkey(0, "webhooks", "logs", "1", "--json") // with no server
	var logs struct {
		Count int
		Logs  []struct{ Success, Redeliverable bool }
	}
	if err := json.Unmarshal([]byte(out), &logs); err != nil || logs.Count != 5 || !logs.Logs[0].Success || !logs.Logs[0].Redeliverable {
		t.Errorf("logs: got %s", out)
	}
	if out, _ := latchkey(0, "webhooks", "redeliver", "1", "--log", "2"); !strings.Contains(out, "Queued.") || !strings.Contains(out, got[0].id) {
		t.Errorf("redeliver: got %s", out)
	}
	if out, _ := latchkey(0, "webhooks", "list"); !strings.Contains(out, "watch") || !strings.Contains(out, "call.started +26") || strings.Contains(out, secret) {
		t.Errorf("list: got %s", out)
	}
	v.Close()
	if _, errs := latchkey(1, "webhooks", "test", "1"); !strings.Contains(errs, "Not delivered") {
		t.Errorf("test without the switch: got %s", errs)
	}
	latchkey(0, "webhooks", "delete", "1")
	if _, errs := latchkey(1, "webhooks", "logs", "1"); !strings.Contains(errs, "There is no webhook 1.") {
		t.Errorf("logs of a deleted one: got %s", errs)
	}
	if strings.Contains(p.Out.String(), secret) {
		t.Error("the secret stands in the log")
	}
}

// The real program with TLS on both listeners, and its commands from elsewhere.
func TestProgram_TLS(t *testing.T) {
	dir := t.TempDir()
	cert, key, data := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "data")
	ca := certstest.NewAuthority(t)
	ca.Issue(cert, key, time.Now().Add(time.Hour))
	var environ []string
	for _, section := range []string{"SERVER", "ADMIN"} {
		environ = append(environ, "LATCHKEY_"+section+"_TLS_CERT_FILE="+cert, "LATCHKEY_"+section+"_TLS_KEY_FILE="+key)
	}
	p := program.Serve(t, data, environ...)
	if !strings.HasPrefix(p.URL, "https://127.0.0.1:") {
		t.Fatalf("got %q as the address of the API, want https", p.URL)
	}
	if status, major := ask(t, certstest.Client(t, ca.File, nil), p.URL+"/healthz"); status != http.StatusOK || major != 2 {
		t.Errorf("got %d over HTTP/%d, want 200 over HTTP/2", status, major)
	}
	token, errs, exit := program.Run(t, "admin", "token", "create", "--data", data, "--name", "ops")
	if exit != 0 {
		t.Fatalf("token create: exit %d, %s", exit, errs)
	}
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		exit int
		want string // in what is printed
	}{
		{"with the authority", []string{"admin", "token", "list", "--url", "https://" + p.Admin, "--ca", ca.File, "--token-file", file}, 0, "ops"},
		{"without", []string{"admin", "token", "list", "--url", "https://" + p.Admin, "--token-file", file}, 1, "name the authority with --ca FILE"},
		{"without TLS", []string{"admin", "token", "list", "--url", "http://" + p.Admin, "--token-file", file}, 1, "write https:// in --url"},
		{"a file that is none", []string{"admin", "token", "list", "--url", "https://" + p.Admin, "--ca", file, "--token-file", file}, 1, "--ca: " + file + " contains no certificate"},
		{"healthcheck from elsewhere", []string{"healthcheck", "--url", "https://" + p.Admin, "--ca", ca.File}, 0, "ready"},
		{"healthcheck here", []string{"healthcheck", "--data", data}, 0, "ready"},
	} {
		out, errs, exit := program.Run(t, tt.args...)
		if exit != tt.exit || !strings.Contains(out+errs, tt.want) {
			t.Errorf("%s: got exit %d, %s %s; want %d and %q", tt.name, exit, out, errs, tt.exit, tt.want)
		}
	}
	if exit := p.Stop(t); exit != 0 {
		t.Errorf("stop: got exit %d", exit)
	}
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := program.Command(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	c.Env = append(c.Env, environ...)
	if out, err := c.CombinedOutput(); err == nil || !strings.Contains(string(out), "server.tls_cert_file: ") || !strings.Contains(string(out), "cannot be used together") {
		t.Errorf("a broken pair at the start: got %v, %s", err, out)
	}
}

// TestProgram_Usage uses the command beside the real program and without it.
func TestProgram_Usage(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	p := program.Serve(t, data)
	latchkey := func(want int, args ...string) (out, errs string) {
		t.Helper()
		out, errs, exit := program.Run(t, append(args, "--data", data)...)
		if exit != want {
			t.Fatalf("%v: exit %d, %s %s", args, exit, out, errs)
		}
		return out, errs
	}
	if out, _ := latchkey(0, "usage"); !strings.Contains(out, "No request") {
		t.Errorf("got %s", out)
	}
	key, _ := latchkey(0, "keys", "create", "--name", "=1", "--permission", "can_read_agents")
	if got, _ := p.Get(t, "/api/v1/agents", strings.TrimSpace(key)); got != 200 {
		t.Errorf("got %d, want 200", got)
	}
	if _, errs := latchkey(2, "usage", "--csv", "--json"); !strings.Contains(errs, "--json has no effect with --csv") {
		t.Errorf("got %s", errs)
	}
	latchkey(1, "usage", "--step", "week")
	p.Stop(t)
	if out, _ := latchkey(0, "usage", "--step", "day", "--last", "2"); !strings.Contains(out, "/api/v1/agents") || !strings.Contains(out, "RATE LIMITED") || !strings.Contains(out, "=1") {
		t.Errorf("got %s", out)
	}
	out, _ := latchkey(0, "usage", "--csv")
	_, line, _ := strings.Cut(out, "\n")
	id, rest, _ := strings.Cut(line, ",")
	if !strings.HasPrefix(rest, "'=1,admin,") {
		t.Errorf("got %s", out)
	}
	if out, _ := latchkey(0, "usage", "--key", id, "--json"); !strings.Contains(out, `"requests": 1`) {
		t.Errorf("got %s", out)
	}
}

// TestProgram_ConfigOverlaps checks a configuration in which another spelling of a path would get to
// another route.
func TestProgram_ConfigOverlaps(t *testing.T) {
	name := filepath.Join(t.TempDir(), "latchkey.toml")
	for _, tt := range []struct{ routes, want, lacks string }{
		{"", "latchkey.toml is good: 0 routes, 0 permissions and 0 limits of its own.\n", "spelling"},
		{"[[route]]\npath = \"/*rest\"\npermission = []\n[[route]]\npath = \"/admin/*rest\"\npermission = \"can_read_calls\"\n",
			"  route 2 (* /admin/*rest) and route 1 (* /*rest): other spellings are refused\n", "case_sensitive"},
		{"[[route]]\npath = \"/*rest\"\npermission = []\n[[route]]\npath = \"/admin/*rest\"\npermission = \"can_read_calls\"\ncase_sensitive = true\n",
			"differ only by case (case_sensitive)\n", "one that is not there"},
	} {
		if err := os.WriteFile(name, []byte(tt.routes), 0o600); err != nil {
			t.Fatal(err)
		}
		out, errs, exit := program.Run(t, "config", "check", "--config", name)
		if exit != 0 || !strings.Contains(out, tt.want) || strings.Contains(out, tt.lacks) {
			t.Errorf("%s: exit %d, %s %s; want %q", tt.routes, exit, out, errs, tt.want)
		}
		out, errs, exit = program.Run(t, "config", "check", "--json", "--config", name)
		var got struct{ Overlaps []string }
		if err := json.Unmarshal([]byte(out), &got); err != nil || got.Overlaps == nil || (len(got.Overlaps) > 0) != (tt.routes != "") {
			t.Errorf("%s: exit %d, %s %s", tt.routes, exit, out, errs)
		}
	}
}

// TestProgram_Backup uses the commands as an operator would.
func TestProgram_Backup(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	p := program.Serve(t, data)
	run := func(want int, args ...string) string {
		t.Helper()
		cmd := program.Command(t, append(args, "--data", data)...)
		out, _ := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("%v: got exit code %d, want %d: %s", args, got, want, out)
		}
		return string(out)
	}
	run(0, "keys", "create", "--name", "one", "--permission", "can_read_calls")
	file := filepath.Join(dir, "copy.db")
	run(0, "backup", file)
	if out := run(1, "backup", file); !strings.Contains(out, "exists") {
		t.Errorf("a second time: got %q", out)
	}
	if out := run(0, "check"); !strings.Contains(out, "0 problems") {
		t.Errorf("got %q, want 0 problems", out)
	}
	run(0, "check", file)
	run(0, "healthcheck")
	for _, args := range [][]string{{"healthcheck"}, {"backup", file + ".2"}, {"config", "check"}, {"check"}} {
		if out := run(0, append(args, "--json")...); !json.Valid([]byte(out)) {
			t.Errorf("%v --json: got %q", args, out)
		}
	}
	run(1, "restore", file)
	run(1, "compact")
	if code := p.Stop(t); code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	run(1, "healthcheck")
	run(0, "keys", "create", "--name", "two", "--permission", "can_read_calls")
	run(0, "restore", file, "--dry-run")
	if out := run(0, "restore", file); !strings.Contains(out, "Restored 1 keys") {
		t.Errorf("got %q", out)
	}
	if out := run(0, "compact", "--json"); !strings.Contains(out, `"bytes_before"`) || !strings.Contains(out, `"bytes_after"`) || !json.Valid([]byte(out)) {
		t.Errorf("got %q", out)
	}
	if out := run(0, "compact"); !strings.Contains(out, "MB now") {
		t.Errorf("got %q", out)
	}
	if out := run(0, "keys", "list"); !strings.Contains(out, "one") || strings.Contains(out, "two") {
		t.Errorf("got %q, want the key of the backup alone", out)
	}
	local := filepath.Join(dir, "local.db")
	run(0, "backup", local)
	run(0, "check", local)
}

// TestProgram_ConfigChecked checks what "config check" and "serve" say about the file that they read, and about one
// that they do not read.
func TestProgram_ConfigChecked(t *testing.T) {
	dir := t.TempDir()
	text := "[[permission]]\nname = \"can_read_reports\"\n[[route]]\npath = \"/reports/*rest\"\npermission = \"can_read_reports\"\n" +
		"[[limit]]\nname = \"reports\"\ndefault = 5\nwindow = \"24h\"\n[[limit]]\nname = \"at_once\"\nkind = \"concurrent\"\ndefault = 5\n"
	check := func(want, lacks string, args ...string) {
		t.Helper()
		c := program.Command(t, append([]string{"config", "check"}, args...)...)
		c.Dir = dir
		out, err := c.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) || lacks != "" && strings.Contains(string(out), lacks) {
			t.Errorf("%v: got %v, %s; want %q", args, err, out, want)
		}
	}
	const unread = "latchkey.toml in this folder is not read"
	check("The configuration is good. No file was read, because neither --config nor LATCHKEY_CONFIG names one.\n", unread)
	if err := os.WriteFile(filepath.Join(dir, "latchkey.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	check("Warning: "+unread+"; name it with --config or LATCHKEY_CONFIG", "of its own")
	check("latchkey.toml is good: 1 route, 1 permission and 2 limits of its own.\n", unread, "--config", "latchkey.toml")
	check(`"file": "latchkey.toml"`, unread, "--config", "latchkey.toml", "--json")
	data := filepath.Join(dir, "data")
	c := program.Command(t, "serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	c.Dir = dir
	if p := program.ServeCommand(t, c, data); !strings.Contains(p.Out.String(), unread) {
		t.Errorf("serve: got %s, want %q", p.Out, unread)
	}
}
