// The app family wires everything together. Read app_registry.go first: the table
// of all parts, with what each serves, stores and does in the background. No rule
// is made here.

package main

import (
	"context"
	_ "embed"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"

	"latchkey/dashboard"
	"latchkey/internal/clock"
	"latchkey/reference"
)

// App is the whole service on one data folder, with its parts wired together.
type App struct {
	Server  *Server
	Keyring *Keyring
	Limiter *Limiter
	Store   *Store
	Sender  *Sender

	Reloader *Reloader

	peppers  Peppers
	proxy    *Proxy
	guards   *ProxyRoutes
	notices  *OperatorEvents
	targets  *TargetPolicy
	history  *History
	audit    *AuditLog
	metrics  *Metrics
	status   *Status
	dialer   *Dialer
	tokens   *Tokens
	refusals *Refusals

	Operators *Operators
	sessions  *Sessions

	routes Routes // of all parts
	work   []work // of all parts

	config    Config
	backups   *Backups
	folder    *DataDir
	listeners atomic.Pointer[Listeners] // nil until Serve has opened them
	manager   *Systemd                  // set before listeners
	clock     *clock.Clock
	log       *slog.Logger
	stop      chan struct{} // ends the background work
	idle      chan struct{} // closed when the background work has ended
}

// AppOptions are the options of OpenApp.
type AppOptions struct {
	Config Config
	Clock  *clock.Clock
	Create bool   // create the data folder if it is missing
	Pepper string // the pepper itself; "" to read the pepper file
	Log    *slog.Logger
}

// OpenApp opens the data folder of a config and starts the background work. It
// opens no listener; Serve does. Call Close to store what is in memory and to
// release the folder.
func OpenApp(o AppOptions) (*App, error) {
	c := o.Config
	folder, err := OpenDataDir(c.Server.Data, o.Create)
	if err != nil {
		return nil, err
	}
	folder.Log = o.Log
	store, peppers, err := folder.Open(o.Pepper, c.Keys.PepperFile, c.Keys.RetiredPepperFiles, o.Clock)
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	a := &App{
		config: c, folder: folder, clock: o.Clock, log: o.Log, Store: store, peppers: peppers,
		stop: make(chan struct{}), idle: make(chan struct{}),
	}
	if err := a.wire(); err != nil {
		return nil, errors.Join(err, store.Close(), folder.Close())
	}
	if err := a.backups.Tidy(); err != nil {
		o.Log.Warn("remove copies that were never sent", "error", err)
	}
	go a.tend()
	return a, nil
}

// wire creates what the parts share, assembles the parts and creates the server
// that serves them.
func (a *App) wire() error {
	c, store := a.config, a.Store
	var err error
	if a.Keyring, err = NewKeyring(store, a.peppers, c.Keys.Prefix, c.Rights(), c.Keys.Cache); err != nil {
		return err
	}
	a.Limiter = NewLimiter(store, a.clock.Service(a.clock.Now()))
	a.Limiter.Observed.LogTo(a.log)
	if err := a.observe(); err != nil {
		return err
	}
	a.targets = NewTargetPolicy(TargetScope(c.Webhooks.AllowPrivateTargets))
	a.Sender = NewSender(SenderOptions{
		Store: store, Clock: a.clock, Peppers: a.peppers, Targets: a.targets, Log: a.log,
		Timeout: c.Webhooks.Timeout, Header: c.Webhooks.SignatureHeader, Scheme: c.Webhooks.Signature, Watch: a.metrics.Attempted,
	})
	a.dialer = NewDialer(store)
	a.Operators, a.sessions = NewOperators(store), NewSessions(store, c.Admin.SessionIdle, c.Admin.SessionMax)
	a.notices = NewOperatorEvents(store, a.Keyring, c.Keys.ExpiringNotice)
	a.tokens = NewTokens(store, a.peppers)
	a.proxy = NewProxy(ProxyOptions{Log: a.log, Proxies: c.TrustedProxies(), ReadTimeout: c.Server.ReadTimeout, WriteTimeout: c.Server.WriteTimeout})
	a.guards = NewProxyRoutes(func() []string { return a.Server.Own() }, a.proxy.Forward)
	a.Reloader = NewReloader(ReloaderOptions{store, a.Keyring, a.guards, a.log, c})
	if err := a.assemble(registry); err != nil {
		return err
	}
	pages, err := a.describe()
	if err != nil {
		return err
	}
	a.Server = NewServer(ServerOptions{
		Clock: a.clock, Store: store, Keyring: a.Keyring, Limiter: a.Limiter, Tokens: a.tokens, Log: a.log, Redact: NewRedactor(c.Keys.Prefix).Keys,
		Routes: a.routes, Pages: pages, Guards: a.guards,
		Access: c.Log.Access, QueryAllowed: c.Keys.QueryAllowed, DraftHeaders: c.Server.IETFHeaders != "off",
		MaxBody: int64(c.Server.MaxBodyBytes), Proxies: c.TrustedProxies(), Reached: a.notices.Reached,
		Watch: []func(*Outcome){a.note, a.refusals.Note, a.audit.Watch, a.metrics.Watch},
	})
	return a.Reloader.Start(a.clock.Now())
}

// contactWriters returns the permissions that allow a key to write contacts. One of
// them is enough.
func (a *App) contactWriters() Permission {
	if a.config.Contract.ContactsWrite == "can_write_contacts" {
		return WriteContacts
	}
	return ReadContacts | WriteContacts
}

// keyRules returns the rules of the config for new keys.
func (a *App) keyRules() KeyRules {
	c := a.config.Keys
	return KeyRules{
		DefaultExpiry: c.DefaultExpiry, MaxExpiry: c.MaxExpiry, MaxPerOwner: c.MaxPerOwner, Environments: c.Environments, SelfRevoke: c.SelfRevoke,
	}
}

// openAPI describes every endpoint of the API and the admin endpoint (OpenAPI
// 3.1). A test compares it with the routes, and the answers in the tests are
// checked against it.
//
//go:embed openapi.json
var openAPI []byte

// describe builds the reference pages. The function that it returns lists their
// routes: with admin those for the admin listener, else those for the API.
func (a *App) describe() (func(admin bool) []Row, error) {
	var entries []reference.ErrorEntry
	for _, e := range ErrorCatalog() {
		entries = append(entries, reference.ErrorEntry(e))
	}
	pages, err := reference.New(openAPI, entries)
	if err != nil {
		return nil, err
	}
	return func(admin bool) (rows []Row) {
		audience := reference.Clients
		if admin {
			audience = reference.Operators
		}
		handler := pages.Handler(audience, a.bases)
		serve := func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { handler.ServeHTTP(w, r) }
		for _, path := range reference.Paths() {
			rows = append(rows, Row{Route{Method: "GET", Path: path}, serve})
		}
		return rows
	}, nil
}

// observe creates the parts that record or report the state of the service:
// usage history, refusals, audit log, backups, metrics and status.
func (a *App) observe() (err error) {
	c, store := a.config, a.Store
	a.history, a.refusals = NewHistory(store), NewRefusals()
	a.audit = NewAuditLog(AuditOptions{Store: store, Clock: a.clock, Keep: c.Audit.Keep, Most: c.Audit.MaxEntries, Log: a.log})
	a.backups = NewBackups(BackupOptions{
		Store: store, Folder: a.folder.Path, Dir: c.Backup.Dir, Every: c.Backup.Every, Keep: c.Backup.Keep, Tables: tables(), Log: a.log,
	})
	a.metrics, err = NewMetrics(MetricsOptions{
		Store: store, Keyring: a.Keyring, Limiter: a.Limiter, Backups: a.backups, Clock: a.clock, Folder: a.folder.Path, Open: c.Metrics.Open,
		Ready: func() error { return a.Server.Ready() }, Config: func() ConfigStatus { return a.Reloader.Status() },
	})
	a.status = NewStatus(StatusOptions{
		Store: store, Keyring: a.Keyring, Backups: a.backups, Log: a.log, Folder: a.folder.Path, Started: a.clock.Now(),
		Server: func() *Server { return a.Server }, Config: func() ConfigStatus { return a.Reloader.Status() },
	})
	return err
}

// note counts a request to the API in the usage history. It ignores requests to
// the admin endpoint.
func (a *App) note(o *Outcome) {
	if strings.HasPrefix(o.Route, "/admin/") {
		return
	}
	key := ""
	if o.Found != nil {
		key = o.Found.ID
	}
	a.history.Note(CountedRequest{Key: key, Route: o.Route, Code: o.Code, Status: o.Status, At: o.Began})
}

// bases returns the URLs of the API and of the admin endpoint, for the examples of
// the reference.
func (a *App) bases(r *http.Request) reference.Bases {
	at := reference.Bases{API: a.Server.Address(), Admin: a.config.Admin.BaseURL}
	if at.API == "" {
		at.API = "http://" + a.config.Server.Listen
	}
	if at.Admin == "" {
		at.Admin = "http://" + r.Host
	}
	return at
}

// CheckStoreFile checks the database at path with the tables of all parts. No
// server may have it open.
func CheckStoreFile(path string) (CheckResult, error) { return CheckFile(path, tables()) }

// RestoreApp calls RestoreStore with the tables of all parts and, unless it is a
// dry run, adds an entry to the restored audit log.
func RestoreApp(o RestoreOptions, clock *clock.Clock) (RestoreResult, error) {
	o.Tables = tables()
	result, err := RestoreStore(o)
	if err != nil || o.DryRun {
		return result, err
	}
	// The restored audit log ends at the time of the backup. This entry explains
	// the gap that follows.
	a, err := OpenApp(AppOptions{Config: o.Config, Clock: clock, Pepper: o.Pepper, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return result, err
	}
	deed := AuditContext{Now: o.Now, Actor: "command line", Action: "restore", Detail: map[string]any{"backup": filepath.Base(o.From), "made_at": Seconds(result.CreatedAt)}}
	return result, errors.Join(a.Store.Update(deed.Append), a.Close())
}

// tend does the background work until stop is closed, then closes idle.
func (a *App) tend() {
	defer close(a.idle)
	a.report("count the keys", a.metrics.CountKeys(a.clock.Latest(a.clock.Now())))
	a.repeat(a.work)
}

// repeat runs each piece of work once per period until stop is closed. Only one
// runs at a time.
func (a *App) repeat(all []work) {
	rounds := map[time.Duration][]work{}
	for _, w := range all {
		rounds[w.every] = append(rounds[w.every], w)
	}
	var turn sync.Mutex
	var running sync.WaitGroup
	for every, round := range rounds {
		running.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for a.await(tick.C) {
				turn.Lock()
				a.do(round)
				turn.Unlock()
			}
		})
	}
	running.Wait()
}

// await waits for a tick and reports whether it came before stop was closed.
func (a *App) await(tick <-chan time.Time) bool {
	select {
	case <-a.stop:
		return false
	case <-tick:
		return true
	}
}

// do runs a round of work, unless stop was closed while the round waited for its
// turn.
func (a *App) do(round []work) {
	select {
	case <-a.stop:
		return
	default:
	}
	for _, w := range round {
		a.report(w.what, w.run(a.clock.Now()))
	}
}

// Deed returns the audit context, with the present time, of an action that the
// service performs on its own.
func (a *App) Deed(action string) AuditContext {
	now := a.clock.Now()
	return AuditContext{Actor: ActorSelf, Action: action, Now: now, Latest: a.clock.Latest(now)}
}

// catch calls Catch of the clock and reports whether the wall clock is behind by a
// minute or more. If so, it logs a warning, unless told is true. Pass the previous
// result as told, so that it warns only once.
func (a *App) catch(told bool) (behind bool) {
	a.clock.Catch()
	by := a.clock.Behind(a.clock.Now())
	if behind = by >= time.Minute; behind && !told {
		a.log.Warn("the wall clock is behind the time that it was: keys and logins end by the later of the two, until it has been so for a day",
			"behind", by.Round(time.Second).String())
	}
	return behind
}

// report logs an error of the background work. It is silent if the store has
// failed, because Serve returns that error.
func (a *App) report(what string, err error) {
	if err != nil && a.Store.Err() == nil {
		a.log.Error(what, "error", err)
	}
}

// Close ends the background work, stores what is still in memory and releases the
// folder. Call it once, when no request is in progress.
func (a *App) Close() error {
	close(a.stop)
	<-a.idle
	a.Sender.Close()
	a.proxy.Close()
	return errors.Join(a.notices.Flush(), a.Keyring.Flush(), a.history.Flush(), a.Limiter.Close(), a.Store.Close(), a.folder.Close())
}

// Serve opens the listeners, calls ready with the addresses of two of them, and
// serves until ctx ends, a listener fails or the store fails. Then it finishes the
// requests in progress, within the shutdown time of the config. It returns nil
// if ctx has ended and all requests were finished.
func (a *App) Serve(ctx context.Context, ready func(api, admin net.Addr)) error {
	api, err1 := a.Server.API()
	admin, err2 := a.AdminDoor()
	local, err3 := a.Server.Admin(true)
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	supervisor, err := NewSystemd(a.log)
	if err != nil {
		return err
	}
	sockets, err := supervisor.Sockets()
	if err != nil {
		return err
	}
	listeners, err := OpenListeners(ListenerOptions{
		Config: a.config, Folder: a.folder.Path, Socket: a.folder.Socket(), Clock: a.clock, Log: a.log,
		Sockets: sockets, API: api, Admin: admin, Local: local,
	})
	if err != nil {
		return err
	}
	a.manager = supervisor
	a.listeners.Store(listeners)
	listeners.Serve()
	a.Sender.Start()
	a.status.ListensAt(map[string]string{"api": listeners.API().String(), "admin": listeners.Admin().String(), "socket": a.folder.Socket()})
	ready(listeners.API(), listeners.Admin())
	supervisor.Ready(listeners.Line())
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	// An empty update commits only the clock's stamp. It proves that the store
	// can write.
	go supervisor.Watch(watched, func() error { return a.Store.Update(func(*Tx) error { return nil }) })
	select {
	case <-ctx.Done():
	case err = <-listeners.Failed():
	case <-a.Store.Failed():
		err = a.Store.Err()
	}
	supervisor.Stopping()
	a.Server.Drain()
	a.dialer.Close()
	return errors.Join(err, listeners.Close(context.WithoutCancel(ctx)))
}

// Reload loads the configuration and the certificates again, if they have changed,
// and notifies the service manager. If either cannot be used, Reload logs the
// error and the previous one stays in use.
func (a *App) Reload() {
	listeners := a.listeners.Load()
	if listeners == nil {
		return // still starting: the files were read a moment ago
	}
	a.manager.Reloading()
	defer a.manager.Ready(listeners.Line())
	_, _ = a.Reloader.Reload(a.clock.Now()) // it logs the result
	if err := listeners.Reload(); err != nil {
		a.log.Error("the certificate has changed and stays as it was", "error", err)
	}
}

// AdminDoor returns the handler of the admin listener: the admin endpoint and the
// dashboard.
func (a *App) AdminDoor() (http.Handler, error) {
	local, err1 := a.Server.Admin(false)
	trusted, err2 := a.Server.Admin(true)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	d, err := dashboard.New(dashboard.Options{
		Admin: trusted, Door: local, Accounts: a.accounts(), Now: a.clock.Now, Log: a.log, Listen: a.config.Admin.Listen,
		Hosts: slices.Concat(a.config.Admin.Hosts, a.config.ACME.Domains), BaseURL: a.config.Admin.BaseURL, APIURL: a.Server.Address,
	})
	if err != nil {
		return nil, err
	}
	return d.Handler()
}

// accounts returns the accounts with which operators log in to the dashboard.
func (a *App) accounts() *Accounts {
	return NewAccounts(AccountsOptions{
		Operators: a.Operators, Sessions: a.sessions, Clock: a.clock, Log: a.log, Proxies: a.config.TrustedProxies(), Refused: a.audit.Refused,
	})
}

// NewLog returns a logger that writes to w, and its level, which may be changed at
// any time. It writes text if person and JSON if not, unless the config sets
// the format. journal means that w is the system journal, which adds the time
// itself, so text has none. Anything that looks like a secret is redacted.
func NewLog(w io.Writer, c Config, person, journal bool) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level.Set(slog.LevelInfo) // cannot happen: the config has checked the name
	}
	text := c.Log.Format == "text" || c.Log.Format == "auto" && person
	redact := NewRedactor(c.Keys.Prefix).Attr
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if text && journal && len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return redact(groups, a)
	}}
	if text {
		return slog.New(slog.NewTextHandler(w, opts)), level
	}
	return slog.New(slog.NewJSONHandler(w, opts)), level
}

// redactor replaces secrets in texts. Our own log lines contain none: it is a
// second defense, for secrets that a client puts in an unexpected place. It is
// safe for concurrent use.
type redactor struct {
	prefixes []string
	keys     *regexp.Regexp
}

// redacted replaces a secret.
const redacted = "(redacted)"

// secretShapes matches secrets that are recognized by the word before them, and
// tokens of logins and set-up links, which are 64 hex digits.
var secretShapes = regexp.MustCompile(`(?i)((?:bearer|basic)\s+|(?:api_key|token|password|secret|authorization|x-api-key|cookie)["']?\s*[=:]\s*["']?)[^\s"'&,;]+|\b()[0-9a-f]{64}\b`)

// NewRedactor returns a redactor that recognizes API keys by prefix, and admin
// tokens and webhook secrets by theirs.
func NewRedactor(prefix string) *redactor {
	r := &redactor{prefixes: []string{prefix, tokenShape, hookShape}}
	r.keys = regexp.MustCompile(`(` + regexp.QuoteMeta(prefix) + `|` + tokenShape + `|` + hookShape + `)[0-9A-Za-z]{12,}`)
	return r
}

// The prefixes of admin tokens and of webhook secrets.
const (
	tokenShape = "lka_"
	hookShape  = "whsec_"
)

// Keys returns text with everything redacted that looks like an API key, an admin
// token or a webhook secret.
func (r *redactor) Keys(text string) string {
	for _, prefix := range r.prefixes {
		if strings.Contains(text, prefix) {
			return r.keys.ReplaceAllString(text, "${1}"+redacted)
		}
	}
	return text
}

// Text redacts what Keys does, and also secrets that are recognized by the word
// before them, such as Bearer or api_key=.
func (r *redactor) Text(text string) string {
	if len(text) < 8 {
		return text
	}
	text = r.Keys(text)
	// Skip the slow expression. Most texts, such as a route, have none of these.
	if len(text) < 64 && !strings.ContainsAny(text, " =\"") {
		return text
	}
	return secretShapes.ReplaceAllString(text, "${1}"+redacted)
}

// Attr returns a log attribute with its secrets redacted. Use it as ReplaceAttr of
// slog.HandlerOptions.
func (r *redactor) Attr(_ []string, a slog.Attr) slog.Attr {
	switch a.Value.Kind() {
	case slog.KindString:
		if text := a.Value.String(); len(text) >= 8 {
			a.Value = slog.StringValue(r.Text(text))
		}
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(r.Text(v.Error()))
		case *url.URL:
			a.Value = slog.StringValue(v.Scheme + "://" + v.Host) // a path or query may hold anything
		case http.Header:
			a.Value = slog.StringValue(redacted)
		case []string:
			a.Value = slog.StringValue(r.Text(strings.Join(v, " ")))
		case []byte:
			a.Value = slog.StringValue(r.Text(string(v)))
		}
	}
	return a
}
