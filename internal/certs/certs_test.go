package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"latchkey/internal/certs/certstest"
	"latchkey/internal/clock"
)

func serialOf(t testing.TB, c *Certificates) int64 {
	t.Helper()
	cert, err := c.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.Int64()
}

func TestCertificates_Reload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca, log := certstest.NewAuthority(t), &bytes.Buffer{}
	first := ca.Issue(cert, key, time.Now().Add(time.Hour))
	c, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	read := func(file string) string {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	write := func(file, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	oldKey := read(key)
	second := ca.Issue(cert, key, time.Now().Add(time.Hour))
	newCert, newKey := read(cert), read(key)
	for _, step := range []struct {
		name    string
		do      func()
		changed bool
		want    string // in the error
		serial  int64
	}{
		{"the key is still the old one", func() { write(key, oldKey) }, false, "cannot be used together", first},
		{"the same again is told once", func() {}, false, "", first},
		{"the certificate is half written", func() { write(cert, newCert[:len(newCert)/2]) }, false, "cannot be used together", first},
		{"it is empty", func() { write(cert, "") }, false, "cannot be used together", first},
		{"it is gone", func() { _ = os.Remove(cert) }, false, "read the certificate", first},
		{"still gone", func() {}, false, "", first},
		{"both are new", func() { write(cert, newCert); write(key, newKey) }, true, "", second},
		{"nothing changed", func() {}, false, "", second},
	} {
		step.do()
		changed, err := c.Reload(time.Now())
		if changed != step.changed || (err != nil) != (step.want != "") || err != nil && !strings.Contains(err.Error(), step.want) {
			t.Errorf("%s: got %v, %v; want %v and an error with %q", step.name, changed, err, step.changed, step.want)
		}
		if err != nil && strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: the error shows the key", step.name)
		}
		if got := serialOf(t, c); got != step.serial {
			t.Errorf("%s: got certificate %d, want %d", step.name, got, step.serial)
		}
	}
	if got := log.String(); got != "" {
		t.Errorf("got log %q, want none", got)
	}
	ca.Issue(cert, key, time.Now().Add(-time.Minute))
	if changed, err := c.Reload(time.Now()); !changed || err != nil || !strings.Contains(log.String(), "certificate not valid now") {
		t.Errorf("one that is over: got %v, %v and log %q, want it used and told", changed, err, log)
	}
}

func TestOpenCertificates_bad(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := certstest.NewAuthority(t)
	if _, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), cert) || !strings.Contains(err.Error(), key) {
		t.Errorf("no files: got %v, want both named", err)
	}
	ca.Issue(cert, filepath.Join(dir, "other.key"), time.Now().Add(time.Hour))
	ca.Issue(filepath.Join(dir, "other.crt"), key, time.Now().Add(time.Hour))
	if c, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler)); c != nil || err == nil || !strings.Contains(err.Error(), "as PEM") {
		t.Errorf("files of two pairs: got %v, %v; want an error that says what they must be", c, err)
	}
}

// An authority that says no is asked less and less often, however many
// clients come.
func TestIssuer_failing(t *testing.T) {
	var asked atomic.Int64
	authority := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]string{"type": "urn:ietf:params:acme:error:unauthorized", "detail": "not you"})
	}))
	defer authority.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	certstest.WritePEM(t, caFile, "CERTIFICATE", authority.Certificate().Raw)
	now := clock.Reading{Wall: time.Now(), Boot: time.Hour, BootID: "one"}
	pass := func(d time.Duration) { now.Wall, now.Boot = now.Wall.Add(d), now.Boot+d }
	var told bytes.Buffer
	issuer, err := NewIssuer(IssuerOptions{
		Domains: []string{"keys.example.test"}, Directory: authority.URL, CAFile: caFile, Folder: filepath.Join(t.TempDir(), "acme"),
		Clock: clock.NewClockFrom(func() clock.Reading { return now }), Log: slog.New(slog.NewJSONHandler(&told, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{ServerName: "keys.example.test"}
	attempt := func(want int) {
		t.Helper()
		for range 3 {
			if _, err := issuer.Get(hello); err == nil {
				t.Fatal("got a certificate")
			}
		}
		if got := strings.Count(told.String(), "certificate not obtained by ACME"); got != want {
			t.Fatalf("got %d attempts in the log, want %d: %s", got, want, told.String())
		}
	}
	attempt(1)
	pass(leastPause - time.Second)
	attempt(1)
	pass(time.Second)
	attempt(2)
	pass(leastPause)
	attempt(2)
	pass(leastPause)
	attempt(3)
	if asked.Load() == 0 {
		t.Error("the authority was never asked")
	}
	if _, err := issuer.Get(&tls.ClientHelloInfo{ServerName: "other.example.test"}); err == nil || strings.Count(told.String(), "certificate not obtained") != 3 {
		t.Errorf("a foreign name: got %v, want an error and no log line", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	issuer.Run(ctx) // returns
}
