// The listen family has the listeners: addresses, TLS, sockets handed over by
// systemd, and an orderly end. It does not know what is served.

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"latchkey/internal/certs"
	"latchkey/internal/clock"
)

// lookAtFiles is how often files of certificates are looked at.
const lookAtFiles = 10 * time.Second

// ListenerOptions are what Listeners are made of.
type ListenerOptions struct {
	Config Config
	Folder string // the data folder
	Socket string // path of the control socket
	Clock  *clock.Clock
	Log    *slog.Logger

	// Sockets are listeners that were opened before, by the names "api",
	// "admin" and "acme". They go before the addresses of the config.
	Sockets map[string][]net.Listener

	API, Admin, Local http.Handler // what is served at each door
}

// Listeners are the listeners of the service and what they serve: the API, the
// admin door and the control socket, and a fourth for the questions of an
// authority where the config has one.
type Listeners struct {
	o            ListenerOptions
	doors        []door
	certificates []*certs.Certificates
	issuer       *certs.Issuer // nil where no door uses ACME
	failed       chan error
	serving      sync.WaitGroup // those who accept connections
	connections  *connections
	stop         context.CancelFunc // ends the work beside serving
}

// door is one place to listen and what is served there.
type door struct {
	name      string // in Sockets
	key       string // of the config
	network   string
	address   string
	tls       ListenerTLS
	clear     bool // may be reached from other machines without TLS
	handler   http.Handler
	listeners []net.Listener
	server    *http.Server
}

// OpenListeners listens on all doors, or on none. Nothing is answered until Serve.
func OpenListeners(o ListenerOptions) (*Listeners, error) {
	d, c := &Listeners{o: o, connections: newConnections(), stop: func() {}}, o.Config
	if c.ServerTLS().ACME || c.AdminTLS().ACME {
		var err error
		d.issuer, err = certs.NewIssuer(certs.IssuerOptions{
			Domains: c.ACME.Domains, Email: c.ACME.Email, Directory: c.ACME.Directory, CAFile: c.ACME.CAFile,
			Folder: filepath.Join(o.Folder, "acme"), Clock: o.Clock, Log: o.Log,
		})
		if err != nil {
			return nil, errors.Join(err, d.release())
		}
	}
	d.doors = []door{
		{name: "api", key: "server", network: "tcp", address: c.Server.Listen, tls: c.ServerTLS(), clear: c.Server.InsecureHTTP, handler: o.API},
		{name: "admin", key: "admin", network: "tcp", address: c.Admin.Listen, tls: c.AdminTLS(), clear: c.Admin.InsecureHTTP, handler: o.Admin},
		{key: "the control socket", network: "unix", address: shorter(o.Socket), clear: true, handler: o.Local},
	}
	if d.issuer != nil && (c.ACME.HTTPListen != "" || o.Sockets["acme"] != nil) {
		d.doors = append(d.doors, door{name: "acme", key: "acme.http", network: "tcp", address: c.ACME.HTTPListen, clear: true, handler: d.issuer.Handler()})
	}
	if err := d.openAll(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

func (d *Listeners) openAll() error {
	for name := range d.o.Sockets {
		if !slices.ContainsFunc(d.doors, func(x door) bool { return x.name == name }) {
			return fmt.Errorf(`got a listening socket named %q from the service manager, and there is no such door; name it "api" or "admin" by FileDescriptorName=`, name)
		}
	}
	count := 0
	for i := range d.doors {
		if err := d.open(&d.doors[i]); err != nil {
			return err
		}
		count += len(d.doors[i].listeners)
	}
	d.failed = make(chan error, count)
	return os.Chmod(d.o.Socket, 0o600)
}

// open makes ready what a door needs to serve.
func (d *Listeners) open(x *door) error {
	if x.tls.On() {
		get, err := d.getter(x)
		if err != nil {
			return err
		}
		x.handler = strict(x.name, x.handler)
		x.server = d.httpServer(x.handler)
		x.server.TLSConfig = d.tlsConfig(x, get)
	} else {
		x.server = d.httpServer(x.handler)
	}
	if x.listeners = d.o.Sockets[x.name]; x.listeners != nil {
		for _, l := range x.listeners {
			if l.Addr().Network() == "tcp" && !x.tls.On() && !x.clear && !IsLocalAddress(l.Addr().String()) {
				return fmt.Errorf("the socket %q from the service manager listens on %s, where keys would travel in clear; set %s.tls_cert_file and %[3]s.tls_key_file, "+
					"or put TLS in front and set %[3]s.insecure_http = true, or have it listen on 127.0.0.1", x.name, l.Addr(), x.key)
			}
		}
		return nil
	}
	if x.network == "unix" {
		// The folder is ours alone, so a socket in it is of a process that is gone.
		if err := os.Remove(x.address); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	l, err := net.Listen(x.network, x.address)
	if err != nil {
		key := strings.Replace(x.key, "acme.http", "acme.http_listen", 1)
		if x.network == "tcp" && key == x.key {
			key += ".listen"
		}
		return fmt.Errorf("%s: %w; stop what listens there, or choose another address (port 0 takes a free one)", key, err)
	}
	x.listeners = []net.Listener{l}
	return nil
}

// getter gives where a door gets its certificate for each connection.
func (d *Listeners) getter(x *door) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if x.tls.ACME {
		return d.issuer.Get, nil
	}
	c, err := certs.OpenCertificates(x.tls.CertFile, x.tls.KeyFile, d.o.Clock.Now(), d.o.Log)
	if err != nil {
		return nil, fmt.Errorf("%s.tls_cert_file: %w", x.key, err)
	}
	d.certificates = append(d.certificates, c)
	return c.Get, nil
}

func (d *Listeners) tlsConfig(x *door, get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: get, NextProtos: []string{"h2", "http/1.1"}}
	if x.tls.ACME {
		c.NextProtos = append(c.NextProtos, "acme-tls/1") // RFC 8737 section 4
	}
	return c
}

// strict makes browsers that have seen the admin door by TLS once come by TLS
// alone (RFC 6797). The API door leaves that to who owns the name.
func strict(name string, h http.Handler) http.Handler {
	if name != "admin" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		h.ServeHTTP(w, r)
	})
}

// release closes the listeners.
func (d *Listeners) release() (err error) {
	for _, door := range d.doors {
		for _, l := range door.listeners {
			err = errors.Join(err, l.Close())
		}
	}
	return err
}

// API is where the API listens.
func (d *Listeners) API() net.Addr { return d.doors[0].listeners[0].Addr() }

// Admin is where the dashboard and the admin endpoint listen.
func (d *Listeners) Admin() net.Addr { return d.doors[1].listeners[0].Addr() }

// Line says to people where the doors are.
func (d *Listeners) Line() string {
	return fmt.Sprintf("API on %s, admin door on %s", d.API(), d.Admin())
}

// Serve begins to answer at all doors, and returns at once.
func (d *Listeners) Serve() {
	for _, x := range d.doors {
		for _, l := range x.listeners {
			d.serving.Go(func() {
				if x.tls.On() { // Serve gives the server a TLSConfig of its own, so that says nothing
					d.failed <- x.server.ServeTLS(l, "", "")
				} else {
					d.failed <- x.server.Serve(l)
				}
			})
		}
	}
	var ctx context.Context
	ctx, d.stop = context.WithCancel(context.Background())
	if d.certificates != nil {
		go d.tend(ctx)
	}
	if d.issuer != nil {
		go d.issuer.Run(ctx)
	}
}

// tend looks at the files of certificates from time to time.
func (d *Listeners) tend(ctx context.Context) {
	tick := time.NewTicker(lookAtFiles)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := d.Reload(); err != nil {
				d.o.Log.Error("the certificate has changed and stays as it was", "error", err)
			}
		}
	}
}

// Reload takes certificates into use whose files have changed. A pair that
// cannot be used is an error, the first time, and the one before stays.
func (d *Listeners) Reload() (err error) {
	for _, c := range d.certificates {
		changed, failed := c.Reload(d.o.Clock.Now())
		if changed {
			d.o.Log.Info("the certificate is a new one", "file", c.CertFile)
		}
		err = errors.Join(err, failed)
	}
	return err
}

// Failed gives the error of a door that no longer serves.
func (d *Listeners) Failed() <-chan error { return d.failed }

// Close takes no more requests and finishes those under way, within the
// shutdown time of the config. What waits at a socket of the service manager
// is for the next process.
func (d *Listeners) Close(ctx context.Context) error {
	d.stop()
	grace, cancel := context.WithTimeout(ctx, d.o.Config.Server.ShutdownTimeout)
	defer cancel()
	// First accepting ends, then who was accepted gets an answer: Shutdown would
	// drop some of them (see Connections).
	_ = d.release()
	d.serving.Wait()
	for _, x := range d.doors {
		x.server.SetKeepAlivesEnabled(false)
	}
	d.connections.Wait(grace)
	failed := make([]error, len(d.doors))
	var all sync.WaitGroup
	for i, x := range d.doors {
		all.Go(func() {
			if err := x.server.Shutdown(grace); err != nil {
				failed[i] = errors.Join(fmt.Errorf("stop: %w", err), x.server.Close())
			}
		})
	}
	all.Wait()
	if err := os.Remove(d.o.Socket); !errors.Is(err, os.ErrNotExist) {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// shorter is the shorter way to a socket: the system takes little more than
// 100 bytes.
func shorter(path string) string {
	if dir, err := os.Getwd(); err == nil && len(path) > 100 {
		if relative, err := filepath.Rel(dir, path); err == nil && len(relative) < len(path) {
			return relative
		}
	}
	return path
}

func (d *Listeners) httpServer(h http.Handler) *http.Server {
	c := d.o.Config.Server
	return &http.Server{
		Handler: closing(h), ReadHeaderTimeout: c.ReadHeaderTimeout, ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout,
		IdleTimeout: c.IdleTimeout, ConnState: d.connections.Note, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug),
	}
}

// closing ends the connection after a request with a transfer encoding. It may
// have had a Content-Length beside it, which net/http drops without a word:
// then a proxy in front may see another end of it, and what follows, a second
// request hidden in the first, must not be answered (RFC 9112 section 6.3).
func closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// patience is how long the end of a server waits for the first request of
// connections that were taken. Their clients send it at once, as a rule.
const patience = 2 * time.Second

// connections are those of a server that have a request under way or are about
// to send their first. http.Server.Shutdown drops the latter without an answer:
// it closes what has been accepted and not read yet. It is safe for concurrent
// use.
type connections struct {
	mu      sync.Mutex
	fresh   map[net.Conn]bool // before their first request
	active  map[net.Conn]bool // by HTTP/1
	changed chan struct{}
}

// newConnections is empty.
func newConnections() *connections {
	return &connections{fresh: map[net.Conn]bool{}, active: map[net.Conn]bool{}, changed: make(chan struct{}, 1)}
}

// Note is for http.Server.ConnState.
func (c *connections) Note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	delete(c.fresh, conn)
	delete(c.active, conn)
	switch state {
	case http.StateNew:
		c.fresh[conn] = true
	case http.StateActive:
		// Over HTTP/2 requests may follow each other without a gap, and the end
		// of a server is told to the client in its own way.
		if t, ok := conn.(*tls.Conn); !ok || t.ConnectionState().NegotiatedProtocol != "h2" {
			c.active[conn] = true
		}
	}
	c.mu.Unlock()
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// Wait returns when all have their answers, or when the context ends. No more
// may be accepted by then. It waits only for so long for a first request.
func (c *connections) Wait(ctx context.Context) {
	enough := time.NewTimer(patience)
	defer enough.Stop()
	patient := true
	for c.busy(patient) {
		select {
		case <-ctx.Done():
			return
		case <-enough.C:
			patient = false
		case <-c.changed:
		}
	}
}

func (c *connections) busy(patient bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.active) > 0 || patient && len(c.fresh) > 0
}

// Systemd is the service manager that has started this process and wants to
// hear how it is, in the way of systemd (sd_notify(3), sd_listen_fds(3)). Where
// there is none, nothing is told to anybody. It is safe for concurrent use.
type Systemd struct {
	log   *slog.Logger
	every time.Duration // within which it wants to hear that the process is well; 0: not at all
}

// NewSystemd reads from the environment what the service manager wants.
func NewSystemd(log *slog.Logger) (*Systemd, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	return &Systemd{log: log, every: every}, nil
}

// Sockets gives the listeners that the service manager has opened for this
// process, by their names; the first call takes them.
func (s *Systemd) Sockets() (map[string][]net.Listener, error) {
	return activation.ListenersWithNames()
}

// Ready tells that the service answers, with a line for people. It also ends
// what Reloading has begun.
func (s *Systemd) Ready(status string) {
	s.tell(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Reloading tells that the configuration is being read anew.
func (s *Systemd) Reloading() {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping tells that no more requests are taken.
func (s *Systemd) Stopping() { s.tell(daemon.SdNotifyStopping) }

// Watch tells, twice within each span that the service manager has set, that
// the process is well, as long as the probe gives no error. A probe that hangs
// or fails lets the service manager end the process. Watch returns when the
// context ends, or at once where nobody wants to know.
func (s *Systemd) Watch(ctx context.Context, probe func() error) {
	if s.every <= 0 {
		return
	}
	tick := time.NewTicker(s.every / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := probe(); err != nil {
				s.log.Error("the process is not well; the service manager is not told otherwise", "error", err)
				continue
			}
			s.tell(daemon.SdNotifyWatchdog)
		}
	}
}

func (s *Systemd) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("tell the service manager", "error", err)
	}
}
