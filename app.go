// The app family creates all parts of the service and connects them. Read
// app_registry.go first: it lists all parts, each with its routes, tables and background
// work. app.go opens, serves and closes the service.

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/julienschmidt/httprouter"

	"latchkey/dashboard"
	"latchkey/internal/clock"
	"latchkey/internal/keytext"
	"latchkey/internal/promtext"
	"latchkey/internal/strictjson"
	"latchkey/reference"
)

// App is the whole service on one data folder.
type App struct {
	Server  *Server
	Keyring *Keyring
	Limiter *Limiter
	Store   *Store
	Sender  *Sender
	mailer  *Mailer

	Reloader *Reloader

	peppers   Peppers
	proxy     *Proxy
	guards    *ProxyRoutes
	notices   *OperatorEvents
	storage   *StorageWatch
	targets   *TargetPolicy
	history   *History
	audit     *AuditLog
	metrics   *Metrics
	status    *Status
	dialer    *Dialer
	sandboxes *Sandboxes
	tokens    *Tokens
	refusals  *Refusals
	requests  *Requests

	connections *Connections

	Operators *Operators
	Passkeys  *Passkeys
	sessions  *Sessions
	accounts  *Accounts

	routes Routes // the routes of all parts
	pages  *reference.Reference
	absent Routes // the routes of the Klen AI API if contract.enabled is false
	work   []work // the background work of all parts

	config    Config
	backups   *Backups
	folder    *DataDir
	listeners atomic.Pointer[Listeners] // nil until Serve has opened the listeners
	cluster   clusterPart
	manager   *Systemd // Serve sets it before listeners; nil until then
	clock     *clock.Clock
	behind    bool // the result of the last check in catch, which alone uses it
	log       *slog.Logger
	access    *AccessWriter // nil: no access log
	stop      chan struct{} // Close closes it to end the background work
	idle      chan struct{} // closed when the background work has ended
	demo      bool          // the store has sample data, which the dashboard says on each page
}

// AppOptions are the options of OpenApp.
type AppOptions struct {
	Config Config
	Clock  *clock.Clock
	Create bool   // create the data folder if it is missing
	Pepper string // the pepper itself; if "", it is read from the pepper file
	Log    *slog.Logger
	Access *AccessWriter // for the access log, if the configuration has it on; nil: none
	Demo   bool          // add sample data to the store, which must be empty; the dashboard says that they are
	// Progress receives how much of a migration of the database is done. If it returns an error, OpenApp ends with it.
	Progress Progress
}

// OpenApp opens the data folder of a configuration, creates all parts and starts their
// background work. It returns an error if another process has the folder open. It does
// not open listeners; Serve does. The caller must call Close, which stores data that is
// still in memory and unlocks the folder.
func OpenApp(o AppOptions) (*App, error) {
	c := o.Config
	open := OpenDataDir
	if o.Create {
		open = CreateDataDir
	}
	folder, err := open(c.Server.Data)
	if err != nil {
		return nil, err
	}
	folder.Log = o.Log
	node, err := joinCluster(c, o.Log)
	if err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	store, peppers, err := folder.Open(FolderOptions{Peppers: PeppersOf(c, o.Pepper), Clock: o.Clock, Shared: node.shared(), Progress: o.Progress})
	if err != nil {
		return nil, errors.Join(err, node.close(), folder.Close())
	}
	a := &App{
		cluster: node,
		config:  c, folder: folder, clock: o.Clock, log: o.Log, access: o.Access, Store: store, peppers: peppers,
		stop: make(chan struct{}), idle: make(chan struct{}), demo: o.Demo,
	}
	if !c.Log.Access {
		a.access = nil
	}
	if err := a.wire(); err != nil {
		return nil, errors.Join(err, store.Close(), node.close(), folder.Close())
	}
	if err := node.start(a); err != nil {
		return nil, errors.Join(err, store.Close(), node.close(), folder.Close())
	}
	if o.Demo {
		if err := a.seed(); err != nil {
			return nil, errors.Join(fmt.Errorf("add the sample data of the demo: %w", err), store.Close(), node.close(), folder.Close())
		}
	}
	if err := a.backups.Tidy(); err != nil {
		o.Log.Warn("old copies of the database could not be deleted; delete them from the data folder", "error", err)
	}
	go a.tend()
	return a, nil
}

// wire creates the keyring and then all other parts. It loads the guarded routes of the
// configuration.
func (a *App) wire() (err error) {
	c := a.config
	if a.Keyring, err = NewKeyring(a.Store, KeyringOptions{
		Peppers: a.peppers, Prefix: c.Keys.Prefix, Policy: c.Rights(), Cache: c.Keys.Cache,
		Noticed: func(tx *Tx, id string, n KeyNotice) error { return PublishUse(tx, a.Keyring, id, n) },
	}); err != nil {
		return err
	}
	return a.connect()
}

// connect creates the objects that several parts share, then the parts in registry, then
// the Server. It does not read the store.
func (a *App) connect() error {
	c, store := a.config, a.Store
	a.Limiter = NewLimiter(store, a.clock.Steady(a.clock.Now()))
	if c.Cluster.On() {
		a.Limiter.CountsAs(c.Cluster.Name, func() time.Time { return a.clock.Steady(a.clock.Now()) })
	}
	a.Limiter.Observed.LogTo(a.log)
	a.storage = NewStorageWatch(store, a.diskSpace, a.log)
	a.observe()
	a.targets = NewTargetPolicy(TargetScope(c.Webhooks.AllowPrivateTargets))
	if err := a.targets.Check(); err != nil {
		a.log.Warn("webhooks may be sent to public addresses of this machine, because its addresses cannot be read; under systemd, RestrictAddressFamilies needs AF_NETLINK", "error", err)
	}
	a.Sender = NewSender(SenderOptions{
		Store: store, Clock: a.clock, Peppers: a.peppers, Targets: a.targets, Log: a.log,
		Timeout: c.Webhooks.Timeout, Header: c.Webhooks.SignatureHeader, Scheme: c.Webhooks.Signature, Watch: a.metrics.Attempted,
		Turn: a.cluster.first(),
	})
	if err := a.openMailer(); err != nil {
		return err
	}
	a.dialer, a.sandboxes = NewDialer(store), NewSandboxes(store)
	a.Operators, a.sessions = NewOperators(store), NewSessions(store, c.Admin.SessionIdle, c.Admin.SessionMax)
	if !c.Admin.PasswordLogin {
		a.Operators.RefusePasswords()
	}
	a.Passkeys = NewPasskeys(store, a.peppers, c.DashboardURL(c.Admin.Listen))
	a.accounts = NewAccounts(AccountsOptions{
		Operators: a.Operators, Sessions: a.sessions, Passkeys: a.Passkeys, Peppers: a.peppers, Clock: a.clock, Log: a.log, Proxies: c.TrustedProxies(),
		Refused: a.audit.Refused, SecondFactor: c.Admin.SecondFactor, Provider: ProviderOf(c),
	})
	a.notices = NewOperatorEvents(store, a.Keyring, NoticeOptions{
		LeadTime: c.Keys.ExpiringNotice, Unused: c.Keys.UnusedNotice, PauseUnused: c.Keys.PauseUnused, Warning: c.Keys.LimitWarning,
	})
	a.tokens = NewTokens(store, a.peppers)
	a.proxy = NewProxy(ProxyOptions{
		Log: a.log, Proxies: c.TrustedProxies(), ReadTimeout: c.Server.ReadTimeout, WriteTimeout: c.Server.WriteTimeout, Hold: a.connections.Hold,
	})
	a.guards = NewProxyRoutes(func() []string { return a.Server.Own() }, a.proxy.Forward)
	a.Reloader = NewReloader(ReloaderOptions{store, a.Keyring, a.guards, a.log, c, func(loaded Config) {
		a.connections.Use(loaded)
		a.cluster.configured(c, loaded)
	}})
	if err := a.assemble(registry); err != nil {
		return err
	}
	pages, adminPages := a.describe()
	fill := a.sandboxes.Fill
	if !c.Contract.Enabled {
		fill = nil // there is nothing to fill a sandbox with
	}
	a.Server = NewServer(ServerOptions{
		Sandbox: fill,
		Clock:   a.clock, Store: store, Keyring: a.Keyring, Limiter: a.Limiter, Tokens: a.tokens, Log: a.log, Redact: NewRedactor(c.Keys.Prefix).Keys,
		Routes: a.routes, Pages: pages, AdminPages: adminPages, Guards: a.guards,
		Serving: a.cluster.serving(),
		Access:  a.access, QueryAllowed: c.Keys.QueryAllowed, DraftHeaders: c.Server.IETFHeaders != "off",
		MaxBody: int64(c.Server.MaxBodyBytes), Proxies: c.TrustedProxies(), Reached: a.notices.Reached,
		Watch: []func(*Outcome){a.note, a.refusals.Note, a.audit.Watch, a.metrics.Watch, a.notices.Warn},
	})
	return a.Reloader.Start(a.clock.Now())
}

// diskSpace returns the space of the file system with the data folder.
func (a *App) diskSpace() DiskSpace {
	return DiskSpace{Free: DiskFree(a.folder.Path), Size: DiskSize(a.folder.Path), Promised: a.Store.Unallocated()}
}

// seed adds the sample data of the demo to the store, see SeedDemo.
func (a *App) seed() error {
	now := a.clock.Now()
	return SeedDemo(DemoOptions{
		Store: a.Store, Keyring: a.Keyring, Limiter: a.Limiter, Peppers: a.peppers, History: a.history, Requests: a.requests, Refusals: a.refusals,
	}, now, a.clock.Steady(now))
}

// contactWriters returns the permissions that allow a key to write contacts. A key needs
// one of them. The configuration determines whether the permission to read is enough.
func (a *App) contactWriters() Permission {
	if a.config.Contract.ContactsWrite == "can_write_contacts" {
		return WriteContacts
	}
	return ReadContacts | WriteContacts
}

// keyRules returns the rules for new keys, from the configuration.
func (a *App) keyRules() KeyRules {
	c := a.config.Keys
	return KeyRules{
		DefaultExpiry: c.DefaultExpiry, MaxExpiry: c.MaxExpiry, MaxPerOwner: c.MaxPerOwner, Environments: c.Environments, SelfRevoke: c.SelfRevoke,
	}
}

// applyParts returns the parts whose endpoints for single records a file calls.
func (a *App) applyParts() ApplyParts {
	return ApplyParts{
		Keys:   NewAdmin(a.Store, a.Limiter, NewKeyTagger(a.Keyring, a.history, a.refusals), a.keyRules()),
		Owners: NewOwners(a.Store, a.Keyring, a.Limiter), Hooks: NewWebhookAdmin(a.Store, a.peppers, a.targets, a.Sender), Tokens: a.tokens,
	}
}

// describe creates the reference pages. It returns the routes of the pages on the API
// listener and of those on the admin listener.
func (a *App) describe() (api, admin []Row) {
	var entries []reference.ErrorEntry
	for _, e := range ErrorCatalog() {
		entries = append(entries, reference.ErrorEntry(e))
	}
	pages := reference.New(func() ([]byte, error) {
		openAPI, err := reference.OpenAPI()
		if err != nil {
			return nil, err
		}
		return withoutRoutes(openAPI, a.absent)
	}, entries)
	a.pages = pages
	rowsOf := func(handler http.Handler) (rows []Row) {
		serve := func(w http.ResponseWriter, r *http.Request, _ httprouter.Params) { handler.ServeHTTP(w, r) }
		for _, path := range reference.Paths() {
			rows = append(rows, Row{Route{Method: "GET", Path: path}, serve})
		}
		return rows
	}
	return rowsOf(pages.Handler(reference.Clients, a.bases)), rowsOf(pages.Handler(reference.Operators, a.bases))
}

// withoutRoutes returns an OpenAPI description without the operations of some routes. If there are
// none, it returns the same bytes.
func withoutRoutes(openAPI []byte, absent Routes) ([]byte, error) {
	gone := map[string]bool{}
	for _, row := range slices.Concat(absent.Keyed, absent.Free, absent.Open, absent.Admin) {
		gone[row.Method+" "+row.Path] = true
	}
	if len(gone) == 0 {
		return openAPI, nil
	}
	var doc map[string]any
	if err := strictjson.Decode(openAPI, &doc); err != nil {
		return nil, fmt.Errorf("read openapi.json: %w", err)
	}
	paths, _ := doc["paths"].(map[string]any)
	for path, item := range paths {
		operations, _ := item.(map[string]any)
		route := strings.TrimSuffix(strings.NewReplacer("{", ":", "}", "").Replace(path), "/")
		left := 0
		for method := range operations {
			name := strings.ToUpper(method)
			if gone[name+" "+route] {
				delete(operations, method)
			} else if name != "PARAMETERS" && name != "SUMMARY" && name != "DESCRIPTION" {
				left++
			}
		}
		if left == 0 {
			delete(paths, path)
		}
	}
	return strictjson.Encode(doc)
}

// observe creates the usage history, the refusals, the audit log, the backups, the
// metrics and the status, and stores them in a.
func (a *App) observe() {
	c, store := a.config, a.Store
	a.history, a.refusals, a.requests = NewHistory(store), NewRefusals(), NewRequests()
	a.connections = NewConnections(ConnectionsOptions{Config: c, Files: OpenFileLimit(), Free: func() { a.proxy.CloseIdle() }, Log: a.log})
	a.audit = NewAuditLog(AuditOptions{Store: store, Clock: a.clock, Keep: c.Audit.Keep, Most: c.Audit.MaxEntries, Log: a.log, Naming: naming(), Keyring: a.Keyring})
	a.backups = NewBackups(BackupOptions{
		Store: store, Folder: a.folder.Path, Dir: c.Backup.Dir, Every: c.Backup.Every, Keep: c.Backup.Keep, Node: c.ClusterNode(), Tables: tables(), Log: a.log,
		CheckFile: func(path string, progress Progress) (CheckResult, error) {
			return CheckFile(path, tables(), func() (Peppers, error) { return a.peppers, nil }, progress)
		},
	})
	a.metrics = NewMetrics(MetricsOptions{
		Log:   a.log,
		Store: store, Keyring: a.Keyring, Limiter: a.Limiter, Backups: a.backups, Storage: a.storage, Clock: a.clock, Folder: a.folder.Path, Open: c.Metrics.Open,
		Ready: func() error { return a.Server.Ready() }, Config: func() ConfigStatus { return a.Reloader.Status() }, Connections: a.connections.Usage,
		Cluster: func() []promtext.Metric { return a.cluster.metrics() },
	})
	a.status = NewStatus(StatusOptions{
		Store: store, Keyring: a.Keyring, Backups: a.backups, Storage: a.storage, Log: a.log, Folder: a.folder.Path, Started: a.clock.Now(),
		Server: func() *Server { return a.Server }, Config: func() ConfigStatus { return a.Reloader.Status() }, Connections: a.connections.Usage,
	})
}

// note adds a request to the usage history and to the latest requests. It ignores requests to the admin
// listener.
func (a *App) note(o *Outcome) {
	if o.Admin {
		return
	}
	key, route := "", o.Route
	if o.Found != nil {
		key = o.Found.ID
		if o.Found.Sandbox() {
			route = "" // the figures of the service are of live requests
		}
	}
	if e, ok := ActivityOfRequest(o); ok {
		a.Keyring.Note(o.Holder, e)
	}
	a.history.NoteBy(o.Tally, CountedRequest{Key: key, Route: route, Code: o.Code, Status: o.Status, At: o.Began}, o.Asked)
	a.requests.Note(o)
}

// bases returns the URLs of the API and of the admin endpoint, for the examples in the
// reference pages. r is the request for such a page; its Host is used if the
// configuration sets no URL of the admin endpoint.
func (a *App) bases(r *http.Request) reference.Bases {
	urls := reference.Bases{API: a.Server.Address(), Admin: a.config.Admin.BaseURL}
	if urls.API == "" {
		urls.API = "http://" + a.config.Server.Listen
	}
	if urls.Admin == "" {
		urls.Admin = "http://" + r.Host
	}
	return urls
}

// endpointPages are the reference for the pages of the dashboard.
type endpointPages struct{ app *App }

// List implements dashboard.Reference.
func (p endpointPages) List(search string) (template.HTML, error) {
	return p.app.pages.List(reference.Operators, search)
}

// Endpoint implements dashboard.Reference.
func (p endpointPages) Endpoint(r *http.Request, id string) (dashboard.Endpoint, bool, error) {
	e, ok, err := p.app.pages.Endpoint(reference.Operators, id, p.app.bases(r))
	shown := dashboard.Endpoint{
		Title: e.Title, Method: e.Method, Path: e.Path, Group: e.Group, HTML: e.HTML, Answers: e.Answers, Body: e.Body, BodyType: e.BodyType, Keyed: e.Keyed,
		OnAPI: strings.HasPrefix(e.Path, "/") && !strings.HasPrefix(e.Path, "/admin/") && e.Path != "/metrics",
	}
	for _, in := range e.Inputs {
		shown.Inputs = append(shown.Inputs, dashboard.EndpointInput(in))
	}
	return shown, ok, err
}

// CheckStoreFile checks the database at path, including the tables of all parts, see
// CheckFile. It loads the peppers that c names. pepper is the pepper itself, or "".
func CheckStoreFile(path string, c Config, pepper string, progress Progress) (CheckResult, error) {
	return CheckFile(path, tables(), func() (Peppers, error) { return PeppersOf(c, pepper).Load(c.Server.Data) }, progress)
}

// RepairStore makes the indexes and lists of the database in the data folder of c anew from its
// records, see RepairFolder. It loads the peppers that c names. pepper is the pepper itself, or "".
func RepairStore(c Config, pepper string, progress Progress) (CheckResult, error) {
	return RepairFolder(c.Server.Data, tables(), func() (Peppers, error) { return PeppersOf(c, pepper).Load(c.Server.Data) }, progress)
}

// tend counts the keys for the metrics and then does the background work. It returns
// after stop is closed, and closes idle.
func (a *App) tend() {
	defer close(a.idle)
	defer FlushAtPanic(a.log)
	var ends sync.WaitGroup
	ends.Go(a.endRequests)
	defer ends.Wait()
	a.report("count the keys", a.metrics.CountKeys(a.clock.Latest(a.clock.Now())))
	a.repeat(a.work)
}

// endRequests calls Server.EndRequests regularly until stop is closed. Unlike the work in registry,
// it never waits for other work.
func (a *App) endRequests() {
	defer FlushAtPanic(a.log)
	tick := time.NewTicker(EndTime)
	defer tick.Stop()
	for a.await(tick.C) {
		a.Server.EndRequests()
	}
}

// repeat runs each piece of work once per period of that work, until stop is closed. It
// runs only one at a time.
func (a *App) repeat(all []work) {
	rounds := map[time.Duration][]work{}
	for _, w := range all {
		rounds[w.every] = append(rounds[w.every], w)
	}
	var turn sync.Mutex
	var running sync.WaitGroup
	for every, round := range rounds {
		running.Go(func() {
			defer FlushAtPanic(a.log)
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

// await waits for a tick or until stop is closed. It returns true after a tick and false
// if stop is closed.
func (a *App) await(tick <-chan time.Time) bool {
	select {
	case <-a.stop:
		return false
	case <-tick:
		return true
	}
}

// do runs a list of work once and logs errors. It leaves out what another node of the cluster does for all, see
// worker. It does nothing if stop is closed.
func (a *App) do(round []work) {
	select {
	case <-a.stop:
		return
	default:
	}
	turn := a.cluster.first()
	for _, w := range round {
		if w.by != oneNode || turn == nil || turn() {
			a.report(w.what, w.run(a.clock.Now()))
		}
	}
}

// Deed returns the audit context for an action that the service itself performs now,
// rather than an operator or a key.
func (a *App) Deed(action string) AuditContext {
	now := a.clock.Now()
	return AuditContext{Actor: ActorSelf, Action: action, Now: now, Latest: a.clock.Latest(now)}
}

// catch calls Catch of the clock. It logs a warning if the wall clock is behind its lower
// bound by a minute or more and was not at the previous call.
func (a *App) catch() {
	a.clock.Catch()
	by := a.clock.Behind(a.clock.Now())
	before := a.behind
	if a.behind = by >= time.Minute; a.behind && !before {
		a.log.Warn("the wall clock is behind its earlier time; keys and logins expire by the earlier time until the wall clock has been behind for a day; check the clock of this machine",
			"behind", by.Round(time.Second).String())
	}
}

// report logs an error of background work. what names the work. It logs nothing if err is
// nil or if the store has failed; Serve returns the error of the store.
func (a *App) report(what string, err error) {
	if err != nil && a.Store.Err() == nil {
		a.log.Error(what, "error", err)
	}
}

// Close ends the background work, stores data that is still in memory, closes the store
// and unlocks the data folder. Call it once, when no request is in progress.
func (a *App) Close() error {
	close(a.stop)
	<-a.idle
	a.mailer.Close()
	a.Sender.Close()
	a.proxy.Close()
	return errors.Join(a.notices.Flush(), a.Keyring.Flush(), a.history.Flush(), a.Limiter.Close(), a.Store.Close(), a.cluster.close(), a.folder.Close())
}

// Serve opens the listeners and serves requests until ctx ends, a listener fails or the
// store fails. Then it waits for the requests in progress, at most for the shutdown time
// of the configuration. Once the listeners are open, it calls ready with the addresses
// of the API listener and the admin listener. It returns nil if ctx has ended and all
// requests were finished.
func (a *App) Serve(ctx context.Context, ready func(api, admin net.Addr)) error {
	api, err1 := a.Server.API()
	admin, err2 := a.AdminDoor()
	local, err3 := a.Server.LocalAdmin()
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
		Config: a.config, Folder: a.folder.Path, Socket: a.folder.Socket(), Clock: a.clock, Log: a.log, ACME: a.cluster.certificates(a),
		Connections: a.connections, Sockets: sockets, API: api, Admin: admin, Local: local,
	})
	if err != nil {
		return err
	}
	a.manager = supervisor
	a.listeners.Store(listeners)
	listeners.Serve()
	a.Sender.Start()
	a.mailer.Start()
	a.status.ListensAt(map[string]string{"api": listeners.API().String(), "admin": listeners.Admin().String(), "socket": a.folder.Socket()}, listeners.CertificatesEnd)
	ready(listeners.API(), listeners.Admin())
	supervisor.Ready(listeners.Line())
	watched, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	defer unwatch()
	// The service manager is notified only as long as the store works. The update
	// goes through the committer, so it fails once the store has failed.
	go supervisor.Watch(watched, a.Store.Responds)
	select {
	case err = <-a.cluster.lost():
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

// Reload loads the configuration and the certificates again. It logs the result and
// notifies the service manager. If the new configuration or certificate is not valid,
// the previous one stays in use. Before Serve has opened the listeners, it does nothing.
func (a *App) Reload() {
	listeners := a.listeners.Load()
	if listeners == nil {
		return // the service is starting and has just read the files
	}
	a.manager.Reloading()
	defer a.manager.Ready(listeners.Line())
	_, _ = a.Reloader.Reload(a.clock.Now()) // it logs the result
	if err := listeners.Reload(); err != nil {
		a.log.Error("the changed certificate could not be loaded; the previous one stays in use", "error", err)
	}
}

// AdminDoor returns the handler of the admin listener, which serves the admin endpoint and
// the dashboard.
func (a *App) AdminDoor() (http.Handler, error) {
	local, err1 := a.Server.Admin()
	operators, err2 := a.Server.OperatorAdmin()
	api, err3 := a.Server.API()
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	_, lone := a.cluster.(alone)
	d, err := dashboard.New(dashboard.Options{
		Admin: operators, Door: local, Accounts: a.accounts, Now: a.clock.Now, Log: a.log, Listen: a.config.Admin.Listen,
		Hosts: slices.Concat(a.config.Admin.Hosts, a.config.ACME.Domains), BaseURL: a.config.Admin.BaseURL, APIURL: a.Server.Address,
		KeyPrefix: a.config.Keys.Prefix, Reference: endpointPages{a}, API: api, Instance: a.instance(), WithoutContract: !a.config.Contract.Enabled, Demo: a.demo, Node: !lone,
		Changes: a.changes,
	})
	if err != nil {
		return nil, err
	}
	pages, err := d.Handler()
	if err != nil {
		return nil, err
	}
	return a.cluster.door(pages), nil
}

// AwaitServing waits until the records may be used: a node of a cluster must have its lease first.
func (a *App) AwaitServing() error { return a.cluster.awaitServing() }

// changes returns a number that grows with each request to the API and each entry of the audit log, and
// whether the service is not stopping.
func (a *App) changes() (count uint64, serving bool) {
	var head AuditHead
	err := a.Store.View(func(tx *Tx) (err error) {
		head, err = ReadAuditHead(tx)
		return err
	})
	return a.requests.Noted() + head.Number, err == nil && !a.Server.Stopping()
}

// instance returns 12 hex digits that tell this service from others on the same host: another store,
// or a copy of the same store at another address. They stay the same over restarts.
func (a *App) instance() string {
	sum := sha256.Sum256([]byte(a.Store.ID() + " " + a.config.Admin.Listen + " " + a.config.Admin.BaseURL))
	return hex.EncodeToString(sum[:6])
}

// LogSink describes the destination of a log.
type LogSink struct {
	Terminal bool // it is a terminal; the format "auto" is then text, otherwise JSON
	Journal  bool // it is the system journal, which adds the time to each line; text then has no time
}

// Log is the log of the service. Its methods are safe for concurrent use.
type Log struct {
	*slog.Logger
	Level  *slog.LevelVar // the lowest level that is logged; it can be changed at any time
	Access *AccessWriter  // for the access log
}

// NewLog returns a log that writes to w. The configuration sets the format and the first level. The
// log replaces everything that looks like a secret. If w is a LogQueue, errors are written without
// delay.
func NewLog(w io.Writer, c Config, sink LogSink) *Log {
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(c.Log.Level)); err != nil {
		level.Set(slog.LevelInfo) // cannot happen: the config has checked the name
	}
	text := c.Log.Format == "text" || c.Log.Format == "auto" && sink.Terminal
	redact := NewRedactor(c.Keys.Prefix)
	opts := &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if text && sink.Journal && len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return redact.Attr(groups, a)
	}}
	var handler slog.Handler = slog.NewJSONHandler(w, opts)
	if text {
		handler = slog.NewTextHandler(w, opts)
	}
	access := &AccessWriter{Out: w, Level: level, Text: text, Untimed: sink.Journal, Redact: redact.Text, Other: handler}
	if f, ok := w.(LogQueue); ok {
		handler = promptHandler{handler, f}
	}
	return &Log{slog.New(handler), level, access}
}

// promptHandler is a handler that writes errors without delay.
type promptHandler struct {
	slog.Handler
	out LogQueue
}

// Handle writes a line.
func (h promptHandler) Handle(ctx context.Context, r slog.Record) error {
	err := h.Handler.Handle(ctx, r)
	if r.Level >= slog.LevelError {
		h.out.Flush(0)
	}
	return err
}

// Flush and Lost make the handler a LogQueue.
func (h promptHandler) Flush(patience time.Duration) { h.out.Flush(patience) }

// Lost returns the number of lost lines.
func (h promptHandler) Lost() uint64 { return h.out.Lost() }

// WithAttrs returns a handler that adds attributes to each line.
func (h promptHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return promptHandler{h.Handler.WithAttrs(attrs), h.out}
}

// WithGroup returns a handler that puts further attributes into a group.
func (h promptHandler) WithGroup(name string) slog.Handler {
	return promptHandler{h.Handler.WithGroup(name), h.out}
}

// redactor replaces secrets in texts. It is a second line of defense: the program does
// not log secrets, but a client may send one in an unexpected place, such as a path. It
// is safe for concurrent use.
type redactor struct {
	prefixes []string       // a text without any of them has no match of keys
	keys     *regexp.Regexp // matches API keys, admin tokens and webhook secrets
}

// redacted is the text that replaces a secret.
const redacted = "(redacted)"

// secretShapes matches secrets that follow a word such as "Bearer" or "password=". It
// also matches 64 hex digits, the form of login tokens and set-up links. The first group
// is the text before the secret.
var secretShapes = regexp.MustCompile(`(?i)((?:bearer|basic)\s+|(?:api_key|token|password|secret|authorization|x-api-key|cookie)["']?\s*[=:]\s*["']?)[^\s"'&,;]+|\b()[0-9a-f]{64}\b`)

// NewRedactor returns a redactor. prefix is the prefix of API keys in the configuration.
func NewRedactor(prefix string) *redactor {
	r := &redactor{prefixes: []string{prefix, tokenShape, hookShape}}
	r.keys = regexp.MustCompile(`(` + regexp.QuoteMeta(prefix) + `(?:` + keytext.SandboxMark + `)?|` + tokenShape + `|` + hookShape + `)[0-9A-Za-z]{12,}`)
	return r
}

// Prefixes by which a redactor recognizes secrets.
const (
	tokenShape = TokenPrefix // prefix of admin tokens
	hookShape  = "whsec_"    // prefix of webhook secrets
)

// Keys returns text with each secret replaced that looks like an API key, an admin token
// or a webhook secret. It keeps the prefix of the secret.
func (r *redactor) Keys(text string) string {
	for _, prefix := range r.prefixes {
		if strings.Contains(text, prefix) {
			return r.keys.ReplaceAllString(text, "${1}"+redacted)
		}
	}
	return text
}

// Text returns text with each secret replaced that Keys replaces, and also secrets that
// secretShapes matches.
func (r *redactor) Text(text string) string {
	if len(text) < 8 {
		return text
	}
	text = r.Keys(text)
	// Skip the slow regular expression if it cannot match. Most texts are short and have
	// none of these characters, such as a route.
	if len(text) < 64 && !strings.ContainsAny(text, " =\"") {
		return text
	}
	return secretShapes.ReplaceAllString(text, "${1}"+redacted)
}

// Attr returns a log attribute with its secrets replaced. It is a function for
// slog.HandlerOptions.ReplaceAttr.
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
			a.Value = slog.StringValue(v.Scheme + "://" + v.Host) // the path or query may contain a secret
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
