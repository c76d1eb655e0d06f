package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
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
