package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"latchkey/internal/conns"
)

// StatusOptions configures a Status.
type StatusOptions struct {
	Store   *Store
	Keyring *Keyring
	Backups *Backups
	Storage *StorageWatch
	Log     *slog.Logger
	Folder  string         // the data folder
	Started time.Time      // when the program started
	Server  func() *Server // returns the server, which is created after the Status
	Config  func() ConfigStatus
	// Connections returns the use of each listener, and the number of connections to upstreams.
	Connections func() (listeners []conns.Usage, upstreams int)
}

// Status serves the endpoint that describes the state of the service. It is safe for
// concurrent use.
type Status struct {
	o         StatusOptions
	listening atomic.Pointer[map[string]string] // addresses of the listeners, by their names
	ends      atomic.Pointer[func() time.Time]  // see ListensAt
}

// NewStatus returns a Status without listeners. ListensAt sets them.
func NewStatus(o StatusOptions) *Status {
	s := &Status{o: o}
	s.ListensAt(map[string]string{}, func() time.Time { return time.Time{} })
	return s
}

// ListensAt sets the addresses of the listeners. The keys of the map are the names of the
// listeners. The caller must not change the map afterwards. ends returns when the first of their
// certificates ends, or the zero time if they have none from files.
func (s *Status) ListensAt(addresses map[string]string, ends func() time.Time) {
	s.listening.Store(&addresses)
	s.ends.Store(&ends)
}

// AdminRoutes returns the routes for operators.
func (s *Status) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/status", Handle: s.show}}
}

func (s *Status) show(w http.ResponseWriter, r *Request) error {
	o := s.o
	size, err := o.Store.Size()
	if err != nil {
		return err
	}
	commits, changes := o.Store.Counts()
	made, failed := o.Backups.Last()
	shown := map[string]any{
		"api_url": nil, "version": ProgramVersion(), "go_version": runtime.Version(),
		"started_at": Seconds(o.Started), "uptime_seconds": int64(r.Now.Sub(o.Started) / time.Second),
		"store_id": o.Store.ID(), "store_bytes": size, "store_free_bytes": o.Store.FreeBytes(), "commits": commits, "transactions": changes,
		"disk_free_bytes": nil, "last_backup_at": Seconds(made.At), "last_backup_node": TextOrNone(made.Node), "last_backup_error": nil,
		"backup_every_seconds": nil, "forged_records": o.Store.Forged(), "certificate_ends_at": Seconds((*s.ends.Load())()), "log_level": s.level(), "listening": *s.listening.Load(),
		"ready": true, "not_ready_because": nil, "config": o.Config().Show(), "now": Millis(r.Now), "service_time": Millis(r.Steady),
	}
	listeners, upstreams := o.Connections()
	shown["connections"] = connectionsShown(listeners, upstreams)
	if free := DiskFree(o.Folder); free >= 0 {
		shown["disk_free_bytes"] = free
	}
	space, low, refusing := o.Storage.Disk()
	shown["disk"] = map[string]any{"low": low, "refusing": refusing, "mark_bytes": space.Mark(o.Store.Bounds())}
	if every := o.Backups.Every(); every > 0 {
		shown["backup_every_seconds"] = int64(every / time.Second)
	}
	if failed != nil {
		shown["last_backup_error"] = failed.Error()
	}
	server := o.Server()
	if url := server.Address(); url != "" {
		shown["api_url"] = url
	}
	if err := server.Ready(); err != nil {
		shown["ready"], shown["not_ready_because"] = false, err.Error()
	}
	if err := o.Store.View(func(tx *Tx) error { return s.stored(tx, r.Latest, shown) }); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// connectionsShown returns the JSON fields of the open connections of each listener, and those of the
// connections to upstreams.
func connectionsShown(listeners []conns.Usage, upstreams int) map[string]any {
	shown := map[string]any{"upstreams": map[string]any{"open": upstreams, "max": nil}}
	for _, u := range listeners {
		shown[u.Name] = map[string]any{"open": u.Open, "max": u.Limits.Max}
	}
	return shown
}

// maxFullOwners is how many owners with little storage left the status lists.
const maxFullOwners = 20

// stored adds to shown the values that are read from the store. now is from Clock.Latest.
func (s *Status) stored(tx *Tx, now time.Time, shown map[string]any) error {
	keys, err := s.o.Keyring.Count(tx)
	if err != nil {
		return err
	}
	waiting, oldest, err := OutboxBacklog(tx)
	if err != nil {
		return err
	}
	held, err := HeldSince(tx)
	if err != nil {
		return err
	}
	entries, err := CountAudit(tx)
	if err != nil {
		return err
	}
	head, err := ReadAuditHead(tx)
	if err != nil {
		return err
	}
	full, err := FullOwners(tx)
	if err != nil {
		return err
	}
	rows := []any{}
	for _, s := range full[:min(len(full), maxFullOwners)] {
		rows = append(rows, map[string]any{"id": s.Owner, "name": OwnerName(tx, s.Owner), "storage": map[string]any{"bytes": s.Bytes, "limit": s.Limit}})
	}
	shown["full_owners"] = rows
	if shown["ending_tokens"], err = endingTokens(tx, now); err != nil {
		return err
	}
	mails, err := WaitingMails(tx)
	if err != nil {
		return err
	}
	shown["mail_backlog"], shown["mail_failing_since"], shown["mail_error"] = mails.Events, Seconds(mails.Failed), TextOrNone(mails.Reason)
	shown["keys"], shown["webhook_backlog"], shown["webhook_oldest_at"], shown["webhooks_held_since"] = keys, waiting, Seconds(oldest), Seconds(held)
	shown["audit"] = map[string]any{"entries": entries, "number": head.Number, "hash": fmt.Sprintf("%x", head.Hash)}
	return nil
}

// level returns the name of the lowest level that is logged, such as "info".
func (s *Status) level() string {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if s.o.Log.Enabled(context.Background(), level) {
			return strings.ToLower(level.String())
		}
	}
	return "error"
}

// routeList serves the endpoint that lists the routes of the API listener.
type routeList struct {
	own    *Routes
	guards *ProxyRoutes
}

// NewRouteList returns a routeList with our own routes and the guarded routes, which are the
// routes of the API behind the proxy.
func NewRouteList(own *Routes, guards *ProxyRoutes) *routeList { return &routeList{own, guards} }

// AdminRoutes returns the routes for operators.
func (v *routeList) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/routes", Handle: v.routes},
	}
}

// routes answers with our own routes and then the guarded routes. Each has the permissions
// that a key needs and the limits that a request is charged to.
func (v *routeList) routes(w http.ResponseWriter, r *Request) error {
	now := v.guards.Now()
	rows := []any{}
	for _, row := range v.own.Keyed {
		limits := []string{RequestsPerMinute}
		if row.Spends != "" {
			limits = append(limits, row.Spends)
		}
		limits = append(limits, row.Limits...)
		rows = append(rows, map[string]any{"method": row.Method, "path": row.Path, "permissions": now.Rights.Names(row.Permission), "limits": limits, "upstream": nil})
	}
	for _, row := range v.own.Free {
		rows = append(rows, map[string]any{"method": row.Method, "path": row.Path, "permissions": Permission(0), "limits": []string{}, "upstream": nil})
	}
	for _, g := range now.List {
		shown := map[string]any{
			"method": g.MethodNames(), "path": g.Path, "permissions": now.Rights.Names(g.Permission), "limits": append([]string{RequestsPerMinute}, g.Limits...),
			"cost": g.Cost, "upstream": "", "strip_prefix": g.StripPrefix, "timeout_seconds": g.Timeout.Seconds(), "max_body_bytes": g.MaxBody,
			"websocket": g.WebSocket, "sandbox": g.Sandbox, "case_sensitive": g.CaseSensitive,
		}
		if g.Upstream != nil {
			shown["upstream"] = g.Upstream.String()
		}
		rows = append(rows, shown)
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"routes": rows})
}

// Reloader applies a changed configuration while the service runs. It applies the routes,
// permissions, limits, bounds, the log level and the numbers of connections; other settings need a
// restart. A request keeps the
// routes, permissions and limits that were in use when it began. Reloader is safe for
// concurrent use.
type Reloader struct {
	o ReloaderOptions

	mu     sync.Mutex
	load   func() (Config, error) // loads the configuration; nil: no server runs, so Reload returns an error
	level  *slog.LevelVar         // the log level that Reload sets
	status ConfigStatus
}

// ReloaderOptions configures a Reloader.
type ReloaderOptions struct {
	Store   *Store // the store with the audit log, which gets the bounds
	Keyring *Keyring
	Guards  *ProxyRoutes
	Log     *slog.Logger
	Running Config       // the configuration with which the program started
	Use     func(Config) // applies the numbers of connections
}

// ConfigStatus describes the configuration in use and the latest attempt to replace it.
type ConfigStatus struct {
	LoadedAt time.Time // when the configuration in use was loaded
	Err      error     // error of the latest reload; nil: it succeeded, or there was none
	FailedAt time.Time // when the latest reload failed; zero if Err is nil
	Restart  []string  // names of changed settings that apply only after a restart
}

// NewReloader returns a Reloader. Call Start before the first request.
func NewReloader(o ReloaderOptions) *Reloader { return &Reloader{o: o} }

// Start applies the routes and the bounds in o.Running. The routes use the permissions and limits of
// the keyring.
// The error names the routes and endpoints that conflict.
func (r *Reloader) Start(now time.Time) error {
	rights := r.o.Keyring.Rights()
	list, _ := ReadProxyRoutes(r.o.Running.Routes, rights) // loading a configuration has checked its routes
	state, err := r.o.Guards.Make(list, rights)
	if err != nil {
		return err
	}
	r.o.Guards.Use(state)
	r.o.Store.SetBounds(r.o.Running.Bounds)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = ConfigStatus{LoadedAt: now}
	return nil
}

// From sets the function with which Reload loads the configuration, and the log level that
// Reload sets. Reload returns ErrConflict until From has been called.
func (r *Reloader) From(load func() (Config, error), level *slog.LevelVar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load, r.level = load, level
}

// Status returns the status of the configuration.
func (r *Reloader) Status() ConfigStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Reload loads the configuration again and applies it. If the new configuration has errors,
// Reload changes nothing and returns ErrValidation, whose message lists them. It logs
// success and failure.
func (r *Reloader) Reload(now time.Time) (ConfigStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load == nil {
		return r.status, ErrConflict.With("No server is running, so there is nothing to reload. The next start reads the configuration.")
	}
	c, err := r.load()
	if err == nil {
		err = r.use(c)
	}
	if err != nil {
		r.status.Err, r.status.FailedAt = err, now
		r.o.Log.Error("configuration not reloaded, previous configuration still in use", "error", err)
		return r.status, ErrValidation.With("The configuration was not reloaded. The previous configuration is still in use. Correct these errors and reload again.\n%v", err)
	}
	r.status = ConfigStatus{LoadedAt: now, Restart: r.o.Running.Differing(c)}
	r.o.Log.Info("configuration reloaded", "routes", len(c.Routes), "restart_needed", strings.Join(r.status.Restart, ","))
	return r.status, nil
}

// use applies a configuration. After an error from the routes nothing has changed.
func (r *Reloader) use(c Config) error {
	c.Contract.Enabled = r.o.Running.Contract.Enabled // its endpoints appear and disappear only at a restart
	rights := c.Rights()
	list, _ := ReadProxyRoutes(c.Routes, rights)
	state, err := r.o.Guards.Make(list, rights)
	if err != nil {
		return err
	}
	r.o.Keyring.Use(rights)
	r.o.Guards.Use(state)
	r.o.Use(c)
	r.o.Store.SetBounds(c.Bounds)
	return r.level.UnmarshalText([]byte(c.Log.Level))
}

// AdminRoutes returns the routes for operators.
func (r *Reloader) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/reload", NoBody: true, Handle: r.reload}}
}

func (r *Reloader) reload(w http.ResponseWriter, q *Request) error {
	status, err := r.Reload(q.Now)
	if err == nil {
		err = q.Record(r.o.Store)
	}
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, status.Show())
}

// Show returns the JSON fields of the status in answers of the admin endpoint.
func (s ConfigStatus) Show() map[string]any {
	shown := map[string]any{"loaded_at": Seconds(s.LoadedAt), "error": nil, "failed_at": Seconds(s.FailedAt), "restart_needed": append([]string{}, s.Restart...)}
	if s.Err != nil {
		shown["error"] = s.Err.Error()
	}
	return shown
}
