package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

// authority is a certificate authority of a test's own.
type authority struct {
	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
	file   string // its certificate as PEM
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	der := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "Test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, &a.key)
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	writePEM(t, a.file, "CERTIFICATE", der)
	return a
}

// sign makes a key and a certificate of it, signed by the authority, or by the
// key itself where the authority has none yet.
func (a *authority) sign(template *x509.Certificate, into **ecdsa.PrivateKey) []byte {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.serial++
	template.SerialNumber = big.NewInt(a.serial)
	*into = key
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

// issue puts a certificate for this machine and its key into two files, and
// gives the serial number.
func (a *authority) issue(certFile, keyFile string, until time.Time) int64 {
	a.t.Helper()
	var key *ecdsa.PrivateKey
	der := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key)
	pkcs, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	writePEM(a.t, certFile, "CERTIFICATE", der)
	writePEM(a.t, keyFile, "PRIVATE KEY", pkcs)
	return a.serial
}

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

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
	ca, log := newAuthority(t), &lockedBuffer{}
	first := ca.issue(cert, key, time.Now().Add(time.Hour))
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
	second := ca.issue(cert, key, time.Now().Add(time.Hour))
	newCert, newKey := read(cert), read(key)
	for _, step := range []struct {
		name    string
		do      func()
		changed bool
		want    string // in the error
		serial  int64
	}{
		{"the key is still the old one", func() { write(key, oldKey) }, false, "no usable pair", first},
		{"the same again is told once", func() {}, false, "", first},
		{"the certificate is half written", func() { write(cert, newCert[:len(newCert)/2]) }, false, "no usable pair", first},
		{"it is empty", func() { write(cert, "") }, false, "no usable pair", first},
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
	ca.issue(cert, key, time.Now().Add(-time.Minute))
	if changed, err := c.Reload(time.Now()); !changed || err != nil || !strings.Contains(log.String(), "out of its time") {
		t.Errorf("one that is over: got %v, %v and log %q, want it used and told", changed, err, log)
	}
}

func TestOpenCertificates_bad(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := newAuthority(t)
	if _, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), cert) || !strings.Contains(err.Error(), key) {
		t.Errorf("no files: got %v, want both named", err)
	}
	ca.issue(cert, filepath.Join(dir, "other.key"), time.Now().Add(time.Hour))
	ca.issue(filepath.Join(dir, "other.crt"), key, time.Now().Add(time.Hour))
	if c, err := OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler)); c != nil || err == nil || !strings.Contains(err.Error(), "as PEM") {
		t.Errorf("files of two pairs: got %v, %v; want an error that says what they must be", c, err)
	}
}

// acmeServer is a whole ACME authority in this process, that asks at ports of
// its own choosing and knows every name as this machine's.
type acmeServer struct {
	directory string
	caFile    string // vouches for the directory
	roots     string // PEM file of the authority's root
	orders    *atomicCount
}

// atomicCount counts requests by path.
type atomicCount struct{ paths lockedBuffer }

func (c *atomicCount) of(path string) int { return strings.Count(c.paths.String(), path+"\n") }

// startACME starts an authority. Where the port of a kind of question is 0,
// such a question fails.
func startACME(t *testing.T, httpPort, tlsPort int) *acmeServer {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	names, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here := &dns.Server{Listener: names, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg)
		answer.SetReply(q)
		if name := q.Question[0]; name.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = here.ActivateAndServe() }()
	t.Cleanup(func() { _ = here.Shutdown() })

	quiet, store := log.New(io.Discard, "", 0), db.NewMemoryStore()
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	asker := va.New(quiet, httpPort, tlsPort, false, names.Addr().String(), store)
	front := wfe.New(quiet, store, asker, authority, []string{"ca.test"}, false, false, 1, 1)
	a := &acmeServer{caFile: filepath.Join(t.TempDir(), "directory.pem"), roots: filepath.Join(t.TempDir(), "root.pem"), orders: &atomicCount{}}
	handler := front.Handler()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(&a.orders.paths, r.URL.Path+"\n")
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	a.directory = server.URL + wfe.DirectoryPath
	writePEM(t, a.caFile, "CERTIFICATE", server.Certificate().Raw)
	if err := os.WriteFile(a.roots, authority.GetRootCert(0).PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

const acmeDomain = "keys.example.test"

// listenHere opens a listener and gives its port.
func listenHere(t *testing.T) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l, l.Addr().(*net.TCPAddr).Port
}

func TestIssuer_challenges(t *testing.T) {
	for _, kind := range []string{"by TLS", "by HTTP"} {
		t.Run(kind, func(t *testing.T) {
			api, apiPort := listenHere(t)
			plain, plainPort := listenHere(t)
			sockets := map[string][]net.Listener{"api": {api}}
			var authority *acmeServer
			if kind == "by HTTP" {
				authority = startACME(t, plainPort, 1) // nothing answers at port 1
				sockets["acme"] = []net.Listener{plain}
			} else {
				_ = plain.Close()
				authority = startACME(t, 1, apiPort)
			}
			var folder string
			open := func() *Doors {
				return openDoors(t, func(o *DoorOptions) {
					c := &o.Config.ACME
					o.Config.Server.TLS, c.Domains, c.AcceptTerms, c.Email = "acme", []string{acmeDomain}, true, "ops@example.test"
					c.Directory, c.CAFile, o.Sockets = authority.directory, authority.caFile, sockets
					if folder == "" {
						folder = o.Folder
					}
					o.Folder = folder
				})
			}
			d := open()
			client := tlsClient(t, authority.roots, func(c *tls.Config) { c.ServerName = acmeDomain })
			r, body := fetch(t, client, "https://"+d.API().String())
			if body != "api" || r.ProtoMajor != 2 || !slices.Equal(r.TLS.PeerCertificates[0].DNSNames, []string{acmeDomain}) {
				t.Errorf("got %q by %s with a certificate for %v", body, r.Proto, r.TLS.PeerCertificates[0].DNSNames)
			}
			if kind == "by HTTP" {
				if r, body := fetch(t, http.DefaultClient, "http://"+plain.Addr().String()+"/api/v1/key"); r.StatusCode != http.StatusNotFound || !strings.Contains(body, "https") {
					t.Errorf("another path at the plain port: got %d %q, want 404 and no redirect", r.StatusCode, body)
				}
			}
			if _, err := tlsClient(t, authority.roots, func(c *tls.Config) { c.ServerName = "other.example.test" }).Get("https://" + d.API().String()); err == nil {
				t.Error("another name: got a connection, want none")
			}
			checkKept(t, filepath.Join(folder, "acme"))
			orders, want := authority.orders.of("/order-plz"), 1
			if kind == "by HTTP" {
				want = 2 // the question by TLS comes first, and fails
			}
			if orders != want {
				t.Errorf("got %d orders, want %d; asked were\n%s", orders, want, authority.orders.paths.String())
			}
			again, _ := listenHere(t)
			sockets = map[string][]net.Listener{"api": {again}}
			d = open()
			if r, _ := fetch(t, tlsClient(t, authority.roots, func(c *tls.Config) { c.ServerName = acmeDomain }), "https://"+d.API().String()); r.StatusCode != 200 || authority.orders.of("/order-plz") != orders {
				t.Errorf("after a restart: got %d and %d orders, want the kept certificate", r.StatusCode, authority.orders.of("/order-plz"))
			}
		})
	}
}

// checkKept wants the certificate and the key of the account, and every file for
// its owner alone. Answers to questions may still be there for a moment.
func checkKept(t *testing.T, folder string) {
	t.Helper()
	for _, path := range []string{filepath.Join(folder, acmeDomain), filepath.Join(folder, "acme_account+key")} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got %v, %v; want mode 0600", path, info, err)
		}
	}
	if info, err := os.Stat(folder); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%s: got %v, %v; want mode 0700", folder, info, err)
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
	writePEM(t, caFile, "CERTIFICATE", authority.Certificate().Raw)
	clocks := &testClocks{fakeClocks: fakeClocks{Reading{Wall: epoch, Boot: time.Hour, BootID: "one"}}}
	told := &lockedBuffer{}
	issuer, err := NewIssuer(IssuerOptions{
		Domains: []string{acmeDomain}, Directory: authority.URL, CAFile: caFile, Folder: filepath.Join(t.TempDir(), "acme"),
		Clock: NewClockFrom(clocks.Read), Log: slog.New(slog.NewJSONHandler(told, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{ServerName: acmeDomain}
	attempt := func(want int) {
		t.Helper()
		for range 3 {
			if _, err := issuer.Get(hello); err == nil {
				t.Fatal("got a certificate")
			}
		}
		if got := strings.Count(told.String(), "no certificate by ACME"); got != want {
			t.Fatalf("got %d attempts in the log, want %d: %s", got, want, told.String())
		}
	}
	attempt(1)
	clocks.Pass(leastPause - time.Second)
	attempt(1)
	clocks.Pass(time.Second)
	attempt(2)
	clocks.Pass(leastPause)
	attempt(2)
	clocks.Pass(leastPause)
	attempt(3)
	if asked.Load() == 0 {
		t.Error("the authority was never asked")
	}
	if _, err := issuer.Get(&tls.ClientHelloInfo{ServerName: "other.example.test"}); err == nil || strings.Count(told.String(), "no certificate") != 3 {
		t.Errorf("a foreign name: got %v, want an error and no log line", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	stop()
	issuer.Run(ctx) // returns
}
