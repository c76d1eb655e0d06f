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

// App is the whole service on one data folder: the parts, wired together.
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

	config  Config
	backups *Backups
	folder  *DataDir
	doors   atomic.Pointer[Listeners] // nil until they are open
	manager *Systemd                  // nil until they are open
	clock   *clock.Clock
	log     *slog.Logger
	stop    chan struct{} // ends the background work
	idle    chan struct{} // closed when it has ended
}

// AppOptions say what to open.
type AppOptions struct {
	Config Config
	Clock  *clock.Clock
	Create bool   // make the data folder if it is missing
	Pepper string // in place of the pepper file, "" to read that
	Log    *slog.Logger
}

// OpenApp opens the data folder of a config and starts the background work.
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

// wire makes what the parts share, and the server that serves them.
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
	a.targets = NewTargetPolicy(c.Webhooks.AllowPrivateTargets)
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

// contactWriters returns the permissions of which any one lets a key write contacts.
func (a *App) contactWriters() Permission {
	if a.config.Contract.ContactsWrite == "can_write_contacts" {
		return WriteContacts
	}
	return ReadContacts | WriteContacts
}

// keyRules returns what the config says of new keys.
func (a *App) keyRules() KeyRules {
	c := a.config.Keys
	return KeyRules{
		DefaultExpiry: c.DefaultExpiry, MaxExpiry: c.MaxExpiry, MaxPerOwner: c.MaxPerOwner, Environments: c.Environments, SelfRevoke: c.SelfRevoke,
	}
}

// openAPI describes every endpoint of both doors (OpenAPI 3.1). A test holds
// it against the routes, and every answer in the tests against it.
//
//go:embed openapi.json
var openAPI []byte

// describe makes the reference and returns its rows for each door.
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
		handler := pages.Handler(admin, a.bases)
		serve := func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { handler.ServeHTTP(w, r) }
		for _, path := range reference.Paths() {
			rows = append(rows, Row{Route{Method: "GET", Path: path}, serve})
		}
		return rows
	}, nil
}

// observe makes the parts that tell how the service is.
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

// note counts a request of the API door.
func (a *App) note(o *Outcome) {
	if strings.HasPrefix(o.Route, "/admin/") {
		return
	}
	key := ""
	if o.Found != nil {
		key = o.Found.ID
	}
	a.history.Note(key, o.Route, o.Code, o.Status, o.Began)
}

// bases tells where the doors are reached, for the examples of the reference.
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

// CheckStoreFile checks the database in a file that no server has open.
func CheckStoreFile(path string) (CheckResult, error) { return CheckFile(path, tables()) }

// RestoreApp is RestoreStore for the tables of this program, with an entry in the
// audit log that is restored.
func RestoreApp(o RestoreOptions, clock *clock.Clock) (RestoreResult, error) {
	o.Tables = tables()
	result, err := RestoreStore(o)
	if err != nil || o.DryRun {
		return result, err
	}
	// What the audit log says of the time after the backup is gone with it.
	a, err := OpenApp(AppOptions{Config: o.Config, Clock: clock, Pepper: o.Pepper, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return result, err
	}
	deed := AuditContext{Now: o.Now, Actor: "command line", Action: "restore", Detail: map[string]any{"backup": filepath.Base(o.From), "made_at": Seconds(result.CreatedAt)}}
	return result, errors.Join(a.Store.Update(deed.Append), a.Close())
}

// tend does the background work until stop is closed.
func (a *App) tend() {
	defer close(a.idle)
	a.report("count the keys", a.metrics.CountKeys(a.clock.Latest(a.clock.Now())))
	a.repeat(a.work)
}

// repeat does each piece of work at its period until stop is closed. No two run
// at the same time.
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

// do does a round of work, unless stop was closed while it waited for its turn.
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

// AuditContext is what the service does of itself, now.
func (a *App) Deed(action string) AuditContext {
	now := a.clock.Now()
	return AuditContext{Actor: ActorSelf, Action: action, Now: now, Latest: a.clock.Latest(now)}
}

// catch has the clock catch up, and logs once that the wall clock was set back.
func (a *App) catch(told bool) (behind bool) {
	a.clock.Catch()
	by := a.clock.Behind(a.clock.Now())
	if behind = by >= time.Minute; behind && !told {
		a.log.Warn("the wall clock is behind the time that it was: keys and logins end by the later of the two, until it has been so for a day",
			"behind", by.Round(time.Second).String())
	}
	return behind
}

// report logs a fault of the background work. That of a failed store is told
// by Serve.
func (a *App) report(what string, err error) {
	if err != nil && a.Store.Err() == nil {
		a.log.Error(what, "error", err)
	}
}

// Close stores what is still in memory and lets go of the folder. No request
// may be under way.
func (a *App) Close() error {
	close(a.stop)
	<-a.idle
	a.Sender.Close()
	a.proxy.Close()
	return errors.Join(a.notices.Flush(), a.Keyring.Flush(), a.history.Flush(), a.Limiter.Close(), a.Store.Close(), a.folder.Close())
}

// Serve opens the three doors, tells ready where they are, and serves until
// the context ends or the store fails. Then it finishes the requests under
// way, within the shutdown time of the config.
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
	doors, err := OpenListeners(ListenerOptions{
		Config: a.config, Folder: a.folder.Path, Socket: a.folder.Socket(), Clock: a.clock, Log: a.log,
		Sockets: sockets, API: api, Admin: admin, Local: local,
	})
	if err != nil {
		return err
	}
	a.manager = supervisor
	a.doors.Store(doors)
	doors.Serve()
	a.Sender.Start()
	a.status.ListensAt(map[string]string{"api": doors.API().String(), "admin": doors.Admin().String(), "socket": a.folder.Socket()})
	ready(doors.API(), doors.Admin())
	supervisor.Ready(doors.Line())
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	// A commit of nothing but the time shows that the store takes writes.
	go supervisor.Watch(watched, func() error { return a.Store.Update(func(*Tx) error { return nil }) })
	select {
	case <-ctx.Done():
	case err = <-doors.Failed():
	case <-a.Store.Failed():
		err = a.Store.Err()
	}
	supervisor.Stopping()
	a.Server.Drain()
	a.dialer.Close()
	return errors.Join(err, doors.Close(context.WithoutCancel(ctx)))
}

// Reload takes a changed configuration and changed certificates into use, and
// the service manager hears of it. What cannot be used is logged, and what was
// there before stays.
func (a *App) Reload() {
	doors := a.doors.Load()
	if doors == nil {
		return // what is being started reads the present files
	}
	a.manager.Reloading()
	defer a.manager.Ready(doors.Line())
	_, _ = a.Reloader.Reload(a.clock.Now()) // it logs what comes of it
	if err := doors.Reload(); err != nil {
		a.log.Error("the certificate has changed and stays as it was", "error", err)
	}
}

// AdminDoor is the handler of the admin door: the admin endpoint and the
// dashboard.
func (a *App) AdminDoor() (http.Handler, error) {
	door, err1 := a.Server.Admin(false)
	trusted, err2 := a.Server.Admin(true)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	d, err := dashboard.New(dashboard.Options{
		Admin: trusted, Door: door, Accounts: a.accounts(), Now: a.clock.Now, Log: a.log, Listen: a.config.Admin.Listen,
		Hosts: slices.Concat(a.config.Admin.Hosts, a.config.ACME.Domains), BaseURL: a.config.Admin.BaseURL, APIURL: a.Server.Address,
	})
	if err != nil {
		return nil, err
	}
	return d.Handler()
}

// accounts lets operators log in at the dashboard.
func (a *App) accounts() *Accounts {
	return NewAccounts(AccountsOptions{
		Operators: a.Operators, Sessions: a.sessions, Clock: a.clock, Log: a.log, Proxies: a.config.TrustedProxies(), Refused: a.audit.Refused,
	})
}

// NewLog makes the log of a server: text to people, JSON to programs, unless the
// config says which. It has no time where the system's journal, which notes the
// time itself, reads text. Whatever has the shape of a secret is taken out of it.
// The level may be changed at any time.
func NewLog(w io.Writer, c Config, person, journal bool) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level.Set(slog.LevelInfo) // the config allows only names that can be read
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

// redactor takes secrets out of texts. What is written with care has none: it is
// for what somebody put where nobody thought of. It is safe for concurrent use.
type redactor struct {
	prefixes []string
	keys     *regexp.Regexp
}

// redacted stands in the place of a secret.
const redacted = "(redacted)"

// secretShapes are secrets that are known by what stands before them, and the
// tokens of logins and set-up links, which are 64 hex digits.
var secretShapes = regexp.MustCompile(`(?i)((?:bearer|basic)\s+|(?:api_key|token|password|secret|authorization|x-api-key|cookie)["']?\s*[=:]\s*["']?)[^\s"'&,;]+|\b()[0-9a-f]{64}\b`)

// NewRedactor knows API keys by their prefix; admin tokens and the secrets of
// webhooks have their own.
func NewRedactor(prefix string) *redactor {
	r := &redactor{prefixes: []string{prefix, tokenShape, hookShape}}
	r.keys = regexp.MustCompile(`(` + regexp.QuoteMeta(prefix) + `|` + tokenShape + `|` + hookShape + `)[0-9A-Za-z]{12,}`)
	return r
}

// How admin tokens and the secrets of webhooks begin.
const (
	tokenShape = "lka_"
	hookShape  = "whsec_"
)

// Keys takes what has the shape of a key, an admin token or a webhook's secret
// out of a text, and gives it as it is where there is none.
func (r *redactor) Keys(text string) string {
	for _, prefix := range r.prefixes {
		if strings.Contains(text, prefix) {
			return r.keys.ReplaceAllString(text, "${1}"+redacted)
		}
	}
	return text
}

// Text is Keys, and takes out what is a secret by what stands before it too:
// Bearer, api_key= and their kin.
func (r *redactor) Text(text string) string {
	if len(text) < 8 {
		return text
	}
	text = r.Keys(text)
	// Most of what is logged, such as a route, has none of these.
	if len(text) < 64 && !strings.ContainsAny(text, " =\"") {
		return text
	}
	return secretShapes.ReplaceAllString(text, "${1}"+redacted)
}

// Attr takes secrets out of an attribute of the log, as slog.HandlerOptions
// wants it.
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
