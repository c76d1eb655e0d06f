package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"latchkey/internal/keytext"
)

// told gives the events that a receiver was told of a key, in order.
func (v *receiver) told(id string) (events []string) {
	for _, r := range v.all() {
		var e struct {
			EventType string `json:"event_type"`
			Key       struct{ ID string }
			Limit     struct{ Name string }
		}
		if json.Unmarshal([]byte(r.body), &e) == nil && e.Key.ID == id {
			events = append(events, strings.TrimSuffix(e.EventType+" "+e.Limit.Name, " "))
		}
	}
	return events
}

func TestNotices_KeyEvents(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "key.created", "key.paused", "key.resumed", "key.revoked")
	id, secret := a.key(`["can_read_agents"]`)
	for _, verb := range []string{"pause", "pause", "resume", "resume", "revoke", "revoke"} {
		a.operate(200, "POST", "/admin/v1/keys/"+id+"/"+verb, "")
	}
	a.refuse("POST", "/admin/v1/keys/"+id+"/pause", "", 409, "conflict", "cannot be changed")
	a.send()
	want := []string{"key.created", "key.paused", "key.resumed", "key.revoked"}
	if got := v.told(id); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: what changed nothing tells nothing", got, want)
	}
	for _, r := range v.all() {
		if strings.Contains(r.body, secret) || !strings.Contains(r.body, `"name":"test"`) {
			t.Errorf("got %s, want the key without its secret", r.body)
		}
	}
	a.operate(201, "POST", "/admin/v1/keys/import", fmt.Sprintf(`[{"name": "old", "sha256": "%x", "permissions": ["can_read_agents"]}]`, keytext.DigestOf("x")))
	a.send()
	if n := len(v.all()); n != 5 {
		t.Errorf("got %d events, want one of the imported key too", n)
	}
}

// A key that rotates, and one that revokes itself, are told of too.
func TestNotices_KeyLife(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "key.rotated", "key.revoked")
	id, _ := a.key(`["can_read_agents"]`)
	rotated := a.operate(200, "POST", "/admin/v1/keys/"+id+"/rotate", "")
	secret := rotated["key"].(string)
	if w := a.ask("DELETE", "/api/v1/key", secret, ""); w.Code != 200 {
		t.Fatalf("got %d %s, want 200", w.Code, w.Body)
	}
	a.send()
	if got, want := v.told(id), []string{"key.rotated", "key.revoked"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, r := range v.all() {
		if strings.Contains(r.body, secret) {
			t.Errorf("got %s, want no secret", r.body)
		}
	}
}

func TestNotices_LimitReached(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	id, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 3, "calls_per_day_limit": 1}`)
	ask := func(want int) {
		t.Helper()
		if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != want {
			t.Fatalf("got %d %s, want %d", w.Code, w.Body, want)
		}
	}
	told := func(want ...string) {
		t.Helper()
		if err := a.notices.Flush(); err != nil {
			t.Fatal(err)
		}
		a.send()
		if got := v.told(id); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	ask(201)
	ask(429) // the day
	told()   // nobody listens
	a.hook(v.URL, "", "limit.reached")
	ask(429)
	ask(429) // the minute
	ask(429)
	both := []string{"limit.reached calls_per_day_limit", "limit.reached requests_per_minute_limit"}
	told(both...)
	a.restart()
	a.clocks.Pass(59 * time.Minute)
	ask(429)
	told(both...)
	a.clocks.Pass(2 * time.Minute)
	ask(429)
	told(append(both, both[0])...)
	ask(429)
	ask(429)
	ask(429)
	told(append(both, both...)...)
	w := a.ask("GET", "/api/v1/key", keytext.NewSecret("klen_"), "")
	if w.Code != 401 {
		t.Fatalf("got %d", w.Code)
	}
	told(append(both, both...)...)
	v.wantLimit(t, 1, "map[kind:window limit:3 name:requests_per_minute_limit window_seconds:60]")
}

// wantLimit checks the member limit of the event with this index.
func (v *receiver) wantLimit(t testing.TB, index int, want string) {
	t.Helper()
	var body struct{ Limit map[string]any }
	if err := json.Unmarshal([]byte(v.all()[index].body), &body); err != nil || fmt.Sprint(body.Limit) != want {
		t.Errorf("got limit %v, %v, want %s", body.Limit, err, want)
	}
}

// TestNotices_LimitWarning uses most of several limits, with a restart, another secret and a raised limit between.
func TestNotices_LimitWarning(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.operate(201, "POST", "/admin/v1/agents", `{"name": "Front desk", "phone_number": "+4930555001"}`)
	id, key := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 10, "calls_per_day_limit": 5}`)
	_, one := a.key(everyPermission, `"limits": {"requests_per_minute_limit": 1}`)
	call := func(n int) {
		t.Helper()
		for range n {
			if w := a.ask("POST", "/api/v1/calls", key, `{"phone_number": "+4930555044", "agent_id": 1}`); w.Code != 201 {
				t.Fatalf("got %d %s, want 201", w.Code, w.Body)
			}
		}
	}
	get := func(secret string, n int) {
		t.Helper()
		for range n {
			if w := a.ask("GET", "/api/v1/contacts", secret, ""); w.Code != 200 {
				t.Fatalf("got %d %s, want 200", w.Code, w.Body)
			}
		}
	}
	var want []string
	told := func(what string, more ...string) {
		t.Helper()
		want = append(want, more...)
		if err := a.notices.Flush(); err != nil {
			t.Fatal(err)
		}
		a.send()
		if got := v.told(id); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	const day, minute = "limit.warning calls_per_day_limit", "limit.warning requests_per_minute_limit"
	call(4)
	told("nobody listens")
	a.hook(v.URL, "", "limit.warning")
	a.clocks.Pass(warnAgain)
	call(1)
	told("a day, a minute after nobody listened", day)
	get(key, 6)
	told("7 of 10")
	get(key, 1)
	told("8 of 10", minute)
	get(key, 2)
	told("10 of 10")
	get(one, 1)
	a.clocks.Pass(59 * time.Minute)
	get(key, 8)
	told("within the hour")
	a.restart()
	a.clocks.Pass(time.Minute - time.Second)
	get(key, 2)
	told("within the hour, after a restart")
	a.clocks.Pass(time.Minute)
	get(key, 8)
	told("an hour later", minute)
	a.operate(200, "PATCH", "/admin/v1/keys/"+id, `{"limits": {"requests_per_minute_limit": 20, "calls_per_day_limit": 5}}`)
	get(key, 7)
	told("the limit is raised")
	get(key, 1)
	told("16 of 20", minute)
	a.clocks.Pass(23 * time.Hour)
	call(1)
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/pause", "")
	told("another day, little used")
	if n := len(v.all()); n != len(want) {
		t.Errorf("got %d events, want %d: a limit of one unit has no warning", n, len(want))
	}
	v.wantLimit(t, 1, "map[kind:window limit:10 name:requests_per_minute_limit used:8 window_seconds:60]")
}

// TestNotices_LimitWarningOwner uses most of a limit that two keys share.
func TestNotices_LimitWarningOwner(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	a.hook(v.URL, "", "limit.warning")
	_, first := a.key(everyPermission)
	_, second := a.key(everyPermission)
	a.operate(200, "PATCH", "/admin/v1/owners/1", `{"limits": {"owner_requests_per_minute_limit": 10}}`)
	for range 5 {
		for _, secret := range []string{first, second} {
			if w := a.ask("GET", "/api/v1/contacts", secret, ""); w.Code != 200 {
				t.Fatalf("got %d %s, want 200", w.Code, w.Body)
			}
		}
	}
	if err := a.notices.Flush(); err != nil {
		t.Fatal(err)
	}
	a.send()
	if got := v.all(); len(got) != 1 || !strings.Contains(got[0].body, `"name":"owner_requests_per_minute_limit"`) {
		t.Errorf("got %v, want one warning for both keys", got)
	}
}

// TestNotices_WarnAllocations watches requests of a key that has used most of a limit.
func TestNotices_WarnAllocations(t *testing.T) {
	notices := NewOperatorEvents(newTestStore(t), nil, NoticeOptions{Warning: 80})
	limits := []LimitStatus{{Limit: Limit{RequestsPerMinute, 10, time.Minute}, Used: 9}, {Limit: Limit{CallsPerDay, 10, 24 * time.Hour}, Used: 10}}
	o := &Outcome{Key: &Key{}, Holder: &CacheEntry{}, Began: epoch, Steady: epoch, Limits: limits}
	notices.Warn(o)
	if n := testing.AllocsPerRun(100, func() { notices.Warn(o) }); n != 0 || len(notices.warnings) != 2 {
		t.Errorf("got %v allocations and %d warnings, want 0 and 2", n, len(notices.warnings))
	}
	limits[0].Limit.Window, limits[1].Used = 0, 7
	o.Steady = epoch.Add(warnAgain)
	if notices.Warn(o); len(notices.warnings) != 2 {
		t.Errorf("got %d warnings, want none about requests in flight and about 70 %%", len(notices.warnings))
	}
}

// TestNotices_Bounded reaches more limits than are remembered.
func TestNotices_Bounded(t *testing.T) {
	notices := NewOperatorEvents(newTestStore(t), nil, NoticeOptions{})
	full := []LimitStatus{{Limit: Limit{RequestsPerMinute, 1, time.Minute}, Wait: 1}}
	var key Key
	for n := range maxReached + 100 {
		key.ID = fmt.Sprint(n)
		notices.Reached(&key, full, epoch, epoch)
	}
	if n := len(notices.seen); n != maxReached {
		t.Errorf("got %d remembered, want %d", n, maxReached)
	}
	fresh := notices.fresh[:1]
	fresh[0].service = epoch.Add(reachedAgain)
	notices.prune(fresh[len(fresh)-1].service)
	if n := len(notices.seen); n != 0 {
		t.Errorf("got %d remembered an hour later, want none", n)
	}
	notices.o.Warning = 50
	for range maxReached + 100 {
		notices.Warn(&Outcome{Key: &key, Holder: &CacheEntry{}, Limits: []LimitStatus{{Limit: Limit{RequestsPerMinute, 2, time.Minute}, Used: 1}}})
	}
	if n := len(notices.warnings); n != maxReached {
		t.Errorf("got %d warnings, want %d", n, maxReached)
	}
}

func TestNotices_Expiring(t *testing.T) {
	v := newReceiver(t)
	a := newHookApp(t)
	week := 168 * time.Hour
	end := func(d time.Duration) string { return `"expires_at": "` + *Seconds(epoch.Add(d)) + `"` }
	soon, _ := a.key(everyPermission, end(week+time.Hour))
	later, _ := a.key(everyPermission, end(3*week))
	never, _ := a.key(everyPermission)
	gone, _ := a.key(everyPermission, end(time.Hour))
	a.operate(200, "POST", "/admin/v1/keys/"+gone+"/revoke", "")
	expired, _ := a.key(everyPermission, end(time.Minute))
	look := a.told(v, func(now time.Time) error { return a.notices.Expiring(now) }, keyExpiring, soon, later, never, gone, expired)
	look(2*time.Minute, nil) // nobody listens, and nothing is noted
	a.hook(v.URL, "", "key.expiring")
	look(0, nil)
	look(time.Hour, map[string]int{soon: 1})
	a.restart()
	look(time.Hour, map[string]int{soon: 1})
	a.operate(200, "PATCH", "/admin/v1/keys/"+soon, `{`+end(2*week)+`}`)
	look(time.Hour, map[string]int{soon: 1})
	look(week, map[string]int{soon: 2})
	look(week, map[string]int{soon: 2, later: 1})
}

// limit.reached is told once in an hour: again when the hour is full. What is as old
// is forgotten.
func TestNotices_HourBounds(t *testing.T) {
	a := newHookApp(t)
	a.hook("http://127.0.0.1:1/", "", limitReached)
	for after, want := range map[time.Duration]int{reachedAgain - 1: 0, reachedAgain: 1} {
		key := &Key{StoredKey: StoredKey{ID: fmt.Sprintf("key_%d", after)}}
		err := a.Store.Update(func(tx *Tx) error {
			if err := reachedTable.Put(tx, reachedRecord{Key: key.ID, Limit: RequestsPerMinute, At: epoch}); err != nil {
				return err
			}
			before, err := countPending(tx)
			if err != nil {
				return err
			}
			now := epoch.Add(after)
			if err := a.notices.raiseOne(tx, reachedNow{reachedLimit: reachedLimit{key.ID, RequestsPerMinute}, holder: key, at: now, service: now}); err != nil {
				return err
			}
			told, err := countPending(tx)
			if told-before != want {
				t.Errorf("%s after the last: told %d times, want %d", after, told-before, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		before time.Duration
		left   int
	}{{0, 2}, {1, 1}} { // the other one was reached an hour later
		err := a.Store.Update(func(tx *Tx) error {
			if err := dropReached(tx, epoch.Add(step.before)); err != nil {
				return err
			}
			n, err := reachedTable.Count(tx)
			if n != step.left {
				t.Errorf("what is older than %s: %d are left, want %d", step.before, n, step.left)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A key that expires at this moment has expired, which is no news.
func TestNotices_ExpiringBound(t *testing.T) {
	a := newHookApp(t)
	a.hook("http://127.0.0.1:1/", "", keyExpiring)
	for _, tt := range []struct {
		until time.Duration
		want  int
	}{{time.Nanosecond, 1}, {0, 0}, {-time.Nanosecond, 0}} {
		err := a.Store.Update(func(tx *Tx) error {
			before, err := countPending(tx)
			if err != nil {
				return err
			}
			if err := a.notices.expiring(tx, &Key{StoredKey: StoredKey{ID: fmt.Sprintf("key_%d", tt.until), ExpiresAt: epoch.Add(tt.until)}}, epoch); err != nil {
				return err
			}
			told, err := countPending(tx)
			if told-before != tt.want {
				t.Errorf("%s before the end: told %d times, want %d", tt.until, told-before, tt.want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// told returns a function that lets time pass, does background work twice, and wants the receiver to have as many events about
// each key as given. event is the name of the events, and ids are those of the keys.
func (a *testApp) told(v *receiver, work func(time.Time) error, event string, ids ...string) func(pass time.Duration, want map[string]int) {
	return func(pass time.Duration, want map[string]int) {
		a.t.Helper()
		a.clocks.Pass(pass)
		for range 2 {
			if err := work(a.clock.Now()); err != nil {
				a.t.Fatal(err)
			}
		}
		a.send()
		for _, id := range ids {
			if got := v.told(id); len(got) != want[id] || len(got) > 0 && got[0] != event {
				a.t.Errorf("after %s: key %s: got %v, want %d", pass, id, got, want[id])
			}
		}
	}
}
