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
)

// StatusOptions configures a Status.
type StatusOptions struct {
	Store   *Store
	Keyring *Keyring
	Backups *Backups
	Log     *slog.Logger
	Folder  string // the data folder
	Started time.Time
	Server  func() *Server // a function, because the server is created after the Status
	Config  func() ConfigStatus
}

// Status serves the state of the service to operators. It is safe for concurrent use.
type Status struct {
	o         StatusOptions
	listening atomic.Pointer[map[string]string]
}

// NewStatus returns a Status with no listeners yet.
func NewStatus(o StatusOptions) *Status {
	s := &Status{o: o}
	s.ListensAt(map[string]string{})
	return s
}

// ListensAt sets the addresses of the listeners, by their names. The caller must not
// change the map afterwards.
func (s *Status) ListensAt(addresses map[string]string) { s.listening.Store(&addresses) }

// AdminRoutes lists the endpoints.
func (s *Status) AdminRoutes() []Route {
	return []Route{{Method: "GET", Path: "/admin/v1/status", Handle: s.tell}}
}

func (s *Status) tell(w http.ResponseWriter, r *Request) error {
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
		"disk_free_bytes": nil, "last_backup_at": Seconds(made), "last_backup_error": nil, "log_level": s.level(), "listening": *s.listening.Load(),
		"ready": true, "not_ready_because": nil, "config": o.Config().Show(), "now": Millis(r.Now), "service_time": Millis(r.Moment),
	}
	if free := DiskFree(o.Folder); free >= 0 {
		shown["disk_free_bytes"] = free
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
	if err := o.Store.View(func(tx *Tx) error { return s.stored(tx, shown) }); err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, shown)
}

// stored adds to shown the values that are read from the store.
func (s *Status) stored(tx *Tx, shown map[string]any) error {
	keys, err := s.o.Keyring.Count(tx)
	if err != nil {
		return err
	}
	waiting, oldest, err := OutboxBacklog(tx)
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
	shown["keys"], shown["webhook_backlog"], shown["webhook_oldest_at"] = keys, waiting, Seconds(oldest)
	shown["audit"] = map[string]any{"entries": entries, "number": head.Number, "hash": fmt.Sprintf("%x", head.Hash)}
	return nil
}

// level returns the lowest level that is logged.
func (s *Status) level() string {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if s.o.Log.Enabled(context.Background(), level) {
			return strings.ToLower(level.String())
		}
	}
	return "error"
}

// routeList serves the list of the API listener's routes to operators.
type routeList struct {
	own    *Routes
	guards *ProxyRoutes
}

// NewRouteList returns a list of our own routes and of those that guards proxies or
// checks for another API.
func NewRouteList(own *Routes, guards *ProxyRoutes) *routeList { return &routeList{own, guards} }

// AdminRoutes lists the endpoints.
func (v *routeList) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/routes", Handle: v.routes},
	}
}

// routes answers with our own endpoints, then the routes of the other API, each with
// the permissions it needs and the limits it charges.
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
		}
		if g.Upstream != nil {
			shown["upstream"] = g.Upstream.String()
		}
		rows = append(rows, shown)
	}
	return WriteJSON(w, http.StatusOK, map[string]any{"routes": rows})
}

// Reloader applies a changed configuration while the service runs: routes, permissions,
// limits and the log level. A request uses the routes, permissions and limits that were
// in use when it began. Other settings change only with a restart. Reloader is safe for
// concurrent use.
type Reloader struct {
	o ReloaderOptions

	mu     sync.Mutex
	load   func() (Config, error) // nil: no server runs, so Reload is refused
	level  *slog.LevelVar         // the log level that Reload sets
	status ConfigStatus
}

// ReloaderOptions configures a Reloader.
type ReloaderOptions struct {
	Store   *Store // holds the audit log
	Keyring *Keyring
	Guards  *ProxyRoutes
	Log     *slog.Logger
	Running Config
}

// ConfigStatus describes the configuration in use and the last attempt to replace it.
type ConfigStatus struct {
	LoadedAt time.Time // when the configuration in use was loaded
	Err      error     // why a later reload failed; nil if none did
	FailedAt time.Time // when it failed; zero if Err is nil
	Restart  []string  // changed settings that need a restart
}

// NewReloader returns a Reloader. Call Start before it serves requests.
func NewReloader(o ReloaderOptions) *Reloader { return &Reloader{o: o} }

// Start applies the routes of the running configuration, with the permissions and
// limits of the keyring. The error names the routes and endpoints that conflict.
func (r *Reloader) Start(now time.Time) error {
	rights := r.o.Keyring.Rights()
	list, _ := ReadProxyRoutes(r.o.Running.Routes, rights) // a loaded config has no problems
	state, err := r.o.Guards.Make(list, rights)
	if err != nil {
		return err
	}
	r.o.Guards.Use(state)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = ConfigStatus{LoadedAt: now}
	return nil
}

// From sets the function that loads the configuration again, and the log level that
// Reload changes. Until it is called Reload returns ErrConflict.
func (r *Reloader) From(load func() (Config, error), level *slog.LevelVar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load, r.level = load, level
}

// Status returns the status of the configuration in use.
func (r *Reloader) Status() ConfigStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Reload loads the configuration again and applies it. If the new one has problems,
// Reload keeps the present one and returns ErrValidation with all of them. Both
// outcomes are logged.
func (r *Reloader) Reload(now time.Time) (ConfigStatus, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.load == nil {
		return r.status, ErrConflict.With("No server is running here, so there is nothing to reload: the next start reads the configuration.")
	}
	c, err := r.load()
	if err == nil {
		err = r.use(c)
	}
	if err != nil {
		r.status.Err, r.status.FailedAt = err, now
		r.o.Log.Error("configuration not reloaded, the earlier one stays", "error", err)
		return r.status, ErrValidation.With("The configuration was not reloaded, and the earlier one stays in use.\n%v", err)
	}
	r.status = ConfigStatus{LoadedAt: now, Restart: r.o.Running.Differing(c)}
	r.o.Log.Info("configuration reloaded", "routes", len(c.Routes), "restart_needed", strings.Join(r.status.Restart, ","))
	return r.status, nil
}

func (r *Reloader) use(c Config) error {
	rights := c.Rights()
	list, _ := ReadProxyRoutes(c.Routes, rights)
	state, err := r.o.Guards.Make(list, rights)
	if err != nil {
		return err
	}
	r.o.Keyring.Use(rights)
	r.o.Guards.Use(state)
	return r.level.UnmarshalText([]byte(c.Log.Level))
}

// AdminRoutes lists the endpoints.
func (r *Reloader) AdminRoutes() []Route {
	return []Route{{Method: "POST", Path: "/admin/v1/reload", Handle: r.reload}}
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

// Show returns the status as the admin endpoint shows it.
func (s ConfigStatus) Show() map[string]any {
	shown := map[string]any{"loaded_at": Seconds(s.LoadedAt), "error": nil, "failed_at": Seconds(s.FailedAt), "restart_needed": append([]string{}, s.Restart...)}
	if s.Err != nil {
		shown["error"] = s.Err.Error()
	}
	return shown
}
