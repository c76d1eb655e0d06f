package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"latchkey/internal/durable"
	"latchkey/internal/keytext"
)

// Backups copies the store while it is in use, and checks it.
type Backups struct {
	o BackupOptions

	mu   sync.Mutex
	last time.Time // when the newest one that is there was made
	err  error     // why the latest failed
}

// BackupOptions are what Backups are made of.
type BackupOptions struct {
	Store  *Store
	Folder string // the data folder, where a copy is made before it is sent
	Dir    string // where the scheduled ones go, "" for none
	Every  time.Duration
	Keep   int       // how many scheduled ones stay, the newest
	Tables []Checked // what a check holds against each other
	Log    *slog.Logger
}

// NewBackups copies and checks a store.
func NewBackups(o BackupOptions) *Backups { return &Backups{o: o} }

// AdminRoutes lists the endpoints.
func (b *Backups) AdminRoutes() []Route {
	return []Route{
		{Method: "GET", Path: "/admin/v1/backup", Handle: b.send},
		{Method: "POST", Path: "/admin/v1/check", Handle: b.check},
	}
}

// BackupTime is how the time, in UTC, is written in the name of a backup.
const BackupTime = "20060102T150405Z"

// The names of backups begin and end so, with the time in between.
const (
	backupPrefix = "latchkey-"
	backupSuffix = ".db"
	unsentPrefix = "backup-" // of a copy that is being made or sent
)

func backupName(now time.Time) string {
	return backupPrefix + now.UTC().Format(BackupTime) + backupSuffix
}

// send makes a copy and sends it.
func (b *Backups) send(w http.ResponseWriter, r *Request) error {
	path := filepath.Join(b.o.Folder, unsentPrefix+keytext.RandomHex(8)+".tmp")
	if err := b.o.Store.CopyTo(path); err != nil {
		return err
	}
	defer os.Remove(path)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := r.Record(b.o.Store); err != nil {
		return err
	}
	// A copy of any size takes the time it takes.
	if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	h.Set("Content-Disposition", `attachment; filename="`+backupName(r.Now)+`"`)
	h.Set("Cache-Control", "no-store")
	if _, err := io.Copy(w, f); err != nil {
		b.o.Log.Warn("send backup", "id", r.ID, "error", err)
	}
	return nil
}

func (b *Backups) check(w http.ResponseWriter, _ *Request) error {
	var result CheckResult
	err := b.o.Store.View(func(tx *Tx) (err error) {
		result, err = CheckStore(tx, b.o.Tables)
		return err
	})
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, result)
}

// Tidy removes copies that an earlier run left half made or half sent.
func (b *Backups) Tidy() error {
	left, err := filepath.Glob(filepath.Join(b.o.Folder, unsentPrefix+"*.tmp"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// Due makes the scheduled backup when it is time, which goes by the newest one
// that is there, and removes those beyond the number to keep. It is to be
// called about once a minute.
func (b *Backups) Due(now time.Time) error {
	if b.o.Dir == "" {
		return nil
	}
	err := b.due(now)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
	return err
}

// Last says when the newest scheduled backup was made, as far as is known, and
// why the latest one failed, nil where it did not.
func (b *Backups) Last() (made time.Time, failed error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last, b.err
}

func (b *Backups) madeAt(at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last = at
}

func (b *Backups) due(now time.Time) error {
	made, err := b.made()
	if err != nil {
		return err
	}
	if n := len(made); n > 0 {
		last, err := time.Parse(BackupTime, strings.TrimSuffix(strings.TrimPrefix(made[n-1], backupPrefix), backupSuffix))
		if err == nil {
			b.madeAt(last)
		}
		if err == nil && now.Before(last.Add(b.o.Every)) && !now.Before(last) {
			return nil
		}
	}
	name := backupName(now)
	part := filepath.Join(b.o.Dir, name+".part")
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := b.o.Store.CopyTo(part); err != nil {
		return err
	}
	if err := errors.Join(os.Rename(part, filepath.Join(b.o.Dir, name)), durable.SyncDir(b.o.Dir)); err != nil {
		return fmt.Errorf("name the backup: %w", err)
	}
	b.madeAt(now)
	b.o.Log.Info("backup made", "file", filepath.Join(b.o.Dir, name))
	by := AuditContext{Actor: ActorSelf, Action: "make backup", Now: now, Detail: map[string]any{"file": name}}
	if err := b.o.Store.Update(by.Append); err != nil {
		return err
	}
	if made, err = b.made(); err != nil {
		return err
	}
	for len(made) > b.o.Keep {
		err = errors.Join(err, os.Remove(filepath.Join(b.o.Dir, made[0])))
		made = made[1:]
	}
	return err
}

// made lists the scheduled backups, oldest first.
func (b *Backups) made() ([]string, error) {
	if err := os.MkdirAll(b.o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of backups: %w; set backup.dir to one that can be written", err)
	}
	entries, err := os.ReadDir(b.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("list the backups: %w", err)
	}
	var names []string
	for _, e := range entries {
		stamp := strings.TrimSuffix(strings.TrimPrefix(e.Name(), backupPrefix), backupSuffix)
		if _, err := time.Parse(BackupTime, stamp); err == nil && e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}
