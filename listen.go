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

// lookAtFiles is the interval between checks of the certificate files.
const lookAtFiles = 10 * time.Second

// ListenerOptions are the options of OpenListeners.
type ListenerOptions struct {
	Config Config
	Folder string // the data folder
	Socket string // path of the control socket
	Clock  *clock.Clock
	Log    *slog.Logger

	// Sockets are listeners that the service manager has opened, by the names
	// "api", "admin" and "acme". They replace the addresses of the config.
	Sockets map[string][]net.Listener

	API, Admin, Local http.Handler // Local is for the control socket
}

// Listeners holds the listeners of the service and their HTTP servers: for the
// API, the admin endpoint and the control socket. A fourth answers ACME
// challenges over plain HTTP, if the config asks for it.
type Listeners struct {
	o            ListenerOptions
	groups       []listenerGroup
	certificates []*certs.Certificates
	issuer       *certs.Issuer // nil if no listener uses ACME
	failed       chan error
	serving      sync.WaitGroup // the goroutines that accept connections
	connections  *connections
	stop         context.CancelFunc // ends the goroutines that renew and reload certificates
}

// listenerGroup is a set of listeners that share a handler, an HTTP server and TLS
// settings.
type listenerGroup struct {
	name      string // the name in Sockets; "" for the control socket
	key       string // for error messages: the section of the config, or "the control socket"
	network   string
	address   string
	tls       ListenerTLS
	clear     bool // may be reached from other machines without TLS
	handler   http.Handler
	listeners []net.Listener
	server    *http.Server
}

// OpenListeners opens all listeners. If one of them fails, it closes the others
// and returns the error. No request is answered before Serve.
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
	d.groups = []listenerGroup{
		{name: "api", key: "server", network: "tcp", address: c.Server.Listen, tls: c.ServerTLS(), clear: c.Server.InsecureHTTP, handler: o.API},
		{name: "admin", key: "admin", network: "tcp", address: c.Admin.Listen, tls: c.AdminTLS(), clear: c.Admin.InsecureHTTP, handler: o.Admin},
		{key: "the control socket", network: "unix", address: shorter(o.Socket), clear: true, handler: o.Local},
	}
	if d.issuer != nil && (c.ACME.HTTPListen != "" || o.Sockets["acme"] != nil) {
		d.groups = append(d.groups, listenerGroup{name: "acme", key: "acme.http", network: "tcp", address: c.ACME.HTTPListen, clear: true, handler: d.issuer.Handler()})
	}
	if err := d.openAll(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

func (d *Listeners) openAll() error {
	for name := range d.o.Sockets {
		if !slices.ContainsFunc(d.groups, func(x listenerGroup) bool { return x.name == name }) {
			return fmt.Errorf(`got a listening socket named %q from the service manager, and there is no such listener; name it "api" or "admin" by FileDescriptorName=`, name)
		}
	}
	count := 0
	for i := range d.groups {
		if err := d.open(&d.groups[i]); err != nil {
			return err
		}
		count += len(d.groups[i].listeners)
	}
	d.failed = make(chan error, count)
	return os.Chmod(d.o.Socket, 0o600)
}

// open prepares the HTTP server of x and opens its listeners, unless the service
// manager has opened them.
func (d *Listeners) open(x *listenerGroup) error {
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
		// This process holds the lock of the data folder, so a socket in it was
		// left by a process that has ended.
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

// getter returns the function that returns the certificate for each connection
// to x: from ACME or from the files of the config.
func (d *Listeners) getter(x *listenerGroup) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
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

func (d *Listeners) tlsConfig(x *listenerGroup, get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: get, NextProtos: []string{"h2", "http/1.1"}}
	if x.tls.ACME {
		c.NextProtos = append(c.NextProtos, "acme-tls/1") // RFC 8737 section 4
	}
	return c
}

// strict returns h with an HSTS header for the admin listener: a browser that has
// used TLS once then uses only TLS (RFC 6797). The header is valid for the whole
// host name, so on the API listener that is left to the owner of the name.
func strict(name string, h http.Handler) http.Handler {
	if name != "admin" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		h.ServeHTTP(w, r)
	})
}

// release closes the listeners. Connections that were accepted stay open.
func (d *Listeners) release() (err error) {
	for _, group := range d.groups {
		for _, l := range group.listeners {
			err = errors.Join(err, l.Close())
		}
	}
	return err
}

// API returns the address of the first API listener.
func (d *Listeners) API() net.Addr { return d.groups[0].listeners[0].Addr() }

// Admin returns the address of the first listener of the dashboard and the admin
// endpoint.
func (d *Listeners) Admin() net.Addr { return d.groups[1].listeners[0].Addr() }

// Line returns the addresses of the API and the admin endpoint as a line for
// people.
func (d *Listeners) Line() string {
	return fmt.Sprintf("API on %s, admin listener on %s", d.API(), d.Admin())
}

// Serve starts serving on all listeners and returns immediately. Failed returns
// the errors.
func (d *Listeners) Serve() {
	for _, x := range d.groups {
		for _, l := range x.listeners {
			d.serving.Go(func() {
				if x.tls.On() { // TLSConfig cannot show it: Serve sets it even without TLS
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

// tend reloads changed certificate files every 10 seconds until ctx ends.
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

// Reload loads the certificates whose files have changed. If a changed pair
// cannot be used, the previous pair stays in use. Reload returns the error once,
// until the files change again.
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

// Failed returns the channel that receives an error for each listener that stops
// serving, also after Close.
func (d *Listeners) Failed() <-chan error { return d.failed }

// Close stops accepting connections and waits for the requests in progress, at
// most for the shutdown time of the config. Then it closes their connections.
// Connections that still wait at a socket of the service manager are served by
// the next process.
func (d *Listeners) Close(ctx context.Context) error {
	d.stop()
	grace, cancel := context.WithTimeout(ctx, d.o.Config.Server.ShutdownTimeout)
	defer cancel()
	// Accepting ends first, and accepted connections get an answer before
	// Shutdown is called: Shutdown would drop some of them (see connections).
	_ = d.release()
	d.serving.Wait()
	for _, x := range d.groups {
		x.server.SetKeepAlivesEnabled(false)
	}
	d.connections.Wait(grace)
	failed := make([]error, len(d.groups))
	var all sync.WaitGroup
	for i, x := range d.groups {
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

// shorter returns the path relative to the working directory if path has over
// 100 bytes and the relative one is shorter. The address of a Unix socket is
// limited to 103 bytes on macOS and 107 on Linux.
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

// closing returns h with the connection closed after a request that has a
// Transfer-Encoding. Such a request may also have had a Content-Length, which
// net/http silently drops. A proxy in front may use that length and see the
// request end elsewhere. The bytes that follow may then be a second request
// hidden in the first, and it must not be answered (RFC 9112 section 6.3).
func closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// patience is how long shutdown waits for the first request on accepted
// connections. Clients usually send it immediately.
const patience = 2 * time.Second

// connections holds the connections that have a request in progress or have not
// sent their first. http.Server.Shutdown may close the latter without an answer,
// even if their first request has arrived and is not read yet. It is safe for
// concurrent use.
type connections struct {
	mu      sync.Mutex
	fresh   map[net.Conn]bool // before their first request
	active  map[net.Conn]bool // with a request in progress, HTTP/1 only
	changed chan struct{}     // receives a value after a change
}

// newConnections returns an empty set of connections.
func newConnections() *connections {
	return &connections{fresh: map[net.Conn]bool{}, active: map[net.Conn]bool{}, changed: make(chan struct{}, 1)}
}

// Note records the new state of a connection. Use it as http.Server.ConnState.
func (c *connections) Note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	delete(c.fresh, conn)
	delete(c.active, conn)
	switch state {
	case http.StateNew:
		c.fresh[conn] = true
	case http.StateActive:
		// An HTTP/2 connection may never be idle, so Wait would wait in vain.
		// Shutdown ends it in order, with a GOAWAY frame (RFC 9113 section 6.8).
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

// Wait returns when no connection waits for an answer, or when ctx ends. It waits
// at most patience for a first request. Stop accepting connections before the
// call.
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

// Systemd notifies the service manager that has started this process and takes
// over its sockets (sd_notify(3), sd_listen_fds(3)). If there is no service
// manager, its methods do nothing. It is safe for concurrent use.
type Systemd struct {
	log   *slog.Logger
	every time.Duration // the watchdog timeout (WATCHDOG_USEC); 0 if there is no watchdog
}

// NewSystemd returns a Systemd with the watchdog timeout from the environment. It
// fails if WATCHDOG_USEC or WATCHDOG_PID is invalid.
func NewSystemd(log *slog.Logger) (*Systemd, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	return &Systemd{log: log, every: every}, nil
}

// Sockets returns the listeners that the service manager has opened for this
// process, by their names. Only the first call returns them. The caller closes
// them.
func (s *Systemd) Sockets() (map[string][]net.Listener, error) {
	return activation.ListenersWithNames()
}

// Ready reports that the service is ready, with a line for people. It also ends
// the reload that Reloading has reported.
func (s *Systemd) Ready(status string) {
	s.tell(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Reloading reports that the configuration is being reloaded. Call Ready
// afterwards.
func (s *Systemd) Reloading() {
	s.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping reports that the service is shutting down.
func (s *Systemd) Stopping() { s.tell(daemon.SdNotifyStopping) }

// Watch calls probe twice in each watchdog timeout and reports to the service
// manager each time that probe returns nil. If probe hangs or keeps failing, the
// service manager ends the process. Watch returns when ctx ends, or immediately
// if there is no watchdog.
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
