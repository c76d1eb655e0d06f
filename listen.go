// The listen family has the listeners: their addresses, TLS, sockets that systemd has opened, and
// an orderly shutdown. Read listen.go first, then listen_room.go (how many connections may be
// open). The family does not know which requests are served.

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
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/crypto/acme/autocert"

	"latchkey/internal/certs"
	"latchkey/internal/clock"
	"latchkey/internal/conns"
	"latchkey/internal/lean"
	"latchkey/internal/sockpath"
)

// lookAtFiles is the interval at which the certificate files are checked for changes.
const lookAtFiles = 10 * time.Second

// ListenerOptions are the options of OpenListeners.
type ListenerOptions struct {
	Config Config
	Folder string // the data folder
	Socket string // path of the control socket
	Clock  *clock.Clock
	Log    *slog.Logger
	ACME   autocert.Cache // the certificates that the nodes of a cluster share; nil: they are in the data folder

	// Sockets are listeners that the service manager has already opened, by name: "api", "admin" or
	// "acme". They are used instead of the addresses in Config.
	Sockets map[string][]net.Listener

	Connections *Connections // bounds the connections of all listeners

	API, Admin, Local http.Handler // handlers of the listeners; Local is for the control socket
}

// ACMEFolder returns the folder in a data folder where a server that is alone keeps its ACME certificates.
func ACMEFolder(data string) string { return filepath.Join(data, "acme") }

// Listeners has the listeners of the service and their HTTP servers: for the API, for the admin
// endpoint and for the control socket. If the configuration asks for it, another listener answers
// ACME challenges over plain HTTP.
type Listeners struct {
	o            ListenerOptions
	groups       []listenerGroup
	certificates []*certs.Certificates // from files
	issuer       *certs.Issuer         // nil: no listener uses ACME
	failed       chan error            // see Failed
	serving      sync.WaitGroup        // the goroutines that accept connections
	stop         context.CancelFunc    // ends the goroutines that renew and reload certificates
}

// listenerGroup is a set of listeners that share a handler, an HTTP server and TLS settings.
type listenerGroup struct {
	name      string // the name in ListenerOptions.Sockets; "": the control socket
	key       string // the section of the configuration; "" for the control socket
	setting   string // the setting with the address, for error messages
	network   string // for net.Listen
	address   string // for net.Listen
	tls       ListenerTLS
	room      *conns.Group // bounds the connections
	clear     bool         // other machines may connect without TLS
	handler   http.Handler
	listeners []net.Listener
	server    *http.Server
	lean      *lean.Server // serves plain requests before server; nil: server serves all
}

// OpenListeners opens all listeners. If one of them cannot be opened, it closes the others and
// returns the error. Requests are not answered until Serve is called.
func OpenListeners(o ListenerOptions) (*Listeners, error) {
	d, c := &Listeners{o: o, stop: func() {}}, o.Config
	if c.ServerTLS().ACME || c.AdminTLS().ACME {
		var err error
		d.issuer, err = certs.NewIssuer(certs.IssuerOptions{
			Domains: c.ACME.Domains, Email: c.ACME.Email, Directory: c.ACME.Directory, CAFile: c.ACME.CAFile,
			Folder: ACMEFolder(o.Folder), Cache: o.ACME, Clock: o.Clock, Log: o.Log,
		})
		if err != nil {
			return nil, errors.Join(err, d.release())
		}
	}
	d.groups = []listenerGroup{
		{name: "api", key: "server", setting: "server.listen", network: "tcp", address: c.Server.Listen, tls: c.ServerTLS(), clear: c.Server.InsecureHTTP, handler: o.API, room: o.Connections.api},
		{name: "admin", key: "admin", setting: "admin.listen", network: "tcp", address: c.Admin.Listen, tls: c.AdminTLS(), clear: c.Admin.InsecureHTTP, handler: o.Admin, room: o.Connections.admin},
		{network: "unix", address: o.Socket, clear: true, handler: o.Local, room: o.Connections.socket},
	}
	if d.issuer != nil && (c.ACME.HTTPListen != "" || o.Sockets["acme"] != nil) {
		d.groups = append(d.groups, listenerGroup{name: "acme", key: "acme", setting: "acme.http_listen", network: "tcp", address: c.ACME.HTTPListen, clear: true, handler: d.issuer.Handler(), room: o.Connections.acme})
	}
	if err := d.openAll(); err != nil {
		return nil, errors.Join(err, d.release())
	}
	return d, nil
}

// TryAddresses returns the error with which OpenListeners would not open the API or the admin listener, or nil. A start that is to
// create the data folder calls it first, so that an address that is taken leaves no folder behind.
func TryAddresses(c Config) error {
	for _, x := range []listenerGroup{
		{setting: "server.listen", network: "tcp", address: c.Server.Listen}, {setting: "admin.listen", network: "tcp", address: c.Admin.Listen},
	} {
		l, err := x.listen()
		if err == nil {
			err = l.Close()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// openAll opens the listeners of every group and makes the control socket accessible only to the
// user of the service.
func (d *Listeners) openAll() error {
	for name := range d.o.Sockets {
		if !slices.ContainsFunc(d.groups, func(x listenerGroup) bool { return x.name == name }) {
			return fmt.Errorf(`the service manager passed a socket named %q, but there is no such listener; set FileDescriptorName= to "api" or "admin"`, name)
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

// open creates the HTTP server of x. It then opens a listener, unless the service manager has
// already opened some for x.
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
		if x.name == "api" && d.o.Config.Server.Lean {
			x.lean = lean.New(x.server)
		}
	}
	if passed := d.o.Sockets[x.name]; passed != nil {
		for _, l := range passed {
			x.listeners = append(x.listeners, x.room.Listen(l))
		}
		for _, l := range passed {
			if l.Addr().Network() == "tcp" && !x.tls.On() && !x.clear && !IsLocalAddress(l.Addr().String()) {
				return fmt.Errorf("the socket %q from the service manager listens on %s, where keys would be sent unencrypted; set %s.tls_cert_file and %[3]s.tls_key_file, "+
					"or set %[3]s.insecure_http = true if a proxy in front terminates TLS, or make the socket listen on 127.0.0.1", x.name, l.Addr(), x.key)
			}
		}
		return nil
	}
	l, err := x.listen()
	if err != nil {
		return err
	}
	x.listeners = []net.Listener{x.room.Listen(l)}
	return nil
}

// listen opens the listener of x at its address.
func (x *listenerGroup) listen() (net.Listener, error) {
	if x.network == "unix" {
		return listenSocket(x.address)
	}
	l, err := net.Listen(x.network, x.address)
	if err != nil {
		return nil, notListening(x.setting, err)
	}
	return l, nil
}

// notListening returns the error for an address that could not be listened on, with what to do about it. setting is the
// name of the setting that has the address.
func notListening(setting string, err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s: %w; a port below 1024 needs a privilege: let systemd hold the socket (docs/install.md), "+
			"or run setcap cap_net_bind_service=+ep on the program, or choose a port above 1023", setting, err)
	}
	return fmt.Errorf("%s: %w; stop the program that uses this address, or choose another address (with port 0, the system chooses a free port)", setting, err)
}

// listenSocket opens the control socket. Only the process that has locked the data folder may call
// it, so an existing socket is left over from a process that has ended.
func listenSocket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the control socket: %w", err)
	}
	address, release, err := sockpath.Short(path)
	if err != nil {
		return nil, err
	}
	defer release()
	l, err := net.Listen("unix", address)
	if err != nil {
		return nil, fmt.Errorf("the control socket %s cannot be opened: %w; choose another data folder with --data, on a file system that can hold sockets", path, err)
	}
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // address may lead elsewhere by then; Close removes the socket
	}
	return l, nil
}

// TLSSetting returns the setting of a section that an error of certs.OpenCertificates is about.
func TLSSetting(section string, err error) string {
	if errors.Is(err, certs.ErrKeyFile) {
		return section + ".tls_key_file"
	}
	return section + ".tls_cert_file"
}

// getter returns the function that chooses the certificate for each connection to x. The
// certificate is obtained by ACME or read from the files of the configuration.
func (d *Listeners) getter(x *listenerGroup) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if x.tls.ACME {
		return d.issuer.Get, nil
	}
	c, err := certs.OpenCertificates(x.tls.CertFile, x.tls.KeyFile, d.o.Clock.Now(), d.o.Log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", TLSSetting(x.key, err), err)
	}
	d.certificates = append(d.certificates, c)
	return c.Get, nil
}

// tlsConfig returns the TLS settings of x. The function get chooses the certificate.
func (d *Listeners) tlsConfig(x *listenerGroup, get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: get, NextProtos: []string{"h2", "http/1.1"}}
	if x.tls.ACME {
		c.NextProtos = append(c.NextProtos, "acme-tls/1") // RFC 8737 section 4
	}
	return c
}

// strict returns a handler that adds an HSTS header field to the answers of h, if name is "admin".
// After one answer over TLS a browser then uses only TLS (RFC 6797). The field applies to the whole
// host name, so for the API listener strict returns h unchanged: the owner of the name must decide.
func strict(name string, h http.Handler) http.Handler {
	if name != "admin" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		h.ServeHTTP(w, r)
	})
}

// release closes the listeners. Connections that have been accepted stay open.
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

// Admin returns the address of the first listener for the dashboard and the admin endpoint.
func (d *Listeners) Admin() net.Addr { return d.groups[1].listeners[0].Addr() }

// Line returns a text that names the addresses of the API and the admin listener.
func (d *Listeners) Line() string {
	return fmt.Sprintf("API on %s, admin listener on %s", d.API(), d.Admin())
}

// Serve starts to answer requests on all listeners and returns immediately. Errors are sent to the
// channel that Failed returns.
func (d *Listeners) Serve() {
	for _, x := range d.groups {
		for _, l := range x.listeners {
			d.serving.Go(func() {
				d.failed <- x.serve(l)
			})
		}
	}
	var ctx context.Context
	ctx, d.stop = context.WithCancel(context.Background())
	go d.o.Connections.tend(ctx)
	if d.certificates != nil {
		go d.tend(ctx)
	}
	if d.issuer != nil {
		go d.issuer.Run(ctx)
	}
}

// serve answers the requests of l until l is closed.
func (x *listenerGroup) serve(l net.Listener) error {
	switch {
	case x.tls.On(): // TLSConfig does not show this, because Serve sets it even without TLS
		return x.server.ServeTLS(l, "", "")
	case x.lean != nil:
		return x.lean.Serve(l)
	}
	return x.server.Serve(l)
}

// CertificatesEnd returns when the first of the certificates from files ends. It returns the zero time
// if there are none.
func (d *Listeners) CertificatesEnd() (first time.Time) {
	for _, c := range d.certificates {
		if end := c.End(); first.IsZero() || end.Before(first) {
			first = end
		}
	}
	return first
}

// tend reloads changed certificate files every lookAtFiles until ctx ends.
func (d *Listeners) tend(ctx context.Context) {
	tick := time.NewTicker(lookAtFiles)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := d.Reload(); err != nil {
				d.o.Log.Error("certificate not reloaded; the previous one stays in use", "error", err)
			}
		}
	}
}

// Reload loads the certificates whose files have changed. If the changed files cannot be used, the
// previous certificate stays in use and Reload returns an error. It does not return that error
// again until the files change again.
func (d *Listeners) Reload() (err error) {
	for _, c := range d.certificates {
		changed, failed := c.Reload(d.o.Clock.Now())
		if changed {
			d.o.Log.Info("certificate reloaded", "file", c.CertFile)
		}
		err = errors.Join(err, failed)
	}
	return err
}

// Failed returns the channel that receives one error from each listener when the listener stops
// serving, also because of Close.
func (d *Listeners) Failed() <-chan error { return d.failed }

// Close stops accepting connections and waits until the requests in progress are answered, but at
// most for Server.ShutdownTimeout or until ctx ends. It then closes their connections and logs
// that. This is no error, because a stream may have no end. A connection that is still waiting at a
// socket of the service manager is left for the next process.
func (d *Listeners) Close(ctx context.Context) error {
	d.stop()
	grace, cancel := context.WithTimeout(ctx, d.o.Config.Server.ShutdownTimeout)
	defer cancel()
	// Shutdown could close connections whose first request is not answered (see conns.Set.Wait). So
	// the listeners are closed first, and Shutdown is called after those requests are answered.
	_ = d.release()
	d.serving.Wait()
	for _, x := range d.groups {
		if x.lean != nil {
			x.lean.Drain()
		}
		x.server.SetKeepAlivesEnabled(false)
	}
	d.o.Connections.set.Wait(grace)
	failed := make([]error, len(d.groups))
	var all sync.WaitGroup
	var cut atomic.Bool
	for i, x := range d.groups {
		all.Go(func() {
			var err error
			if x.lean != nil {
				err = x.lean.Shutdown(grace) // may still hand connections over to server
			}
			err = errors.Join(err, x.server.Shutdown(grace))
			if err != nil && grace.Err() != nil {
				cut.Store(true)
				err = x.server.Close()
			}
			if err != nil {
				failed[i] = fmt.Errorf("stop: %w", err)
			}
		})
	}
	all.Wait()
	if cut.Load() {
		d.o.Log.Warn("requests that were in progress for longer than shutdown_timeout were cut off", "shutdown_timeout", d.o.Config.Server.ShutdownTimeout.String())
	}
	if err := os.Remove(d.o.Socket); !errors.Is(err, os.ErrNotExist) {
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// httpServer returns an HTTP server for h with the timeouts of the configuration.
func (d *Listeners) httpServer(h http.Handler) *http.Server {
	c := d.o.Config.Server
	return &http.Server{
		Handler: conns.Guard(closing(h)), ReadHeaderTimeout: c.ReadHeaderTimeout, ReadTimeout: c.ReadTimeout, WriteTimeout: c.WriteTimeout,
		IdleTimeout: c.IdleTimeout, ConnState: conns.Note, ConnContext: conns.Context, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(d.o.Log.Handler(), slog.LevelDebug),
	}
}

// closing returns a handler that calls h and closes the connection after a request with
// Transfer-Encoding. Such a request may also have had a Content-Length, which net/http drops
// silently. A proxy in front may have used that length and have seen the request end elsewhere. The
// bytes that follow may then be a second request hidden in the first, which must not be answered
// (RFC 9112, section 6.3).
func closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// Systemd notifies the service manager that has started this process, and takes over the sockets
// that it has opened (sd_notify(3), sd_listen_fds(3)). If there is no service manager, its methods
// do nothing. It is safe for concurrent use.
type Systemd struct {
	log   *slog.Logger
	every time.Duration // the watchdog timeout (WATCHDOG_USEC); 0: there is no watchdog
}

// NewSystemd returns a Systemd with the watchdog timeout from the environment. It returns an error
// if WATCHDOG_USEC or WATCHDOG_PID is invalid.
func NewSystemd(log *slog.Logger) (*Systemd, error) {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return nil, fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	return &Systemd{log: log, every: every}, nil
}

// Sockets returns the listeners that the service manager has opened for this process, by name. Only
// the first call returns them. The caller must close them.
func (s *Systemd) Sockets() (map[string][]net.Listener, error) {
	return activation.ListenersWithNames()
}

// Ready notifies the service manager that the service is ready or that a reload is complete. status
// is shown to people who ask for the state of the service.
func (s *Systemd) Ready(status string) {
	s.notify(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Starting notifies the service manager that the start goes on and may take another 10 minutes, whatever its
// TimeoutStartSec. status is shown to people who ask for the state of the service.
func (s *Systemd) Starting(status string) {
	s.notify(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\nSTATUS=%s", (10 * time.Minute).Microseconds(), status))
}

// Reloading notifies the service manager that the configuration is being reloaded. Call Ready when
// the reload is complete.
func (s *Systemd) Reloading() {
	s.notify(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Stopping notifies the service manager that the service is shutting down.
func (s *Systemd) Stopping() { s.notify(daemon.SdNotifyStopping) }

// Watch calls probe twice in each watchdog timeout. Each time that probe returns nil, Watch
// notifies the service manager that the process works. If probe hangs or keeps failing, the service
// manager kills the process. Watch returns when ctx ends, or immediately if there is no watchdog.
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
				s.log.Error("watchdog check failed; the service manager was not notified", "error", err)
				continue
			}
			s.notify(daemon.SdNotifyWatchdog)
		}
	}
}

// notify sends state to the service manager and logs an error.
func (s *Systemd) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.log.Warn("service manager not notified", "error", err)
	}
}
