package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"latchkey/internal/certs"
	"latchkey/internal/certs/certstest"
	"latchkey/internal/clock"
	"latchkey/tests/program"
)

// openDoors opens doors that answer with their name, and closes them at the end.
func openDoors(t *testing.T, change func(*ListenerOptions)) *Listeners {
	t.Helper()
	dir := t.TempDir()
	say := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, text) })
	}
	o := ListenerOptions{
		Config: defaultConfig(), Folder: dir, Socket: filepath.Join(dir, "control.sock"), Clock: clock.NewClock(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		API: say("api"), Admin: say("admin"), Local: say("local"),
	}
	o.Config.Server.Listen, o.Config.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
	change(&o)
	if o.Connections == nil {
		o.Connections = NewConnections(ConnectionsOptions{Config: o.Config, Log: o.Log})
	}
	d, err := OpenListeners(o)
	if err != nil {
		t.Fatal(err)
	}
	d.Serve()
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fetch gives an answer with its body read.
func fetch(t testing.TB, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(body)
}

func TestDoors_TLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := certstest.NewAuthority(t)
	first := ca.Issue(cert, key, time.Now().Add(time.Hour))
	d := openDoors(t, func(o *ListenerOptions) {
		o.Config.Server.TLSCertFile, o.Config.Server.TLSKeyFile = cert, key
		o.Config.Admin.TLSCertFile, o.Config.Admin.TLSKeyFile = cert, key
	})
	api, admin := "https://"+d.API().String(), "https://"+d.Admin().String()
	client := certstest.Client(t, ca.File, nil)
	r, body := fetch(t, client, api)
	if body != "api" || r.ProtoMajor != 2 || r.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("API: got %q by %s, HSTS %q; want HTTP/2 and no HSTS", body, r.Proto, r.Header.Get("Strict-Transport-Security"))
	}
	if r, body = fetch(t, client, admin); body != "admin" || r.Header.Get("Strict-Transport-Security") != "max-age=31536000" {
		t.Errorf("admin: got %q, HSTS %q", body, r.Header.Get("Strict-Transport-Security"))
	}
	if r, _ := fetch(t, certstest.Client(t, ca.File, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), api); r.TLS.Version != tls.VersionTLS12 {
		t.Errorf("got version %x, want TLS 1.2 to do", r.TLS.Version)
	}
	old := certstest.Client(t, ca.File, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 })
	if _, err := old.Get(api); err == nil {
		t.Error("TLS 1.1: got an answer, want none")
	}
	if r, _ := fetch(t, http.DefaultClient, "http://"+d.API().String()); r.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP: got %d, want 400", r.StatusCode)
	}

	second := ca.Issue(cert, key, time.Now().Add(time.Hour))
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	reused := false
	trace := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
	request, err := http.NewRequestWithContext(trace, "GET", api, nil)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := client.Do(request)
	if err != nil || !reused || kept.TLS.PeerCertificates[0].SerialNumber.Int64() != first {
		t.Errorf("a connection that stood: got %v, reused %v; want it kept, with its certificate", err, reused)
	}
	if r, _ := fetch(t, certstest.Client(t, ca.File, nil), admin); r.TLS.PeerCertificates[0].SerialNumber.Int64() != second {
		t.Errorf("a new connection: got certificate %d, want %d", r.TLS.PeerCertificates[0].SerialNumber, second)
	}
	if err := os.WriteFile(key, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Reload(); err == nil {
		t.Error("a broken pair: got no error")
	}
	if r, _ := fetch(t, certstest.Client(t, ca.File, nil), api); r.TLS.PeerCertificates[0].SerialNumber.Int64() != second {
		t.Error("after a broken pair: want the good one still")
	}
}

// The files are looked at without anybody asking for it.
func TestDoors_tend(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := certstest.NewAuthority(t)
	ca.Issue(cert, key, time.Now().Add(time.Hour))
	c, err := certs.OpenCertificates(cert, key, time.Now(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	second := ca.Issue(cert, key, time.Now().Add(time.Hour))
	log := &lockedBuffer{}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		d := &Listeners{o: ListenerOptions{Clock: clock.NewClock(), Log: slog.New(slog.NewJSONHandler(log, nil))}, certificates: []*certs.Certificates{c}}
		go d.tend(ctx)
		time.Sleep(lookAtFiles + time.Second)
		synctest.Wait()
		if got := serialOf(t, c); got != second {
			t.Errorf("got certificate %d, want %d", got, second)
		}
		if err := os.WriteFile(cert, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * lookAtFiles)
		synctest.Wait()
		if got := strings.Count(log.String(), "stays in use"); got != 1 || serialOf(t, c) != second {
			t.Errorf("got %d log lines and certificate %d, want one and %d", got, serialOf(t, c), second)
		}
	})
}

func TestOpenDoors_bad(t *testing.T) {
	dir := t.TempDir()
	cert := filepath.Join(dir, "tls.crt")
	certstest.NewAuthority(t).Issue(cert, filepath.Join(dir, "tls.key"), time.Now().Add(time.Hour))
	listen := func(address string) []net.Listener {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return []net.Listener{l}
	}
	for _, tt := range []struct {
		name   string
		change func(*ListenerOptions)
		want   string
	}{
		{"no certificate", func(o *ListenerOptions) {
			o.Config.Server.TLSCertFile, o.Config.Server.TLSKeyFile = "/nowhere.crt", "/nowhere.key"
		}, "server.tls_cert_file: read the certificate"},
		{"no key", func(o *ListenerOptions) {
			o.Config.Server.TLSCertFile, o.Config.Server.TLSKeyFile = cert, "/nowhere.key"
		}, "server.tls_key_file: read the private key"},
		{"socket with another name", func(o *ListenerOptions) {
			o.Sockets = map[string][]net.Listener{"latchkey.socket": listen("127.0.0.1:0")}
		}, "FileDescriptorName="},
		{"socket in clear beyond this machine", func(o *ListenerOptions) { o.Sockets = map[string][]net.Listener{"admin": listen("0.0.0.0:0")} }, "admin.insecure_http = true"},
		{"no such authority", func(o *ListenerOptions) { o.Config.Admin.TLS, o.Config.ACME.CAFile = "acme", "/nowhere.pem" }, "acme.ca_file"},
		{"port taken", func(o *ListenerOptions) { o.Config.Server.Listen = listen("127.0.0.1:0")[0].Addr().String() }, "server.listen: "},
	} {
		o := ListenerOptions{Config: defaultConfig(), Folder: dir, Socket: filepath.Join(dir, "control.sock"), Clock: clock.NewClock(), Log: slog.New(slog.DiscardHandler)}
		o.Config.Server.Listen, o.Config.Admin.Listen = "127.0.0.1:0", "127.0.0.1:0"
		tt.change(&o)
		o.Connections = NewConnections(ConnectionsOptions{Config: o.Config, Log: o.Log})
		if d, err := OpenListeners(o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, %v; want an error with %q", tt.name, d, err, tt.want)
		}
	}
}

// One door may have several sockets, as for IPv4 and IPv6.
func TestDoors_sockets(t *testing.T) {
	var all []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	openDoors(t, func(o *ListenerOptions) {
		o.Config.Server.Listen = "192.0.2.1:1" // which could not be listened on
		o.Sockets = map[string][]net.Listener{"api": all}
	})
	for _, l := range all {
		if _, body := fetch(t, http.DefaultClient, "http://"+l.Addr().String()); body != "api" {
			t.Errorf("%s: got %q, want the API", l.Addr(), body)
		}
	}
}

func serialOf(t testing.TB, c *certs.Certificates) int64 {
	t.Helper()
	cert, err := c.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.SerialNumber.Int64()
}

func TestSupervisor_Watch(t *testing.T) {
	n := program.ListenForNotices(t)
	t.Setenv("NOTIFY_SOCKET", n.Path)
	t.Setenv("WATCHDOG_USEC", "60000000")
	log := &program.Output{}
	s, err := NewSystemd(slog.New(slog.NewJSONHandler(log, nil)))
	if err != nil || s.every != time.Minute {
		t.Fatalf("got %v, %v; want a minute", s, err)
	}
	probes := 0
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		go s.Watch(ctx, func() error {
			if probes++; probes == 2 {
				return errors.New("the disk is gone")
			}
			return nil
		})
		time.Sleep(3*s.every/2 + time.Second)
		stop()
	})
	s.Reloading()
	s.Ready("well")
	s.Stopping()
	var got []string
	for range 5 {
		got = append(got, n.Next())
	}
	text := strings.Join(got, "|")
	if probes != 3 || !strings.HasPrefix(text, "WATCHDOG=1|WATCHDOG=1|RELOADING=1\nMONOTONIC_USEC=") || !strings.HasSuffix(text, "|READY=1\nSTATUS=well|STOPPING=1") {
		t.Errorf("got %d probes and %q, want 3, one of them without a sign of life", probes, text)
	}
	if !strings.Contains(log.String(), "the disk is gone") {
		t.Errorf("got log %q, want the reason", log)
	}
}

func TestNewSupervisor(t *testing.T) {
	for _, tt := range []struct{ usec, want string }{{"", ""}, {"soon", "WATCHDOG_USEC"}, {"-1", "WATCHDOG_USEC"}} {
		t.Setenv("WATCHDOG_USEC", tt.usec)
		t.Setenv("NOTIFY_SOCKET", "")
		s, err := NewSystemd(slog.New(slog.DiscardHandler))
		if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.usec, err, tt.want)
		}
		if err == nil {
			s.Watch(context.Background(), nil) // returns at once
			s.Ready("unheard")
		}
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
			open := func() *Listeners {
				return openDoors(t, func(o *ListenerOptions) {
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
			for range 500 { // the answer may come while another goroutine still writes the certificate
				if _, err := os.Stat(filepath.Join(folder, "acme", acmeDomain)); err == nil {
					break
				}
				time.Sleep(10 * time.Millisecond)
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

// The lean loop serves plain requests to the API listener, over TCP and over sockets of the service
// manager. net/http serves the others, and all of them if the loop is off.
func TestDoors_Lean(t *testing.T) {
	kind := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintf(w, "%T", w) })
	const lean, web = "*lean.response", "*http.response"
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	ca := certstest.NewAuthority(t)
	ca.Issue(cert, key, time.Now().Add(time.Hour))
	for _, tt := range []struct {
		name   string
		change func(*ListenerOptions)
		want   string
	}{
		{"TCP", func(*ListenerOptions) {}, lean},
		{"off", func(o *ListenerOptions) { o.Config.Server.Lean = false }, web},
		{"TLS", func(o *ListenerOptions) { o.Config.Server.TLSCertFile, o.Config.Server.TLSKeyFile = cert, key }, web},
		{"unix socket", func(o *ListenerOptions) {
			l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
			if err != nil {
				t.Fatal(err)
			}
			o.Sockets = map[string][]net.Listener{"api": {l}}
		}, lean},
	} {
		d := openDoors(t, func(o *ListenerOptions) {
			o.API, o.Admin = kind, kind
			tt.change(o)
		})
		client, api := &http.Client{}, "http://"+d.API().String()
		if d.API().Network() == "unix" {
			api = "http://localhost"
			client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", d.API().String())
			}}
		}
		if tt.name == "TLS" {
			client, api = certstest.Client(t, ca.File, func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }), "https://"+d.API().String()
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
		}
		if _, body := fetch(t, client, api); body != tt.want {
			t.Errorf("%s: got an answer by %s, want %s", tt.name, body, tt.want)
		}
		r, err := client.Post(api, "text/plain", io.MultiReader(strings.NewReader("x"))) // in chunks
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(r.Body); string(body) != web || err != nil || !r.Close {
			t.Errorf("%s, chunked: got an answer by %s, close %v, %v; want %s, which closes the connection", tt.name, body, r.Close, err, web)
		}
		_ = r.Body.Close()
		if _, body := fetch(t, http.DefaultClient, "http://"+d.Admin().String()); body != web {
			t.Errorf("%s: got an answer of the admin listener by %s, want %s", tt.name, body, web)
		}
	}
}

// TestListeners_Problems looks for what to do in the errors for addresses that cannot be listened on.
func TestListeners_Problems(t *testing.T) {
	for _, tt := range []struct {
		cause error
		want  string
	}{
		{syscall.EACCES, "server.listen: bind: permission denied; a port below 1024 needs a privilege"},
		{syscall.EADDRINUSE, "server.listen: bind: address already in use; stop the program that uses this address"},
	} {
		if err := notListening("server.listen", os.NewSyscallError("bind", tt.cause)); !errors.Is(err, tt.cause) || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
}
