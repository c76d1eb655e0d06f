package main

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
)

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
	Guards  *Guards
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

// NewReloader puts the guards of a configuration to use, with the permissions
// and limits that the keyring has. The error names what cannot stand beside
// each other.
func NewReloader(o ReloaderOptions, now time.Time) (*Reloader, error) {
	rights := o.Keyring.Rights()
	list, _ := ReadGuards(o.Running.Routes, rights) // of a config that is loaded there are no problems
	state, err := o.Guards.Make(list, rights)
	if err != nil {
		return nil, err
	}
	o.Guards.Use(state)
	return &Reloader{o: o, status: ConfigStatus{LoadedAt: now}}, nil
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
	list, _ := ReadGuards(c.Routes, rights)
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
