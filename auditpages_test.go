package main

import (
	"strings"
	"testing"
)

func TestAuditPages(t *testing.T) {
	b := newDashboard(t)
	b.sent(b.post("/agents", "name", evil, "role", "inbound agent"), "/agents/1")
	b.sent(b.saveForm("/agents/1", "model", "local-model-b"), "/agents/1")
	b.says(b.post("/agents", "name", "x", "role", "odd"), 400)
	page := b.get("/activity")
	b.says(page, 200, "operator 1 Ann", "PATCH /admin/v1/agents/:id", "agent 1", `<th scope="row" class="mono">model</th><td></td><td>local-model-b</td>`)
	b.tame("the log", page)
	b.says(b.get("/activity?object=agent+1&action=PATCH"), 200, "1 found", "local-model-b")
	b.says(b.get("/activity?result=odd"), 400, "Result must be done or refused")
	b.says(b.get("/activity?actor=nobody+at+all"), 200, "No entry fits")
	b.says(b.get("/activity/verify"), 200, "Every entry is as it was written", "Head")
	for range 30 {
		b.operate(201, "POST", "/admin/v1/agents", `{"name": "A"}`)
	}
	if body := b.get("/activity?object=agent").Body.String(); !strings.Contains(body, "Page 1 of 2") || !strings.Contains(body, `href="/activity?object=agent&amp;page=2"`) {
		t.Errorf("got %s", body)
	}
}

func TestStatusPages(t *testing.T) {
	b := newDashboard(t)
	b.says(b.get("/status"), 200, "http://127.0.0.1:8080", "<h2>Store</h2>", "<dt>Size</dt>", "<h2>Clocks</h2>")
	for n, want := range map[float64]string{0: "0 bytes", 999: "999 bytes", 1000: "1 kB", 1.25e6: "1.2 MB", 3e13: "30.0 TB"} {
		if got := bytesShown(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
	for n, want := range map[float64]string{59: "59s", 3600: "1h0m0s", 90000: "1 days 1h0m0s"} {
		if got := uptime(n); got != want {
			t.Errorf("%v: got %q, want %q", n, got, want)
		}
	}
}
