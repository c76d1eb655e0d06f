package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"latchkey/cli"
	"latchkey/internal/keytext"
)

func sha(secret string) string { return fmt.Sprintf("%x", keytext.DigestOf(secret)) }

// load sends an import of some kind.
func (a *testApp) load(kind, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/admin/v1/keys/import", strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	a.local.ServeHTTP(w, r)
	return w
}

func TestKeyImport_CSV(t *testing.T) {
	a := newTestApp(t)
	good := "\ufeffname,sha256,permissions,owner,environment,expires_at,hint,allowed_ips,requests_per_minute_limit,metadata.where\n" +
		"one," + strings.ToUpper(sha("sk-one")) + ",can_read_agents can_read_calls,ann,live,2027-01-01T00:00:00Z,sk-o,192.0.2.0/24;203.0.113.9,5,\"vm, 3\"\n" +
		"two," + sha("sk-two") + ",can_read_agents,,,,,,,\n"
	w := a.load("text/csv; charset=utf-8", good)
	if w.Code != 201 || !strings.Contains(w.Body.String(), "Imported 2 keys") {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	list := a.operate(200, "GET", "/admin/v1/keys?search=one", "")["keys"].([]any)
	one := list[0].(map[string]any)
	got := fmt.Sprintln(one["owner"], one["environment"], one["expires_at"], one["hint"], one["allowed_ips"], one["permissions"], one["metadata"], one["limits"].(map[string]any)[RequestsPerMinute])
	if want := "ann live 2027-01-01T00:00:00Z sk-o [192.0.2.0/24 203.0.113.9/32] [can_read_calls can_read_agents] map[where:vm, 3] 5\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	a.wantCode("imported", map[string]int{"sk-one": 200, "sk-two": 200})
	for _, tt := range []struct{ body, want string }{
		{"", "first line"},
		{"name,hash\n", "hash"},
		{"name,name\n", "twice"},
		{"name,sha256,permissions\nx,12,can_read_agents\n", "line 2 of the file (row 1): sha256"},
		{"name,sha256,permissions\nx," + sha("a") + "\n", "has 2 cells"},
		{"name,sha256,permissions\nx," + sha("a") + ",can_fly\n", "line 2 of the file (row 1): permissions"},
		{"name,sha256,permissions,calls_per_day_limit\nx," + sha("a") + ",can_read_agents,many\n", "line 2 of the file (row 1): calls_per_day_limit"},
		{"name,sha256,permissions,calls_per_day_limit\nx," + sha("a") + ",can_read_agents,0\n", "line 2 of the file (row 1): calls_per_day_limit must be"},
	} {
		if w := a.load("text/csv", tt.body); w.Code != 400 || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%q: got %d %s, want 400 with %q", tt.body, w.Code, w.Body, tt.want)
		}
	}
}

func TestKeyImport_Duplicates(t *testing.T) {
	a := newTestApp(t)
	row := func(secret string) string {
		return `{"name": "n", "sha256": "` + sha(secret) + `", "permissions": ["can_read_agents"]}`
	}
	made := a.operate(201, "POST", "/admin/v1/keys/import", "["+row("a")+"]")
	id := made["keys"].([]any)[0].(map[string]any)["id"].(string)
	own, secret := a.key(`["can_read_agents"]`)
	a.rotate(own, 60)
	for _, tt := range []struct {
		rows []string
		want []string
	}{
		{[]string{"b", "c", "b", "b"}, []string{"row 3 has the same secret as row 1", "row 4 has the same secret as row 1"}},
		{[]string{"d", "a", secret}, []string{"row 2 has the same secret as the stored key " + id, "row 3 has the same secret as the stored key " + own}},
	} {
		var rows []string
		for _, s := range tt.rows {
			rows = append(rows, row(s))
		}
		w := a.load("application/json", "["+strings.Join(rows, ",")+"]")
		for _, want := range tt.want {
			if w.Code != 409 || !strings.Contains(w.Body.String(), want) {
				t.Errorf("got %d %s, want 409 with %q", w.Code, w.Body, want)
			}
		}
	}
	a.wantCode("none of a refused import", map[string]int{"a": 200, "b": 401, "c": 401, "d": 401})
	a.operate(201, "POST", "/admin/v1/keys/import", `{"keys": [{"name": "off", "sha256": "`+sha("e")+`", "permissions": ["can_read_agents"], "paused": true}]}`)
	a.wantCode("imported as paused", map[string]int{"e": 401})
	a.refuse("POST", "/admin/v1/keys/import", `{"key": []}`, 400, "missing_parameter", "keys is missing")
}

// dryRun asks what an import would do.
func (a *testApp) dryRun(kind, body string) map[string]any {
	a.t.Helper()
	r := httptest.NewRequest("POST", "/admin/v1/keys/import?dry_run=true", strings.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	a.local.ServeHTTP(w, r)
	conform(a.t, r, w)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
		a.t.Fatalf("got %d %s", w.Code, w.Body)
	}
	return answer
}

// TestKeyImport_DryRun holds what a dry run says against what the import of the
// same body does after it.
func TestKeyImport_DryRun(t *testing.T) {
	const csvHead = "name,sha256,permissions,owner,calls_per_day_limit\n"
	row := func(secret, more string) string {
		return `{"name": "n", "sha256": "` + sha(secret) + `", "permissions": ["can_read_agents"]` + more + `}`
	}
	for _, tt := range []struct {
		name, kind, body string
		want             []string // of each row the result and a part of why
	}{
		{"good rows", "application/json", "[" + row("a", "") + "," + row("b", `, "owner": "bob"`) + "]", []string{"add ", "add "}},
		{"under keys", "application/json", `{"keys": [` + row("a", "") + "]}", []string{"add "}},
		{"no rows", "application/json", `{"keys": []}`, nil},
		{"every kind of fault", "application/json", "[" + strings.Join([]string{
			row("a", ""), row("here", ""), row("a", ""), row("b", `, "expires_at": "2020-01-01T00:00:00Z"`), row("c", `, "paused": 7`),
			row("d", `, "hint": "`+strings.Repeat("x", 33)+`"`), `{"name": "n", "sha256": "12", "permissions": ["can_read_agents"]}`, row("e", `, "limits": {"flights": 1}`),
		}, ",") + "]", []string{"add ", "present has this secret", "refused row 1", "refused expires_at", "refused paused", "refused hint", "refused sha256", "refused limits"}},
		{"here already", "application/json", "[" + row("a", "") + "," + row("here", "") + "]", []string{"add ", "present has this secret"}},
		{"twice", "application/json", "[" + row("a", "") + "," + row("a", "") + "]", []string{"add ", "refused row 1"}},
		{"no digest", "application/json", "[" + row("a", "") + `, {"name": "n", "sha256": 7, "permissions": ["can_read_agents"]}]`, []string{"add ", "refused sha256"}},
		{"over", "application/json", "[" + row("a", `, "expires_at": "2020-01-01T00:00:00Z"`) + "," + row("b", "") + "]", []string{"refused expires_at", "add "}},
		{"too many for one owner", "application/json", "[" + row("a", `, "owner": "ann"`) + "," + row("b", `, "owner": "ann"`) + "," + row("c", `, "owner": "ann"`) + "]", []string{"?", "?", "?"}},
		{"no array", "application/json", `{"key": []}`, nil},
		{"no JSON", "application/json", `[{]`, nil},
		{"a row that is no object", "application/json", `[7]`, nil},
		{"CSV", "text/csv", csvHead + "\none," + sha("a") + ",can_read_agents,,5\n", []string{"add "}},
		{"CSV with faults", "text/csv", csvHead + "one," + sha("a") + ",can_read_agents,,many\ntwo," + sha("here") + ",can_read_agents,,\n", []string{"refused calls_per_day_limit", "present has"}},
		{"CSV without columns", "text/csv", "name,hash\n", nil},
		{"CSV with a short line", "text/csv", csvHead + "one\n", nil},
		{"no CSV", "text/csv", "", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newTestApp(t, func(c *Config) { c.Keys.MaxPerOwner = 2 })
			a.operate(201, "POST", "/admin/v1/keys/import", "["+row("here", "")+"]")
			before, entries := a.keyNames(), len(auditEntries(t, a.Store))
			answer := a.dryRun(tt.kind, tt.body)
			if after := a.keyNames(); after != before || len(auditEntries(t, a.Store)) != entries {
				t.Fatalf("after the dry run there are %s, before there were %s", after, before)
			}
			a.wantCode("after a dry run", map[string]int{"a": 401, "b": 401})
			rows := answer["keys"].([]any)
			for n, want := range tt.want {
				got := rows[n].(map[string]any)
				result, why, _ := strings.Cut(want, " ")
				if want != "?" && (got["result"] != result || !strings.Contains(fmt.Sprint(got["message"]), why)) {
					t.Errorf("row %d: got %v, want %s", n, got, want)
				}
			}
			w := a.load(tt.kind, tt.body)
			if importable := answer["importable"] == true; importable != (w.Code == 201) {
				t.Fatalf("the dry run says %v, the import %d %s", answer, w.Code, w.Body)
			}
			if w.Code == 201 {
				for _, v := range rows {
					key := v.(map[string]any)["key"].(map[string]any)
					list := a.operate(200, "GET", "/admin/v1/keys?search="+key["name"].(string), "")["keys"].([]any)
					if v.(map[string]any)["result"] != "add" || len(list) == 0 {
						t.Errorf("the dry run says %v, the import has made %v", v, list)
					}
				}
				return
			}
			if !strings.HasSuffix(answer["message"].(string), message(w)) && tt.name != "too many for one owner" || answer["error"] != code(w) {
				t.Errorf("the dry run says %v %v, the import %s", answer["error"], answer["message"], w.Body)
			}
		})
	}
	a := newTestApp(t)
	a.refuse("POST", "/admin/v1/keys/import?dry_run=yes", "["+row("a", "")+"]", 400, "validation_error", "dry_run must be true or false")
}

// message is what an answer says to people.
func message(w *httptest.ResponseRecorder) string {
	var body struct{ Message string }
	_ = json.Unmarshal(w.Body.Bytes(), &body)
	return body.Message
}

// keyNames lists the keys and owners that there are.
func (a *testApp) keyNames() string {
	a.t.Helper()
	return fmt.Sprint(a.operate(200, "GET", "/admin/v1/keys?limit=1000", "")["keys"], a.operate(200, "GET", "/admin/v1/owners", "")["owners"])
}

// TestKeysImport_DryRun goes every way into the command.
func TestKeysImport_DryRun(t *testing.T) {
	unkey := `{"data": [{"name": "gone", "deleted_at": 1, "hash": "x"}, {"name": "u", "hash": "` + sha("u") + `"}]}`
	litellm := `{"keys": [{"key_alias": "l", "token": "` + sha("l") + `"}]}`
	plain := func(secret string) string {
		return `[{"name": "p", "sha256": "` + sha(secret) + `", "permissions": ["can_read_calls"]}]`
	}
	for _, tt := range []struct {
		name, ending, text string
		args               []string
		want               string // in the table
	}{
		{"JSON", ".json", plain("one"), nil, "row 1"},
		{"CSV", ".csv", "name,sha256,permissions\nc," + sha("two") + ",can_read_calls\n", nil, "line 2 of the file (row 1)"},
		{"CSV by flag", ".txt", "name,sha256,permissions\nc," + sha("three") + ",can_read_calls\n", []string{"--csv"}, "line 2 of the file (row 1)"},
		{"standard input", "-", plain("four"), nil, "row 1"},
		{"Unkey", ".json", unkey, []string{"--from", "unkey", "--permission", "can_read_calls"}, "row 2 of the export"},
		{"LiteLLM", ".json", litellm, []string{"--from", "litellm", "--permission", "can_read_calls"}, "row 1 of the export"},
		{"LiteLLM from standard input", "-", litellm, []string{"--from", "litellm", "--permission", "can_read_calls"}, "row 1 of the export"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newTestApp(t)
			file := tt.ending
			if file != "-" {
				file = filepath.Join(t.TempDir(), "keys"+file)
				if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			call := func(want int, more ...string) string {
				t.Helper()
				var out, errs bytes.Buffer
				env := a.environment(tt.text, &out, &errs)
				args := slices.Concat([]string{"latchkey", "--data", a.config.Server.Data, "keys", "import", file}, tt.args, more)
				if exit := cli.Run(context.Background(), args, env); exit != want {
					t.Fatalf("%v: exit %d, %s%s; want %d", more, exit, out.String(), errs.String(), want)
				}
				return out.String()
			}
			before := a.keyNames()
			if out := call(0, "--dry-run"); !strings.Contains(out, tt.want) || !strings.Contains(out, "add ") || !strings.Contains(out, "would add 1 key") {
				t.Errorf("got %s, want %q and a row to add", out, tt.want)
			}
			if out := call(0, "--dry-run", "--json"); !strings.Contains(out, `"importable": true`) {
				t.Errorf("got %s", out)
			}
			if after := a.keyNames(); after != before {
				t.Fatalf("the dry run has imported: %s", after)
			}
			if out := call(0); !strings.Contains(out, "Imported 1 key.") {
				t.Errorf("got %s", out)
			}
			if out := call(1, "--dry-run"); !strings.Contains(out, "present") {
				t.Errorf("after the import: got %s, want it to be present", out)
			}
			call(1, "--dry-run", "--json")
			call(1)
		})
	}
}

// TestKeysImport_OldServer has a server that knows no dry run and would import.
func TestKeysImport_OldServer(t *testing.T) {
	a := newTestApp(t)
	old := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawQuery = ""
		a.local.ServeHTTP(w, r)
	})
	var out bytes.Buffer
	env := a.environment(`[{"name": "p", "sha256": "`+sha("p")+`", "permissions": ["can_read_calls"]}]`, &out, &out)
	env.Load = func(file string, flags map[string]string) (cli.Service, error) {
		s, err := loadService(file, nil, flags)
		return openService{s, old}, err
	}
	before := a.keyNames()
	exit := cli.Run(context.Background(), []string{"latchkey", "--data", a.config.Server.Data, "keys", "import", "-", "--dry-run"}, env)
	if exit != 1 || !strings.Contains(out.String(), "does not support --dry-run") || a.keyNames() != before {
		t.Errorf("exit %d, %s; want 1 and no import", exit, out.String())
	}
}

// TestKeysImport_Foreign imports whole exports, and uses the keys.
func TestKeysImport_Foreign(t *testing.T) {
	for _, tt := range []struct {
		from, permission string
		codes            map[string]int
	}{
		{"unkey", "can_read_calls", map[string]int{"uk_one": 200, "uk_two": 401, "uk_three": 401, "uk_four": 403, "uk_five": 401}},
		{"litellm", "can_read_agents", map[string]int{"sk-one": 200, "sk-two": 401}},
	} {
		a := newTestApp(t)
		var out bytes.Buffer
		args := []string{"latchkey", "--data", a.config.Server.Data, "keys", "import", "cli/testdata/" + tt.from + ".json", "--from", tt.from, "--permission", tt.permission}
		if exit := cli.Run(context.Background(), args, a.environment("", &out, &out)); exit != 0 {
			t.Fatalf("%s: exit %d, %s", tt.from, exit, out.String())
		}
		a.wantCode("imported from "+tt.from, tt.codes)
	}
}
