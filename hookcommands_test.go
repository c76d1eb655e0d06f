package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

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
	p := serveReal(t, data, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	latchkey := func(want int, args ...string) (out, errs string) {
		t.Helper()
		out, errs, exit := run(t, append(args, "--data", data)...)
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
	p.kill()
	for range 3 {
		<-ended
	}
	p = serveReal(t, data, "LATCHKEY_WEBHOOKS_ALLOW_PRIVATE_TARGETS=true")
	for range 3 {
		release <- struct{}{}
		got = append(got, <-arrived)
	}
	if got[2] != got[1] {
		t.Errorf("after the crash: got %v, want what was in hand once more: %v", got[2], got[1])
	}
	for i, d := range append(got[:2:2], got[3:]...) {
		if !strings.Contains(d.body, fmt.Sprintf(`"name":"number %d"`, i)) || d.signature != Sign("hex", secret, []byte(d.body)) {
			t.Errorf("delivery %d: got %v", i, d)
		}
	}
	if exit := p.stop(t); exit != 0 {
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
	if out, _ := latchkey(0, "webhooks", "list"); !strings.Contains(out, "watch") || !strings.Contains(out, "call.started +18") || strings.Contains(out, secret) {
		t.Errorf("list: got %s", out)
	}
	v.Close()
	if _, errs := latchkey(1, "webhooks", "test", "1"); !strings.Contains(errs, "Not delivered") {
		t.Errorf("test without the switch: got %s", errs)
	}
	latchkey(0, "webhooks", "delete", "1")
	if _, errs := latchkey(1, "webhooks", "logs", "1"); !strings.Contains(errs, "No such object") {
		t.Errorf("logs of a deleted one: got %s", errs)
	}
	if strings.Contains(p.out.String(), secret) {
		t.Error("the secret stands in the log")
	}
}
