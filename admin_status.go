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

// StatusOptions are what a Status is made of.
type StatusOptions struct {
	Store   *Store
	Keyring *Keyring
	Backups *Backups
	Log     *slog.Logger
	Folder  string // the data folder
	Started time.Time
	Server  func() *Server // once there is one
	Config  func() ConfigStatus
}

// Status tells operators how the service is. It is safe for concurrent use.
type Status struct {
	o         StatusOptions
	listening atomic.Pointer[map[string]string]
}

// NewStatus tells how a service is.
func NewStatus(o StatusOptions) *Status {
	s := &Status{o: o}
	s.ListensAt(map[string]string{})
	return s
}

// ListensAt notes the address of each door.
func (s *Status) ListensAt(doors map[string]string) { s.listening.Store(&doors) }

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

// stored adds what is read from the store.
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

// level is from which level on the log has lines.
func (s *Status) level() string {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if s.o.Log.Enabled(context.Background(), level) {
			return strings.ToLower(level.String())
		}
	}
	return "error"
}

// routeList tells the operator what the API door serves.
type routeList struct {
	own    *Routes
	guards *ProxyRoutes
}

// NewRouteList lists our own routes and those of another API.
func NewRouteList(own *Routes, guards *ProxyRoutes) *routeList { return &routeList{own, guards} }

// AdminRoutes lists the endpoints.
func (v *routeList) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/routes", Handle: v.routes},
	}
}

// routes lists the endpoints of the API door with what they need, and behind
// them the routes of another API.
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

// Reloader takes in a changed configuration while the service runs: routes,
// permissions, limits and the level of the log. All of them change at once, between two requests; a
// request under way keeps to those that it began with. What cannot change
// without a restart stays as it is. It is safe for concurrent use.
type Reloader struct {
	o ReloaderOptions

	mu     sync.Mutex
	load   func() (Config, error) // nil: there is nothing to load from
	level  *slog.LevelVar         // of the log
	status ConfigStatus
}

// ReloaderOptions are what a Reloader is made of.
type ReloaderOptions struct {
	Store   *Store // for the audit log
	Keyring *Keyring
	Guards  *ProxyRoutes
	Log     *slog.Logger
	Running Config
}

// ConfigStatus tells which configuration is in use.
type ConfigStatus struct {
	LoadedAt time.Time // when what is in use was loaded
	Err      error     // of a later attempt to load another, nil for none
	FailedAt time.Time
	Restart  []string // keys that were changed and wait for a restart
}

// NewReloader serves the running configuration, once Start is called.
func NewReloader(o ReloaderOptions) *Reloader { return &Reloader{o: o} }

// Start puts the guards of the running configuration to use, with the
// permissions and limits of the keyring. The error names the guards and
// endpoints that contradict each other.
func (r *Reloader) Start(now time.Time) error {
	rights := r.o.Keyring.Rights()
	list, _ := ReadProxyRoutes(r.o.Running.Routes, rights) // of a config that is loaded there are no problems
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

// From says how the configuration is loaded again, and what the level of the log
// is set by.
func (r *Reloader) From(load func() (Config, error), level *slog.LevelVar) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.load, r.level = load, level
}

// Status tells which configuration is in use.
func (r *Reloader) Status() ConfigStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Reload loads the configuration again and puts it to use, or keeps the present
// one and gives all that is wrong with the other. Either is logged.
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

// Show gives the status as the admin endpoint tells it.
func (s ConfigStatus) Show() map[string]any {
	shown := map[string]any{"loaded_at": Seconds(s.LoadedAt), "error": nil, "failed_at": Seconds(s.FailedAt), "restart_needed": append([]string{}, s.Restart...)}
	if s.Err != nil {
		shown["error"] = s.Err.Error()
	}
	return shown
}
