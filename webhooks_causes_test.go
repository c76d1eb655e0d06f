package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"code.dny.dev/ssrf"
)

// failureDetail returns the detail of the last failed delivery to a webhook in the server's log.
func (a *testApp) failureDetail(id uint64) (detail string) {
	for line := range strings.SplitSeq(a.log.String(), "\n") {
		var entry struct {
			Msg, Delivery, Detail string
			Webhook               uint64
		}
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "webhook delivery failed" && entry.Webhook == id && entry.Delivery != "" {
			detail = entry.Detail
		}
	}
	return detail
}

// TestSender_OneCause sends to receivers that cannot be reached for different reasons, as a test
// and from the queue. An owner learns the same of all of them, after the same time. The log of the
// server has the details.
func TestSender_OneCause(t *testing.T) {
	a := newTestApp(t)
	quiet := httptest.NewUnstartedServer(http.NotFoundHandler())
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("127.0.0.2 is no address of this machine: ", err)
	}
	_ = quiet.Listener.Close()
	quiet.Listener, quiet.Config.ErrorLog = l, log.New(io.Discard, "", 0)
	quiet.StartTLS() // by a certificate that nobody vouches for
	defer quiet.Close()
	unused, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = unused.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, closed, _ := net.SplitHostPort(unused.Addr().String())

	own, _ := a.targets.interfaces()
	a.targets.interfaces = func() ([]net.Addr, error) {
		return append(own[:0:0], &net.IPNet{IP: net.ParseIP("93.184.216.34"), Mask: net.CIDRMask(24, 32)}), nil
	}
	a.targets.guardian = ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(netip.MustParsePrefix("127.0.0.2/32"))) // stands for a public one
	names := &dnsAnswers{names: map[string]string{
		"missing.example.net": "", "inside.example.net": "10.0.0.1", "loopback.example.net": "127.0.0.1", "metadata.example.net": "169.254.169.254",
		"own.example.net": "93.184.216.34", "closed.example.net": "127.0.0.2", "tls.example.net": "127.0.0.2", "plain.example.net": "127.0.0.2",
	}}
	a.targets.resolver = &net.Resolver{PreferGo: true, Dial: names.dial}
	a.Sender.client = a.targets.Client()
	_, key := a.key(everyPermission)
	hooks := map[uint64]string{} // what the log has to say of each
	for url, want := range map[string]string{
		"http://missing.example.net:8080/": "no such host", "http://inside.example.net:8080/": "10.0.0.1", "http://loopback.example.net:8080/": "127.0.0.1",
		"http://metadata.example.net/": "169.254.169.254", "http://own.example.net:8080/": "93.184.216.34",
		"http://closed.example.net:" + closed + "/": "127.0.0.2", "https://tls.example.net:" + port + "/": "certificate",
	} {
		w := a.ask("POST", "/api/webhooks/create", key, fmt.Sprintf(`{"name": "h", "url": %q, "subscribed_events": ["call.ended"]}`, url))
		made := object(t, w.Body.String())
		if w.Code != 201 {
			t.Fatalf("%s: got %d %s", url, w.Code, w.Body)
		}
		hooks[uint64(made["id"].(float64))] = want
	}
	var tests sync.WaitGroup
	for id := range hooks {
		tests.Go(func() {
			began := time.Now()
			w := a.ask("POST", fmt.Sprintf("/api/webhooks/%d/test", id), key, "")
			if got := w.Body.String(); w.Code != 200 || strings.TrimSpace(got) != `{"message":"Not delivered: the receiver could not be reached.","status_code":null,"success":false}` {
				t.Errorf("test of %q: got %d %s", hooks[id], w.Code, got)
			}
			if took := time.Since(began); took < time.Second {
				t.Errorf("test of %q: answered after %s, which tells how far it came", hooks[id], took)
			}
		})
	}
	tests.Wait()
	for id, want := range hooks {
		if got := a.failureDetail(id); !strings.Contains(got, want) {
			t.Errorf("the log has %q of the test, want %q", got, want)
		}
	}
	a.raise(WebhookEvent{Type: "call.ended", Owner: 1}, 1)
	a.send()
	for id, want := range hooks {
		rows := object(t, a.ask("GET", fmt.Sprintf("/api/webhooks/%d/logs", id), key, "").Body.String())["logs"].([]any)
		if len(rows) != 2 {
			t.Fatalf("%s: got the log %v, want the test and the delivery", want, rows)
		}
		for _, row := range rows {
			row := row.(map[string]any)
			if row["error"] != notReached || row["duration_ms"].(float64) < 1000 {
				t.Errorf("%s: got %v", want, row)
			}
		}
	}
}

// TestHooks_CausesOfBefore stores causes as earlier versions did, and asks all endpoints of
// webhooks.
func TestHooks_CausesOfBefore(t *testing.T) {
	a := newTestApp(t)
	_, key := a.key(everyPermission)
	a.ask("POST", "/api/webhooks/create", key, `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"]}`)
	causes := map[string]string{
		"dial tcp: lookup db.corp.internal on 10.9.8.7:53: no such host":                                                notReached,
		"refused: the host leads to an address of this machine, to a private network, or to a port that is not allowed": notReached,
		"dial tcp 10.9.8.7:5432: connect: connection refused":                                                           notReached,
		"malformed HTTP response \"220 mail.corp.internal\"":                                                            notReached,
		"no answer within 10s": timedOut,
		"the secret of this webhook cannot be decrypted: corp.internal": secretLost,
		"dropped unsent: more than 10000 deliveries are pending":        "dropped unsent: more than 10000 deliveries are pending",
		"discarded unsent after a restore":                              heldBack,
	}
	const reason = "Switched off because every delivery failed for 5 days. The last error was: "
	err := a.Store.Update(func(tx *Tx) error {
		hook, err := findWebhook(tx, 1)
		hook.Reason = reason + "dial tcp: lookup db.corp.internal on 10.9.8.7:53: no such host."
		err = errors.Join(err, webhookTable.Put(tx, hook))
		for cause, shown := range causes {
			err = errors.Join(err, addAttempt(tx, 1, Attempt{Delivery: shown, Event: "call.ended", At: epoch, Error: cause}))
		}
		return errors.Join(err, addAttempt(tx, 1, Attempt{Delivery: notReached, Event: "call.ended", At: epoch, Error: "lookup db.corp.internal on 10.9.8.7:53"}))
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range a.webhookLog(1) {
		row := row.(map[string]any)
		if row["error"] != row["delivery_id"] {
			t.Errorf("got %v, want %q", row["error"], row["delivery_id"])
		}
	}
	if got := a.webhook(1)["disabled_reason"]; got != reason+notReached+"." {
		t.Errorf("got the reason %v", got)
	}
	if got := publicReason(reason + "the receiver answered 503."); got != reason+"the receiver answered 503." {
		t.Errorf("a status: got the reason %q", got)
	}
	asked := 0
	for _, list := range [][]Route{a.hooksOfKeys().Routes(), a.hooksOfKeys().AdminRoutes()} {
		for _, row := range list {
			if row.Method == "DELETE" || strings.HasSuffix(row.Path, "/test") || strings.HasSuffix(row.Path, "/create") {
				continue
			}
			path, w := strings.Replace(row.Path, ":id", "1", 1), (*httptest.ResponseRecorder)(nil)
			body := map[string]string{"PUT": `{"name": "h", "url": "https://hooks.example.net/", "subscribed_events": ["call.ended"], "is_active": true}`, "PATCH": `{"name": "i"}`}[row.Method]
			if strings.HasPrefix(path, "/admin/") {
				w = a.control(row.Method, path, body)
			} else {
				w = a.ask(row.Method, path, key, body)
			}
			asked++
			if got := w.Body.String(); strings.Contains(got, "10.9.8.7") || strings.Contains(got, "corp.internal") {
				t.Errorf("%s %s: got %s", row.Method, row.Path, got)
			}
		}
	}
	if asked < 8 {
		t.Errorf("asked %d endpoints", asked)
	}
}

// hooksOfKeys returns the endpoints of webhooks.
func (a *testApp) hooksOfKeys() *WebhookAdmin {
	return NewWebhookAdmin(a.Store, a.peppers, a.targets, a.Sender)
}

// TestTargets_OwnAddresses simulates a machine with addresses that look public.
func TestTargets_OwnAddresses(t *testing.T) {
	targets := NewTargetPolicy(PublicTargets)
	list, fault := []net.Addr{}, error(nil)
	targets.interfaces = func() ([]net.Addr, error) { return list, fault }
	dial := func(network, at string) error { return targets.control(t.Context(), network, at, nil) }
	for _, tt := range []struct{ host, network string }{
		{"93.184.216.34", "tcp4"}, {"[2606:2800:220:1::1]", "tcp6"},
	} {
		list, fault = nil, nil
		if err := errors.Join(targets.CheckURL("https://"+tt.host+"/"), dial(tt.network, tt.host+":443")); err != nil {
			t.Errorf("%s of another machine: got %v", tt.host, err)
		}
		list = []net.Addr{
			&net.IPNet{IP: net.ParseIP("127.0.0.1"), Mask: net.CIDRMask(8, 32)}, &net.IPNet{IP: net.ParseIP("93.184.216.34"), Mask: net.CIDRMask(24, 32)},
			&net.IPNet{IP: net.ParseIP("2606:2800:220:1::1"), Mask: net.CIDRMask(64, 128)},
		}
		if err := targets.CheckURL("https://" + tt.host + "/"); !errors.Is(err, ErrValidation) {
			t.Errorf("%s as a URL: got %v, want it refused", tt.host, err)
		}
		if err := dial(tt.network, tt.host+":443"); !errors.Is(err, errTarget) {
			t.Errorf("%s: got %v, want no connection", tt.host, err)
		}
		allowed := NewTargetPolicy(AllTargets)
		allowed.interfaces = targets.interfaces
		if err := errors.Join(allowed.CheckURL("https://"+tt.host+"/"), allowed.control(t.Context(), tt.network, tt.host+":443", nil)); err != nil {
			t.Errorf("%s with private targets allowed: got %v", tt.host, err)
		}
		list, fault = nil, errors.New("no netlink")
		if err := dial(tt.network, tt.host+":443"); err != nil || targets.Check() == nil {
			t.Errorf("%s while the addresses cannot be read: got %v, want a connection and a warning", tt.host, err)
		}
	}
	list, fault = []net.Addr{&net.IPNet{IP: net.ParseIP("93.184.216.34"), Mask: net.CIDRMask(24, 32)}}, nil
	if err := errors.Join(dial("tcp4", "93.184.216.35:443"), targets.CheckURL("https://93.184.216.35/")); err != nil {
		t.Errorf("a neighbor: got %v", err)
	}
	real, err := NewTargetPolicy(PublicTargets).interfaces()
	if err != nil || len(real) == 0 {
		t.Skipf("this machine tells no addresses: %v", err)
	}
	for _, a := range real {
		if ip := netip.MustParsePrefix(a.String()).Addr(); NewTargetPolicy(PublicTargets).checkOwn(ip) == nil {
			t.Errorf("%s of this machine is allowed", ip)
		}
	}
}
