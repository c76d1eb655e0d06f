package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// totals sums up a history.
func totals(t testing.TB, h *History, s subject, p period) (hours []bucket, sum Counts) {
	t.Helper()
	list, err := h.Of(s, p)
	if err != nil {
		t.Fatal(err)
	}
	return list, sumOf(list)
}

func TestHistory_Outcomes(t *testing.T) {
	h := NewHistory(newTestStore(t))
	for status, want := range map[int]int{200: 0, 201: 0, 304: 0, 400: 1, 401: 2, 402: 1, 403: 3, 404: 1, 429: 4, 500: 5, 503: 5} {
		key := fmt.Sprint("key_", status)
		h.Note(CountedRequest{key, "/x", "", status, epoch})
		if _, sum := totals(t, h, subject{ofKey, key}, period{stepHour, 1, epoch}); sum != one(want, 1) {
			t.Errorf("%d: got %v, want one at %d", status, sum, want)
		}
	}
}

// TestHistory_Restart counts, stores, goes on and opens the store again: no
// request is told of twice or not at all.
func TestHistory_Restart(t *testing.T) {
	store := newTestStore(t)
	h := NewHistory(store)
	key, now := subject{ofKey, "key_a"}, epoch.Add(59*time.Minute)
	h.Note(CountedRequest{"key_a", "/x", "", 200, now})
	now = now.Add(time.Minute) // the next hour
	h.Note(CountedRequest{"key_a", "/x", "rate_limit_exceeded", 429, now})
	h.Note(CountedRequest{"", "/x", "invalid_key", 401, now})
	check := func(when string, want Counts) {
		t.Helper()
		hours, sum := totals(t, h, key, period{stepHour, 24, now})
		days, daily := totals(t, h, key, period{StepDay, 90, now})
		if len(hours) != 2 || len(days) != 1 || sum != want || daily != want {
			t.Errorf("%s: got %v and %v, want %v in two hours and a day", when, hours, days, want)
		}
		service := want
		service[2]++
		if _, sum := totals(t, h, subject{Kind: ofService}, period{StepDay, 1, now}); sum != service {
			t.Errorf("%s: the service: got %v, want %v", when, sum, service)
		}
		if _, sum := totals(t, h, subject{ofRoute, "/x"}, period{StepDay, 1, now}); sum != service {
			t.Errorf("%s: the route: got %v, want %v", when, sum, service)
		}
		if _, sum := totals(t, h, subject{ofCode, "invalid_key"}, period{stepHour, 1, now}); sum != one(2, 1) {
			t.Errorf("%s: the code: got %v", when, sum)
		}
	}
	check("in memory", Counts{1, 0, 0, 0, 1, 0})
	for range 2 { // the second has nothing to store
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
		check("stored", Counts{1, 0, 0, 0, 1, 0})
	}
	h.Note(CountedRequest{"key_a", "/x", "", 200, now})
	check("stored and in memory", Counts{2, 0, 0, 0, 1, 0})
	h.Note(CountedRequest{"key_a", "/x", "", 200, now.Add(-time.Hour)}) // the clock went back
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	h = NewHistory(reopen(t, store))
	check("opened again", Counts{3, 0, 0, 0, 1, 0})
	names := []string{}
	err := h.All(ofKey, period{stepHour, 24, now}, func(name string, _ []bucket) error {
		names = append(names, name)
		return nil
	})
	if err != nil || fmt.Sprint(names) != "[key_a]" {
		t.Errorf("got %v %v", names, err)
	}
}

// TestHistory_Many has more keys than one transaction stores, and forgets them
// when their time is over.
func TestHistory_Many(t *testing.T) {
	h := NewHistory(newTestStore(t))
	const many = flushPart + 500
	for i := range many {
		h.Note(CountedRequest{fmt.Sprintf("key_%05d", i), "/x", "", 200, epoch})
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	h.Note(CountedRequest{"key_0", "/x", "", 200, epoch}) // before all others, and in memory alone
	h.Note(CountedRequest{"key_9", "/x", "", 200, epoch}) // after them
	before, count := "", 0
	all := func(now time.Time) {
		before, count = "", 0
		err := h.All(ofKey, period{StepDay, 90, now}, func(name string, list []bucket) error {
			if count++; name <= before || len(list) != 1 {
				t.Errorf("%q comes after %q with %v", name, before, list)
			}
			before = name
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if all(epoch); count != many+2 {
		t.Errorf("got %d keys, want %d", count, many+2)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	sweep := func(now time.Time) (left int) {
		for range many/maxSwept + 2 {
			if err := h.Sweep(now); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.store.View(func(tx *Tx) error { left = tx.Count(usageBucket); return nil }); err != nil {
			t.Fatal(err)
		}
		return left
	}
	if left := sweep(epoch.Add(89 * 24 * time.Hour)); left != many+4 {
		t.Errorf("after 89 days: got %d, want all", left)
	}
	late := epoch.Add(91 * 24 * time.Hour)
	h.Note(CountedRequest{"key_00007", "/x", "", 200, late})
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	if left := sweep(late); left != 3 {
		t.Errorf("after 91 days: got %d, want the one key, its route and the service", left)
	}
}

// TestHistory_Slow stores and counts requests while All runs: a slow client of a CSV answer stops neither.
// Each subject comes once, also if it is stored meanwhile.
func TestHistory_Slow(t *testing.T) {
	h := NewHistory(newTestStore(t))
	const many = 3*historyPart + 1
	note := func(i int) { h.Note(CountedRequest{fmt.Sprintf("key_%05d", i), "/x", "", 200, epoch}) }
	for i := range many {
		if note(i); i == many/2 {
			if err := h.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := map[string]uint64{}
	err := h.All(ofKey, period{StepDay, 90, epoch}, func(name string, list []bucket) error {
		counts := sumOf(list)
		if seen[name] += counts.Total(); len(seen) == many/3 || len(seen) == many-1 {
			note(many / 4)
			return h.Flush()
		}
		return nil
	})
	if err != nil || len(seen) != many {
		t.Fatalf("got %d keys and %v, want %d", len(seen), err, many)
	}
	for name, n := range seen {
		if n != 1 {
			t.Errorf("%s: got %d requests, want 1", name, n)
		}
	}
	stop := errors.New("stop")
	if err := h.All(ofKey, period{StepDay, 90, epoch}, func(string, []bucket) error { return stop }); err != stop {
		t.Errorf("got %v, want the error of visit", err)
	}
}

// TestHistory_Ranked compares rankings with the histories of all keys, over requests, flushes and
// sweeps.
func TestHistory_Ranked(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h, now := NewHistory(newTestStore(t)), epoch
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"requests", "requests", "flush", "sweep", "wait"}).Draw(rt, "step") {
			case "requests":
				for range rapid.IntRange(1, 9).Draw(rt, "number") {
					at := now.Add(-time.Duration(rapid.IntRange(0, 100).Draw(rt, "hours ago")) * time.Hour)
					h.Note(CountedRequest{rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(rt, "key"), "/x", "", 200, at})
				}
			case "flush":
				if err := h.Flush(); err != nil {
					rt.Fatal(err)
				}
			case "sweep":
				if err := h.Sweep(now); err != nil {
					rt.Fatal(err)
				}
			case "wait":
				now = now.Add(time.Duration(rapid.IntRange(1, 2000).Draw(rt, "wait")) * time.Hour)
			}
			span := period{rapid.SampledFrom([]Step{stepHour, StepDay}).Draw(rt, "size"), rapid.SampledFrom([]int{1, 30, 90}).Draw(rt, "last"), now}
			var want []used
			err := h.All(ofKey, span, func(name string, list []bucket) error {
				want = append(want, used{name, sumOf(list)})
				return nil
			})
			slices.SortFunc(want, byRequests)
			got, rankErr := h.Ranked(ofKey, span)
			from := rapid.IntRange(0, len(want)).Draw(rt, "from")
			if err = errors.Join(err, rankErr); err != nil || got.Count != len(want) || !slices.Equal(got.Part(from, got.Count), want[from:]) {
				rt.Fatalf("%+v: got %+v from %d, %v; want %+v", span, got, from, err, want)
			}
		}
	})
}

// A history that cannot be read is begun anew, and the others are stored.
func TestHistory_Damaged(t *testing.T) {
	h := NewHistory(newTestStore(t))
	bad := subject{ofKey, "key_bad"}
	if err := h.store.Update(func(tx *Tx) error { return tx.Put(usageBucket, bad.key(), []byte{9}) }); err != nil {
		t.Fatal(err)
	}
	h.Note(CountedRequest{"key_bad", "/x", "", 200, epoch})
	h.Note(CountedRequest{"key_good", "/x", "", 200, epoch})
	if err := h.Flush(); err == nil || !strings.Contains(err.Error(), "key_bad") {
		t.Errorf("got %v, want it named", err)
	}
	for _, key := range []string{"key_bad", "key_good"} {
		if _, sum := totals(t, h, subject{ofKey, key}, period{stepHour, 1, epoch}); sum.Total() != 1 {
			t.Errorf("%s: got %v", key, sum)
		}
	}
}

// Counting, storing and reading at once loses nothing.
func TestHistory_Concurrent(t *testing.T) {
	h := NewHistory(newTestStore(t))
	var counting sync.WaitGroup
	for g := range 4 {
		counting.Go(func() {
			for i := range 500 {
				h.Note(CountedRequest{fmt.Sprintf("key_%d", g%2), "/x", "", 200, epoch})
				if i%100 == 0 {
					if err := h.Flush(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	last := uint64(0)
	for range 50 {
		_, sum := totals(t, h, subject{Kind: ofService}, period{stepHour, 1, epoch})
		if sum.Total() < last {
			t.Errorf("got %d after %d", sum.Total(), last)
		}
		last = sum.Total()
	}
	counting.Wait()
	if _, sum := totals(t, h, subject{ofKey, "key_1"}, period{stepHour, 1, epoch}); sum.Total() != 1000 {
		t.Errorf("got %d, want 1000", sum.Total())
	}
}

// The counts that are remembered for a key are those that a Flush has not stored yet.
func TestHistory_Memo(t *testing.T) {
	h := NewHistory(newTestStore(t))
	var memos [2]atomic.Value
	for round := range 3 {
		for i, key := range []string{"key_a", "key_b", "key_b"} {
			h.NoteBy(&memos[min(i, 1)], CountedRequest{key, "/x", "", 200, epoch}, Asked{})
		}
		h.Note(CountedRequest{"key_a", "/y", "", 200, epoch})
		for _, want := range []struct {
			of subject
			n  int
		}{{subject{ofKey, "key_a"}, 2}, {subject{ofKey, "key_b"}, 2}, {subject{ofRoute, "/x"}, 3}, {subject{ofRoute, "/y"}, 1}} {
			if _, sum := totals(t, h, want.of, period{stepHour, 1, epoch}); sum.Total() != uint64(want.n*(round+1)) {
				t.Errorf("round %d, %v: got %d requests, want %d", round, want.of, sum.Total(), want.n*(round+1))
			}
		}
		if err := h.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { h.NoteBy(&memos[0], CountedRequest{"key_a", "/x", "", 200, epoch}, Asked{epoch, 1, 1}) }); n > 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// Counting takes no memory of its own.
func TestHistory_Allocations(t *testing.T) {
	h := NewHistory(newTestStore(t))
	key := fmt.Sprint("key_", 1)
	if n := testing.AllocsPerRun(1000, func() { h.Note(CountedRequest{key, "/x", "not_found", 404, epoch}) }); n > 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

func one(outcome int, n uint64) (t Counts) {
	t[outcome] = n
	return t
}

// TestRing goes through what a wall clock can do.
func TestRing(t *testing.T) {
	hour := stepHour.Number(epoch)
	var r ring
	steps := []struct {
		name  string
		at    int64 // hours after epoch
		hours int   // how many hours of the last seven days have anything, as of then
		days  int   // how many days
	}{
		{"first", 0, 1, 1},
		{"same hour", 0, 1, 1},
		{"next hour", 1, 2, 1},
		{"after a gap", 50, 3, 2},
		{"back an hour", 49, 3, 2}, // 50 is not yet
		{"the last of the week", 167, 5, 3},
		{"the first is too old", 168, 5, 3},
		{"a month on", 900, 1, 4},
		{"the year after", 10_000, 1, 1},
		{"the clock is put right", 901, 2, 4},
	}
	for _, s := range steps {
		r.Add(Slot{hour + s.at, one(0, 2)})
		now := epoch.Add(time.Duration(s.at) * time.Hour)
		hours := r.Within(period{stepHour, stepHour.Kept(), now})
		days := r.Within(period{StepDay, StepDay.Kept(), now})
		if len(hours) != s.hours || len(days) != s.days {
			t.Errorf("%s: got %d hours and %d days, want %d and %d", s.name, len(hours), len(days), s.hours, s.days)
		}
		if last := hours[len(hours)-1]; !last.Start.Equal(now.Truncate(time.Hour)) {
			t.Errorf("%s: the last hour is %s, want that of %s", s.name, last.Start, now)
		}
		again, err := readRing(r.Append(nil))
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Fatalf("%s: stored and read again: got %+v %v, want %+v", s.name, again, err, r)
		}
	}
}

// However long it is used, and however the clock jumps, it has its places and
// no more.
func TestRing_Bounded(t *testing.T) {
	var r ring
	at := stepHour.Number(epoch)
	for i := range int64(5000) {
		at += []int64{1, 1, 1, 37, -30, 1, 24 * 400, -24 * 400}[i%8]
		r.Add(Slot{at, one(int(i%6), 1<<40)})
	}
	if len(r.hours) > stepHour.Kept() || len(r.days) > StepDay.Kept() {
		t.Errorf("got %d hours and %d days", len(r.hours), len(r.days))
	}
	for i := 1; i < len(r.hours); i++ {
		if r.hours[i-1].At >= r.hours[i].At {
			t.Fatalf("the hours are out of order: %d, %d", r.hours[i-1].At, r.hours[i].At)
		}
	}
	var busy ring
	for i := range int64(24 * 100) {
		busy.Add(Slot{at + i, one(0, 5000)})
	}
	if size := len(busy.Append(nil)); size > 2048 {
		t.Errorf("a key that is always in use takes %d bytes, want at most 2048", size)
	}
}

func FuzzReadRing(f *testing.F) {
	var r ring
	r.Add(Slot{stepHour.Number(epoch), Counts{1, 2, 3, 4, 5, 6}})
	f.Add(r.Append(nil))
	f.Add([]byte{ringVersion, 0xff, 0xff, 0xff})
	f.Add([]byte{ringVersion, 1, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readRing(b)
		if err == nil && (len(r.hours) > stepHour.Kept() || len(r.days) > StepDay.Kept()) {
			t.Errorf("got %d hours and %d days", len(r.hours), len(r.days))
		}
	})
}

// TestUsage asks by several ways for what came of a few requests.
func TestUsage(t *testing.T) {
	a := newTestApp(t)
	id, key := a.key(`["can_read_agents"]`, `"limits": {"requests_per_minute_limit": 4}`)
	other, _ := a.key(`["can_read_agents"]`)
	for _, path := range []string{"/api/v1/agents", "/api/v1/calls", "/api/v1/agents/", "/api/webhooks/999/logs/", "/api/v1/agents"} {
		a.ask("GET", path, key, "")
	}
	a.ask("GET", "/api/v1/agents", "", "")
	a.ask("GET", "/nothing", "", "")
	a.operate(200, "POST", "/admin/v1/keys/"+id+"/revoke", "")
	a.ask("GET", "/api/v1/agents", key, "")
	want := map[string]any{"requests": 6.0, "ok": 2.0, "client_error": 1.0, "unauthorized": 1.0, "forbidden": 1.0, "rate_limited": 1.0, "server_error": 0.0}
	holds := func(where string, got any, want map[string]any) {
		t.Helper()
		row, _ := got.(map[string]any)
		for name, n := range want {
			if row[name] != n {
				t.Errorf("%s: got %s %v, want %v", where, name, row[name], n)
			}
		}
	}
	for range 2 { // in memory, then stored
		v := a.operate(200, "GET", "/admin/v1/keys/"+id+"/history?step=day", "")
		holds("the key", v["total"], want)
		holds("its day", v["buckets"].([]any)[0], map[string]any{"start": "2026-02-03T00:00:00Z", "requests": 6.0})
		if v["to"] != "2026-02-04T00:00:00Z" || v["name"] != "test" {
			t.Errorf("got %v", v)
		}
		all := a.operate(200, "GET", "/admin/v1/usage", "")
		holds("the service", all["total"], map[string]any{"requests": 8.0, "unauthorized": 2.0, "client_error": 2.0})
		holds("the first route", all["routes"].([]any)[0], map[string]any{"route": "/api/v1/agents", "requests": 5.0})
		holds("the first key", all["keys"].([]any)[0], map[string]any{"id": id, "requests": 6.0})
		if codes := fmt.Sprint(all["errors"]); !strings.Contains(codes, "error:rate_limit_exceeded") || strings.Contains(fmt.Sprint(all["routes"]), "/admin/") || all["count"] != 1.0 {
			t.Errorf("got %v", all)
		}
		some := a.operate(200, "GET", "/admin/v1/usage?last=1&key="+other+"&key="+id, "")["keys"].([]any)
		holds("an unused key", some[0], map[string]any{"id": other, "requests": 0.0})
		holds("a named key", some[1].(map[string]any)["buckets"].([]any)[0], want)
		a.restart()
	}
	a.clocks.Pass(time.Hour)
	if v := a.operate(200, "GET", "/admin/v1/keys/"+id+"/history?last=1", ""); len(v["buckets"].([]any)) != 0 {
		t.Errorf("an hour later: got %v, want nothing in the last hour", v)
	}
	for path, says := range map[string]string{
		"/admin/v1/usage?step=week": "step must be", "/admin/v1/usage?last=0": "last must be", "/admin/v1/usage?last=91&step=day": "1 to 90",
		"/admin/v1/usage?format=xml": "format must be", "/admin/v1/usage?format=csv&by=hue": "by must be", "/admin/v1/keys/" + id + "/history?last=x": "last must be",
	} {
		if w := a.control("GET", path, ""); w.Code != 400 || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: got %d %s, want %q", path, w.Code, w.Body, says)
		}
	}
	for _, path := range []string{"/admin/v1/keys/key_none/history", "/admin/v1/usage?key=key_none"} {
		if w := a.control("GET", path, ""); w.Code != 404 {
			t.Errorf("%s: got %d %s, want 404", path, w.Code, w.Body)
		}
	}
}

// TestUsage_CSV has names that a spreadsheet would take for formulas.
func TestUsage_CSV(t *testing.T) {
	a := newTestApp(t)
	names := []string{`=HYPERLINK("http://evil.example")`, "+1", "-1", "@SUM(A1)", " =1", "a, \"b\"\nc", "plain"}
	for _, name := range names {
		v := a.operate(201, "POST", "/admin/v1/keys", fmt.Sprintf(`{"name": %q, "permissions": ["can_read_agents"]}`, name))
		a.ask("GET", "/api/v1/agents", v["key"].(string), "")
	}
	w := a.control("GET", "/admin/v1/usage?format=csv&step=day", "")
	lines, err := csv.NewReader(w.Body).ReadAll()
	if err != nil || len(lines) != len(names)+1 || w.Header().Get("Content-Disposition") != `attachment; filename="usage.csv"` {
		t.Fatalf("got %d %v %v %v", w.Code, w.Header(), lines, err)
	}
	if got := strings.Join(lines[0], ","); got != "key_id,name,owner,start,requests,ok,client_error,unauthorized,forbidden,rate_limited,server_error" {
		t.Errorf("got %s", got)
	}
	found := map[string]bool{}
	for _, line := range lines[1:] {
		if found[line[1]] = true; line[4] != "1" || line[5] != "1" || line[3] != "2026-02-03T00:00:00Z" {
			t.Errorf("got %v", line)
		}
	}
	for _, want := range append([]string{"a, \"b\"\nc", "plain"}, "'"+names[0], "'+1", "'-1", "'@SUM(A1)", "' =1") {
		if !found[want] {
			t.Errorf("got %v, want %q among the names", found, want)
		}
	}
	for by, want := range map[string]string{"route": "/api/v1/agents,2026-02-03T09:00:00Z,7,7", "error": "error,start,requests"} {
		if w := a.control("GET", "/admin/v1/usage?format=csv&by="+by, ""); !strings.Contains(w.Body.String(), want) {
			t.Errorf("by %s: got %s, want %q", by, w.Body, want)
		}
	}
}
