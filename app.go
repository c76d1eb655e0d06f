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

	proxy   *Proxy
	notices *Notices
	history *History
	audit   *AuditLog
	metrics *Metrics
	status  *Status
	dialer  *Dialer

	Operators *Operators
	sessions  *Sessions

	config  Config
	backups *Backups
	folder  *Folder
	doors   atomic.Pointer[Doors] // nil until they are open
	manager *Supervisor           // nil until they are open
	clock   *clock.Clock
	log     *slog.Logger
	stop    chan struct{} // ends the background work
	idle    chan struct{} // closed when it has ended
}

// OpenApp opens the data folder of a config and starts the background work.
// With create a missing folder is made. pepper stands in for the pepper file
// where it is not "".
func OpenApp(c Config, clock *clock.Clock, create bool, pepper string, log *slog.Logger) (*App, error) {
	folder, err := OpenFolder(c.Server.Data, create)
	if err != nil {
		return nil, err
	}
	folder.Log = log
	store, peppers, err := folder.Open(pepper, c.Keys.PepperFile, c.Keys.RetiredPepperFiles, clock)
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	a := &App{config: c, folder: folder, clock: clock, log: log, Store: store, stop: make(chan struct{}), idle: make(chan struct{})}
	if err := a.wire(peppers); err != nil {
		return nil, errors.Join(err, store.Close(), folder.Close())
	}
	if err := a.backups.Tidy(); err != nil {
		log.Warn("remove copies that were never sent", "error", err)
	}
	go a.tend()
	return a, nil
}

// wire makes the parts and hands the server their routes.
func (a *App) wire(peppers Peppers) error {
	c, store := a.config, a.Store
	var err error
	if a.Keyring, err = NewKeyring(store, peppers, c.Keys.Prefix, c.Rights(), c.Keys.Cache); err != nil {
		return err
	}
	a.Limiter = NewLimiter(store, a.clock.Service(a.clock.Now()))
	a.Limiter.Observed.LogTo(a.log)
	write := ReadContacts | WriteContacts
	if c.Contract.ContactsWrite == "can_write_contacts" {
		write = WriteContacts
	}
	if err := a.observe(); err != nil {
		return err
	}
	targets := NewTargets(c.Webhooks.AllowPrivateTargets)
	a.Sender = NewSender(SenderOptions{
		Store: store, Clock: a.clock, Peppers: peppers, Targets: targets, Log: a.log,
		Timeout: c.Webhooks.Timeout, Header: c.Webhooks.SignatureHeader, Scheme: c.Webhooks.Signature, Watch: a.metrics.Attempted,
	})
	a.dialer = NewDialer(store)
	a.Operators, a.sessions = NewOperators(store), NewSessions(store, c.Admin.SessionIdle, c.Admin.SessionMax)
	a.history = NewHistory(store)
	a.notices = NewNotices(store, a.Keyring, c.Keys.ExpiringNotice)
	rules := KeyRules{
		DefaultExpiry: c.Keys.DefaultExpiry, MaxExpiry: c.Keys.MaxExpiry, MaxPerOwner: c.Keys.MaxPerOwner,
		Environments: c.Keys.Environments, SelfRevoke: c.Keys.SelfRevoke,
	}
	refusals := NewRefusals()
	o := ServerOptions{
		Clock: a.clock, Store: store, Keyring: a.Keyring, Limiter: a.Limiter, Tokens: NewTokens(store, peppers), Log: a.log, Redact: NewRedactor(c.Keys.Prefix).Keys,
		Access: c.Log.Access, QueryAllowed: c.Keys.QueryAllowed, DraftHeaders: c.Server.IETFHeaders != "off",
		MaxBody: int64(c.Server.MaxBodyBytes), Proxies: c.TrustedProxies(), Reached: a.notices.Reached,
		Watch: []func(*Outcome){a.note, refusals.Note},
	}
	a.audit = NewAuditLog(AuditOptions{Store: store, Clock: a.clock, Keep: c.Audit.Keep, Most: c.Audit.MaxEntries, Log: a.log})
	o.Watch = append(o.Watch, a.audit.Watch, a.metrics.Watch)
	for _, part := range []any{
		a.audit, a.metrics, a.status, NewAdmin(store, a.Keyring, a.Limiter, rules), o.Tokens, NewOwners(store, a.Keyring), NewTeams(store), NewAgents(store),
		NewContacts(store, write), NewDoNotCalls(store), NewCalls(store, a.Limiter), NewCallDesk(store), a.dialer,
		NewVariables(store), NewContexts(store), NewCalendar(store, a.Limiter), NewEventDesk(store), NewAvailability(store), NewICS(store), NewSchedules(store), NewVerifier(store, a.Keyring, a.Limiter),
		NewKeyImport(store, a.Keyring, NewKeyForm(a.Keyring, rules)), a.backups, NewHooks(store, peppers, targets, a.Sender), a.Operators,
		NewUsage(store, a.Keyring, a.history), refusals,
	} {
		o.Add(part)
	}
	if o.Pages, err = a.describe(); err != nil {
		return err
	}
	return a.guard(o)
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
	a.backups = NewBackups(store, a.folder.Path, c.Backup.Dir, c.Backup.Every, c.Backup.Keep, tables(), a.log)
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

// guard makes what needs to know the routes of all other parts, and the server.
func (a *App) guard(o ServerOptions) (err error) {
	c := a.config
	a.proxy = NewProxy(ProxyOptions{Log: a.log, Proxies: c.TrustedProxies(), ReadTimeout: c.Server.ReadTimeout, WriteTimeout: c.Server.WriteTimeout})
	o.Guards = NewGuards(o.Own(), a.proxy.Forward)
	if a.Reloader, err = NewReloader(ReloaderOptions{a.Store, a.Keyring, o.Guards, a.log, c}, a.clock.Now()); err != nil {
		return err
	}
	o.Add(NewExplainer(a.Store, a.Keyring, a.Limiter, ExplainedRoutes{o.Keyed, o.Free, o.Guards}, o.QueryAllowed))
	o.Add(a.Reloader)
	o.Add(NewOverview(OverviewOptions{Guards: o.Guards, Keyed: o.Keyed, Free: o.Free}))
	a.Server = NewServer(o)
	return nil
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

// tables lists what the store keeps in tables.
func tables() []Checked {
	var all []Checked
	for _, part := range []interface{ Tables() []Checked }{
		&Admin{}, &Tokens{}, &Operators{}, &Sessions{}, &Owners{}, &Teams{}, &Agents{}, &Contacts{}, &DoNotCalls{}, &Calls{}, &Variables{}, &Schedules{}, &Hooks{}, &Notices{}, &AuditLog{},
	} {
		all = append(all, part.Tables()...)
	}
	return slices.Concat(all, ReplayTables(), EventTables())
}

// CheckStoreFile checks the database in a file that no server has open.
func CheckStoreFile(path string) (CheckResult, error) { return CheckFile(path, tables()) }

// RestoreApp is RestoreStore for the tables of this program, with an entry in the
// audit log that is restored.
func RestoreApp(o RestoreOptions, clock *clock.Clock) (Restored, error) {
	o.Tables = tables()
	result, err := RestoreStore(o)
	if err != nil || o.DryRun {
		return result, err
	}
	// What the audit log says of the time after the backup is gone with it.
	a, err := OpenApp(o.Config, clock, false, o.Pepper, slog.New(slog.DiscardHandler))
	if err != nil {
		return result, err
	}
	deed := Deed{Now: o.Now, Actor: "command line", Action: "restore", Detail: map[string]any{"backup": filepath.Base(o.From), "made_at": Seconds(result.CreatedAt)}}
	return result, errors.Join(a.Store.Update(deed.Append), a.Close())
}

// tend does what has to be done from time to time.
func (a *App) tend() {
	defer close(a.idle)
	second := time.NewTicker(time.Second)
	guard := time.NewTicker(10 * time.Second)
	minute := time.NewTicker(time.Minute)
	flush := time.NewTicker(a.config.Keys.LastUsedInterval)
	defer second.Stop()
	defer guard.Stop()
	defer minute.Stop()
	defer flush.Stop()
	a.report("count the keys", a.metrics.CountKeys(a.clock.Latest(a.clock.Now())))
	behind := false
	for {
		select {
		case <-a.stop:
			return
		case <-second.C:
			behind = a.catch(behind)
			a.Sender.Wake()
			a.report("send reminders", FireReminders(a.Store, a.clock.Now()))
			a.report("end leases of dialers", a.dialer.Lapse(a.clock.Now()))
			a.report("store reached limits", a.notices.Flush())
		case <-guard.C:
			a.Store.Guard()
		case <-minute.C:
			now := a.clock.Now()
			late, early := a.clock.Latest(now), a.clock.Earliest(now)
			a.Limiter.Sweep(a.clock.Service(now))
			a.report("end earlier secrets", a.Keyring.Sweep(early))
			a.report("forget requests", errors.Join(SweepRequests(a.Store, now), SweepReplays(a.Store, now)))
			a.report("look for keys that expire", a.notices.Expiring(late))
			a.report("sweep the outbox", SweepOutbox(a.Store, now))
			a.report("forget sessions", a.sessions.Sweep(early))
			a.report("sweep the usage history", a.history.Sweep(now))
			a.report("tend the audit log", a.audit.Tend(now))
			a.report("count the keys", a.metrics.CountKeys(late))
			a.report("scheduled backup", a.backups.Due(now))
		case <-flush.C:
			a.report("store last uses", a.Keyring.Flush())
			a.report("store what limits would refuse", a.Limiter.Observed.Flush(a.clock.Service(a.clock.Now())))
			a.report("store the usage history", a.history.Flush())
		}
	}
}

// Deed is what the service does of itself, now.
func (a *App) Deed(action string) Deed {
	now := a.clock.Now()
	return Deed{Actor: ActorSelf, Action: action, Now: now, Latest: a.clock.Latest(now)}
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
	supervisor, err := NewSupervisor(a.log)
	if err != nil {
		return err
	}
	sockets, err := supervisor.Sockets()
	if err != nil {
		return err
	}
	doors, err := OpenDoors(DoorOptions{
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

// Redactor takes secrets out of texts. What is written with care has none: it is
// for what somebody put where nobody thought of. It is safe for concurrent use.
type Redactor struct {
	prefixes []string
	keys     *regexp.Regexp
}

// Redacted stands in the place of a secret.
const Redacted = "(redacted)"

// secretShapes are secrets that are known by what stands before them, and the
// tokens of logins and set-up links, which are 64 hex digits.
var secretShapes = regexp.MustCompile(`(?i)((?:bearer|basic)\s+|(?:api_key|token|password|secret|authorization|x-api-key|cookie)["']?\s*[=:]\s*["']?)[^\s"'&,;]+|\b()[0-9a-f]{64}\b`)

// NewRedactor knows API keys by their prefix; admin tokens and the secrets of
// webhooks have their own.
func NewRedactor(prefix string) *Redactor {
	r := &Redactor{prefixes: []string{prefix, tokenShape, hookShape}}
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
func (r *Redactor) Keys(text string) string {
	for _, prefix := range r.prefixes {
		if strings.Contains(text, prefix) {
			return r.keys.ReplaceAllString(text, "${1}"+Redacted)
		}
	}
	return text
}

// Text is Keys, and takes out what is a secret by what stands before it too:
// Bearer, api_key= and their kin.
func (r *Redactor) Text(text string) string {
	if len(text) < 8 {
		return text
	}
	text = r.Keys(text)
	// Most of what is logged, such as a route, has none of these.
	if len(text) < 64 && !strings.ContainsAny(text, " =\"") {
		return text
	}
	return secretShapes.ReplaceAllString(text, "${1}"+Redacted)
}

// Attr takes secrets out of an attribute of the log, as slog.HandlerOptions
// wants it.
func (r *Redactor) Attr(_ []string, a slog.Attr) slog.Attr {
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
			a.Value = slog.StringValue(Redacted)
		case []string:
			a.Value = slog.StringValue(r.Text(strings.Join(v, " ")))
		case []byte:
			a.Value = slog.StringValue(r.Text(string(v)))
		}
	}
	return a
}
