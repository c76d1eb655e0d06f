package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// demoUsage returns the counts of the demo by key name, route and error code.
func demoUsage(a *testApp) string {
	a.t.Helper()
	usage := a.operate(200, "GET", "/admin/v1/usage?step=day&last=90&limit=1000", "")
	text := fmt.Sprintln(usage["total"], usage["routes"], usage["errors"])
	for _, row := range usage["keys"].([]any) {
		key := row.(map[string]any)
		delete(key, "id")
		text += fmt.Sprintln(key)
	}
	return text
}

func TestSeedDemo(t *testing.T) {
	a := newTestApp(t)
	began := time.Now()
	if err := a.seed(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 3*time.Second { // BenchmarkSeedDemo measures it; this is for a busy machine
		t.Errorf("the sample data took %v", took)
	}
	again := newTestApp(t)
	if err := again.seed(); err != nil {
		t.Fatal(err)
	}
	err := a.Store.View(func(tx *Tx) error { // no failed attempt is logged below what the demo prints
		_, tries, err := headOf(tx, 1)
		if _, due := nextDelivery(tx, 1, a.clock.Now().Add(30*time.Minute)); tries != 4 || !errors.Is(due, ErrNotFound) {
			t.Errorf("after %d attempts: got %v, want a delivery that is not due within half an hour", tries, due)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if one, two := demoUsage(a), demoUsage(again); one != two {
		t.Errorf("got\n%s\nand the second time\n%s", one, two)
	}
	for _, span := range []string{"1h", "24h", "7d", "90d"} {
		view := a.operate(200, "GET", "/admin/v1/overview?range="+span, "")
		total := view["total"].(map[string]any)
		if total["requests"].(float64) < 10 || len(view["buckets"].([]any)) == 0 {
			t.Errorf("%s: got %v", span, total)
		}
		for _, class := range StatusClasses() {
			if n := total[class].(float64); span == "90d" && n == 0 {
				t.Errorf("%s: no requests with the result %s", span, class)
			}
		}
	}
	kinds := fmt.Sprint(a.operate(200, "GET", "/admin/v1/overview", "")["attention"])
	for _, want := range []string{"keys_expired_used", "keys_in_url", "keys_at_limit", "keys_expiring", "keys_rotating", "webhooks_failing", "keys_never_used"} {
		if !strings.Contains(kinds, want) {
			t.Errorf("got %s, want %s too", kinds, want)
		}
	}
	for path, member := range map[string]string{"requests": "requests", "refusals": "refusals", "audit?result=refused": "entries", "webhooks": "webhooks", "operators": "operators"} {
		if rows, _ := a.operate(200, "GET", "/admin/v1/"+path, "")[member].([]any); len(rows) == 0 {
			t.Errorf("%s: got no rows", path)
		}
	}
	for _, row := range a.operate(200, "GET", "/admin/v1/keys?status=any", "")["keys"].([]any) {
		key := row.(map[string]any)
		history := a.operate(200, "GET", fmt.Sprintf("/admin/v1/keys/%s/history?step=day&last=90", key["id"]), "")
		requests := history["total"].(map[string]any)["requests"].(float64)
		if used := key["last_used_at"] != nil; used != (key["name"] != "field tablets") || used != (requests > 100) {
			t.Errorf("%s: got %v requests, last used %v", key["name"], requests, key["last_used_at"])
		}
	}
	for _, tag := range keyTags() {
		if count := a.operate(200, "GET", "/admin/v1/keys?tag="+tag, "")["count"].(float64); count == 0 {
			t.Errorf("no key has the tag %s", tag)
		}
	}
	if problems := a.operate(200, "POST", "/admin/v1/check", "")["problems"].([]any); len(problems) > 0 {
		t.Errorf("got %v", problems)
	}
}

// TestSeedDemo_NotEmpty wants data that are there already to stay as they are.
func TestSeedDemo_NotEmpty(t *testing.T) {
	for name, fill := range map[string]func(a *testApp) error{
		"a key": func(a *testApp) error { a.key(everyPermission); return nil },
		"an operator": func(a *testApp) error {
			a.operate(201, "POST", "/admin/v1/operators", `{"name": "o", "password": "correct horse battery"}`)
			return nil
		},
		"an agent": func(a *testApp) error { a.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`); return nil },
		"a demo":   func(a *testApp) error { return a.seed() },
		"an entry of the audit log": func(a *testApp) error {
			return a.Store.Update(a.Deed("test").Append)
		},
		"counts": func(a *testApp) error {
			a.App.history.Note(CountedRequest{Route: "/", Status: 200, At: a.clock.Now()})
			return a.App.history.Flush()
		},
	} {
		a := newTestApp(t)
		if err := fill(a); err != nil {
			t.Fatal(err)
		}
		before, usage := auditText(t, a), demoUsage(a)
		if err := a.seed(); !errors.Is(err, errNotEmpty) {
			t.Errorf("%s: got %v, want %v", name, err, errNotEmpty)
		}
		if after := auditText(t, a); after != before || demoUsage(a) != usage {
			t.Errorf("%s: the store was changed", name)
		}
	}
}

// TestSeedDemo_Pages opens pages of the demo. Each says that it is one.
func TestSeedDemo_Pages(t *testing.T) {
	a := newTestApp(t)
	if err := a.seed(); err != nil {
		t.Fatal(err)
	}
	a.demo = true
	b := newBrowser(a)
	b.operate(201, "POST", "/admin/v1/operators", `{"name": "demo", "password": "`+operatorPassword+`"}`)
	b.tells("/login", "This is a demo")
	b.post("/login", "name", "demo", "password", operatorPassword)
	const banner = "This is a demo"
	b.tells("/", banner, "crm", "mobile app", "/api/v1/contacts")
	b.tells("/keys", banner, "crm", "partner portal")
	b.tells("/requests", banner, "mobile app")
	b.tells("/activity", banner, "Ann")
	for _, row := range b.operate(200, "GET", "/admin/v1/keys?status=any", "")["keys"].([]any) {
		key := row.(map[string]any)
		b.tells("/keys/"+key["id"].(string), banner, key["name"].(string))
	}
}

func BenchmarkSeedDemo(b *testing.B) {
	for range b.N {
		b.StopTimer()
		a := newTestApp(b)
		b.StartTimer()
		if err := a.seed(); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := a.Close(); err != nil {
			b.Fatal(err)
		}
		a.App = nil
		b.StartTimer()
	}
}
