package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// invented fields are the values that inventFile chooses from, as JSON, by kind and field. The first one is valid, so
// that a whole file can be.
var invented = map[string]map[string][]string{
	"owners": {
		"name":          {`"acme"`, `"full"`, `"ann"`, `" acme "`, `"ACME"`, `"admin"`, `""`, `7`, `"\u00e9"`, `"e\u0301"`},
		"balance":       {`5`, `0`, `-1`, `null`, `5.0`, `1e3`, `1.5`, `9007199254740993`, `"5"`},
		"rate":          {`0.25`, `0`, `25e-2`, `-0.0`, `1e20`, `1e-9`, `null`, `-1`, `true`},
		"limits":        {`{"owner_requests_per_minute_limit": 5}`, `{}`, `{"owner_requests_per_minute_limit": null}`, `{"owner_requests_per_minute_limit": 0}`, `{"requests_per_minute_limit": 1}`, `null`, `[]`},
		"storage_bytes": {`100000`, `0`, `null`, `1`, `-1`, `1e6`},
		"colour":        {`null`, `1`},
	},
	"keys": {
		"ref":           {`"a"`, `"full"`, `"try"`, `"b/c"`, `"A"`, `"a b"`, `""`, `null`, `5`},
		"name":          {`"k"`, `"full"`, `" k "`, `""`, `"\u0001"`, `7`},
		"permissions":   {`["can_read_calls"]`, `["can_read_agents", "can_read_calls"]`, `["can_read_calls", "can_read_calls"]`, `[]`, `["nope"]`, `"can_read_calls"`},
		"owner":         {`"full"`, `"acme"`, `"admin"`, `null`, `""`, `" full "`, `"nobody"`, `3`},
		"sandbox":       {`false`, `true`, `null`, `1`},
		"limits":        {`{"requests_per_minute_limit": 5}`, `{}`, `{"requests_per_minute_limit": null, "calls_per_day_limit": 3}`, `{"requests_per_minute_limit": 1e1}`, `{"nope": 1}`, `null`, `{"requests_per_minute_limit": -1}`},
		"environment":   {`"live"`, `null`, `""`, `"A"`, `"test"`},
		"allowed_ips":   {`["192.0.2.0/24"]`, `[]`, `["192.0.2.1", "192.0.2.7/24"]`, `["2001:DB8::/32", "::ffff:192.0.2.1"]`, `null`, `["x"]`},
		"resources":     {`{"agents": [1]}`, `{}`, `{"agents": []}`, `{"agents": [1, 1]}`, `{"agents": [9]}`, `null`, `{"x": [1]}`},
		"query_allowed": {`false`, `true`, `null`, `0`},
		"expires_at":    {`"2026-03-03T09:00:00Z"`, `"never"`, `null`, `"2026-03-03T10:00:00+01:00"`, `"2026-03-03T09:00:00.5Z"`, `"2020-01-01T00:00:00Z"`, `"30d"`, `1`},
		"paused":        {`true`, `false`, `null`, `"x"`},
		"metadata":      {`{"note": "n"}`, `{}`, `{"a.b": "", "": "x"}`, `{"note": null}`, `null`, `{"n": 1}`},
	},
	"webhooks": {
		"name":              {`"w"`, `"full"`, `" w"`, `""`, `1`},
		"url":               {`"https://hooks.example.net/a"`, `"https://hooks.example.net/full"`, `"https://HOOKS.example.net/a"`, `"https://hooks.example.net/a#x"`, `" https://hooks.example.net/a"`, `"ftp://x"`},
		"subscribed_events": {`["call.ended"]`, `["call.ended", "call.started"]`, `["call.ended", "call.ended"]`, `[]`, `["key.created"]`, `["x"]`},
		"owner":             {`"full"`, `null`, `"acme"`, `""`, `"nobody"`, `" full"`},
		"is_active":         {`false`, `true`, `null`, `1`},
	},
	"tokens": {
		"name":        {`"t"`, `"full"`, `" t "`, `""`, `1`},
		"scope":       {`"metrics"`, `"all"`, `"read"`, `null`, `""`, `"x"`},
		"allowed_ips": {`["192.0.2.0/24"]`, `[]`, `["192.0.2.9/24", "192.0.2.1"]`, `null`, `["x"]`},
		"expires_at":  {`"2026-03-03T09:00:00Z"`, `"never"`, `null`, `"2026-03-03T10:00:00+01:00"`, `"90d"`, `"2020-01-01T00:00:00Z"`},
	},
}

// inventFile returns the body of an apply that n chooses: entries of any kinds, most of them valid.
func inventFile(a *testApp, n *rand.Rand) string {
	members := []string{fmt.Sprintf(`"prune": %v`, n.IntN(2) == 1)}
	for _, kind := range a.applier().kinds() {
		if n.IntN(3) == 0 {
			continue
		}
		var rows []string
		for range n.IntN(4) {
			var fields []string
			for _, name := range slices.Sorted(maps.Keys(invented[kind.member])) {
				values := invented[kind.member][name]
				needed := slices.ContainsFunc(kind.fields, func(f applyField) bool { return f.name == name && f.sample != "" }) || name == kind.mark
				if !needed && n.IntN(4) > 0 {
					continue
				}
				value := values[0]
				if n.IntN(3) > 0 {
					value = values[n.IntN(len(values))]
				}
				fields = append(fields, fmt.Sprintf("%q: %s", name, value))
			}
			rows = append(rows, "{"+strings.Join(fields, ", ")+"}")
		}
		members = append(members, fmt.Sprintf(`%q: [%s]`, kind.member, strings.Join(rows, ", ")))
	}
	return "{" + strings.Join(members, ", ") + "}"
}

// FuzzApply applies a body to a store with records of each kind, from text or, if there are choices, from what inventFile
// makes of them. It is applied as a whole and as the dry run says, or nothing changes; once applied it changes nothing more;
// and the export of the result, applied to an empty store, gives the same export.
func FuzzApply(f *testing.F) {
	dir := f.TempDir()
	first := newApplyFuzz(lastingTB{f, dir})
	full := strings.TrimSuffix(first.full.exported(), "}")
	f.Add(full+"}", []byte{})
	f.Add(full+`, "prune": true}`, []byte{})
	f.Add(`{"prune": true, "keys": [], "webhooks": [], "tokens": []}`, []byte{})
	f.Add(`{"owners": [{"name": "acme"}, {"name": " acme"}], "keys": [{"ref": "a"}]}`, []byte{})
	f.Add(`{"owners": [{"name": "admin", "storage_bytes": 5, "rate": 1e300}]}`, []byte{})
	f.Add(`{"keys": [{"ref": "full", "name": "n", "permissions": ["can_read_calls"], "limits": {"requests_per_minute_limit": 0.5e1}}]}`, []byte{})
	for seed := range uint64(24) {
		text := make([]byte, 80)
		for i, from := 0, rand.New(rand.NewPCG(seed, 2)); i < len(text); i++ {
			text[i] = byte(from.Uint32())
		}
		f.Add("", text)
	}
	x := first
	f.Cleanup(func() {
		if x != nil {
			if err := errors.Join(x.full.Close(), x.empty.Close()); err != nil {
				f.Error(err)
			}
		}
	})
	f.Fuzz(func(t *testing.T, body string, choices []byte) {
		if x == nil {
			x = newApplyFuzz(lastingTB{t, dir})
		}
		x.full.t, x.empty.t = t, t
		if len(choices) > 0 {
			body = inventFile(x.full, rand.New(&byteSource{choices, rand.NewPCG(2, 2)}))
		}
		if strings.Contains(body, "dry_run") || strings.Contains(body, "fingerprint") || !strings.HasPrefix(body, "{") {
			return
		}
		if x.apply(body) {
			if err := errors.Join(x.full.Close(), x.empty.Close(), os.RemoveAll(x.full.config.Server.Data), os.RemoveAll(x.empty.config.Server.Data)); err != nil {
				t.Fatal(err)
			}
			x = nil // the next file meets the same records again
		}
	})
}

// lastingTB is a test whose services outlive it. Their folders are in dir.
type lastingTB struct {
	testing.TB
	dir string
}

// TempDir returns a new folder.
func (t lastingTB) TempDir() string {
	dir, err := os.MkdirTemp(t.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Cleanup does nothing.
func (t lastingTB) Cleanup(func()) {}

// applyFuzz has a store with records of each kind and an empty one, with the same agents.
type applyFuzz struct{ full, empty *testApp }

func newApplyFuzz(t testing.TB) *applyFuzz {
	x := &applyFuzz{newTestApp(t), newTestApp(t)}
	for _, name := range []string{"owners", "keys", "webhooks", "tokens"} {
		x.full.applied(fmt.Sprintf(`{%q: %s}`, name, fullEntries()[name]))
		if name == "owners" {
			fullEntries(x.full, x.empty)
		}
	}
	x.full.key(`["can_read_calls"]`, `"owner": "ann"`)
	return x
}

// apply applies a body to the full store. It reports whether that has changed it.
func (x *applyFuzz) apply(body string) (changed bool) {
	a := x.full
	a.t.Helper()
	before := a.contents()
	dry := a.control("POST", "/admin/v1/apply", strings.Replace(body, "{", `{"dry_run": true, `, 1))
	if a.contents() != before {
		a.t.Fatalf("%s: the dry run has changed the store", body)
	}
	planned := membersIn(dry)
	made := a.control("POST", "/admin/v1/apply", strings.Replace(body, "{", fmt.Sprintf(`{"fingerprint": %q, `, fmt.Sprint(planned["fingerprint"])), 1))
	done := membersIn(made)
	if dry.Code >= 500 || made.Code != dry.Code || done["error"] != planned["error"] || !reflect.DeepEqual(done["errors"], planned["errors"]) || !reflect.DeepEqual(done["plan"], planned["plan"]) {
		a.t.Fatalf("%s: the dry run got %d %s, the other %d %s", body, dry.Code, dry.Body, made.Code, made.Body)
	}
	if count := done["count"]; made.Code != 200 || count == 0.0 {
		if a.contents() != before {
			a.t.Fatalf("%s: got %d %s, but the store has changed", body, made.Code, made.Body)
		}
		return false
	}
	after := a.contents()
	if plan, _ := a.applied(body); plan != "" || a.contents() != after {
		a.t.Fatalf("%s: applied again: got the plan %s", body, plan)
	}
	text := a.exported()
	if plan, _ := a.applied(strings.Replace(text, "{", `{"prune": true, `, 1)); plan != "" || a.contents() != after {
		a.t.Fatalf("%s: its export %s has the plan %s", body, text, plan)
	}
	x.empty.applied(text)
	if again := x.empty.exported(); again != text {
		a.t.Fatalf("%s: its export %s, applied to an empty store, gives %s", body, text, again)
	}
	return true
}

// membersIn returns the members of an answer.
func membersIn(w *httptest.ResponseRecorder) (members map[string]any) {
	_ = json.Unmarshal(w.Body.Bytes(), &members)
	return members
}
