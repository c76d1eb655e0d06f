package main

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestHookPages(t *testing.T) {
	b := newDashboard(t)
	b.operate(201, "POST", "/admin/v1/webhooks", `{"name": "W", "url": "https://hooks.example.invalid/x", "subscribed_events": ["call.ended"]}`)
	b.sent(b.post("/webhooks/1/pause"), "/webhooks/1?done=paused")
	b.says(b.get("/webhooks/1"), 200, "Resume")
	b.sent(b.post("/webhooks/1/resume"), "/webhooks/1?done=resumed")
	b.says(b.post("/webhooks/1/test", "event_type", "key.created"), 400, "must be one of")
	b.says(b.post("/webhooks/1/redeliver", "log_id", "7"), 404)
	b.says(b.post("/webhooks/1/redeliver", "log_id", "x"), 400)
	b.says(b.post("/webhooks/9/pause"), 404)
}

// TestHookPages_Deliveries tests a webhook that fails, and looks at its deliveries and sends them again.
func TestHookPages_Deliveries(t *testing.T) {
	v := newReceiver(t, 500, 503)
	b := newDashboard(t, func(c *Config) { c.Webhooks.AllowPrivateTargets = true })
	b.hook(v.URL+"/"+strings.Repeat("long", 50), "", "call.queued")
	if page := b.get(b.sent(b.post("/webhooks/1/test"), "/webhooks/1?done=failed-500")); !strings.Contains(page.Body.String(), `<p class="note bad" role="alert">The sample was not delivered: the receiver answered 500, but only 2xx`) {
		t.Errorf("got %s, want the failure as an error", page.Body)
	}
	b.raise(WebhookEvent{Type: "call.queued", Operator: true}, 1)
	b.testApp.send()
	b.says(b.get("/webhooks"), 200, `class="tag failing"`, `class="sub cut" title="`+v.URL)
	b.says(b.get("/webhooks/1"), 200, `aria-label="Retry now: call.queued of 2026-02-03 09:00"`, `href="/webhooks/1/log/2"`)
	b.says(b.get("/webhooks/1/log/2"), 200, `"n": 1`, "Status 503", "The receiver answered 503.", "Retry now")
	b.sent(b.post("/webhooks/1/redeliver", "log_id", "2"), "/webhooks/1?done=queued")
	b.testApp.send()
	if got := len(v.all()); got != 3 {
		t.Errorf("got %d requests, want the delivery tried again", got)
	}
	b.says(b.get("/webhooks/1/log/3"), 200, `<span class="tag active">delivered</span>`, "The body of a good answer is not kept")
	b.says(b.get("/webhooks/1/log/9"), 404)
	b.says(b.get("/webhooks/1/retry"), 200, "No delivery has failed for good")
	for n := range 2 {
		err := b.Store.Update(func(tx *Tx) error {
			return addReplayable(tx, Attempt{Webhook: 1, Delivery: newDeliveryID(), Event: "call.queued", At: epoch, Attempt: 6, Status: 500, Answer: `"><img src=x><script>alert(1)</script>`}, fmt.Appendf(nil, `{"n": %d, "x": "<script>"}`, n))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	b.tame("a delivery", b.get("/webhooks/1/log/4"))
	b.says(b.get("/webhooks/1"), 200, "Retry all failed (2)")
	b.says(b.get("/webhooks/1/retry"), 200, "2 deliveries have failed for good", ">Retry 2</button>")
	b.says(b.get(b.sent(b.post("/webhooks/1/retry"), "/webhooks/1?done=retried-2")), 200, "Queued 2 deliveries again.", "queued again")
	b.says(b.get("/webhooks/1/retry"), 200, "No delivery has failed for good")
	b.testApp.send()
	if got := len(v.all()); got != 5 {
		t.Errorf("got %d requests, want both sent again", got)
	}
}

// TestHookPages_Events describes each event, and subscribes to all that an owner can have.
func TestHookPages_Events(t *testing.T) {
	b := newDashboard(t)
	page := b.get("/webhooks/new").Body.String()
	for _, event := range OperatorEventTypes() {
		if !regexp.MustCompile(`<span class="mono">` + regexp.QuoteMeta(event) + `</span><span class="hint">[a-z][^<]+</span>`).MatchString(page) {
			t.Errorf("%s has no description", event)
		}
	}
	for owner, want := range map[string][]string{"": OperatorEventTypes(), "ann": EventTypes()} {
		if w := b.post("/webhooks", "name", "all", "owner", owner, "url", "https://hooks.example.net/", "all_events", "yes"); w.Code != 201 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		list := b.operate(200, "GET", "/admin/v1/webhooks", "")["webhooks"].([]any)
		var got []string
		for _, hook := range list {
			if h := hook.(map[string]any); fmt.Sprint(h["owner"]) == cmp.Or(owner, "<nil>") {
				for _, event := range h["subscribed_events"].([]any) {
					got = append(got, event.(string))
				}
			}
		}
		if slices.Sort(got); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("owner %q: got %v, want %v", owner, got, want)
		}
	}
	b.says(b.post("/webhooks", "name", "none", "url", "https://hooks.example.net/"), 400, "Events is missing")
}
