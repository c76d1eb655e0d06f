package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/bytesize"
)

// limitOwner sets a limit of the owner called name. It creates the owner if there
// is none.
func (a *testApp) limitOwner(name, limit string, most int) {
	a.t.Helper()
	rows := a.operate(200, "GET", "/admin/v1/owners?limit=1000", "")["owners"].([]any)
	for _, row := range rows {
		if o := row.(map[string]any); o["name"] == name {
			a.operate(200, "PATCH", fmt.Sprintf("/admin/v1/owners/%v", o["id"]), fmt.Sprintf(`{"limits": {%q: %d}}`, limit, most))
			return
		}
	}
	a.operate(201, "POST", "/admin/v1/owners", fmt.Sprintf(`{"name": %q, "limits": {%q: %d}}`, name, limit, most))
}

// Keys of one owner never exceed the limits that they share, even if many
// requests arrive at the same time.
// TestOwners_Kept names another owner in a change of each kind of record that has one: either it becomes the owner, or
// the change is refused.
func TestOwners_Kept(t *testing.T) {
	a := newTestApp(t)
	fillStore(a)
	for _, kind := range []string{"agents", "calls", "contacts", "events", "keys", "schedules", "variables", "webhooks"} {
		list := "/admin/v1/" + kind + "?limit=1"
		if kind == "keys" {
			list += "&status=active"
		}
		first := func() map[string]any {
			return a.operate(200, "GET", list, "")[kind].([]any)[0].(map[string]any)
		}
		row := first()
		path := fmt.Sprintf("/admin/v1/%s/%v", kind, row["id"])
		present, err := EncodeJSON(map[string]any{"owner": row["owner"]})
		if err != nil {
			t.Fatal(err)
		}
		if same := a.control("PATCH", path, string(present)); same.Code != 200 {
			t.Errorf("%s: the present owner %v: got %d %s", path, row["owner"], same.Code, same.Body)
		}
		if name, ok := row["owner"].(string); ok {
			if same := a.control("PATCH", path, fmt.Sprintf(`{"owner": " %s "}`, name)); same.Code != 200 {
				t.Errorf("%s: the present owner with blanks around it: got %d %s", path, same.Code, same.Body)
			}
		}
		w := a.control("PATCH", path, `{"owner": "other"}`)
		if got := first()["owner"]; w.Code == 200 && got != "other" {
			t.Errorf("%s: got 200, and the owner %v", path, got)
		} else if w.Code != 200 && (w.Code != 400 && w.Code != 403 || !strings.Contains(w.Body.String(), "owner") && !strings.Contains(w.Body.String(), "team")) {
			t.Errorf("%s: got %d %s, want an error that names owner", path, w.Code, w.Body)
		}
	}
}

func TestOwners_minute(t *testing.T) {
	a := newTestApp(t)
	a.limitOwner("ann", OwnerRequestsPerMinute, 50)
	var keys []string
	for range 5 {
		_, key := a.key(everyPermission, `"owner": "ann", "limits": {"requests_per_minute_limit": 20}`)
		keys = append(keys, key)
	}
	served := make([]atomic.Int64, len(keys))
	storm := func() int64 {
		var passed atomic.Int64
		var wg sync.WaitGroup
		for i, key := range keys {
			for range 4 {
				wg.Go(func() {
					for range 10 {
						if a.ask("GET", "/api/v1/agents", key, "").Code == 200 {
							passed.Add(1)
							served[i].Add(1)
						}
					}
				})
			}
		}
		wg.Wait()
		return passed.Load()
	}
	if got := storm(); got != 50 {
		t.Errorf("got %d through, want 50", got)
	}
	_, other := a.key(everyPermission)
	if w := a.ask("GET", "/api/v1/agents", other, ""); w.Code != 200 {
		t.Errorf("another owner: got %d", w.Code)
	}
	left := 0 // a key that has units of its own limit left
	for served[left].Load() == 20 {
		left++
	}
	w := a.ask("GET", "/api/v1/agents", keys[left], "")
	if w.Code != 429 || !strings.Contains(w.Body.String(), "The limit owner_requests_per_minute_limit of 50, which all keys of its owner share, is reached.") {
		t.Errorf("got %d %s, want the owner's limit named", w.Code, w.Body)
	}
	if got := w.Header().Get("RateLimit-Policy"); got != `"requests_per_minute";q=20;w=60, "owner_requests_per_minute";q=50;w=60` {
		t.Errorf("got policy %s", got)
	}
	if w.Header().Get("X-RateLimit-Limit") != "50" || w.Header().Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("got %v, want the tightest", w.Header())
	}
	a.restart()
	if got := storm(); got != 0 {
		t.Errorf("after a restart: got %d through, want none", got)
	}
	a.limitOwner("ann", OwnerRequestsPerMinute, 60) // for keys in memory too
	if got := storm(); got != 10 {
		t.Errorf("with 60: got %d through, want 10", got)
	}
	a.clocks.Pass(time.Minute)
	a.limitOwner("ann", OwnerRequestsPerMinute, 0)
	if got := storm(); got != 100 {
		t.Errorf("with no limit of the owner: got %d through, want 20 of each key", got)
	}
}

// A call that is refused by a limit of the owner uses no unit of the key's daily
// limit.
func TestOwners_day(t *testing.T) {
	a := newCallApp(t, func(c *Config) { c.Limit.OwnerCallsPerDay = 5 })
	var ids, keys []string
	for range 3 {
		id, key := a.key(everyPermission, `"limits": {"calls_per_day_limit": 3}`)
		ids, keys = append(ids, id), append(keys, key)
	}
	var made atomic.Int64
	var wg sync.WaitGroup
	for _, key := range keys {
		wg.Go(func() {
			for range 4 {
				if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code == 201 {
					made.Add(1)
				}
			}
		})
	}
	wg.Wait()
	used := 0.0
	for _, id := range ids {
		usage := a.operate(200, "GET", "/admin/v1/keys/"+id+"/usage", "")["usage"].(map[string]any)
		used += usage[CallsPerDay].(map[string]any)["used"].(float64)
		if got := fmt.Sprint(usage[OwnerCallsPerDay]); !strings.Contains(got, "limit:5") || !strings.Contains(got, "used:5") || !strings.Contains(got, "scope:owner") {
			t.Errorf("got %s, want 5 of 5 used by the owner", got)
		}
	}
	if made.Load() != 5 || used != 5 {
		t.Errorf("got %d calls and %v units of keys, want 5 and 5", made.Load(), used)
	}
	if calls := a.operate(200, "GET", "/admin/v1/calls", "")["count"]; calls != 5.0 {
		t.Errorf("got %v calls stored, want 5", calls)
	}
}

func TestOwners_limits(t *testing.T) {
	a := newTestApp(t, withReports, func(c *Config) { c.Limit.OwnerCallsPerDay = 500 })
	made := a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann", "limits": {"owner_calls_per_day_limit": 7, "trial_per_day": 9}}`)
	path := fmt.Sprintf("/admin/v1/owners/%v", made["id"])
	const rest = " owner_calendar_events_per_day_limit:0 owner_calls_per_day_limit:%d owner_concurrent_requests:0 owner_concurrent_streams:0 owner_requests_per_minute_limit:0 reports_per_second:2 trial_per_day:%d]"
	want := func(calls, trial int) string {
		return "map[" + strings.TrimPrefix(fmt.Sprintf(rest, calls, trial), " ")
	}
	if got := fmt.Sprint(made["limits"]); got != want(7, 9) {
		t.Errorf("got %s", got)
	}
	changed := a.operate(200, "PATCH", path, `{"limits": {"owner_calls_per_day_limit": null}, "rate": 1}`)
	if got := fmt.Sprint(changed["limits"]); got != want(500, 9) {
		t.Errorf("got %s, want the default back and the other kept", got)
	}
	a.restart()
	if got := fmt.Sprint(a.operate(200, "GET", path, "")["limits"]); got != want(500, 9) {
		t.Errorf("after a restart: got %s", got)
	}
	for body, says := range map[string]string{
		`{"limits": {"calls_per_day_limit": 1}}`:        `"calls_per_day_limit" is not a limit of owners. The limits of owners are owner_requests_per_minute_limit, `,
		`{"limits": {"owner_calls_per_day_limit": -1}}`: "limits.owner_calls_per_day_limit must be a whole number from 0 (no limit) to 1000000000",
		`{"limits": {"trial_per_day": "many"}}`:         "limits.trial_per_day must be a whole number",
		`{"limits": 5}`:                                 "limits must be an object",
	} {
		if e := a.operate(400, "PATCH", path, body); !strings.Contains(e["message"].(string), says) {
			t.Errorf("%s: got %v, want %q", body, e["message"], says)
		}
	}
}

// An owner needs a name that no other owner has. A refused request changes
// nothing. In particular, it does not change the default owner.
func TestOwners_Names(t *testing.T) {
	a := newTestApp(t)
	a.key(everyPermission) // of the default owner
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann"}`)
	before := a.control("GET", "/admin/v1/owners", "").Body.String()
	for _, tt := range []struct {
		body   string
		status int
		code   string
	}{
		{`{}`, 400, "missing_parameter"}, {`{"name": ""}`, 400, "missing_parameter"}, {`{"name": " \t", "rate": 9}`, 400, "missing_parameter"}, {`{"rate": 9, "balance": 1}`, 400, "missing_parameter"},
		{`{"name": null}`, 400, "missing_parameter"}, {`{"name": 5}`, 400, "validation_error"},
		{`{"name": "ann", "rate": 9}`, 409, "conflict"}, {`{"name": " ann ", "rate": 9}`, 409, "conflict"}, {`{"name": "admin", "rate": 9}`, 409, "conflict"},
		{`{"name": "` + strings.Repeat("n", 201) + `"}`, 400, "validation_error"}, {`{"name": "bob", "rate": -0.01}`, 400, "validation_error"}, {`{"name": "bob", "rate": "9"}`, 400, "validation_error"},
		{`{"name": "bob", "balance": "9"}`, 400, "validation_error"}, {`{"name": "bob", "limits": {"owner_calls_per_day_limit": -1}}`, 400, "validation_error"},
	} {
		if w := a.control("POST", "/admin/v1/owners", tt.body); w.Code != tt.status || code(w) != tt.code {
			t.Errorf("%s: got %d %s, want %d %s", tt.body, w.Code, w.Body, tt.status, tt.code)
		}
	}
	a.operate(400, "PATCH", "/admin/v1/owners/1", `{"name": "other"}`)
	if after := a.control("GET", "/admin/v1/owners", "").Body.String(); after != before {
		t.Errorf("got %s, want the owners as they were: %s", after, before)
	}
	longest := strings.Repeat("n", 200)
	if o := a.operate(201, "POST", "/admin/v1/owners", `{"name": "`+longest+`", "rate": 0, "balance": -1}`); o["name"] != longest {
		t.Errorf("got %v", o)
	}
}

// A limit of an owner is a whole number from 0 to MaxLimit, inclusive.
func TestOwners_LimitBounds(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann"}`)
	for number, want := range map[string]int{"-1": 400, "0": 200, "1": 200, "1.5": 400, "1000000000": 200, "1000000001": 400, "99999999999999999999": 400, `"7"`: 400} {
		w := a.control("PATCH", "/admin/v1/owners/1", `{"limits": {"owner_calls_per_day_limit": `+number+`}}`)
		if w.Code != want || want == 200 && !strings.Contains(w.Body.String(), `"owner_calls_per_day_limit":`+number) {
			t.Errorf("%s: got %d %s, want %d", number, w.Code, w.Body, want)
		}
	}
}

// If the limits of an owner cannot be read, the request fails. It is not treated
// as unlimited.
func TestOwners_LimitsDamaged(t *testing.T) {
	a := newTestApp(t)
	a.limitOwner("ann", OwnerRequestsPerMinute, 5)
	_, key := a.key(everyPermission, `"owner": "ann"`)
	a.restart() // so that no key is cached in memory
	repair := damageRecords(t, a.Store, "owner_limits")
	for _, tt := range [][3]string{
		{"GET", "/admin/v1/owners"}, {"GET", "/admin/v1/owners/1"}, {"PATCH", "/admin/v1/owners/1", `{"limits": {"owner_calls_per_day_limit": 7}}`}, {"PATCH", "/admin/v1/owners/1", `{"rate": 7}`},
	} {
		a.operate(500, tt[0], tt[1], tt[2])
	}
	if w := askDoor(a.api, "GET", "/api/v1/agents", "", "X-API-Key: "+key); w.Code != 500 {
		t.Errorf("a request: got %d %s, want 500", w.Code, w.Body)
	}
	repair()
	if o := a.operate(200, "GET", "/admin/v1/owners/1", ""); o["rate"] != 0.0 || o["limits"].(map[string]any)[OwnerRequestsPerMinute] != 5.0 {
		t.Errorf("got %v, want the owner as before", o)
	}
}

// TestEnsureOwner has it meet names that are too long, damage in every bucket, and writes that fail: it returns the error, and
// makes no second owner of a name.
func TestEnsureOwner(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann", "limits": {"owner_calls_per_day_limit": 7}, "storage_bytes": 100000}`)
	ensure := func(name string) storedOp {
		return storedOp{name, func(tx *Tx) (any, error) {
			o, err := EnsureOwner(tx, name, epoch)
			return o, err
		}}
	}
	for _, tt := range []struct {
		given, name string
		limited     bool
	}{{"ann", "ann", true}, {" ann\t", "ann", true}, {strings.Repeat("\u00e4", NameLength), strings.Repeat("\u00e4", NameLength), true}, {"", DefaultOwner, false}, {" ", DefaultOwner, false}, {DefaultOwner, DefaultOwner, false}} {
		var made, again owner
		var own bool
		undo := errors.New("undo")
		err := a.Store.Update(func(tx *Tx) (err error) {
			if made, err = EnsureOwner(tx, tt.given, epoch); err != nil {
				return err
			}
			if again, err = EnsureOwner(tx, tt.name, epoch.Add(time.Hour)); err != nil {
				return err
			}
			limit, stored, err := StorageLimit(tx, made.ID)
			own = stored && limit == 0
			return errors.Join(undo, err)
		})
		if !errors.Is(err, undo) || made.Name != tt.name || made.ID == 0 || again.ID != made.ID || own == tt.limited {
			t.Errorf("%q: got %+v, then %+v, without a limit %t, %v", tt.given, made, again, own, err)
		}
	}
	for _, name := range []string{strings.Repeat("x", NameLength+1), " " + strings.Repeat("\u00e4", NameLength+1)} {
		_, writes, err := ensure(name).trial(t, a.Store, harmless, unseen)
		if !errors.Is(err, ErrValidation) || writes > 0 {
			t.Errorf("%d bytes: got %v after %d writes, want ErrValidation", len(name), err, writes)
		}
	}
	buckets := storedBuckets(t, a.Store)
	for _, name := range []string{"ann", "new", DefaultOwner} {
		lost, refused := ensure(name).lostDamage(t, a.Store, buckets)
		for _, text := range append(lost, ensure(name).lostWriteErrors(t, a.Store)...) {
			t.Errorf("%s: no error: %s", name, text)
		}
		if refused == 0 && name == "ann" {
			t.Errorf("%s: fails for no damage, so this shows nothing", name)
		}
	}
}

// TestOwners_StorageBytes sets storage limits at both sides of what is valid.
func TestOwners_StorageBytes(t *testing.T) {
	a := newTestApp(t)
	a.operate(201, "POST", "/admin/v1/owners", `{"name": "ann"}`)
	for value, want := range map[string]int{"-1": 400, "0": 200, "1": 200, "1.5": 400, `"7"`: 400, "true": 400, "null": 200, "9223372036854775808": 400, fmt.Sprint(int64(bytesize.Max)): 200, fmt.Sprint(uint64(bytesize.Max) + 1): 400} {
		for _, ask := range [][2]string{{"PATCH", "/admin/v1/owners/1"}, {"POST", "/admin/v1/owners"}} {
			body := `{"storage_bytes": ` + value + `}`
			if ask[0] == "POST" {
				body = fmt.Sprintf(`{"name": %q, "storage_bytes": %s}`, "new "+value, value)
			}
			w := a.control(ask[0], ask[1], body)
			if w.Code != want && !(w.Code == 201 && want == 200) || w.Code == 400 && !strings.Contains(w.Body.String(), "storage_bytes must be a whole number") {
				t.Errorf("%s %s: got %d %s, want %d", ask[0], value, w.Code, w.Body, want)
			}
		}
	}
}

// TestOwners_StorageLow lists the owners with little storage left, and no owner if none has little left.
func TestOwners_StorageLow(t *testing.T) {
	a := newTestApp(t)
	for _, name := range []string{"ann", "bob", "eve"} {
		a.operate(201, "POST", "/admin/v1/owners", `{"name": "`+name+`"}`)
		a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "owner": "`+name+`"}`)
	}
	used := a.operate(200, "GET", "/admin/v1/owners/1", "")["storage"].(map[string]any)["bytes"].(float64)
	for _, tt := range []struct {
		name, want string
		limit      float64 // of one owner
		id         int
	}{{"no limit", "", 0, 1}, {"half", "", 2 * used, 1}, {"full", "ann", used, 1}, {"two", "ann,eve", used, 3}, {"one has more again", "eve", 10 * used, 1}} {
		a.operate(200, "PATCH", fmt.Sprint("/admin/v1/owners/", tt.id), fmt.Sprintf(`{"storage_bytes": %.0f}`, tt.limit))
		answer := a.operate(200, "GET", "/admin/v1/owners?storage=low", "")
		var names []string
		for _, row := range answer["owners"].([]any) {
			names = append(names, row.(map[string]any)["name"].(string))
		}
		slices.Sort(names)
		if got := strings.Join(names, ","); got != tt.want || answer["count"] != float64(len(names)) {
			t.Errorf("%s: got %s (%v), want %s", tt.name, got, answer["count"], tt.want)
		}
	}
}
