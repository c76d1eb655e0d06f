package main

import (
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"latchkey/internal/certs/certstest"
)

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
	certstest.WritePEM(t, a.caFile, "CERTIFICATE", server.Certificate().Raw)
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
			client := certstest.Client(t, authority.roots, func(c *tls.Config) { c.ServerName = acmeDomain })
			r, body := fetch(t, client, "https://"+d.API().String())
			if body != "api" || r.ProtoMajor != 2 || !slices.Equal(r.TLS.PeerCertificates[0].DNSNames, []string{acmeDomain}) {
				t.Errorf("got %q by %s with a certificate for %v", body, r.Proto, r.TLS.PeerCertificates[0].DNSNames)
			}
			if kind == "by HTTP" {
				if r, body := fetch(t, http.DefaultClient, "http://"+plain.Addr().String()+"/api/v1/key"); r.StatusCode != http.StatusNotFound || !strings.Contains(body, "https") {
					t.Errorf("another path at the plain port: got %d %q, want 404 and no redirect", r.StatusCode, body)
				}
			}
			if _, err := certstest.Client(t, authority.roots, func(c *tls.Config) { c.ServerName = "other.example.test" }).Get("https://" + d.API().String()); err == nil {
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
			if r, _ := fetch(t, certstest.Client(t, authority.roots, func(c *tls.Config) { c.ServerName = acmeDomain }), "https://"+d.API().String()); r.StatusCode != 200 || authority.orders.of("/order-plz") != orders {
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
